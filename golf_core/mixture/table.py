"""An open-addressing hash table in flat tensors, for millions of integer keys at once on a CPU or a GPU."""

from __future__ import annotations

import torch
from torch import Tensor

EMPTY = -1
# 2^64 / golden ratio, as a signed integer: Fibonacci hashing (Knuth, TAOCP 3, 6.4).
FIBONACCI = -7046029254386353131
FIRST_CAPACITY = 1 << 12


class CountTable:
    """Exact integer counts under keys >= 0 (int64), `width` of them a key. Absent keys count zero.

    Which slot a key lands in may depend on the device; what is read under it does not.
    """

    def __init__(self, width: int, device: torch.device) -> None:
        self._width, self._device = width, device
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._allocate(FIRST_CAPACITY)
        self._used = 0

    def get(self, keys: Tensor) -> Tensor:
        """Counts [width, n] int32 of `keys` [n]."""
        slots = self._home(keys)
        out = torch.zeros(self._width, len(keys), dtype=torch.int32, device=self._device)
        pending = torch.arange(len(keys), device=self._device)
        while len(pending):
            at = slots[pending]
            found = self._keys[at]
            hit = found == keys[pending]
            out[:, pending[hit]] = self._values[:, at[hit]]
            pending = pending[~hit & (found != EMPTY)]
            slots[pending] = (slots[pending] + 1) & self._mask
        return out

    def add(self, keys: Tensor, amounts: Tensor) -> None:
        """Add `amounts` [width, n] int32 under `keys` [n], which must be distinct."""
        slots = self._insert(keys)
        self._values[:, slots] += amounts

    def _insert(self, keys: Tensor) -> Tensor:
        # At most half full, so that a run of occupied slots stays short.
        needed = self._used + len(keys)
        if 2 * needed > self._mask + 1:
            self._grow(needed)
        slots = self._home(keys)
        pending = torch.arange(len(keys), device=self._device)
        while len(pending):
            at, wanted = slots[pending], keys[pending]
            free = self._keys[at] == EMPTY
            # Several keys may want one free slot: one of them gets it, the others see that and move on.
            self._keys[at[free]] = wanted[free]
            settled = self._keys[at] == wanted
            self._used += int((settled & free).sum())
            pending = pending[~settled]
            slots[pending] = (slots[pending] + 1) & self._mask
        return slots

    def _grow(self, needed: int) -> None:
        kept = (self._keys != EMPTY).nonzero().flatten()
        keys, values = self._keys[kept], self._values[:, kept]
        self._allocate(1 << (4 * needed - 1).bit_length())
        self._used = 0
        self._values[:, self._insert(keys)] = values

    def _allocate(self, capacity: int) -> None:
        self._mask = capacity - 1
        self._shift = 64 - self._mask.bit_length()
        self._keys = torch.full((capacity,), EMPTY, dtype=torch.int64, device=self._device)
        self._values = torch.zeros(self._width, capacity, dtype=torch.int32, device=self._device)

    def _home(self, keys: Tensor) -> Tensor:
        # The shift keeps the sign, the mask takes it away.
        return ((keys * FIBONACCI) >> self._shift) & self._mask
