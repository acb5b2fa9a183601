"""Results are derived: from the ledger alone they are made again as they were."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from run_builders import add_events, begin_run, begin_seed, fail_seed, finish_seed, steps, whole_run
from tiny import golf

from golf_core import strict_json
from golf_core.errors import RunError
from golf_core.events import Note
from orchestrator.claim.rebuild import rebuild
from orchestrator.folder.ledger import Ledger, in_use
from orchestrator.folder.redaction import Redactor
from orchestrator.folder.results import LEDGER, RunResult, SeedResult
from orchestrator.folder.resume import resume_point
from orchestrator.folder.view import view_of

PLAIN = Redactor.from_environment({})


def timeless(result: RunResult) -> RunResult:
    """Without what is a moment: the ledger's clock is read a little later than the results'."""
    seeds = tuple(replace(seed, started=0.0, finished=0.0, node="", attempts=()) for seed in result.seeds)
    return replace(result, seeds=seeds, started=0.0, finished=0.0, provenance={})


def test_everything_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    before = whole_run(folder)
    for path in folder.glob("**/result.json"):
        path.unlink()
    result, notes = rebuild(folder, PLAIN)
    assert timeless(result) == timeless(before)
    assert result.claim == before.claim and result.claim.verdict == "claim"
    assert [note.partition(":")[0] for note in notes] == ["seed 42", "seed 1337", "seed 2024"]
    assert all("the scores after each chunk are lost" in note for note in notes)
    assert strict_json.load(RunResult, folder / "result.json") == result
    assert strict_json.load(SeedResult, folder / "seed-42" / "result.json") == result.seeds[0]
    assert result.provenance["hardware"] == "8 x NVIDIA H100 80GB HBM3" and result.provenance["torch"] == "2.11.0"


def test_a_changed_result_is_put_right(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    before = whole_run(folder)
    place = folder / "seed-42" / "result.json"
    values = json.loads(place.read_text())
    values["evaluate"]["mixture"]["bpb"] = 0.9
    place.write_text(json.dumps(values))
    result, notes = rebuild(folder, PLAIN)
    assert result.claim == before.claim
    assert notes == ["seed 42: the scores after each chunk are lost: its result was of another evaluation"]
    assert strict_json.load(SeedResult, place).evaluate == before.seeds[0].evaluate


def test_failures_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    ledger = begin_run(folder, (42, 1337, 2024))
    add_events(begin_seed(folder, ledger, 42), steps(3))
    fail_seed(ledger, 42, 1)
    begin_seed(folder, ledger, 42, attempt=2)
    finish_seed(folder, ledger, 42, 1.1, attempt=2)
    begin_seed(folder, ledger, 1337)
    ledger.close()
    result, _ = rebuild(folder, PLAIN)
    first, second, third = result.seeds
    assert first.status == "finished" and [a.error for a in first.attempts] == ["a rank's process was lost"]
    assert (second.status, second.error) == ("failed", "the driver ended without a word")
    assert second.attempts[0].kind == "unknown"
    assert (third.status, third.error) == ("failed", "not started")
    assert result.claim.verdict == "no claim"


def test_stages_that_a_later_attempt_did_not_keep_do_not_count(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    ledger = begin_run(folder, (42,))
    begin_seed(folder, ledger, 42)
    finish_seed(folder, ledger, 42, 1.1)
    begin_seed(folder, ledger, 42, attempt=2, kept=("train",))
    ledger.close()
    (seed,) = rebuild(folder, PLAIN)[0].seeds
    assert seed.train is not None and (seed.export, seed.evaluate, seed.audit) == (None, None, None)


def test_torn_lines_and_older_ledgers(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    before = whole_run(folder, (42,))
    lines = [json.loads(line) for line in (folder / LEDGER).read_text().splitlines()]
    for line in lines:
        line.pop("figures", None)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / LEDGER).write_text(text.replace("\n", '\n{"time": 1, "ki\n', 1))
    result, notes = rebuild(folder, PLAIN)
    assert timeless(result) == timeless(before) and notes == []
    (folder / "seed-42" / "result.json").unlink()
    result, notes = rebuild(folder, PLAIN)
    assert result.seeds[0].train is None
    assert [note for note in notes if "figures of its train are lost" in note]


@pytest.mark.parametrize("figures", [7, [], {"seed": "x"}, {"train_seconds": 1e999}, {"bpb": {"a": []}}])
def test_damaged_figures_are_lost_and_said(figures: object, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    whole_run(folder, (42,))
    ledger = Ledger(folder)
    ledger.append("stage_finished", seed=42, stage="train", figures=figures)
    ledger.close()
    result, notes = rebuild(folder, PLAIN)
    assert result.seeds[0].train is None
    assert any(note.startswith("seed 42: the figures of its train are lost: train of seed 42") for note in notes)


def test_not_while_a_driver_is_at_work(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    ledger = begin_run(folder)
    assert in_use(folder)
    with pytest.raises(RunError, match="another process is at work on this run"):
        rebuild(folder, PLAIN)
    ledger.close()
    assert not in_use(folder)


def test_secrets_are_kept_out(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    ledger = begin_run(folder)
    begin_seed(folder, ledger, 42)
    ledger.append("seed_finished", seed=42, attempt=1, status="failed", error="refused s3cr3t-value-1234")
    ledger.close()
    rebuild(folder, Redactor.from_environment({"HUB_TOKEN": "s3cr3t-value-1234"}))
    for path in folder.glob("**/result.json"):
        assert "s3cr3t" not in path.read_text() and "[redacted HUB_TOKEN]" in path.read_text()


def test_going_on_without_the_seeds_own_result(tmp_path: Path) -> None:
    """An hour of eight GPUs is not spent again because a file of a megabyte is lost."""
    folder = tmp_path / "run"
    before = whole_run(folder)
    (folder / "seed-42" / "result.json").write_text("{")
    remains = resume_point(folder)
    assert remains.seeds[42].train == before.seeds[0].train
    assert remains.seeds[42].evaluate == before.seeds[0].evaluate
    assert any("its figures are taken from the ledger" in note for note in remains.notes)


def test_a_view_names_the_log_of_each_attempt(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    ledger = begin_run(folder)
    add_events(begin_seed(folder, ledger, 42), [Note("first")])
    fail_seed(ledger, 42, 1)
    add_events(begin_seed(folder, ledger, 42, attempt=2), [Note("second")])
    ledger.close()
    first, second = view_of(folder).attempts
    assert "first" in first.log.read_text() and "second" in second.log.read_text()
    assert (first.newest, second.newest) == (False, True)
    moved = folder.rename(tmp_path / "moved")
    assert view_of(moved).key == view_of(moved).key != ""


def test_the_commands(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    whole_run(folder, (42,))
    (folder / "result.json").unlink()
    done = golf("rebuild", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "MLflow has all of run" in done.stdout and "Conditions of a claim" in done.stdout
    again = golf("sync", str(folder))
    assert again.returncode == 0 and "MLflow has all of run" in again.stdout
    wrong = golf("sync", str(tmp_path))
    assert wrong.returncode == 2 and "job.json: no such file" in wrong.stderr and "Traceback" not in wrong.stderr
    away = golf("sync", str(folder), "--uri", "http://127.0.0.1:9")
    assert away.returncode == 1 and "golf sync" in away.stderr and "does not answer" in away.stderr
