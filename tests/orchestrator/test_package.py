"""The record package of a tiny run: what it says agrees with the run, it runs again, and mistakes are refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from heads import Head
from tiny import golf, only_run, write_job
from typer.testing import CliRunner

from golf_core import files, strict_json
from golf_core.errors import ConfigError
from orchestrator.cli import app
from orchestrator.folder.results import RunResult
from orchestrator.job.sections import DataFiles, Tracking
from orchestrator.package.package import load_record, package, portable, requirements, without_paths
from orchestrator.package.reproduce import agrees, compare, compare_data, job_of_record
from orchestrator.package.submission import Author, finished_seeds

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, sample_folder: Path, cluster: Head) -> Path:
    """A finished run of two seeds on data whose place nobody else need know."""
    folder = tmp_path_factory.mktemp("secret-place")
    data = folder / "my data"
    data.symlink_to(sample_folder)
    place = {"path": str(data), "tokenizer": str(data / "tokenizer.model")}
    job = write_job(folder, seeds=[42, 1337], data=place)
    done = golf("run", str(job), "--address", cluster.address, **cluster.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return only_run(folder)


@pytest.fixture(scope="module")
def packed(run: Path) -> Path:
    done = golf("package", str(run), "--author", "A. Author")
    assert done.returncode == 0, done.stderr
    assert str(run / "package") in done.stdout
    return run / "package"


@pytest.fixture
def copy(run: Path, packed: Path, tmp_path: Path) -> Path:
    """The run's folder without its package, to damage."""
    return Path(shutil.copytree(run, tmp_path / run.name, ignore=shutil.ignore_patterns("package", "checkpoint.pt")))


def result_of(run: Path) -> RunResult:
    return strict_json.load(RunResult, run / "result.json")


def change(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))


def test_every_file_is_there_and_listed(packed: Path) -> None:
    names = {path.name for path in packed.iterdir()}
    assert names == {
        "README.md", "submission.json", "requirements.txt", "record.json", "train_gpt.py", "train_gpt_readable.py",
        "train_seed42.log", "train_seed1337.log", "model_seed42.golf", "model_seed1337.golf",
    }  # fmt: skip
    assert {file.name for file in load_record(packed).files} == names - {"record.json"}


def test_figures_agree_with_the_run(run: Path, packed: Path) -> None:
    result = result_of(run)
    readme, described = (packed / "README.md").read_text(), json.loads((packed / "submission.json").read_text())
    mixture = result.claim.scores["mixture"]
    assert mixture.sd is not None
    assert readme.splitlines()[2].startswith(f"**NO CLAIM: mixture {mixture.mean:.5f} ± {mixture.sd:.5f}")
    assert result.claim.sentence in readme
    assert described["val_bpb"] == pytest.approx(mixture.mean) and described["val_bpb_std"] == pytest.approx(mixture.sd)
    assert described["author"] == "A. Author" and described["github_id"] is None and described["claim"] == "no claim"
    assert described["compliance"]["whole text scored"] is False
    assert "--data 'my data' --tokenizer tokenizer.model --evaluate model_seed42.golf" in readme
    for condition in result.claim.conditions:
        assert f"| {condition.name} | {condition.detail} |" in readme
    assert (packed / "train_gpt.py").read_bytes() == (run / "seed-42" / "train_gpt.py").read_bytes()
    for seed in finished_seeds(result.seeds):
        log = (packed / f"train_seed{seed.seed}.log").read_text()
        own = described["seed_results"][str(seed.seed)]
        assert own["bytes_total"] == seed.export.total_bytes == (
            (packed / "train_gpt.py").stat().st_size + (packed / f"model_seed{seed.seed}.golf").stat().st_size
        )  # fmt: skip
        assert files.sha256(packed / f"model_seed{seed.seed}.golf") == seed.export.sha256
        assert f"bytes weights:{seed.export.weight_bytes} code:{seed.export.code_bytes}" in log
        assert f"{seed.export.total_bytes:,}" in readme
        for name in ("neural", "mixture", "published"):
            score = getattr(seed.evaluate, name)
            assert own[f"val_bpb_{name}"] == score.bpb
            assert f"final_{name} val_loss:{score.nats_per_token:.8f} val_bpb:{score.bpb:.8f}" in log
            assert f" {score.bpb:.5f} |" in readme
        assert own["steps"] == seed.train.steps == 3
        steps = re.findall(r"^time:[\d.]+ step:\d/3 train_loss:([\d.]+)", log, re.MULTILINE)
        assert len(steps) == 3 and float(steps[-1]) == pytest.approx(seed.train.train_loss, abs=1e-5)
        chunks = re.findall(r"chunk:\d/4 .*bpb_mixture:([\d.]+)", log)
        assert len(chunks) == 4 and float(chunks[-1]) == pytest.approx(seed.evaluate.mixture.bpb, abs=1e-5)  # type: ignore[union-attr]
        assert "config train batch_tokens:1024" in log and "environment git_commit:" in log


