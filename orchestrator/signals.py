"""Signals that end what a process is at."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interruptible(*numbers: signal.Signals) -> Iterator[None]:
    """Inside, each of these signals raises `KeyboardInterrupt`, but for those that the process was told to ignore.

    To be entered in the main thread.
    """
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = [signal.signal(number, signal.default_int_handler) for number in heard]
    try:
        yield
    finally:
        for number, handler in zip(heard, before, strict=True):
            signal.signal(number, handler)
