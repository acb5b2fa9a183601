"""Everything that a report shows, read from a run's folder."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from golf_core import strict_json
from golf_core.audit.report import AuditReport
from golf_core.errors import ConfigError, GolfError
from golf_core.evaluate.breakdown import BREAKDOWN, Breakdown
from golf_core.files import MAX_RECORD_BYTES, read_bytes
from golf_core.results import DataRecord
from orchestrator.claim.rebuild import judged_anew
from orchestrator.folder.layout import AUDIT, DATA, LOG, RESULT
from orchestrator.folder.results import RunResult, SeedResult
from orchestrator.folder.view import AttemptView, view_of
from orchestrator.job.load import Job


@dataclass(frozen=True)
class Curve:
    """A series of a seed's log: columns by name, all of one length; what was not recorded is NaN."""

    columns: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def __getitem__(self, name: str) -> tuple[float, ...]:
        return self.columns.get(name, (math.nan,) * len(self))


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
    attempts: tuple[AttemptView, ...]
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
        attempts = view_of(folder).attempts
    except GolfError as error:
        attempts = ()
        missing.append(f"attempts: {error}")
    seeds = tuple(_seed(folder / f"seed-{seed.seed}", seed, missing) for seed in result.seeds)
    return RunData(folder, result, seeds, attempts, tuple(missing))


def _seed(folder: Path, result: SeedResult, missing: list[str]) -> SeedData:
    evaluated = result.evaluate
    if evaluated is not None and not evaluated.history:
        # The chunks are in the seed's own result, and nowhere else, where a result was made anew from the ledger.
        own = _loaded(SeedResult, folder / RESULT, [])
        if own is not None and own.evaluate is not None and own.evaluate.mixture == evaluated.mixture:
            result = replace(result, evaluate=own.evaluate)
    events = list(_events(folder / LOG, missing))
    return SeedData(
        result=result,
        steps=_curve(events, "train_step", ("step", "elapsed_s", "loss", "ms_per_step", "lr_factor")),
        validations=_curve(events, "validation", ("step", "val_loss", "val_bpb")),
        system=_system(events),
        spans=tuple(_spans(events)),
        breakdown=_loaded(Breakdown, folder / BREAKDOWN, missing),
        audit=_loaded(AuditReport, folder / AUDIT, missing),
        data=_loaded(DataRecord, folder / DATA, missing),
    )


def _loaded(kind: type[Any], path: Path, missing: list[str]) -> Any:
    """The record at `path`; None where there is none. A damaged one is named in `missing`."""
    if not path.exists():
        return None
    try:
        return strict_json.load(kind, path, MAX_RECORD_BYTES)
    except GolfError as error:
        missing.append(str(error))
        return None


def _events(path: Path, missing: list[str]) -> Iterator[dict[str, Any]]:
    try:
        lines = read_bytes(path, MAX_RECORD_BYTES).splitlines()
    except FileNotFoundError:
        return
    except OSError as error:
        missing.append(f"{path}: cannot be read ({error.strerror})")
        return
    for line in lines:
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue  # torn by a crash
        if isinstance(event, dict) and isinstance(event.get("kind"), str) and _finite(event.get("time")):
            yield event


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _curve(events: Sequence[Mapping[str, Any]], kind: str, names: Sequence[str]) -> Curve:
    """Of `kind`, the events that have the first of `names`; a step that was taken again counts as it was at last."""
    by_step: dict[float, Mapping[str, Any]] = {}
    for event in events:
        if event["kind"] == kind and _finite(event.get(names[0])):
            by_step[event[names[0]]] = event
    rows = [by_step[step] for step in sorted(by_step)]
    return Curve({n: tuple(float(r[n]) if _finite(r.get(n)) else math.nan for r in rows) for n in names})


def _system(events: Sequence[Mapping[str, Any]]) -> Curve:
    """Samples of the machine, `minutes` since the first; figures of all GPUs together."""
    samples = [event for event in events if event["kind"] == "system"]
    rows = []
    for event in samples:
        gpus = [gpu for gpu in event.get("gpus") or () if isinstance(gpu, Mapping)]
        use = [gpu["utilisation_percent"] for gpu in gpus if _finite(gpu.get("utilisation_percent"))]
        memory = [gpu["memory_mib"] for gpu in gpus if _finite(gpu.get("memory_mib"))]
        rows.append(
            {
                "minutes": (event["time"] - samples[0]["time"]) / 60,
                "cpu_percent": event.get("cpu_percent"),
                "memory_mib": event.get("memory_mib"),
                "gpu_percent": sum(use) / len(use) if use else math.nan,
                "gpu_memory_mib": sum(memory) if memory else math.nan,
            }
        )
    names = ("minutes", "cpu_percent", "memory_mib", "gpu_percent", "gpu_memory_mib")
    return Curve({n: tuple(float(r[n]) if _finite(r[n]) else math.nan for r in rows) for n in names})


def _spans(events: Sequence[Mapping[str, Any]]) -> Iterator[Span]:
    began: dict[str, float] = {}
    for event in events:
        phase = event.get("phase")
        if not isinstance(phase, str):
            continue
        if event["kind"] == "phase_started":
            began[phase] = event["time"]
        elif event["kind"] == "phase_finished" and phase in began:
            yield Span(phase, began.pop(phase), event["time"])
