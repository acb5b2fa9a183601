"""An end to calls that do not come back, measured in time of the processor: a busy machine hangs nothing."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class HungError(BaseException):
    """A call that did not come back; no reader may catch it."""


@contextmanager
def bounded(seconds: float = 10.0) -> Iterator[None]:
    """Inside, a call for which this process computes longer is interrupted by `HungError`.

    One that waits for something, and computes nothing, is left to pytest's own timeout.
    """

    def ring(*_: object) -> None:
        raise HungError(f"no answer after {seconds:g} s")

    before = signal.signal(signal.SIGPROF, ring)
    timer = signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, *timer)
        signal.signal(signal.SIGPROF, before)
