"""Runs that an earlier version left behind are read, rebuilt, shown, packaged, evaluated and gone on with as ever.

Everything goes through the command line: these tests know the files of a run's folder, and no module.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from old_runs import OLD_RUNS, bpb_of, copy_of, ledger_of, read
from tiny import golf

SEEDS = (42, 1337, 2024)
RECORDED = read(OLD_RUNS / "finished" / "result.json")
BPB = bpb_of(RECORDED)
DIGEST = "9f1570422d723731e4475d3a1b9214ba4f738875118486abf51d3ed6cb20ef42"


def run_golf(*arguments: object, code: int = 0) -> str:
    """What `golf` printed, having ended with `code`."""
    done = golf(*map(str, arguments))
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def without_moments(value: Any) -> Any:
    """A result without what the ledger's clock read a little later, and without the folder's name."""
    if isinstance(value, dict):
        passing = ("started", "finished", "run_id")
        return {name: without_moments(inner) for name, inner in value.items() if name not in passing}
    return [without_moments(inner) for inner in value] if isinstance(value, list) else value


def test_a_finished_run_is_rebuilt_as_it_was(tmp_path: Path) -> None:
    run = copy_of("finished", tmp_path)
    (run / "result.json").unlink()
    assert RECORDED["claim"]["sentence"] in " ".join(run_golf("rebuild", run).split())
    result = read(run / "result.json")
    assert without_moments(result) == without_moments(RECORDED)
    assert (result["claim"]["verdict"], result["provenance"]["job_sha256"]) == ("claim", DIGEST)
    assert read(run / "job.json") == RECORDED["job"]
    for seed in SEEDS:
        before, after = (read(place / f"seed-{seed}" / "result.json") for place in (OLD_RUNS / "finished", run))
        assert without_moments(after) == without_moments(before)


def test_an_interrupted_run_is_rebuilt_as_far_as_it_came(tmp_path: Path) -> None:
    run = copy_of("interrupted", tmp_path)
    run_golf("rebuild", run, code=1)
    result = read(run / "result.json")
    assert [(seed["status"], seed["error"]) for seed in result["seeds"]] == [
        ("finished", None),
        ("failed", "the driver ended without a word"),
        ("failed", "not started"),
    ]
    before = read(OLD_RUNS / "interrupted" / "seed-42" / "result.json")
    assert without_moments(result["seeds"][0]) == without_moments(before)
    assert [attempt["error"] for attempt in result["seeds"][1]["attempts"]] == [
        "stopped by the user",
        "the driver ended without a word",
    ]
    assert (result["claim"]["verdict"], result["provenance"]["job_sha256"]) == ("no claim", DIGEST)


def test_the_report_has_its_figures(tmp_path: Path) -> None:
    run = copy_of("finished", tmp_path)
    run_golf("report", run)
    page = (run / "report.html").read_text(encoding="utf-8")
    for scores in BPB.values():
        for bpb in scores.values():
            assert f"{bpb:.5f}" in page
    assert RECORDED["claim"]["sentence"] in page


def test_the_package_is_as_it_was(tmp_path: Path) -> None:
    run = copy_of("finished", tmp_path)
    run_golf("package", run, "--out", tmp_path / "package", "--author", "A. Author")
    for seed in SEEDS:
        weights = tmp_path / "package" / f"model_seed{seed}.golf"
        assert weights.read_bytes() == (OLD_RUNS / "finished" / f"seed-{seed}" / "model.golf").read_bytes()
        assert f"val_bpb:{BPB[seed]['mixture']:.8f}" in (tmp_path / "package" / f"train_seed{seed}.log").read_text()
    for program in ("train_gpt.py", "train_gpt_readable.py"):
        assert (tmp_path / "package" / program).read_bytes() == (run / "seed-42" / program).read_bytes()
    assert submission(tmp_path / "package") == submission(OLD_RUNS)


def submission(folder: Path) -> Any:
    """A folder's submission.json, its figures to ten digits: the last ones of a p value are SciPy's."""
    text = (folder / "submission.json").read_text(encoding="utf-8")
    return json.loads(text, parse_float=lambda figure: f"{float(figure):.10g}")


def test_both_are_listed_and_shown(tmp_path: Path) -> None:
    finished, interrupted = (copy_of(name, tmp_path) for name in ("finished", "interrupted"))
    rows = [" ".join(line.split()) for line in run_golf("ls", tmp_path).splitlines()]
    assert [row for row in rows if row.endswith(" finished 30.8 s 3/3 1.67162 ± 0.00045 0.16 claim")]
    assert [row for row in rows if row.endswith(" interrupted 28.9 s 1/3 1.67205 0.10 interrupted")]
    look = run_golf("watch", "--once", finished)
    assert all(f"{scores['mixture']:.5f}" in look for scores in BPB.values()) and "verdict: Claim: " in look
    look = run_golf("watch", "--once", interrupted, code=1)
    assert "7/15" in look and "attempt 2" in look
    assert "verdict: interrupted: 1 of 3 seeds have ended; so far 1.67205 BPB" in look


@pytest.mark.ray
def test_an_interrupted_run_is_gone_on_with(tmp_path: Path) -> None:
    """Seed 42 was finished; 1337 had its training and its artifact; 2024 was waiting."""
    run = copy_of("interrupted", tmp_path)
    before = {path: path.read_bytes() for path in (run / "seed-42").iterdir()}
    artifact, earlier = (run / "seed-1337" / "model.golf").read_bytes(), read(run / "seed-1337" / "result.json")
    assert "seed 42: finished before" in run_golf("run", "--resume", run, "--address", "local")
    assert {path: path.read_bytes() for path in (run / "seed-42").iterdir()} == before
    assert (run / "seed-1337" / "model.golf").read_bytes() == artifact
    result = read(run / "result.json")
    assert [seed["status"] for seed in result["seeds"]] == ["finished"] * 3
    assert result["claim"]["verdict"] == "claim"
    again = result["seeds"][1]
    assert (again["train"], again["export"]) == (earlier["train"], earlier["export"])
    assert again["attempts"][0] == earlier["attempts"][0] and len(again["attempts"]) == 2
    # Evaluations agree to the last digits anywhere; trainings, on other processors, to a few.
    for seed, tolerance in ((42, 0.0), (1337, 1e-6), (2024, 1e-3)):
        assert bpb_of(result)[seed] == pytest.approx(BPB[seed], abs=tolerance, rel=0)
    starts = [entry for entry in ledger_of(run) if entry["kind"] == "seed_started"]
    assert [(entry["seed"], entry["attempt"], entry["kept"]) for entry in starts] == [
        (42, 1, []),
        (1337, 1, []),
        (1337, 2, ["train", "export"]),
        (1337, 3, ["train", "export"]),
        (2024, 1, []),
    ]


@pytest.mark.ray
def test_an_artifact_has_the_bpb_that_was_recorded(tmp_path: Path) -> None:
    run = copy_of("finished", tmp_path)
    changes = (f"output={tmp_path / 'again'}", "seeds=[42]", "audit.positions=0")
    run_golf("evaluate", run, "--address", "local", *(word for change in changes for word in ("--set", change)))
    (again,) = (tmp_path / "again").glob("*/result.json")
    assert bpb_of(read(again)) == {42: pytest.approx(BPB[42], abs=1e-6, rel=0)}
