"""A seed's events as points of series in MLflow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from golf_core.events import Chunk, Event, PhaseFinished, System, TrainStep, Validation

MAX_GPUS = 64
"""GPUs of one machine at the most."""


@dataclass(frozen=True)
class Point:
    """One point of a series."""

    name: str
    step: int
    value: float
    time: float
    """Seconds since the epoch."""


def points_of(event: Event) -> list[Point]:
    """The points that an event adds to a seed's series."""
    step, values = series(event)
    return [Point(name, step, value, event.time) for name, value in values.items()]


def series(event: Event) -> tuple[int, dict[str, float]]:
    """The points that an event adds to a seed's series: the step (or chunk, or 0), and values by metric name.

    Losses in nats a token, weights as shares of 1, the rest in the unit that the name ends in. The step of a machine's
    figures is the seconds since its gang was started. What is missing or not finite is left out.
    """
    match event:
        case TrainStep(step):
            names = ("loss", "lr_factor", "ms_per_step", "tokens_per_s")
            return step, finite({f"train/{name}": getattr(event, name) for name in names})
        case Validation(step):
            return step, finite({"val/loss": event.val_loss, "val/bpb": event.val_bpb})
        case Chunk(chunk):
            values = {f"eval/bpb_{name}": value for name, value in event.bpb.items()}
            return chunk, finite(values | {f"eval/weight_{name}": weight for name, weight in event.weights.items()})
        case PhaseFinished(phase, seconds):
            return 0, finite({f"time/{phase}_seconds": seconds})
        case System(elapsed_s):
            return max(0, int(elapsed_s or 0)), finite(_system(event))
    return 0, {}


def _system(event: System) -> dict[str, Any]:
    """What a machine is doing; MLflow has a page of its own for names that begin with `system/`."""
    figures = {f"system/{name}": getattr(event, name) for name in ("cpu_percent", "memory_mib", "process_memory_mib")}
    for gpu in event.gpus[:MAX_GPUS]:
        names = ("utilisation_percent", "memory_mib", "power_w", "temperature_c")
        figures |= {f"system/gpu_{gpu.index}_{name}": getattr(gpu, name) for name in names}
    return figures


def finite(values: Mapping[str, Any]) -> dict[str, float]:
    """What is there and finite. Raises `TypeError` for what is no number."""
    return {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)}
