"""An open-addressing hash table in flat tensors, for millions of integer keys at once on a CPU or a GPU."""

from __future__ import annotations

import torch
from torch import Tensor

EMPTY = -1
# 2^64 / golden ratio, as a signed integer: Fibonacci hashing (Knuth, TAOCP 3, 6.4).
FIBONACCI = -7046029254386353131
FIRST_CAPACITY = 1 << 12
SLICE = 1 << 22
"""Slots that are moved at a time into a larger table: what this takes beside the two tables stays small."""


class CountTable:
    """Exact integer counts under keys >= 0 (int64), `width` of them a key. Absent keys count zero.

    Which slot a key lands in may depend on the device; what is read under it does not.
    """

    def __init__(self, width: int, device: torch.device) -> None:
        self._width, self._device = width, device
        # Slots looked at before the first stop to see who is done: a GPU looks faster than it stops.
        self._probes = 8 if device.type == "cuda" else 1
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._allocate(FIRST_CAPACITY)
        self._used = 0

    def get(self, keys: Tensor) -> Tensor:
        """Counts [width, n] int32 of `keys` [n]."""
        # Free slots hold zeros.
        return self._values[:, self._find(keys)]

    def add(self, keys: Tensor, amounts: Tensor) -> None:
        """Add `amounts` [width, n] int32 under `keys` [n], which must be distinct."""
        slots = self._insert(keys)
        self._values[:, slots] += amounts

    def put(self, keys: Tensor, amounts: Tensor) -> None:
        """The same, but in place of what was counted."""
        slots = self._insert(keys)
        self._values[:, slots] = amounts

    def _find(self, keys: Tensor) -> Tensor:
        """The slot [n] that holds each of `keys` [n], or the free one where it would go."""
        home = self._home(keys)
        slots, pending = torch.empty_like(home), torch.arange(len(keys), device=self._device)
        first, last = 0, self._probes
        while len(pending):
            # Steps of 1, 2, 3, ... reach every slot of a power of two, and no long runs of occupied ones form.
            step = torch.arange(first, last, device=self._device)
            at = (home[pending, None] + step * (step + 1) // 2) & self._mask
            found = self._keys[at]
            done, where = ((found == keys[pending, None]) | (found == EMPTY)).int().max(dim=1, keepdim=True)
            slots[pending] = at.gather(1, where)[:, 0]
            pending = pending[done[:, 0] == 0]
            first, last = last, last + 2 * (last - first)
        return slots

    def _insert(self, keys: Tensor) -> Tensor:
        # At most half full, so that a run of occupied slots stays short.
        needed = self._used + len(keys)
        if 2 * needed > self._mask + 1:
            self._grow(needed)
        slots = self._find(keys)
        self._used += int((self._keys[slots] == EMPTY).sum())
        # Several keys may want one free slot: one of them gets it, the others look on.
        self._keys[slots] = keys
        while len(lost := (self._keys[slots] != keys).nonzero().flatten()):
            slots[lost] = self._find(keys[lost])
            self._keys[slots[lost]] = keys[lost]
        return slots

    def _grow(self, needed: int) -> None:
        parts = zip(self._keys.split(SLICE), self._values.split(SLICE, dim=1), strict=True)
        self._allocate(1 << (4 * needed - 1).bit_length())
        self._used = 0
        for keys, values in parts:
            kept = (keys != EMPTY).nonzero().flatten()
            self.put(keys[kept], values[:, kept])

    def _allocate(self, capacity: int) -> None:
        self._mask = capacity - 1
        self._shift = 64 - self._mask.bit_length()
        self._keys = torch.full((capacity,), EMPTY, dtype=torch.int64, device=self._device)
        self._values = torch.zeros(self._width, capacity, dtype=torch.int32, device=self._device)

    def _home(self, keys: Tensor) -> Tensor:
        # The shift keeps the sign, the mask takes it away.
        return ((keys * FIBONACCI) >> self._shift) & self._mask
