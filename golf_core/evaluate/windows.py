"""Which window scores which position."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Windows:
    """Windows in order. Window i reads tokens from `start[i]` on and scores positions first[i]..last[i] - 1.

    All arrays are int64 [windows]. Scoring position t means predicting token t + 1.
    """

    start: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, part: slice | NDArray[np.int64]) -> Windows:
        return Windows(self.start[part], self.first[part], self.last[part])


def sliding_windows(num_targets: int, seq_len: int, stride: int, repeat_tail: bool = False) -> Windows:
    """Windows of `seq_len` at every multiple of `stride`, each scoring its last `stride` positions.

    The first scores all of its positions; the last is cut at the end of the text. Every position is scored
    exactly once. With `repeat_tail`, as in the published code, every later window that still begins inside the
    text scores its last `stride` positions too.
    """
    end = num_targets if repeat_tail else max(num_targets - seq_len + stride, 1)
    start = np.arange(0, end, stride, dtype=np.int64)
    stop = np.minimum(start + seq_len, num_targets)
    first = np.maximum(stop - stride, start) if repeat_tail else start + seq_len - stride
    first[0] = 0
    keep = first < stop
    return Windows(start[keep], first[keep], stop[keep])


def chunk_windows(windows: Windows, chunk: int, chunk_tokens: int) -> Windows:
    """The windows whose first scored position lies in chunk number `chunk` (from 0)."""
    low = int(np.searchsorted(windows.first, chunk * chunk_tokens))
    high = int(np.searchsorted(windows.first, (chunk + 1) * chunk_tokens))
    return windows[low:high]
