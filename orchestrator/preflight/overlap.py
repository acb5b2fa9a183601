"""Is the validation text in the training shards? Checksums tell of whole files, sampled windows of what is in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from golf_core.data.shards import Tokens, read_shard

WINDOW = 64
"""Tokens that must agree in a row: some 250 characters."""
WINDOWS = 1024
TRAIN_TOKENS = 100_000_000
"""Of the training shards that are searched at the most."""
BLOCK = 4_000_000
"""Tokens that are read in a row."""
STEP = 65_536
IDS = 65_536
TABLE_BITS = 22


@dataclass(frozen=True)
class Overlap:
    """What a search of the training shards for windows of the validation text found."""

    windows: int
    """Looked up, of 64 tokens each."""
    found: int
    """Of them, in the part of the training shards that was searched."""
    train_tokens: int
    train_tokens_searched: int
    same_files: tuple[tuple[str, str], ...]
    """Pairs of a training and a validation shard with equal beginnings."""

    @property
    def searched(self) -> float:
        """Share of the training tokens."""
        return self.train_tokens_searched / self.train_tokens

    @property
    def share(self) -> float:
        """Of the validation text that is expected in all training shards, if what was not searched is alike; 0 to 1."""
        return min(self.found / (self.windows * self.searched), 1.0) if self.windows else 0.0


def overlap(
    train: Sequence[Path],
    val: Sequence[Path],
    checksums: Mapping[str, str] | None = None,
    windows: int = WINDOWS,
    train_tokens: int = TRAIN_TOKENS,
) -> Overlap:
    """Search at most `train_tokens` tokens of the training shards for `windows` windows of the validation shards.

    Windows lie evenly over the validation text, the tokens that are searched in blocks evenly over the training
    shards. Shards count as the same when their checksums (by file name) or their first tokens are equal. A text that
    repeats itself, as licences do on the web, may be found without any leak. Raises `DataError` for a damaged shard.
    """
    sample = _windows([read_shard(path) for path in val], windows)
    shards = [read_shard(path) for path in train]
    total = sum(map(len, shards))
    finder = _Finder(sample)
    searched = 0
    for block in _blocks(shards, total, train_tokens):
        searched += len(block)
        finder.search(block)
    return Overlap(
        len(sample), int(finder.found.sum()), total, min(searched, total), _same_files(train, val, checksums or {})
    )


class _Finder:
    """Looks a fixed set of windows up in stretches of tokens."""

    def __init__(self, windows: NDArray[np.uint16]) -> None:
        """windows: [n, WINDOW]."""
        self._windows = windows
        self.found = np.zeros(len(windows), dtype=bool)
        # Of each window, the pair of neighbours that is rarest among all windows: there are few candidates then.
        pairs = windows[:, :-1].astype(np.int64) * IDS + windows[:, 1:]
        _, inverse, counts = np.unique(pairs, return_inverse=True, return_counts=True)
        if not len(windows):
            return
        self._offset = counts[inverse.reshape(pairs.shape)].argmin(axis=1)
        self._key = pairs[np.arange(len(windows)), self._offset]
        self._table = np.zeros(1 << TABLE_BITS, dtype=bool)
        self._table[_slot((self._key // IDS).astype(np.uint16), (self._key % IDS).astype(np.uint16))] = True

    def search(self, tokens: Tokens) -> None:
        """Mark the windows that occur in `tokens` [n]."""
        if self.found.all() or len(tokens) < WINDOW:
            return
        # One look at a small table leaves few positions of which the pair itself is compared.
        candidates = np.flatnonzero(self._table[_slot(tokens[:-1], tokens[1:])])
        keys = tokens[candidates].astype(np.int64) * IDS + tokens[candidates + 1]
        order = np.argsort(keys, kind="stable")
        candidates, keys = candidates[order], keys[order]
        low = np.searchsorted(keys, self._key, side="left")
        high = np.searchsorted(keys, self._key, side="right")
        for index in np.flatnonzero((high > low) & ~self.found):
            starts = candidates[low[index] : high[index]] - self._offset[index]
            self.found[index] = self._matches(tokens, starts, self._windows[index])

    @staticmethod
    def _matches(tokens: Tokens, starts: NDArray[np.int64], window: NDArray[np.uint16]) -> bool:
        starts = starts[(starts >= 0) & (starts + WINDOW <= len(tokens))]
        for offset in range(WINDOW):
            if not len(starts):
                return False
            starts = starts[tokens[starts + offset] == window[offset]]
        return bool(len(starts))


def _slot(first: NDArray[np.uint16], second: NDArray[np.uint16]) -> NDArray[np.uint32]:
    """Where a pair of neighbours stands in the table: apart for vocabularies up to 2,048."""
    return ((first.astype(np.uint32) << np.uint32(TABLE_BITS // 2)) ^ second) & np.uint32((1 << TABLE_BITS) - 1)


def _windows(shards: Sequence[Tokens], count: int) -> NDArray[np.uint16]:
    """Up to `count` windows [n, WINDOW], evenly over the shards, none across two of them."""
    found = []
    total = sum(map(len, shards))
    for shard in shards:
        room = len(shard) // WINDOW
        wanted = min(room, max(1, round(count * len(shard) / total)))
        for start in np.linspace(0, len(shard) - WINDOW, wanted).astype(int) if wanted else ():
            found.append(np.asarray(shard[start : start + WINDOW]))
    return np.stack(found) if found else np.empty((0, WINDOW), dtype=np.uint16)


def _blocks(shards: Sequence[Tokens], total: int, most: int) -> list[Tokens]:
    """Stretches of at most `most` tokens in all, evenly over the shards; all tokens where these are fewer."""
    blocks = []
    for shard in shards:
        share = len(shard) if total <= most else int(most * len(shard) / total)
        pieces = max(1, -(-share // BLOCK))
        if share == len(shard):
            # Neighbours overlap, so that no window is lost between them.
            starts = range(0, len(shard), BLOCK)
            blocks += [shard[start : start + BLOCK + WINDOW - 1] for start in starts]
        elif share >= WINDOW:
            size = share // pieces
            blocks += [shard[start : start + size] for start in np.linspace(0, len(shard) - size, pieces).astype(int)]
    return blocks


def _same_files(
    train: Sequence[Path], val: Sequence[Path], checksums: Mapping[str, str]
) -> tuple[tuple[str, str], ...]:
    beginnings = {path: read_shard(path)[:STEP].tobytes() for path in (*train, *val)}
    return tuple(
        (one.name, other.name)
        for one in train
        for other in val
        if beginnings[one] == beginnings[other] or checksums.get(one.name, one) == checksums.get(other.name, other)
    )
