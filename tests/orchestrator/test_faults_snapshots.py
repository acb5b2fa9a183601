"""Faults in the middle of a training with snapshots: it goes on from the last one, with the undisturbed figures."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from fault_tools import SLOWER, Figures, Service, Start, Tell, figures, in_stage, job, no_orphans
from heads import Head

from golf_core.files import write_bytes
from golf_core.strict_json import load
from golf_core.train.snapshot import SNAPSHOT_NAME, is_whole
from orchestrator.folder.ledger import read_ledger
from orchestrator.folder.results import RunResult, SeedResult

pytestmark = pytest.mark.ray

LONG = SLOWER | {"train.iterations": 40, "evaluate.max_tokens": 4096}
WITH_SNAPSHOTS = LONG | {"train.snapshot_seconds": 0.3}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, cluster: Head) -> Figures:
    """The figure of a run that nobody disturbed, and that made no snapshots."""
    folder = tmp_path_factory.mktemp("straight")
    service = Service(folder, job(folder, overrides=LONG), "--address", cluster.address, **cluster.environment)
    assert service.ends() == 0, service.text
    assert result(service).train.resumed_at_steps == ()  # type: ignore[union-attr]
    return figures(service.run)


def result(service: Service) -> SeedResult:
    return load(SeedResult, service.run / "seed-42" / "result.json")


def snapshot(service: Service) -> Path:
    return service.run / "seed-42" / SNAPSHOT_NAME


def has_snapshot(service: Service) -> bool:
    return bool(list(service.folder.glob(f"runs/*/seed-42/{SNAPSHOT_NAME}")))


def notes(service: Service) -> list[str]:
    return [event["message"] for event in service.events() if event["kind"] == "note"]


def kill_driver(service: Service) -> None:
    """Kill the driver in the middle of the training, and wait until its ranks are gone too."""
    assert not [e for e in service.entries() if e.kind == "stage_finished"], "training is over"
    service.process.kill()
    service.ends()
    assert no_orphans(service.folder)


def check_resumed(service: Service, straight: Figures, pieces: int) -> None:
    """The figure is the undisturbed one, and nobody can take the training for one in a single piece."""
    found = load(RunResult, service.run / "result.json")
    assert figures(service.run) == pytest.approx(straight, abs=1e-6)
    (seed,) = found.seeds
    assert seed.status == "finished" and seed.train is not None and seed.train.steps == LONG["train.iterations"]
    steps = seed.train.resumed_at_steps
    assert len(steps) == pieces and all(1 <= step < seed.train.steps for step in steps) and list(steps) == sorted(steps)
    (condition,) = [c for c in found.claim.conditions if c.name == "trained in one go"]
    assert condition.holds is (not pieces) and found.claim.verdict != "claim"
    assert all(f"{step}" in condition.detail for step in steps)
    assert not snapshot(service).exists()
    entries = read_ledger(service.run)
    assert entries[-1].kind == "run_finished"
    (trained,) = [e for e in entries if e.kind == "stage_finished" and e.fields["stage"] == "train"]
    assert trained.fields["figures"]["resumed_at_steps"] == list(steps)


def test_the_driver_is_killed_after_a_snapshot(place: Path, start: Start, straight: Figures, tell: Tell) -> None:
    """Twice: the second time, the training has been resumed already."""
    service = start(job(place, overrides=WITH_SNAPSHOTS))
    service.wait_for(has_snapshot)
    kill_driver(service)
    first = snapshot(service).read_bytes()
    assert is_whole(snapshot(service))
    second = start("--resume", str(service.run))
    second.wait_for(lambda resumed: snapshot(resumed).read_bytes() != first)
    kill_driver(second)
    third = start("--resume", str(service.run))
    assert third.ends() == 0, third.text
    check_resumed(third, straight, pieces=2)
    (seed,) = load(RunResult, third.run / "result.json").seeds
    assert [(attempt.stage, attempt.kind) for attempt in seed.attempts] == [("train", "unknown")] * 2
    tell("the driver is killed in train, with snapshots", third, "resumed at step", "goes on there; same figures")


@pytest.mark.slow
def test_a_rank_is_killed_after_a_snapshot(place: Path, start: Start, straight: Figures, tell: Tell) -> None:
    """The next attempt of the same run goes on from the snapshot that the driver took off the lost rank."""
    service = start(job(place, overrides=WITH_SNAPSHOTS))
    service.wait_for(has_snapshot)
    os.kill(service.ranks()[0], signal.SIGKILL)
    assert service.ends() == 0, service.text
    assert "a rank's process was lost" in service.text and "is tried again" in service.text
    check_resumed(service, straight, pieces=1)
    (seed,) = load(RunResult, service.run / "result.json").seeds
    assert [(attempt.stage, attempt.kind) for attempt in seed.attempts] == [("train", "infrastructure")]
    tell("a rank is killed in train, with snapshots", service, "resumed at step", "goes on there; same figures")


@pytest.mark.slow
def test_a_damaged_snapshot(place: Path, start: Start, straight: Figures, tell: Tell) -> None:
    """Training begins anew, and says why; snapshots that nobody needed change nothing."""
    service = start(job(place, overrides=WITH_SNAPSHOTS))
    service.wait_for(has_snapshot)
    kill_driver(service)
    path = snapshot(service)
    content = path.read_bytes()
    write_bytes(path, content[: len(content) // 2])
    resumed = start("--resume", str(service.run))
    assert resumed.ends() == 0, resumed.text
    assert f"{path} is damaged: training begins anew" in notes(resumed)
    assert not any("resumed at step" in note for note in notes(resumed))
    assert [event for event in resumed.events() if "snapshot_step" in event]
    check_resumed(resumed, straight, pieces=0)
    tell(f"{SNAPSHOT_NAME} is cut short", resumed, "begins anew", "`--resume`: from the first step; same figures")


@pytest.mark.slow
def test_without_snapshots_training_begins_anew(place: Path, start: Start, straight: Figures) -> None:
    service = start(job(place, overrides=LONG))
    service.wait_for(in_stage("train"))
    kill_driver(service)
    assert not snapshot(service).exists()
    resumed = start("--resume", str(service.run))
    assert resumed.ends() == 0, resumed.text
    check_resumed(resumed, straight, pieces=0)
