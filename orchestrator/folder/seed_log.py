"""One seed's log: what it comes to while it grows, and the whole of it as plain text."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from golf_core.errors import ConfigError
from golf_core.events import Chunk, Event, PhaseFinished, PhaseStarted, System, TrainStep, Validation
from golf_core.log_text import config_lines, describe, event_line, named, result_lines
from golf_core.results import DataRecord
from golf_core.strict_json import printable
from orchestrator.folder.event_log import Tail
from orchestrator.folder.results import SeedResult
from orchestrator.job.load import Job

TAIL_LINES = 12
MAX_POINTS = 600
"""Points of a series at the most: beyond that, every second one is dropped."""
MAX_LINE = 500
"""Characters that are shown of a line of a log."""
MAX_NAME = 60
"""Characters that are shown of a phase's name."""


@dataclass(frozen=True)
class Phase:
    """A phase that has ended."""

    name: str
    seconds: float


class _Series:
    """Points of a curve, thinned out as they become many."""

    def __init__(self) -> None:
        self.points: list[tuple[float, float]] = []
        self._every, self._seen = 1, 0

    def add(self, x: int, y: float | None) -> None:
        if y is None or not math.isfinite(y):
            return
        if self._seen % self._every == 0:
            self.points.append((float(x), float(y)))
        self._seen += 1
        if len(self.points) > MAX_POINTS:
            self.points = self.points[::2]
            self._every *= 2


class LiveLog:
    """A log that grows, and what it comes to so far."""

    def __init__(self, path: Path) -> None:
        self._tail = Tail(path)
        self._clear()

    def _clear(self) -> None:
        self.figures: dict[str, Any] = {}
        self.phases: list[Phase] = []
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.loss, self.bpb = _Series(), _Series()

    def read_on(self) -> None:
        """Take in the whole lines that have come since; a log that was written anew is read from its beginning."""
        if self._tail.replaced:
            self._tail = Tail(self._tail.path)
            self._clear()
        for event in self._tail.events():
            self._add(event)

    def _add(self, event: Event) -> None:
        now = self.figures
        match event:
            case System():
                now["system"] = event
                return
            case PhaseStarted(phase, total):
                now.update(phase=_name(phase), done=0, total=total or 0, eta_s=None)
            case TrainStep(step, total, loss):
                now.update(done=step, total=total, eta_s=_seconds_left(event.eta_s))
                now.update(loss=float(loss), ms_per_step=float(event.ms_per_step))
                self.loss.add(step, loss)
            case Validation():
                now.update(val_bpb=float(event.val_bpb))
            case Chunk(chunk, total):
                now.update(done=chunk, total=total, eta_s=_seconds_left(event.eta_s), bpb=event.bpb)
                self.bpb.add(chunk, event.bpb.get("mixture", event.bpb.get("neural")))
            case PhaseFinished(phase, seconds):
                self.phases.append(Phase(_name(phase), float(seconds)))
                now.update(phase="", eta_s=None)
        with suppress(ValueError, ArithmeticError, OSError):  # a time that no clock shows
            stamp = time.strftime("%H:%M:%S", time.localtime(event.time))
            line = printable(describe(event))
            self.tail.append(f"{stamp}  {line if len(line) <= MAX_LINE else line[: MAX_LINE - 1] + '…'}")


def _name(value: str) -> str:
    return printable(value)[:MAX_NAME]


def _seconds_left(value: float) -> float | None:
    return float(value) if value >= 0 else None


def plain_log(
    job: Job, provenance: Mapping[str, str], seed: SeedResult, data: DataRecord, events: list[Event]
) -> Iterator[str]:
    """The lines: environment, data, configuration; every event with its time since the first; the final figures."""
    assert seed.train is not None and seed.export is not None and seed.evaluate is not None
    yield f"run {job.name} seed:{seed.seed} world_size:{seed.train.world_size} device:{seed.train.device}"
    yield f"environment {named(provenance)}"
    yield f"data train_tokens:{data.train_tokens} val_tokens:{data.val_tokens}"
    yield f"data tokenizer:{data.tokenizer} sha256:{data.tokenizer_sha256}"
    for name, digest in data.checksums.items():
        yield f"data shard:{name} sha256:{digest}"
    yield from config_lines(job.config)
    for event in events:
        try:
            yield f"time:{event.time - events[0].time:.3f} {event_line(event)}"
        except RecursionError:
            raise ConfigError(f"the log of seed {seed.seed} holds figures that are too deeply nested") from None
    yield from result_lines(seed.train, seed.export, seed.evaluate)
    yield (
        f"bytes weights:{seed.export.weight_bytes} code:{seed.export.code_bytes} total:{seed.export.total_bytes} "
        f"cap:{job.budgets.artifact_bytes}"
    )
