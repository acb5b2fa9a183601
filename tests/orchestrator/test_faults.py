"""Faults of processes, made on purpose: the run ends with the figures of an undisturbed one; nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest
from fault_tools import LIMITS, SLOWER, Figures, Service, Start, Tell, check_whole, in_stage, job, no_orphans
from tiny import golf

from golf_core.strict_json import load
from orchestrator.folder.results import RunResult

pytestmark = pytest.mark.ray


def slow(stage: str) -> Any:
    """The same fault in another stage."""
    return pytest.param(stage, marks=pytest.mark.slow)


@pytest.mark.parametrize("stage", [slow("train"), slow("export"), "evaluate"])
def test_a_rank_is_killed(stage: str, place: Path, start: Start, undisturbed: Figures, tell: Tell) -> None:
    """It is tried again by itself; stages that were finished are kept."""
    service = start(job(place))
    service.wait_for(in_stage(stage))
    os.kill(service.ranks()[0], signal.SIGKILL)
    assert service.ends() == 0, service.text
    assert "a rank's process was lost" in service.text and "is tried again" in service.text
    check_whole(service.run, undisturbed)
    (seed,) = load(RunResult, service.run / "result.json").seeds
    assert [(attempt.stage, attempt.kind) for attempt in seed.attempts] == [(stage, "infrastructure")]
    starts = [entry.fields["kept"] for entry in service.entries() if entry.kind == "seed_started"]
    assert starts == [[], {"train": [], "export": ["train"], "evaluate": ["train", "export"]}[stage]]
    tell(f"a rank is killed in {stage}", service, "failed", "tried again by itself; same figures")


def test_a_rank_is_frozen(place: Path, start: Start, undisturbed: Figures, tell: Tell) -> None:
    service = start(job(place))
    service.wait_for(in_stage("train"))
    frozen = service.ranks()[0]
    os.kill(frozen, signal.SIGSTOP)
    assert service.ends() == 0, service.text
    assert "no sign of life" in service.text and not psutil.pid_exists(frozen)
    check_whole(service.run, undisturbed)
    tell("a rank is frozen (SIGSTOP)", service, "failed", "ended, tried again; same figures")


@pytest.mark.slow
def test_one_of_two_ranks_is_killed(place: Path, start: Start, undisturbed: Figures, tell: Tell) -> None:
    """Its fellow notices a broken connection; the sentence names what was behind it."""
    service = start(job(place, resources={"ranks": 2}))
    service.wait_for(in_stage("train"))
    os.kill(service.ranks()[1], signal.SIGKILL)
    assert service.ends() == 0, service.text
    assert "a rank's process was lost" in service.text
    result = load(RunResult, service.run / "result.json")
    assert result.seeds[0].status == "finished" and result.seeds[0].attempts[0].kind == "infrastructure"
    tell("one of two ranks is killed", service, "failed", "tried again by itself")


@pytest.mark.parametrize("stage", ["train", slow("evaluate")])
def test_the_driver_is_killed(stage: str, place: Path, start: Start, undisturbed: Figures, tell: Tell) -> None:
    """With a head of its own, which goes as well."""
    service = Service(place, job(place), "--address", "local")
    service.wait_for(in_stage(stage))
    ranks = [psutil.Process(pid) for pid in service.ranks()]
    service.process.kill()
    service.ends()
    assert ranks and not psutil.wait_procs(ranks, timeout=15)[1], "a rank is left, and holds its GPU"
    assert no_orphans(place)
    resumed = start("--resume", str(service.run))
    assert resumed.ends() == 0, resumed.text
    check_whole(service.run, undisturbed)
    (seed,) = load(RunResult, service.run / "result.json").seeds
    assert [(attempt.stage, attempt.error) for attempt in seed.attempts] == [(stage, "the driver ended without a word")]
    tell(f"the driver is killed in {stage}", resumed, "seed 42: finished", "`--resume`: same figures")


def test_stopping_writes_the_state_in_time(place: Path, start: Start, undisturbed: Figures, tell: Tell) -> None:
    """SIGTERM, and SIGKILL three seconds later, as Ray does; a second process may go on at once."""
    service = start(job(place, (42, 1337)))
    service.wait_for(in_stage("train"))
    service.process.send_signal(signal.SIGTERM)
    try:
        service.process.wait(timeout=3)
    except subprocess.TimeoutExpired:
        service.process.kill()
        service.process.wait()
    kinds = [entry.kind for entry in service.entries()]
    assert "run_stopped" in kinds
    assert load(RunResult, service.run / "result.json").claim.verdict == "no claim"
    resumed = start("--resume", str(service.run))
    assert resumed.ends() == 0, resumed.text
    check_whole(service.run, undisturbed, (42, 1337))
    tell("SIGTERM, and SIGKILL 3 s later", service, "stopping", "state written in time; `--resume`: same figures")


@pytest.mark.slow
def test_stopping_when_all_seeds_have_ended(place: Path, start: Start, undisturbed: Figures, tell: Tell) -> None:
    """There is nothing left to stop: the run's end is written, and nobody is kept waiting."""
    service = start(job(place))
    service.wait_for(lambda s: any(entry.kind == "seed_finished" for entry in s.entries()))
    service.process.send_signal(signal.SIGTERM)
    assert service.ends(20) == 1, service.text
    assert service.entries()[-1].kind in ("run_finished", "run_stopped")
    assert "golf rebuild" in service.text or "golf run --resume" in service.text
    resumed = start("--resume", str(service.run))
    assert resumed.ends() == 0, resumed.text
    check_whole(service.run, undisturbed)
    tell("SIGTERM when the last seed has ended", service, "error:", "the run's end is written")


