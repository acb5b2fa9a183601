"""A seed's events as points of series in MLflow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from golf_core.events import Event

MAX_GPUS = 64
"""Of one machine."""


@dataclass(frozen=True)
class Point:
    """One point of a series."""

    name: str
    step: int
    value: float
    time: float
    """Seconds since the epoch."""


def points_of(event: Event) -> list[Point]:
    """The points that an event adds to a seed's series; none for one whose fields are damaged."""
    try:
        step, values = series(event)
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError):
        return []
    return [Point(name, step, value, event.time) for name, value in values.items()]


def series(event: Event) -> tuple[int, dict[str, float]]:
    """The points that an event adds to a seed's series: the step (or chunk, or 0), and values by metric name.

    Losses in nats a token, weights as shares of 1, the rest in the unit that the name ends in. The step of a machine's
    figures is the seconds since its gang was started. What is missing or not finite is left out.
    """
    f = event.fields
    if event.kind == "train_step":
        names = ("loss", "lr_factor", "ms_per_step", "tokens_per_s")
        return int(f["step"]), finite({f"train/{name}": f.get(name) for name in names})
    if event.kind == "validation":
        return int(f["step"]), finite({"val/loss": f.get("val_loss"), "val/bpb": f.get("val_bpb")})
    if event.kind == "chunk":
        values = {f"eval/bpb_{name}": f.get(f"bpb_{name}") for name in ("neural", "mixture", "published")}
        values |= {f"eval/weight_{expert}": weight for expert, weight in (f.get("weights") or {}).items()}
        return int(f["chunk"]), finite(values)
    if event.kind == "phase_finished":
        return 0, finite({f"time/{f['phase']}_seconds": f.get("seconds")})
    if event.kind == "system":
        return max(0, int(f.get("elapsed_s") or 0)), finite(_system(f))
    return 0, {}


def _system(f: Mapping[str, Any]) -> dict[str, Any]:
    """What a machine is doing; MLflow has a page of its own for names that begin with `system/`."""
    figures = {f"system/{name}": f.get(name) for name in ("cpu_percent", "memory_mib", "process_memory_mib")}
    for gpu in (f.get("gpus") or ())[:MAX_GPUS]:
        names = ("utilisation_percent", "memory_mib", "power_w", "temperature_c")
        figures |= {f"system/gpu_{int(gpu['index'])}_{name}": gpu.get(name) for name in names}
    return figures


def finite(values: Mapping[str, Any]) -> dict[str, float]:
    """What is there and finite. Raises `TypeError` for what is no number."""
    return {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)}
