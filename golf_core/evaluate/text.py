"""The text that is scored: its tokens and what they weigh in bytes, windows over it, and the plain figure over rows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from golf_core.data.tokenizer import ByteTable
from golf_core.distributed import Ranks
from golf_core.model.gpt import GPT, loss_function
from golf_core.results import Score


@dataclass(frozen=True)
class ValidationText:
    """Tokens [n + 1] (int64) of which the last n are predicted, each from those before it."""

    tokens: Tensor
    base_bytes: Tensor
    """[vocab_size] float32: bytes of each token without its leading space."""
    target_bytes: Tensor
    """[n] float64: bytes of tokens[1:], leading spaces included."""

    @property
    def num_targets(self) -> int:
        """How many tokens are predicted."""
        return self.tokens.numel() - 1


def validation_text(tokens: np.ndarray, table: ByteTable, device: torch.device) -> ValidationText:
    """Put `tokens` [n + 1] on `device` and weigh its targets with the tokenizer's byte table."""
    ids = np.asarray(tokens, dtype=np.int64)
    weights = table.token_bytes(ids[:-1], ids[1:])
    return ValidationText(
        torch.from_numpy(ids).to(device),
        torch.from_numpy(table.base_bytes.astype(np.float32)).to(device),
        torch.from_numpy(weights.astype(np.float64)).to(device),
    )


def bits_per_byte(nats: float, num_bytes: float) -> float:
    """BPB of a total of `nats` spent on `num_bytes` of text."""
    return float(nats / (math.log(2.0) * num_bytes))


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


@torch.no_grad()
def score_rows(model: GPT, text: ValidationText, seq_len: int, batch_rows: int, ranks: Ranks) -> Score:
    """Score `text` in rows of `seq_len` at temperature 1; rows are shared out over the ranks.

    A last row that would be cut is scored as far as it goes.
    """
    losses = loss_function(model, ranks.device, compiled=False)
    whole_rows, rest = divmod(text.num_targets, seq_len)
    own = ranks.share(whole_rows)
    total = torch.zeros((), dtype=torch.float64, device=ranks.device)
    for first in range(own.start, own.stop, batch_rows):
        last = min(first + batch_rows, own.stop)
        span = text.tokens[first * seq_len : last * seq_len + 1]
        total += losses(span[:-1].view(-1, seq_len), span[1:].view(-1, seq_len)).double().sum()
    if rest and ranks.rank == ranks.world_size - 1:
        span = text.tokens[whole_rows * seq_len :]
        total += losses(span[None, :-1], span[None, 1:]).double().sum()
    nats = float(ranks.sum_(total))
    return Score(nats / text.num_targets, bits_per_byte(nats, float(text.target_bytes.sum())))
