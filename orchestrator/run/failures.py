"""How a seed fails: ranks without a sign of life, work that has come to rest; and whether it is worth another try."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

from golf_core.errors import GolfError, LostError, NumericsError, RunError, UserError
from golf_core.events import Chunk, Event, System, TrainStep

FailureKind = Literal["infrastructure", "numerics", "memory", "limit", "user", "run", "bug"]
"""infrastructure: a node, a process or the network was lost, which may not happen again. numerics: NaN or divergence.
memory: more than the device or node has. limit: a phase took longer than it may. user: the input is at fault. run: any
other explained failure. bug: an unexpected exception."""

COLLECTIVE = re.compile(
    r"gloo|NCCL|ProcessGroup|TCPStore|connection (?:closed|reset|refused)|timed out|broken pipe|socket", re.IGNORECASE
)
MEMORY = re.compile(r"out of memory|can't allocate memory|OutOfMemory", re.IGNORECASE)


class LimitError(RunError):
    """A phase took longer than `limits` allows."""


class DeviceMemoryError(RunError):
    """The device or node ran out of memory."""


def kind_of(error: BaseException) -> FailureKind:
    """The kind of a failure of a seed."""
    kinds: tuple[tuple[type[BaseException], FailureKind], ...] = (
        (UserError, "user"),
        (LostError, "infrastructure"),
        (LimitError, "limit"),
        (DeviceMemoryError, "memory"),
        (NumericsError, "numerics"),
        (GolfError, "run"),
    )
    return next((kind for cls, kind in kinds if isinstance(error, cls)), "bug")


def of_rank(cause: BaseException) -> GolfError:
    """What an exception inside a rank's process means for its seed."""
    if isinstance(cause, GolfError):
        return cause
    first = str(cause).strip().splitlines()
    sentence = f"{type(cause).__name__}: {first[0] if first else 'no message'}"
    if isinstance(cause, MemoryError) or MEMORY.search(sentence):
        return DeviceMemoryError(
            f"out of memory on a rank ({sentence[:300]}); lower train.batch_tokens or evaluate.batch_windows, or use "
            "a larger device"
        )
    if isinstance(cause, (RuntimeError, OSError)) and COLLECTIVE.search(str(cause)):
        return LostError(f"the ranks lost each other ({sentence[:300]})")
    return RunError(f"a rank failed: {sentence[:500]}")


HEARTBEAT_EVERY_S = 5.0
PATIENT = 10.0
"""A step or chunk may take so many times the longest so far."""
Now = Callable[[], float]


class Heartbeat:
    """Asks every rank now and then whether it is alive. A rank answers beside its work, from a thread of its own."""

    def __init__(
        self,
        ranks: int,
        ask: Callable[[int], Any],
        answered: Callable[[list[Any]], Sequence[Any]],
        stall_seconds: float,
        now: Now = time.monotonic,
    ) -> None:
        """`ask(rank)` puts the question and returns at once; `answered` picks the questions that were answered."""
        self._ranks, self._ask, self._answered = ranks, ask, answered
        self._stall_seconds, self._now = stall_seconds, now
        self._asked: dict[int, tuple[Any, float]] = {}
        self._last = now()

    def check(self) -> None:
        """Raises `LostError` naming a rank that has not answered for `stall_seconds`. Never waits."""
        now = self._now()
        if self._asked:
            answered = self._answered([question for question, _ in self._asked.values()])
            # An answer that is an error ends here as well: the call that the rank works on explains it better.
            self._asked = {rank: asked for rank, asked in self._asked.items() if asked[0] not in answered}
        silent = [rank for rank, (_, since) in self._asked.items() if now - since > self._stall_seconds]
        if silent:
            named = ", ".join(map(str, silent))
            raise LostError(
                f"rank{'s' if len(silent) > 1 else ''} {named} showed no sign of life for {self._stall_seconds:g} s"
            )
        if now - self._last >= min(HEARTBEAT_EVERY_S, self._stall_seconds / 4):
            self._last = now
            for rank in range(self._ranks):
                if rank not in self._asked:
                    self._asked[rank] = (self._ask(rank), now)


class StallWatch:
    """Notices work that has come to rest although every process is alive: ranks that wait for each other for ever.

    Goes by the steps and chunks that are reported: once two have come, the next may take ten times the longest pause,
    and `stall_seconds` at least. Before that, compilation may take its time; limits of phases bound it.
    """

    def __init__(self, stall_seconds: float, now: Now = time.monotonic) -> None:
        self._stall_seconds, self._now = stall_seconds, now
        self._kind = ""
        self._since = 0.0
        self._longest: float | None = None

    def saw(self, event: Event) -> None:
        """Take note of rank 0's event."""
        if isinstance(event, System):
            return  # it comes from beside the work, and says nothing of its progress
        now = self._now()
        done = event.step if isinstance(event, TrainStep) else event.chunk if isinstance(event, Chunk) else None
        if done is None or event.fields["total"] == done:
            self._kind, self._longest = "", None  # what comes next is something else: nothing is known of it
            return
        if event.kind == self._kind:
            pause = now - self._since
            self._longest = pause if self._longest is None else max(self._longest, pause)
        self._kind, self._since = event.kind, now

    def check(self) -> None:
        """Raises `LostError` when the next step or chunk is long overdue."""
        if self._longest is None:
            return
        patience = max(self._stall_seconds, PATIENT * self._longest)
        if self._now() - self._since > patience:
            what = "training step" if self._kind == "train_step" else "chunk"
            raise LostError(f"no {what} for {patience:.0f} s, though all ranks are alive: they wait for each other")
