"""A watchdog for readers that are given anything, and what they may answer."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from golf_core.errors import GolfError

R = TypeVar("R")


class HungError(BaseException):
    """A call that did not come back; no reader may catch it."""


@contextmanager
def bounded(seconds: float = 10.0) -> Iterator[None]:
    """Inside, a call that takes longer is interrupted by `HungError`."""

    def ring(signum: int, frame: FrameType | None) -> None:
        raise HungError(f"no answer after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, before)


def answer(read: Callable[[], R], *names: str, lines: int = 1, seconds: float = 10.0) -> R | None:
    """What `read` returns, or None where it explains itself: in printable lines, each of which names one of `names`."""
    try:
        with bounded(seconds):
            return read()
    except GolfError as error:
        text = str(error)
        assert text.strip() and len(text.split("\n")) <= lines, text
        for line in text.split("\n"):
            assert line.isprintable() and any(name in line for name in names), line
        return None
