"""Everything that a report shows, read from a run's folder."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from dashboards.pages import seed_colour
from golf_core.audit.report import AuditReport
from golf_core.errors import ConfigError, GolfError
from golf_core.evaluate.breakdown import BREAKDOWN, Breakdown
from golf_core.events import Event, PhaseFinished, PhaseStarted, System, TrainStep, Validation
from golf_core.files import MAX_RECORD_BYTES, read_bytes
from golf_core.results import DataRecord
from orchestrator.claim.rebuild import judged_anew
from orchestrator.folder.event_log import sound_events
from orchestrator.folder.results import AUDIT, DATA, LOG, RESULT, RunResult, SeedResult
from orchestrator.folder.view import recorded, view_of
from orchestrator.job.load import Job

Curve: TypeAlias = "Mapping[str, tuple[float, ...]]"
"""A series of a seed's log: columns by name, all of one length; what was not recorded is NaN."""


@dataclass(frozen=True)
class Span:
    """A phase of an attempt: seconds since the epoch."""

    name: str
    began: float
    ended: float


@dataclass(frozen=True)
class SeedData:
    """One seed: its result, and the series and reports beside it as far as they can be read."""

    result: SeedResult
    colour: str
    """Class of its colour in pictures."""
    steps: Curve
    validations: Curve
    system: Curve
    spans: tuple[Span, ...]
    breakdown: Breakdown | None
    audit: AuditReport | None
    data: DataRecord | None

    @property
    def label(self) -> str:
        """How it is called in pictures."""
        return f"seed {self.result.seed}"


@dataclass(frozen=True)
class RunData:
    """A run."""

    folder: Path
    result: RunResult
    seeds: tuple[SeedData, ...]
    node_hours: float
    """Hours of nodes that all attempts used."""
    missing: tuple[str, ...]
    """What could not be read, in sentences."""

    @property
    def job(self) -> Job:
        """What was asked of it."""
        return self.result.job

    @property
    def evaluated(self) -> list[SeedData]:
        """The finished seeds that have scores."""
        return [s for s in self.seeds if s.result.status == "finished" and s.result.evaluate is not None]


def read_run(folder: Path) -> RunData:
    """Read the run in `folder`; what is missing is said in the value.

    Raises `ConfigError` where there is no result.
    """
    if not (folder / RESULT).exists():
        raise ConfigError(
            f"{folder / RESULT}: no such file; name the folder of a run, or make its result from its ledger with: "
            f"golf rebuild {folder}"
        )
    result = judged_anew(folder)
    missing: list[str] = []
    try:
        hours = view_of(folder).node_hours()
    except GolfError as error:
        hours = 0.0
        missing.append(f"attempts: {error}")
    seeds = tuple(_seed(folder, seed, seed_colour(i), missing) for i, seed in enumerate(result.seeds))
    return RunData(folder, result, seeds, hours, tuple(missing))


def _seed(run: Path, result: SeedResult, colour: str, missing: list[str]) -> SeedData:
    folder = run / f"seed-{result.seed}"
    evaluated = result.evaluate
    if evaluated is not None and not evaluated.history:
        # The chunks are in the seed's own result, and nowhere else, where a result was made anew from the ledger.
        own = recorded(SeedResult, folder / RESULT)
        if own is not None and own.evaluate is not None and own.evaluate.mixture == evaluated.mixture:
            result = replace(result, evaluate=own.evaluate)
    events = _events(folder / LOG, missing)
    return SeedData(
        result=result,
        colour=colour,
        steps=_curve(events, TrainStep, ("step", "elapsed_s", "loss", "ms_per_step")),
        validations=_curve(events, Validation, ("step", "val_bpb")),
        system=_system(events),
        spans=tuple(_spans(events)),
        breakdown=_loaded(Breakdown, folder / BREAKDOWN, missing),
        audit=_loaded(AuditReport, folder / AUDIT, missing),
        data=_loaded(DataRecord, folder / DATA, missing),
    )


def _loaded(kind: type[Any], path: Path, missing: list[str]) -> Any:
    """The record at `path`; None where there is none. A damaged one is named in `missing`."""
    return recorded(kind, path, missing) if path.exists() else None


def _events(path: Path, missing: list[str]) -> list[Event]:
    try:
        return list(sound_events(read_bytes(path, MAX_RECORD_BYTES).splitlines()))
    except FileNotFoundError:
        return []
    except OSError as error:
        missing.append(f"{path}: cannot be read ({error.strerror})")
        return []


def _curve(events: Sequence[Event], kind: type[TrainStep | Validation], names: Sequence[str]) -> Curve:
    """The events of `kind` by step; a step that was taken again counts as it was at last."""
    by_step = {event.step: event for event in events if isinstance(event, kind)}
    rows = [by_step[step] for step in sorted(by_step)]
    return {name: tuple(float(getattr(row, name)) for row in rows) for name in names}


def _system(events: Sequence[Event]) -> Curve:
    """Samples of the machine, `minutes` since the first; figures of all GPUs together."""
    samples = [event for event in events if isinstance(event, System)]
    use = [[u for gpu in s.gpus if (u := gpu.utilisation_percent) is not None] for s in samples]
    memory = [[m for gpu in s.gpus if (m := gpu.memory_mib) is not None] for s in samples]
    return {
        "minutes": tuple((s.time - samples[0].time) / 60 for s in samples),
        "cpu_percent": tuple(math.nan if s.cpu_percent is None else s.cpu_percent for s in samples),
        "memory_mib": tuple(math.nan if s.memory_mib is None else s.memory_mib for s in samples),
        "gpu_percent": tuple(sum(each) / len(each) if each else math.nan for each in use),
        "gpu_memory_mib": tuple(sum(each) if each else math.nan for each in memory),
    }


def _spans(events: Sequence[Event]) -> Iterator[Span]:
    began: dict[str, float] = {}
    for event in events:
        if isinstance(event, PhaseStarted):
            began[event.phase] = event.time
        elif isinstance(event, PhaseFinished) and event.phase in began:
            yield Span(event.phase, began.pop(event.phase), event.time)
