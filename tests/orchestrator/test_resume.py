"""What an interrupted run leaves, read from its folder alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from claim_builders import CANDIDATE, finished
from run_builders import STAGE_FILES, interrupted_run

from golf_core import strict_json
from golf_core.errors import ConfigError
from orchestrator.folder.ledger import Ledger
from orchestrator.folder.results import LOG, RESULT, SeedResult
from orchestrator.folder.resume import begin_log, resume_point


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return interrupted_run(tmp_path)


def stages(folder: Path) -> list[str]:
    result = resume_point(folder).seeds[42]
    return [stage for stage in STAGE_FILES if getattr(result, stage) is not None]


def test_what_is_whole_is_kept(run: Path) -> None:
    remains = resume_point(run)
    assert remains.seeds[42].status == "finished" and stages(run) == list(STAGE_FILES)
    assert remains.notes == () and remains.attempt == 1 and remains.seeds[42].attempts == ()


def test_a_finished_seed_is_as_its_own_result_says(run: Path) -> None:
    """A package compares the two: the ledger's times are rounded, and nothing else began the seed."""
    assert resume_point(run).seeds[42] == strict_json.load(SeedResult, run / "seed-42" / RESULT)


def test_an_attempt_that_ended_without_a_word(run: Path) -> None:
    (attempt,) = resume_point(run).seeds[1337].attempts
    assert (attempt.stage, attempt.kind, attempt.error) == ("train", "unknown", "the driver ended without a word")


@pytest.mark.parametrize(
    ("kept", "done", "stage"),
    [
        ([], [], "train"),
        (["train", "export"], [], "evaluate"),
        (["train"], ["export"], "evaluate"),
        (["train", "export"], ["evaluate"], "audit"),
    ],
)
def test_the_stage_that_such_an_attempt_was_in(run: Path, kept: list[str], done: list[str], stage: str) -> None:
    ledger = Ledger(run)
    ledger.append("seed_started", seed=1337, attempt=2, kept=kept)
    for name in done:
        ledger.append("stage_finished", seed=1337, stage=name, files={})
    ledger.close()
    assert [attempt.stage for attempt in resume_point(run).seeds[1337].attempts] == ["train", stage]


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("checkpoint.pt", ["train", "export", "evaluate", "audit"]),  # an artifact needs it no more
        ("model.golf", ["train"]),
        ("train_gpt.py", ["train"]),
        ("audit.json", ["train", "export", "evaluate"]),
        (RESULT, []),
    ],
)
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_what_is_damaged_is_done_again(run: Path, name: str, kept: list[str], damage: str) -> None:
    path = run / "seed-42" / name
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-3])
    assert stages(run) == kept
    status = resume_point(run).seeds[42].status
    assert status == ("finished" if len(kept) == 4 else "failed")


def test_a_checkpoint_and_an_artifact_that_are_lost(run: Path) -> None:
    for name in ("checkpoint.pt", "model.golf"):
        (run / "seed-42" / name).unlink()
    assert stages(run) == []
    assert any("train is done again" in note for note in resume_point(run).notes)


def test_a_result_without_its_entry_in_the_ledger(run: Path) -> None:
    """The stage may have been under way when the ledger was written last."""
    lines = (run / "ledger.jsonl").read_text().splitlines(keepends=True)
    (run / "ledger.jsonl").write_text("".join(line for line in lines if '"stage": "evaluate"' not in line))
    assert stages(run) == ["train", "export"]


def test_what_is_no_run(run: Path, tmp_path: Path) -> None:
    (run / "ledger.jsonl").unlink()
    with pytest.raises(ConfigError, match="run the job anew"):
        resume_point(run)
    with pytest.raises(ConfigError, match="name the folder of a run"):
        resume_point(tmp_path / "elsewhere")


def test_anothers_result(run: Path) -> None:
    strict_json.save(finished(7, CANDIDATE[0]), run / "seed-42" / RESULT)
    with pytest.raises(ConfigError, match="is of seed 7, in the folder of seed 42"):
        resume_point(run)


def test_the_log_of_a_new_attempt(tmp_path: Path) -> None:
    """Holds the stages that are kept; the whole of the old one lies beside it."""
    events = [("phase_started", "train"), ("phase_finished", "train"), ("phase_finished", "export"), ("chunk", None)]
    lines = [json.dumps({"time": n, "kind": kind, "phase": phase}) for n, (kind, phase) in enumerate(events)]
    path = tmp_path / LOG
    path.write_text("\n".join(lines) + "\n{torn")
    begin_log(path, ["train", "export"], 1)
    assert path.read_text() == "\n".join(lines[:3]) + "\n"
    begin_log(path, [], 2)
    assert path.read_text() == ""
    assert (tmp_path / "log.attempt-1.jsonl").read_text() == "\n".join(lines) + "\n{torn"
    assert (tmp_path / "log.attempt-2.jsonl").read_text() == "\n".join(lines[:3]) + "\n"
