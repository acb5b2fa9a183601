"""Progress of a run as typed events; whoever wants to know passes a listener.

`golf_core` only emits. A listener must be quick and must not raise: it is called between steps, on rank 0.
`golf_core.log_text` puts them into words.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

from golf_core.strict_json import to_dict


@dataclass(frozen=True, kw_only=True)
class Event:
    """One thing that happened, with its figures: one of the classes below."""

    kind: ClassVar[str]
    """Its name in a log."""
    time: float = field(default_factory=time.time)
    """Seconds since the epoch."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """What is told beyond the fields that all events of the kind have."""

    @property
    def fields(self) -> dict[str, Any]:
        """Everything that is known but kind and time, in order, as a log has it."""
        return {name: value for name, value in _known(self).items() if name not in ("time", "more")} | dict(self.more)


@dataclass(frozen=True)
class PhaseStarted(Event):
    """A phase begins: warmup, train, export, evaluate, breakdown or audit."""

    kind: ClassVar[str] = "phase_started"
    phase: str
    total: int | None = None
    """Steps or chunks, where known."""


@dataclass(frozen=True)
class PhaseFinished(Event):
    """A phase has ended; `more` has its main figures."""

    kind: ClassVar[str] = "phase_finished"
    phase: str
    seconds: float = math.nan


@dataclass(frozen=True)
class TrainStep(Event):
    """A step of training, as often as steps are logged."""

    kind: ClassVar[str] = "train_step"
    step: int
    total: int
    """Steps of the whole training, as now expected."""
    loss: float = math.nan
    """Nats a token."""
    lr_factor: float = math.nan
    """Learning rate as a share of its peak."""
    ms_per_step: float = math.nan
    tokens_per_s: float = math.nan
    elapsed_s: float = math.nan
    """Seconds on the training clock."""
    eta_s: float = math.nan
    """Seconds that the phase is expected to take still."""


@dataclass(frozen=True)
class Validation(Event):
    """A validation while training."""

    kind: ClassVar[str] = "validation"
    step: int
    val_loss: float = math.nan
    """Nats a token."""
    val_bpb: float = math.nan


@dataclass(frozen=True)
class Chunk(Event):
    """A chunk of the validation text has been scored and learned from."""

    kind: ClassVar[str] = "chunk"
    chunk: int
    """Counted from 1."""
    total: int
    bpb_neural: float | None = None
    """Bits per byte of the text so far; None for a score that is not computed, here and below."""
    bpb_mixture: float | None = None
    bpb_published: float | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    """Weights of the published mixture's experts, shares of 1."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Weights of the valid mixture's parts, shares of 1."""
    elapsed_s: float = math.nan
    eta_s: float = math.nan
    """Seconds that the phase is expected to take still."""

    @property
    def bpb(self) -> dict[str, float]:
        """Running BPB by scorer: all that is called `bpb_…`, in `more` too."""
        running = {name: value for name, value in self.fields.items() if name.startswith("bpb_")}
        return {name.removeprefix("bpb_"): value for name, value in running.items() if value is not None}


@dataclass(frozen=True)
class Note(Event):
    """A sentence."""

    kind: ClassVar[str] = "note"
    message: str
    snapshot_step: int | None = None
    """The step after which a snapshot of the training has just been written, where this is what is noted."""


@dataclass(frozen=True)
class Gpu:
    """A GPU at a moment. What it does not tell is None."""

    index: int
    name: str | None = None
    memory_mib: float | None = None
    """Memory in use, MiB."""
    memory_total_mib: float | None = None
    utilisation_percent: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None


@dataclass(frozen=True)
class System(Event):
    """What the machine is doing. Not of golf_core: whoever starts the ranks may add it. None: not measured."""

    kind: ClassVar[str] = "system"
    elapsed_s: float | None = None
    """Seconds since the ranks were started."""
    cpu_percent: float | None = None
    """Load of all cores together."""
    memory_mib: float | None = None
    """Memory in use on the node, MiB."""
    memory_total_mib: float | None = None
    process_memory_mib: float | None = None
    """Memory of rank 0's process."""
    gpus: tuple[Gpu, ...] = ()


def _known(record: Any) -> dict[str, Any]:
    """Fields and values of an event or a GPU, without those that are None."""
    known = {f.name: getattr(record, f.name) for f in fields(record)}
    if "gpus" in known:
        known["gpus"] = [_known(gpu) for gpu in known["gpus"]]
    return {name: value for name, value in known.items() if value is not None}


Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The listener of those who do not want to know."""


class JsonLinesLog:
    """A listener that appends each event as one JSON line: {"time", "kind", ...fields}.

    Lines are flushed at once, so that a killed process loses none that it had reported.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def __call__(self, event: Event) -> None:
        record = {"time": round(event.time, 3), "kind": event.kind, **to_dict(event.fields)}
        self._file.write(json.dumps(record) + "\n")

    def close(self) -> None:
        """Close the file; further events raise."""
        self._file.close()


def broadcast(*listeners: Listener) -> Listener:
    """One listener that passes each event on to all of `listeners`, in order."""

    def relay(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return relay
