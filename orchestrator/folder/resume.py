"""What an interrupted run left: which stages of each seed need not be run again."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from golf_core.errors import ConfigError
from golf_core.events import PhaseFinished
from golf_core.files import sha256, write_bytes
from golf_core.strict_json import printable
from orchestrator.folder.event_log import read_events, sound_events
from orchestrator.folder.ledger import figures_in
from orchestrator.folder.results import (
    LEDGER,
    MAKING,
    RESULT,
    STAGES,
    Attempt,
    SeedResult,
    waiting_result,
)
from orchestrator.folder.view import AttemptView, RunView, recorded, view_of
from orchestrator.job.load import Job


@dataclass(frozen=True)
class ResumePoint:
    """An earlier run's folder, ready to be gone on with."""

    folder: Path
    job: Job
    started: float
    """When it was started first, seconds since the epoch."""
    attempt: int
    """How often the run was started."""
    artifacts_of: str | None
    """The run whose artifacts are evaluated, where nothing is trained."""
    seeds: dict[int, SeedResult]
    """Figures of the stages that are whole; the others are removed."""
    notes: tuple[str, ...]
    """What was found damaged and is done again."""


def resume_point(folder: Path) -> ResumePoint:
    """Read the run in `folder`. Raises `ConfigError` where it is not the folder of a run."""
    view = view_of(folder)
    notes: list[str] = []
    artifacts_of = view.starts[0].fields.get("artifacts_of")
    if artifacts_of is not None and not (isinstance(artifacts_of, str) and artifacts_of.isprintable()):
        raise ConfigError(f"{folder / LEDGER}: its first entry is damaged (artifacts_of); run the job anew")
    return ResumePoint(
        folder=folder,
        job=view.job,
        started=view.started,
        attempt=len(view.starts),
        artifacts_of=artifacts_of or None,
        seeds={seed: _whole(view, seed, notes) for seed in view.job.seeds},
        notes=tuple(notes),
    )


def _whole(view: RunView, seed: int, notes: list[str]) -> SeedResult:
    """The seed's result with the figures of whole stages alone, and all attempts that did not end well."""
    result = _recorded(view, seed, notes)
    damaged = _damaged_stages(view, seed)
    export = bool(view.artifacts_of) or (result.export is not None and "export" not in damaged)
    lost = [] if export else ["export"]
    # An artifact that is whole needs its checkpoint no more.
    if not export and "train" in damaged:
        lost.append("train")
    for name, stage in STAGES.items():
        # What follows something that is done again is done again too.
        if name not in MAKING and stage.wanted(view.job) and (lost or name in damaged or not getattr(result, name)):
            lost.append(name)
    again = [name for name in STAGES if name in lost and getattr(result, name) is not None]
    notes += [
        f"seed {seed}: {name} is done again: {damaged.get(name, 'what it was made from is damaged')}" for name in again
    ]
    nothing: dict[str, Any] = dict.fromkeys(lost)
    kept = replace(result, **nothing)
    if result.status == "finished" and (again or kept.evaluate is None):
        kept = replace(kept, status="failed", error="not finished")
    attempts = attempts_of(view, seed, result.attempts)
    if kept.status == "finished":
        return replace(kept, attempts=attempts)  # it is not run again: what its own result says stays true
    begun = view.attempts_at(seed)
    return replace(kept, attempts=attempts, started=begun[0].started if begun else result.started)


def _recorded(view: RunView, seed: int, notes: list[str]) -> SeedResult:
    """The seed's result; where that is gone or damaged, what the ledger has of it."""
    why: list[str] = []
    path = view.place(seed) / RESULT
    result = recorded(SeedResult, path, why)
    if result is None:
        found = figures_in(view.entries, seed, None, notes)
        if found:
            notes.append(f"seed {seed}: its figures are taken from the ledger: {printable(why[0])}")
        return replace(waiting_result(seed), error="interrupted", **found)
    if result.seed != seed:
        raise ConfigError(f"{path}: is of seed {result.seed}, in the folder of seed {seed}; put it where it belongs")
    return result


def _damaged_stages(view: RunView, seed: int) -> dict[str, str]:
    """Stages whose files are not those that the ledger saw, with what is wrong."""
    damaged = {}
    of_seed = [e.fields for e in view.entries if e.kind == "stage_finished" and e.fields.get("seed") == seed]
    for stage in STAGES:
        ends = [fields for fields in of_seed if fields.get("stage") == stage]
        if not ends:
            damaged[stage] = "the ledger does not say that it ended"
            continue
        expected = ends[-1].get("files")
        if not isinstance(expected, dict):
            expected = {}
        for name in STAGES[stage].files:
            path = view.place(seed) / name
            if not path.is_file():
                damaged[stage] = f"{path} is missing"
            elif sha256(path) != expected.get(name):
                damaged[stage] = f"{path} is damaged (its checksum differs)"
    return damaged


def attempts_of(view: RunView, seed: int, known: Sequence[Attempt] = ()) -> tuple[Attempt, ...]:
    """The attempts at a seed that did not end well: those `known`, and what the ledger says of the others."""
    found: dict[int, Attempt] = dict(enumerate(known, start=1))
    for attempt in view.attempts_at(seed):
        if attempt.number not in found and attempt.status != "finished":
            found[attempt.number] = _attempt(attempt)
    return tuple(found[number] for number in sorted(found))


def _attempt(view: AttemptView) -> Attempt:
    if view.ended is not None:
        stage, kind, error = (text or "unknown" for text in (view.stage, view.failure, view.error))
        return Attempt(view.started, view.ended, stage, kind, error)
    stages = list(STAGES)
    stage = stages[min(max(map(stages.index, view.stages), default=-1) + 1, len(stages) - 1)]
    return Attempt(view.started, _last_sign(view), stage, "unknown", "the driver ended without a word")


def _last_sign(attempt: AttemptView) -> float:
    """When the attempt's log was written last, seconds since the epoch."""
    with contextlib.suppress(ConfigError):
        events = read_events(attempt.log)
        if events:
            return max(attempt.started, events[-1].time)
    return attempt.started


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
    return any(isinstance(event, PhaseFinished) and event.phase in stages for event in sound_events([line]))
