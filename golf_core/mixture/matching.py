"""The longest-match expert: what followed the last time that the text went like this."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from golf_core.mixture.table import EMPTY, CountTable

LONGEST = 32
"""Tokens by which matches are told apart."""
SHIFT = 5
PRIME = 1_000_003


@dataclass(frozen=True)
class Matches:
    """For n positions: the predicted next token and the number of matching tokens before it, int64 [n] each.

    Length 0 means no match; the prediction is then meaningless.
    """

    predicted: Tensor
    length: Tensor


class LongestMatch:
    """Finds, for each position, the latest earlier place whose last `least` tokens are the same.

    The place is found by a hash and then compared token by token, up to `LONGEST` tokens back, so a collision is no
    match. Only the tokens up to the position are looked at.
    """

    def __init__(self, least: int, tokens: Tensor, device: torch.device) -> None:
        self._least, self._tokens = least, tokens
        self.table = CountTable(1, device)
        self._keys = torch.empty(0, dtype=torch.int64, device=device)
        self._begin = 0

    def look(self, begin: int, end: int) -> Matches:
        """Matches at positions begin..end - 1."""
        device = self._tokens.device
        at = torch.arange(begin, end, device=device)
        self._begin, self._keys = begin, self._hash(at)
        # Stored one higher, so that an absent key (0) is no position.
        earlier = self.table.get(self._keys)[0].long() - 1
        place = torch.maximum(_previous(self._keys, begin), earlier)
        back = torch.arange(LONGEST, device=device)[:, None]
        theirs, ours = place - back, at - back
        same = (theirs >= 0) & (self._tokens[theirs.clamp_min(0)] == self._tokens[ours.clamp_min(0)])
        # How far back the first difference is; small integers are compared faster.
        length = torch.where(same, LONGEST, back.short()).amin(dim=0).long()
        length = length.masked_fill(length < self._least, 0)
        # place < at, so the token after it has been seen.
        return Matches(self._tokens[place.clamp_min(0) + 1], length)

    def learn(self) -> None:
        """Remember the positions of the last `look`."""
        keys, order = torch.sort(self._keys, stable=True)
        last = torch.ones_like(keys, dtype=torch.bool)
        last[:-1] = keys[1:] != keys[:-1]
        where = last.nonzero().flatten()
        self.table.put(keys[where], (order[where] + self._begin + 1).int()[None])

    def _hash(self, at: Tensor) -> Tensor:
        state = torch.zeros_like(at)
        for back in range(self._least):
            index = at - back
            token = self._tokens[index.clamp_min(0)].masked_fill(index < 0, EMPTY)
            state = state * PRIME + token + 1
        return (state ^ (state >> SHIFT)) & ((1 << 62) - 1)


def _previous(keys: Tensor, begin: int) -> Tensor:
    """The latest earlier position with the same key [n] int64, counting from `begin`; -1 where there is none."""
    ordered, order = torch.sort(keys, stable=True)
    out = torch.full_like(keys, -1)
    out[order[1:]] = torch.where(ordered[1:] == ordered[:-1], order[:-1] + begin, -1)
    return out
