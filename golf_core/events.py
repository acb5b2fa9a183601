"""Progress of a run as typed events; whoever wants to know passes a listener.

`golf_core` only emits. A listener must be quick and must not raise: it is called between steps, on rank 0.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from golf_core.strict_json import to_dict

Kind = Literal["phase_started", "phase_finished", "train_step", "validation", "chunk", "note", "system"]


@dataclass(frozen=True)
class Event:
    """One thing that happened, with its figures.

    `fields` by kind:
    - phase_started: phase, and `total` (steps or chunks) where known;
    - phase_finished: phase, seconds, and the phase's main figures;
    - train_step: step, total, loss (nats a token), lr_factor, ms_per_step, tokens_per_s, elapsed_s, eta_s;
    - validation: step, val_loss (nats a token), val_bpb;
    - chunk: chunk, total, bpb_neural, bpb_mixture, bpb_published (running), weights, elapsed_s, eta_s;
    - note: message;
    - system: what the machine is doing: elapsed_s, cpu_percent, memory_mib (in use on the node), memory_total_mib,
      process_memory_mib, and `gpus`, a list of index, name, memory_mib, memory_total_mib, utilisation_percent, power_w,
      temperature_c. Not of golf_core: whoever starts the ranks may add it.
    """

    kind: Kind
    fields: Mapping[str, Any]
    time: float = field(default_factory=time.time)  # seconds since the epoch


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
        record = {"time": round(event.time, 3), "kind": event.kind, **to_dict(dict(event.fields))}
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
