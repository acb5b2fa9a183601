"""The service end to end on a local Ray: two seeds, their results, and a second look at their artifacts."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from fault_tools import SLOWER
from heads import Head
from test_system_sampler import FIGURES
from tiny import golf, only_run

from golf_core.audit.report import AuditReport
from golf_core.strict_json import load
from orchestrator.folder.results import RunResult

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def output(finished: Path) -> str:
    """What the finished run said."""
    said = (finished.parent.parent / "output-0.txt").read_text()
    assert "raylet" not in said  # no warnings of Ray's about ranks that have done their work
    return said


def test_every_seed_is_finished_and_judged(finished: Path, output: str) -> None:
    result = load(RunResult, finished / "result.json")
    assert [seed.seed for seed in result.seeds] == [42, 1337]
    for seed in result.seeds:
        assert seed.status == "finished" and seed.train and seed.export and seed.evaluate
        assert seed.train.seed == seed.seed and seed.train.steps == SLOWER["train.iterations"]
        place = finished / f"seed-{seed.seed}"
        assert seed.export.weight_bytes == (place / "model.golf").stat().st_size
        assert seed.export.code_bytes == (place / "train_gpt.py").stat().st_size
        assert (place / "train_gpt_readable.py").is_file()
        kinds = [json.loads(line)["kind"] for line in (place / "log.jsonl").read_text().splitlines()]
        assert kinds.count("train_step") == SLOWER["train.iterations"] and kinds.count("chunk") == 8
    bpbs = {seed.evaluate.mixture.bpb for seed in result.seeds if seed.evaluate and seed.evaluate.mixture}
    assert len(bpbs) == 2  # seeds differ
    assert result.claim.verdict == "no claim"
    assert result.claim.sentence in " ".join(output.split())
    assert len(result.provenance["git_commit"]) == 40 or result.provenance["git_commit"] == "unknown"
    assert result.provenance["hardware"] == "1 x cpu"


def test_every_seed_audits_its_own_evaluation(finished: Path, output: str) -> None:
    result = load(RunResult, finished / "result.json")
    for seed in result.seeds:
        report = load(AuditReport, finished / f"seed-{seed.seed}" / "audit.json")
        assert report.fast_path is not None and report.fast_path.trusted and report.passed
        assert seed.audit is not None and seed.audit.positions == 1 and not seed.audit.violated
        assert seed.audit.mixture_max_error < 1e-5 and seed.audit.neural_max_error < 1e-5
        assert seed.audit.published_sum == pytest.approx(seed.audit.published_formula, rel=1e-4)
    (condition,) = [c for c in result.claim.conditions if c.name == "audit passed"]
    assert condition.holds and "audit passed" in output


def test_golf_audit_of_a_run(finished: Path, tmp_path: Path) -> None:
    done = golf("audit", str(finished), "--of-seed", "1337", "--positions", "1", "--out", str(tmp_path / "audit.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    report = load(AuditReport, tmp_path / "audit.json")
    verdicts = {(c.name, c.score): c.verdict for c in report.conditions}
    assert all(v == "holds" for (_, score), v in verdicts.items() if score in ("mixture", "neural"))
    assert verdicts["no network", None] == verdicts["artifact size", None] == verdicts["byte count", None] == "holds"
    evaluated = load(RunResult, finished / "result.json").seeds[1].evaluate
    assert report.bytes and evaluated and report.bytes.text_bytes == evaluated.bytes
    assert report.bytes.tokens == evaluated.tokens + 1 > report.tokens  # the whole text, not the audited part
    assert "Of mixture: no condition that was measured is violated." in done.stdout
    (published,) = [s for s in report.sums if s.score == "published"]
    assert published.total == pytest.approx(published.expected, rel=1e-4)
    unknown = golf("audit", str(finished), "--of-seed", "5")
    assert unknown.returncode == 2 and "--of-seed 5" in unknown.stderr


def test_no_rank_leaves_its_files_behind(finished: Path) -> None:
    assert not list((finished.parent.parent / "tmp").glob("golf-rank-*"))


def test_it_samples_its_machine_and_does_not_talk_of_it(finished: Path, output: str) -> None:
    events = [json.loads(line) for line in (finished / "seed-42" / "log.jsonl").read_text().splitlines()]
    sampled = [event for event in events if event["kind"] == "system"]
    assert sampled and set(sampled[0]) == FIGURES | {"time", "kind"}
    assert "seed 42: system" not in output


def test_mlflow_has_the_claim_and_the_seeds(finished: Path) -> None:
    result = load(RunResult, finished / "result.json")
    with sqlite3.connect(finished.parent / "mlflow.db") as store:
        runs = dict(store.execute("select name, run_uuid from runs").fetchall())
        assert set(runs) == {finished.name, "seed 42", "seed 1337"}
        assert {status for (status,) in store.execute("select status from runs")} == {"FINISHED"}

        def metrics(name: str) -> dict[str, float]:
            rows = store.execute("select key, value from latest_metrics where run_uuid = ?", (runs[name],))
            return dict(rows.fetchall())

        for seed in result.seeds:
            assert seed.evaluate and seed.evaluate.mixture and seed.export
            found = metrics(f"seed {seed.seed}")
            assert found["bpb/mixture"] == pytest.approx(seed.evaluate.mixture.bpb)
            assert found["artifact/total_bytes"] == seed.export.total_bytes
            assert {"train/loss", "eval/bpb_neural", "eval/mean_log_z", "train/steps", "train/peak_memory_mib"} <= set(
                found
            )
        parent = metrics(finished.name)
        assert parent["claim/bpb_mixture_mean"] == pytest.approx(result.claim.scores["mixture"].mean)
        tags = dict(store.execute("select key, value from tags where run_uuid = ?", (runs[finished.name],)).fetchall())
        assert tags["verdict"] == "no claim"
        steps = store.execute(
            "select count(*) from metrics where key = 'train/loss' and run_uuid = ?", (runs["seed 42"],)
        )
        assert steps.fetchone() == (SLOWER["train.iterations"],)


def test_show_judges_the_same_again(finished: Path, output: str, tmp_path: Path) -> None:
    table = tmp_path / "seeds.csv"
    done = golf("show", str(finished), "--csv", str(table))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("results:")[0].strip() in output
    lines = table.read_text().splitlines()
    assert len(lines) == 3 and "bpb/mixture" in lines[0]


def test_same_artifacts_on_two_ranks(finished: Path, tmp_path: Path, cluster: Head) -> None:
    """The evaluation of the same artifact agrees to 1e-6 BPB between 1 and 2 ranks per seed."""
    changes = ("--set", "resources.ranks=2", "--set", f"output={tmp_path / 'runs'}", "--set", "seeds=[42]")
    done = golf("evaluate", str(finished), *changes, "--address", cluster.address, **cluster.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    one = load(RunResult, finished / "result.json").seeds[0].evaluate
    again = load(RunResult, only_run(tmp_path) / "result.json")
    assert again.provenance["artifacts_of"] == finished.name
    two = again.seeds[0].evaluate
    assert one and two and (one.world_size, two.world_size) == (1, 2)
    for name in ("neural", "mixture", "published"):
        assert getattr(two, name).bpb == pytest.approx(getattr(one, name).bpb, abs=1e-6)
