"""A run in words: the line of an event that people read, and the log that programs read back.

In the latter every figure stands as `name:value`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from golf_core.config import GolfConfig
from golf_core.events import Chunk, Event, Note, PhaseFinished, PhaseStarted, System, TrainStep, Validation
from golf_core.results import EvalResult, ExportResult, Score, TrainResult
from golf_core.strict_json import to_dict

DIGITS = 8
"""Decimals of final figures; those on the way have fewer."""
RUNNING_DIGITS = 5


def config_lines(config: GolfConfig) -> Iterator[str]:
    """All fields of the configuration, a line for each group."""
    groups = to_dict(config)
    alone = {name: value for name, value in groups.items() if not isinstance(value, Mapping)}
    for name, values in groups.items():
        if isinstance(values, Mapping):
            yield f"config {name} {named(values, None)}"
    if alone:
        yield f"config {named(alone, None)}"


def describe(event: Event) -> str:
    """The line that a person reads: what, how far, how fast, how long still. Raises `ValueError` for unknown times."""
    match event:
        case TrainStep(step, total, loss):
            return (
                f"train {step}/{total}  loss {loss:.4f}  lr x{event.lr_factor:.2f}  "
                f"{event.ms_per_step:.1f} ms/step  {event.tokens_per_s:,.0f} tok/s  ETA {duration(event.eta_s)}"
            )
        case Chunk(chunk, total):
            running = "  ".join(f"{name} {value:.4f}" for name, value in event.bpb.items())
            return f"evaluate chunk {chunk}/{total}  BPB {running}  ETA {duration(event.eta_s)}"
        case Validation(step, val_loss, val_bpb):
            return f"validation at step {step}: {val_loss:.4f} nats/token, {val_bpb:.4f} BPB"
        case PhaseStarted(phase):
            return f"{phase} begins"
        case PhaseFinished(phase, seconds):
            f = event.more
            sizes = f": {f['weight_bytes']:,} + {f['code_bytes']:,} bytes, {f['method']}" if "method" in f else ""
            return f"{phase} done in {duration(seconds)}{sizes}"
        case Note(message):
            return message
    return event.kind


def duration(seconds: float) -> str:
    """Seconds as '4.2 s', '3 min 20 s' or '1 h 05 min'."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def event_line(event: Event) -> str:
    """One event with all its figures."""
    rest = event.fields
    if isinstance(event, Note):
        return f"note {event.message}"
    if isinstance(event, PhaseStarted):
        return f"{rest.pop('phase')} begins {named(rest, RUNNING_DIGITS)}".rstrip()
    if isinstance(event, PhaseFinished):
        return f"{rest.pop('phase')} ends {named(rest, RUNNING_DIGITS)}"
    if isinstance(event, System):
        gpus = {f"gpu{gpu['index']}": gpu for gpu in rest.pop("gpus")}
        return f"system {named({**rest, **gpus}, RUNNING_DIGITS)}"
    counted = rest.pop("chunk" if isinstance(event, Chunk) else "step")
    total = f"/{rest.pop('total')}" if "total" in rest else ""
    if isinstance(event, TrainStep):
        rest = {"train_loss" if name == "loss" else name: value for name, value in rest.items()}
    return f"{'chunk' if isinstance(event, Chunk) else 'step'}:{counted}{total} {named(rest, RUNNING_DIGITS)}"


def result_lines(train: TrainResult | None, export: ExportResult | None, evaluate: EvalResult | None) -> Iterator[str]:
    """The final figures of the stages that were run; the scores last."""
    if train is not None:
        yield f"train {named(to_dict(train))}"
    if export is not None:
        yield f"export {named(to_dict(export))} total_bytes:{export.total_bytes}"
    if evaluate is None:
        return
    scores = {f.name: getattr(evaluate, f.name) for f in fields(evaluate)}
    values = {name: value for name, value in to_dict(evaluate).items() if not isinstance(scores[name], Score)}
    yield f"evaluate {named(values)}"
    for name, score in scores.items():
        if isinstance(score, Score):
            yield f"final_{name} val_loss:{score.nats_per_token:.{DIGITS}f} val_bpb:{score.bpb:.{DIGITS}f}"


def named(values: Mapping[str, Any], digits: int | None = DIGITS) -> str:
    """`name:value` for each value; groups are opened (`kraft.positions:8`), lists of records left out.

    Floating-point figures have `digits` decimals, or with None as many as they need.
    """
    return " ".join(f"{name}:{text}" for name, text in _leaves(values, digits, ""))


def _leaves(values: Mapping[str, Any], digits: int | None, prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, digits, f"{prefix}{name}.")
        elif isinstance(value, (list, tuple)):
            if not any(isinstance(item, Mapping) for item in value):
                yield prefix + name, ",".join(_shown(item, digits) for item in value) or "none"
        else:
            yield prefix + name, _shown(value, digits)


def _shown(value: Any, digits: int | None) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and math.isfinite(value) and digits is not None:
        # What is small, such as a rounding error, must not become 0.00000.
        return f"{value:.{digits}f}" if value == 0 or abs(value) >= 10.0 ** (2 - digits) else f"{value:g}"
    return str(value).replace(" ", "_")
