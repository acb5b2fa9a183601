"""What readers that are given anything may answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from watchdog import bounded

from golf_core.errors import GolfError

R = TypeVar("R")


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