def test_nothing_tells_where_it_was_made(run: Path, packed: Path) -> None:
    secret = run.parents[1]
    for path in packed.iterdir():
        if path.suffix != ".golf":
            text = path.read_text()
            for place in (str(secret), secret.name, str(Path.home()) + "/", "mlflow.db"):
                assert place not in text, (path.name, place)
    record = load_record(packed)
    assert [seed.node for seed in record.run.seeds] == ["", ""] and all(s.node for s in result_of(run).seeds)
    assert record.run.run_id == run.name
    assert strict_json.to_dict(portable(record.run)) == strict_json.to_dict(record.run)
    assert without_paths("see /home/me/x/traceback.txt; 3/4, a/b, https://x.org/a/b, ~/data/y") == (
        "see traceback.txt; 3/4, a/b, https://x.org/a/b, y"
    )
    job = record.run.job
    assert job.data == DataFiles(path="my data", tokenizer="tokenizer.model") and job.output == "runs"


def test_requirements_say_what_the_run_used(packed: Path) -> None:
    import torch

    lines = (packed / "requirements.txt").read_text().splitlines()
    assert f"torch=={torch.__version__.partition('+')[0]}" in [line.split("  #")[0] for line in lines]
    assert [line.partition("=")[0] for line in lines[1:]] == ["torch", "numpy", "sentencepiece"]
    assert requirements({"torch": "2.9.1+cu128", "numpy": "absent"}) == (
        "torch==2.9.1  # the run used 2.9.1+cu128\n"
        "numpy  # the version was not recorded\nsentencepiece  # the version was not recorded\n"
    )


def test_reproduce_the_evaluation(packed: Path, sample_folder: Path, tmp_path: Path, cluster: Head) -> None:
    data = ("--data", str(sample_folder), "--tokenizer", str(sample_folder / "tokenizer.model"))
    settings = ("--set", f"output={tmp_path / 'runs'}", "--set", "seeds=[42]", "--address", cluster.address)
    done = golf("reproduce", str(packed), "--evaluate-only", *data, *settings, **cluster.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"42 +BPB mixture .*1e-06 +(agrees|exact)", done.stdout)
    assert "reproduced: everything that must agree does" in done.stdout