@pytest.mark.slow
def test_a_run_is_resumed_by_one_process_at_a_time(place: Path, start: Start, tell: Tell) -> None:
    for_minutes = SLOWER | {"train.iterations": 100_000}
    service = start(job(place, overrides=for_minutes))
    service.wait_for(in_stage("train"))
    second = golf("run", "--resume", str(service.run), "--address", "local")
    assert second.returncode == 1 and "another process is at work on this run" in second.stderr
    service.process.send_signal(signal.SIGINT)
    assert service.ends() == 1 and "golf run --resume" in service.text
    (seed,) = load(RunResult, service.run / "result.json").seeds
    assert (seed.status, seed.error) == ("failed", "stopped by the user")
    tell("Ctrl-C, while a second process resumes the run", service, "error:", "the second is refused, the first stops")


def test_numerics_are_not_tried_again(place: Path, start: Start, tell: Tell) -> None:
    diverging = SLOWER | {"train.muon_lr": 1e30, "train.scalar_lr": 1e30, "train.table_lr": 1e30}
    service = start(job(place, overrides=diverging))
    assert service.ends() == 1 and "Traceback" not in service.text
    result = load(RunResult, service.run / "result.json")
    (seed,) = result.seeds
    assert seed.status == "failed" and result.claim.verdict == "no claim"
    assert [attempt.kind for attempt in seed.attempts] == ["numerics"], service.text
    assert "the training loss is nan" in (seed.error or "") and "lower the learning rates" in (seed.error or "")
    tell("training diverges", service, "failed:", "not tried again")


def test_an_early_end_is_said(place: Path, start: Start, tell: Tell) -> None:
    """The first seed does not beat the baseline by far: the second is ended, or not begun."""
    made_up = {"name": "out of reach", "mean": 1.0, "bytes_per_token": 1.85}
    written = job(place, (42, 1337), baseline=made_up, cost={"stop_when_hopeless": True}, min_seeds_for_claim=2)
    service = start(written, "--set", "resources.cpus_per_rank=2")
    assert service.ends() == 1
    assert "a claim is out of reach: whatever the remaining seeds bring" in service.text
    result = load(RunResult, service.run / "result.json")
    assert [seed.status for seed in result.seeds] == ["finished", "failed"]
    assert {"out_of_reach", "run_stopped"} <= {entry.kind for entry in service.entries()}
    tell("the first seed rules a claim out", service, "out of reach", "the rest is not run")


def test_a_phase_beyond_its_limit_is_ended(place: Path, start: Start, tell: Tell) -> None:
    limits = LIMITS | {"train_seconds": 1.0}
    slow = SLOWER | {"train.iterations": 10_000}
    service = start(job(place, limits=limits, overrides=slow))
    assert service.ends() == 1
    (seed,) = load(RunResult, service.run / "result.json").seeds
    assert [attempt.kind for attempt in seed.attempts] == ["limit"] and "within 1 s (limits)" in (seed.error or "")
    tell("a phase takes too long", service, "failed:", "ended, not tried again")
