"""Ends that come from outside: signals, and answers that do not come in time."""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


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


def within(seconds: float, call: Callable[[], T]) -> T:
    """The result of `call`. Raises `TimeoutError` after `seconds`, and leaves the call behind."""
    outcome: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            outcome.put((call(), None))
        except Exception as error:
            outcome.put((None, error))

    # A daemon: the program ends although the call does not.
    threading.Thread(target=work, daemon=True).start()
    try:
        value, error = outcome.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:g} s") from None
    if error is not None:
        raise error
    return value