def test_what_differs_is_shown_and_ends_with_code_1(run: Path, packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cluster's part is taken by the run itself, with a figure changed."""
    result = result_of(run)
    (seed, _) = finished_seeds(result.seeds)
    changed = replace(seed.evaluate, neural=replace(seed.evaluate.neural, bpb=seed.evaluate.neural.bpb + 1e-3))
    again = replace(result, seeds=(replace(result.seeds[0], evaluate=changed),))
    for outcome, code in ((result, 0), (again, 1)):
        monkeypatch.setattr("orchestrator.run.driver.run_job", lambda *_, outcome=outcome: (outcome, run))
        done = CliRunner().invoke(app, ["reproduce", str(packed), "--evaluate-only"])
        assert done.exit_code == code, done.output
        assert (re.search(r"42 +BPB neural .*\+0.001 +1e-06 +differs", done.stdout) is not None) == bool(code)
        assert ("not reproduced" in done.stdout) == bool(code)


def test_what_must_agree(packed: Path) -> None:
    record = load_record(packed)
    first, second = finished_seeds(record.run.seeds)

    def verdicts(again: Any, evaluate_only: bool) -> dict[str, str]:
        return {c.figure: c.verdict for c in compare(record.run, again, evaluate_only)}

    def shifted(by: float, **changes: Any) -> Any:
        score = replace(first.evaluate.neural, bpb=first.evaluate.neural.bpb + by)
        return replace(first, evaluate=replace(first.evaluate, neural=score, **changes))

    assert set(verdicts(first, True).values()) == set(verdicts(first, False).values()) == {"exact"}
    assert verdicts(shifted(5e-7), True)["BPB neural"] == "agrees"
    assert verdicts(shifted(2e-6), True)["BPB neural"] == "differs"
    # Other hardware and a new training are held to the seeds' own spread, |first - second| * 3 here.
    spread = 3 * abs(first.evaluate.neural.bpb - second.evaluate.neural.bpb)
    for evaluate_only, changes in ((True, {"device": "NVIDIA H100"}), (False, {})):
        assert verdicts(shifted(0.99 * spread, **changes), evaluate_only)["BPB neural"] == "agrees"
        assert verdicts(shifted(1.01 * spread, **changes), evaluate_only)["BPB neural"] == "differs"
    assert verdicts(shifted(0, tokens=1), True)["tokens"] == "differs"
    assert verdicts(shifted(0, mixture=None), True)["BPB mixture"] == "differs"
    assert verdicts(replace(first, train=replace(first.train, steps=1)), False)["steps"] == "reported"
    data = record.data["42"]
    other = replace(data, checksums=dict.fromkeys(data.checksums, "0"))
    assert [c.verdict for c in compare_data(42, data, other, True)] == ["differs", "reported", "exact"]
    assert [c.verdict for c in compare_data(42, data, other, False)] == ["differs", "differs", "exact"]
    assert agrees(compare(record.run, first, True), record.run)
    failed = replace(record.run, seeds=(replace(record.run.seeds[0], status="failed"), record.run.seeds[1]))
    assert not agrees(compare(record.run, first, True), failed)


def test_a_foreign_record_cannot_choose_where_results_go(packed: Path, tmp_path: Path) -> None:
    record = load_record(packed)
    elsewhere = Tracking(tracking_uri="http://elsewhere", experiment="e")
    job = record.run.job.model_copy(update={"output": "/etc/x", "mlflow": elsewhere})
    foreign = replace(record, run=replace(record.run, job=job))
    found = job_of_record(foreign, None, None, {})
    assert (found.output, found.mlflow.tracking_uri) == ("runs", None)
    assert job_of_record(foreign, None, None, {"output": str(tmp_path)}).output == str(tmp_path)
    with pytest.raises(ConfigError, match="give both or neither"):
        job_of_record(foreign, tmp_path, None, {})


def test_without_weights(run: Path, tmp_path: Path) -> None:
    place = package(run, tmp_path / "p", weights=False, author=Author())
    assert not list(place.glob("*.golf")) and "model_seed" not in (place / "README.md").read_text()
    done = golf("reproduce", str(place), "--evaluate-only", "--address", "local")
    assert done.returncode == 2 and "made without weights" in done.stderr


def rewritten(old: str, new: str) -> Callable[[Path], object]:
    """What replaces a part of a file."""
    return lambda path: path.write_bytes(path.read_bytes().replace(old.encode(), new.encode()))


@pytest.mark.parametrize(
    ("place", "harm", "sentence"),
    [
        ("", shutil.rmtree, "name the folder of a finished run"),
        (
            "result.json",
            lambda path: change(path, lambda r: r["seeds"][1].update(status="failed", error="lost")),
            r"seed 1337 did not finish \(lost\)",
        ),
        ("result.json", lambda path: change(path, lambda r: r["seeds"].pop()), "seed 1337 is not reported"),
        ("seed-42/train_gpt.pyz", Path.touch, "before programs were single files"),
        ("seed-42/train_gpt.py", Path.unlink, "missing; package the run that trained"),
        ("seed-42/train_gpt.py", lambda path: path.write_text("x"), "1 bytes where the run counted"),
        ("seed-1337/train_gpt.py", rewritten("The same", "the same"), "not the program of the other seeds"),
        (
            "seed-42/train_gpt_readable.py",
            rewritten("LEAKY_SLOPE = 0.5", "LEAKY_SLOPE = 0.6"),
            "not the program that is packed",
        ),
        ("seed-42/model.golf", lambda path: path.write_bytes(b"x"), "not the artifact"),
        (
            "seed-42/result.json",
            lambda path: change(path, lambda r: r["evaluate"]["mixture"].update(bpb=1.0)),
            "does not agree with the run's own",
        ),
        ("seed-42/log.jsonl", Path.unlink, "log.jsonl: missing"),
        ("seed-42/log.jsonl", lambda path: path.write_text("{}\n"), "line 1 is not an event"),
        ("seed-42/data.json", Path.unlink, "data.json: no such file"),
    ],
)
def test_a_run_that_cannot_be_packaged(place: str, harm: Callable[[Path], object], sentence: str, copy: Path) -> None:
    """One sentence, and nothing is left behind."""
    harm(copy / place)
    with pytest.raises(ConfigError, match=sentence):
        package(copy)
    assert not list(copy.glob("*package*"))


def test_an_occupied_place(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not an empty folder"):
        package(copy, tmp_path)
    (copy / "package").mkdir()  # an empty one is free
    assert (package(copy) / "record.json").is_file()
    done = golf("package", str(copy))
    assert done.returncode == 2 and "not an empty folder" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda p: (p / "record.json").unlink(), "name the folder of a package"),
        (lambda p: (p / "README.md").write_text("better"), "README.md: not the file that record.json lists"),
        (lambda p: (p / "model_seed42.golf").unlink(), "model_seed42.golf: missing"),
        (lambda p: change(p / "record.json", lambda r: r.update(format=9)), "format 9 is unknown"),
        (lambda p: change(p / "record.json", lambda r: r.update(files=[])), "lists no train_gpt.py"),
        (
            lambda p: change(p / "record.json", lambda r: r["files"][0].update(name="../result.json")),
            "missing, though record.json lists it",
        ),
    ],
)
def test_a_package_that_was_changed(
    harm: Callable[[Path], object], sentence: str, packed: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(packed, tmp_path / "package"))
    harm(folder)
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        load_record(folder)
