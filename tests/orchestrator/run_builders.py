"""The folder of a made-up run, written as the driver writes it: job, ledger, logs, results."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from claim_builders import CANDIDATE, audit_record, finished, job

from golf_core import strict_json
from golf_core.events import Chunk, Event, JsonLinesLog, PhaseFinished, TrainStep
from golf_core.files import sha256, write_text
from orchestrator.claim.judge import judge
from orchestrator.folder.ledger import Ledger, figures_of, this_process
from orchestrator.folder.results import LOG, RESULT, STAGES, RunResult, SeedResult
from orchestrator.folder.resume import begin_log

STAGE_FILES = {name: stage.files for name, stage in STAGES.items()}
T0 = 1_700_000_000.0
RANKS = [{"node": "node-a", "pid": 1, "device": "NVIDIA H100 80GB HBM3"}] * 8


def steps(count: int) -> Iterator[Event]:
    for step in range(1, count + 1):
        yield TrainStep(step, count, 7.0 - step / count, 1.0, 5.5, 1e4, 1.0, 2.0, time=T0 + step)


def chunks(count: int) -> Iterator[Event]:
    for number in range(1, count + 1):
        yield Chunk(number, count, 1.5, 1.25, 1.0, {"neural": 0.9, "unigram": 0.1}, time=T0 + 900 + number)


def begin_run(folder: Path, seeds: tuple[int, ...] = (42,), **changes: Any) -> Ledger:
    """A run that was started, and nothing more; its ledger, held as by a driver."""
    folder.mkdir(parents=True, exist_ok=True)
    made = job(seeds=list(seeds), output=str(folder.parent), **changes)
    write_text(folder / "job.json", json.dumps(made.to_dict(), indent=2))
    ledger = Ledger(folder)
    provenance = {"git_commit": "c0ffee", "git_dirty": "false", "torch": "2.11.0"}
    ledger.append("run_started", attempt=1, job_sha256=made.digest, provenance=provenance, **this_process())
    return ledger


def begin_seed(folder: Path, ledger: Ledger, seed: int, attempt: int = 1, kept: tuple[str, ...] = ()) -> Path:
    place = folder / f"seed-{seed}"
    place.mkdir(exist_ok=True)
    begin_log(place / LOG, kept, attempt - 1)
    ledger.append("seed_started", seed=seed, attempt=attempt, kept=list(kept))
    ledger.append("gang_started", seed=seed, ranks=RANKS)
    return place


def add_events(place: Path, events: Iterable[Event]) -> None:
    log = JsonLinesLog(place / LOG)
    for event in events:
        log(event)
    log.close()


def add_lines(place: Path, *lines: Mapping[str, Any]) -> None:
    """Lines of a log as nobody should write them."""
    with (place / LOG).open("a") as file:
        file.writelines(json.dumps({"time": T0, **line}) + "\n" for line in lines)


def fail_seed(ledger: Ledger, seed: int, attempt: int, stage: str = "train") -> None:
    failure = {"failure": "infrastructure", "stage": stage, "error": "a rank's process was lost"}
    ledger.append("seed_finished", seed=seed, attempt=attempt, status="failed", **failure)


def finish_seed(folder: Path, ledger: Ledger, seed: int, bpb: float, attempt: int = 1) -> SeedResult:
    """All stages' files and figures, and the seed's end."""
    place = folder / f"seed-{seed}"
    result = replace(finished(seed, bpb), audit=audit_record())
    for stage, names in STAGE_FILES.items():
        for name in names:
            (place / name).write_bytes(f"{stage} {name} {seed}".encode())
        files = {name: sha256(place / name) for name in names}
        figures = figures_of(result, stage)
        ledger.append("stage_finished", seed=seed, stage=stage, seconds=1.0, files=files, figures=figures)
    strict_json.save(result, place / RESULT)
    ledger.append("seed_finished", seed=seed, attempt=attempt, status="finished")
    return result


def finish_run(folder: Path, ledger: Ledger, seeds: tuple[SeedResult, ...]) -> RunResult:
    made = job(seeds=[seed.seed for seed in seeds], output=str(folder.parent))
    provenance = {"git_commit": "c0ffee", "hardware": "8 x NVIDIA H100 80GB HBM3"}
    result = RunResult(made.name, folder.name, made, provenance, seeds, judge(made, seeds), T0, T0 + 4000)
    strict_json.save(result, folder / RESULT)
    ledger.append("run_finished", verdict=result.claim.verdict)
    ledger.close()
    return result


def whole_run(folder: Path, seeds: tuple[int, ...] = (42, 1337, 2024), train: int = 20, evaluate: int = 3) -> RunResult:
    """A run of finished seeds, with series."""
    ledger = begin_run(folder, seeds)
    results = []
    for seed, bpb in zip(seeds, CANDIDATE, strict=False):
        place = begin_seed(folder, ledger, seed)
        add_events(place, steps(train))
        add_events(place, [PhaseFinished("train", 12.5, time=T0 + 800)])
        add_events(place, chunks(evaluate))
        results.append(finish_seed(folder, ledger, seed, bpb))
    return finish_run(folder, ledger, tuple(results))


def interrupted_run(folder: Path) -> Path:
    """A run of which seed 42 is finished and 1337 begun, as an older version wrote it: no figures in the ledger.

    No file of it is what its name says.
    """
    place = folder / "seed-42"
    place.mkdir(parents=True)
    (folder / "job.json").write_text(json.dumps(job(seeds=[42, 1337]).to_dict()))
    strict_json.save(replace(finished(42, CANDIDATE[0]), audit=audit_record()), place / RESULT)
    ledger = Ledger(folder)
    ledger.append("run_started", attempt=1)
    ledger.append("seed_started", seed=42, attempt=1, kept=[])
    for stage, names in STAGE_FILES.items():
        for name in names:
            (place / name).write_bytes(f"{stage} {name}".encode())
        ledger.append("stage_finished", seed=42, stage=stage, files={name: sha256(place / name) for name in names})
    ledger.append("seed_finished", seed=42, attempt=1, status="finished")
    ledger.append("seed_started", seed=1337, attempt=1, kept=[])
    ledger.close()
    return folder
