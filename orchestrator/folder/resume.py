"""What an interrupted run left: which stages of each seed need not be run again."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from golf_core import strict_json
from golf_core.errors import ConfigError, GolfError
from golf_core.files import sha256, write_bytes
from golf_core.strict_json import printable
from orchestrator.folder.earlier import job_of_run
from orchestrator.folder.layout import (
    LEDGER,
    LOG,
    RESULT,
)
from orchestrator.folder.ledger import Entry, figures_in, read_ledger
from orchestrator.folder.results import STAGES, Attempt, SeedResult, waiting_result
from orchestrator.folder.seed_log import read_events
from orchestrator.job.load import Job


@dataclass(frozen=True)
class Remains:
    """An earlier run's folder, ready to be gone on with."""

    folder: Path
    job: Job
    started: float
    """Of the first attempt, seconds since the epoch."""
    attempt: int
    """How often the run was started."""
    artifacts_of: str | None
    """The run whose artifacts are evaluated, where nothing is trained."""
    seeds: dict[int, SeedResult]
    """Figures of the stages that are whole; the others are removed."""
    notes: tuple[str, ...]
    """What was found damaged and is done again."""


def remains_of(folder: Path) -> Remains:
    """Read the run in `folder`. Raises `ConfigError` where it is not the folder of a run."""
    job = job_of_run(folder, {})
    entries = read_ledger(folder)
    starts = [entry for entry in entries if entry.kind == "run_started"]
    if not starts:
        raise ConfigError(f"{folder}: its ledger does not say that it was ever started; run the job anew")
    notes: list[str] = []
    artifacts_of = starts[0].fields.get("artifacts_of")
    if artifacts_of is not None and not (isinstance(artifacts_of, str) and artifacts_of.isprintable()):
        raise ConfigError(f"{folder / LEDGER}: its first entry is damaged (artifacts_of); run the job anew")
    seeds = {
        seed: _seed_remains(folder / f"seed-{seed}", seed, entries, bool(artifacts_of), notes) for seed in job.seeds
    }
    return Remains(
        folder=folder,
        job=job,
        started=starts[0].time,
        attempt=len(starts),
        artifacts_of=artifacts_of or None,
        seeds=seeds,
        notes=tuple(notes),
    )


def _seed_remains(place: Path, seed: int, entries: Sequence[Entry], adopted: bool, notes: list[str]) -> SeedResult:
    """The seed's result with the figures of whole stages alone, and all attempts that did not end well."""
    result = _recorded(place / RESULT, seed, entries, notes)
    damaged = _damaged_stages(place, seed, entries)
    export = adopted or (result.export is not None and "export" not in damaged)
    # An artifact that is whole needs its checkpoint no more.
    train = result.train if export or "train" not in damaged else None
    evaluate = result.evaluate if export and "evaluate" not in damaged else None
    audit = result.audit if evaluate is not None and "audit" not in damaged else None
    kept = replace(result, train=train, export=result.export if export else None, evaluate=evaluate, audit=audit)
    for stage in STAGES:
        if getattr(result, stage) is not None and getattr(kept, stage) is None:
            notes.append(
                f"seed {seed}: {stage} is done again: {damaged.get(stage, 'what it was made from is damaged')}"
            )
    if result.status == "finished" and (evaluate is None or (result.audit is not None and audit is None)):
        kept = replace(kept, status="failed", error="not finished")
    attempts = attempts_of(place, seed, entries, result.attempts)
    if kept.status == "finished":
        return replace(kept, attempts=attempts)  # it is not run again: what its own result says stays true
    started = next((e.time for e in entries if e.kind == "seed_started" and e.fields.get("seed") == seed), None)
    return replace(kept, attempts=attempts, started=started or result.started)


def _recorded(path: Path, seed: int, entries: Sequence[Entry], notes: list[str]) -> SeedResult:
    """The seed's result; where that is gone or damaged, what the ledger has of it."""
    try:
        result = strict_json.load(SeedResult, path)
    except GolfError as error:
        found = figures_in(entries, seed, None, notes)
        if found:
            notes.append(f"seed {seed}: its figures are taken from the ledger: {printable(error)}")
        return replace(waiting_result(seed), error="interrupted", **found)
    if result.seed != seed:
        raise ConfigError(f"{path}: is of seed {result.seed}, in the folder of seed {seed}; put it where it belongs")
    return result


def _damaged_stages(place: Path, seed: int, entries: Sequence[Entry]) -> dict[str, str]:
    """Stages whose files are not those that the ledger saw, with what is wrong."""
    damaged = {}
    for stage in STAGES:
        ends = [
            entry
            for entry in entries
            if entry.kind == "stage_finished" and (entry.fields.get("seed"), entry.fields.get("stage")) == (seed, stage)
        ]
        if not ends:
            damaged[stage] = "the ledger does not say that it ended"
            continue
        expected = ends[-1].fields.get("files")
        if not isinstance(expected, dict):
            expected = {}
        for name in STAGES[stage].files:
            path = place / name
            if not path.is_file():
                damaged[stage] = f"{path} is missing"
            elif sha256(path) != expected.get(name):
                damaged[stage] = f"{path} is damaged (its checksum differs)"
    return damaged


def attempts_of(place: Path, seed: int, entries: Sequence[Entry], recorded: Sequence[Attempt]) -> tuple[Attempt, ...]:
    """The recorded attempts, and those that ended without a word."""
    found: dict[int, Attempt] = dict(enumerate(recorded, start=1))
    of_seed = [entry for entry in entries if entry.fields.get("seed") == seed]
    for i, entry in enumerate(of_seed):
        number = entry.fields.get("attempt")
        if entry.kind != "seed_started" or not isinstance(number, int) or number in found:
            continue
        rest = of_seed[i + 1 :]
        end = next((e for e in rest if e.kind == "seed_finished" and e.fields.get("attempt") == number), None)
        if end is not None and end.fields.get("status") == "finished":
            continue
        if end is not None:
            known = [printable(str(end.fields.get(name, "unknown"))) for name in ("stage", "failure", "error")]
            found[number] = Attempt(entry.time, end.time, known[0], known[1], known[2])
            continue
        stages = list(STAGES)
        done = [e.fields.get("stage") for e in rest if e.kind == "stage_finished" and e.fields.get("stage") in stages]
        stage = stages[min(stages.index(str(done[-1])) + 1, len(stages) - 1)] if done else "train"
        last = _last_sign(place, entry.time)
        found[number] = Attempt(entry.time, last, stage, "unknown", "the driver ended without a word")
    return tuple(found[number] for number in sorted(found))


def _last_sign(place: Path, started: float) -> float:
    """When the seed's log was written last."""
    with contextlib.suppress(ConfigError):
        events = read_events(place / LOG)
        if events:
            return max(started, events[-1].time)
    return started


def begin_log(path: Path, kept: Sequence[str], attempts: int) -> None:
    """Make `path` the log of a new attempt: what belongs to stages that are kept stays.

    The whole log of the attempts before is kept beside it.
    """
    if not attempts or not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    write_bytes(path.with_name(f"{path.stem}.attempt-{attempts}{path.suffix}"), b"".join(lines))
    ends = [number for number, line in enumerate(lines, start=1) if _ends_stage(line, kept)]
    write_bytes(path, b"".join(lines[: max(ends, default=0)]))


def _ends_stage(line: bytes, stages: Sequence[str]) -> bool:
    try:
        event = json.loads(line)
        return bool(event["kind"] == "phase_finished" and event["phase"] in stages)
    except (ValueError, LookupError, TypeError):
        return False  # torn by a crash
