"""Why a seed failed, and whether it is worth another try."""

from __future__ import annotations

import re
from typing import Literal

from golf_core.errors import GolfError, LostError, NumericsError, RunError, UserError

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
