"""Counts of what followed each context so far, at every position of a stretch of text, exact and causal.

A *source* is a kind of context: the last k tokens anywhere in the text scored so far, or the last k tokens within the
current document. For the token after position t a source knows c, how often that very token followed the same context
earlier; C, how often anything did; and u, how many different tokens did. All three see every token up to t, none
after it, and none that belongs to a later call.

Contexts are told apart by a hash of about 52 bits. Two that collide are merged into one context, whose counts still
describe one distribution; under it the token is kept exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from golf_core.data.tokenizer import BOS

MULTIPLIER_A = -4658895280553007687  # splitmix64's constants as signed integers (Steele, Lea and Flood 2014)
MULTIPLIER_B = -7723592293110705685
DOCUMENT_SALT = 1 << 40


@dataclass(frozen=True)
class Statistics:
    """For n positions under S sources, int32 [S, n] each. See the module for their meaning."""

    count: Tensor
    total: Tensor
    distinct: Tensor


@dataclass(frozen=True)
class _Keys:
    """Keys of n positions under S sources: context keys and keys of (context, target), int64 [S, n]."""

    context: Tensor
    pair: Tensor


class ContextCounts:
    """Counts of several sources over one token stream (BOS begins a document).

    `orders` and `document_orders` are the context lengths counted over the whole text and within the document. The
    sources stand in that order. Contexts never reach back over a document's beginning.
    """

    def __init__(
        self, vocab_size: int, orders: range, document_orders: range, tokens: Tensor, device: torch.device
    ) -> None:
        self._vocab, self._tokens = vocab_size, tokens
        self._orders, self._document_orders = orders, document_orders
        # What is left of 62 bits once the token has its own.
        self._context_mask = (1 << (62 - (vocab_size - 1).bit_length())) - 1
        self.tables = (_Tables(device), _Tables(device))
        """The counts over the whole text and within the document; `look` only reads them."""
        self._begin = self._end = 0
        self._starts_here = torch.empty(0, dtype=torch.int64, device=device)
        self._last_start = 0

    def look(self, begin: int, end: int) -> Statistics:
        """Statistics of positions begin..end - 1, which must follow those learnt last."""
        assert begin == self._end, "positions are gone through once, in order"
        self._begin, self._end = begin, end
        at = torch.arange(begin, end, device=self._tokens.device)
        # Where the document of each position begins [n]: its BOS, or the text's beginning.
        starts = torch.where(self._tokens[begin:end] == BOS, at, self._last_start).cummax(0).values
        self._starts_here = starts.cpu()
        self._keys = (
            self._keys_of(self._orders, torch.zeros_like(at), at, starts),
            self._keys_of(self._document_orders, _mixed(starts + DOCUMENT_SALT), at, starts),
        )
        parts = [tables.statistics(keys) for tables, keys in zip(self.tables, self._keys, strict=True)]
        self._fresh = [fresh for _, fresh in parts]
        columns = zip(*((seen.count, seen.total, seen.distinct) for seen, _ in parts), strict=True)
        return Statistics(*map(torch.cat, columns))

    def document_of(self, position: int) -> int:
        """Where the document of a position of the last `look` begins."""
        return int(self._starts_here[position - self._begin])

    def distributions(self, positions: Tensor) -> Tensor:
        """What each token would count at `positions` [m] of the last `look`, int32 [m, S, vocab].

        For measuring sums over the vocabulary: `look` gives the same for the realised tokens alone.
        """
        at = positions - self._begin
        earlier = torch.arange(self._end - self._begin, device=at.device) < at[:, None]
        found = []
        for tables, keys in zip(self.tables, self._keys, strict=True):
            asked = keys.context[:, at, None]
            pairs = asked * self._vocab + torch.arange(self._vocab, device=at.device)
            counts = tables.pairs.get(pairs.flatten())[0]
            # What came earlier in the stretch: [S, m, n].
            source, row, column = ((keys.context[:, None] == asked) & earlier).nonzero(as_tuple=True)
            cell = (source * len(at) + row) * self._vocab + self._tokens[self._begin + 1 + column]
            counts.index_add_(0, cell, torch.ones_like(cell, dtype=torch.int32))
            found.append(counts.view(pairs.shape))
        return torch.cat(found).transpose(0, 1)

    def learn(self) -> None:
        """Count the positions of the last `look`. Of the document sources only the current document is kept."""
        (text, document), (keys, within), (fresh, fresh_within) = self.tables, self._keys, self._fresh
        text.learn(keys, fresh)
        self._last_start = int(self._starts_here[-1])
        kept = max(self._last_start - self._begin, 0)
        if self._last_start >= self._begin:
            document.clear()
        document.learn(_Keys(within.context[:, kept:], within.pair[:, kept:]), fresh_within[:, kept:])

    def _keys_of(self, orders: range, state: Tensor, at: Tensor, starts: Tensor) -> _Keys:
        """Keys of positions `at` [n] whose documents begin at `starts` [n]; hashes start from `state` [n]."""
        contexts = [at.new_empty(0, len(at))]
        for length in range(orders.stop):
            if length:
                index = at - (length - 1)
                token = self._tokens[index.clamp_min(0)].masked_fill(index < starts, self._vocab)
                state = _mixed(state ^ (token + 1 + (length << 24)))
            if length in orders:
                contexts.append((state & self._context_mask)[None])
        stacked = torch.cat(contexts)
        return _Keys(stacked, stacked * self._vocab + self._tokens[at + 1])


class _Tables:
    """The two tables behind some sources: how often a pair was seen; a context's C and u."""

    def __init__(self, device: torch.device) -> None:
        self.pairs, self._contexts = CountTable(1, device), CountTable(2, device)

    def clear(self) -> None:
        self.pairs.clear()
        self._contexts.clear()

    def statistics(self, keys: _Keys) -> tuple[Statistics, Tensor]:
        """Statistics [S, n], and where a pair is seen for the first time [S, n] (int32 0 or 1)."""
        shape = keys.pair.shape
        pair, context = keys.pair.flatten(), keys.context.flatten()
        one = torch.ones_like(pair, dtype=torch.int32)
        (count,) = self.pairs.get(pair) + _earlier(pair, one[None])
        fresh = (count == 0).int()
        total, distinct = self._contexts.get(context) + _earlier(context, torch.stack((one, fresh)))
        parts = (count.view(shape), total.view(shape), distinct.view(shape))
        return Statistics(*parts), fresh.view(shape)

    def learn(self, keys: _Keys, fresh: Tensor) -> None:
        if not keys.pair.numel():
            return
        pairs, counts = torch.unique(keys.pair, return_counts=True)
        self.pairs.add(pairs, counts.int()[None])
        contexts, inverse, counts = torch.unique(keys.context, return_inverse=True, return_counts=True)
        new = torch.zeros_like(counts, dtype=torch.int32).index_add_(0, inverse.flatten(), fresh.flatten())
        self._contexts.add(contexts, torch.stack((counts.int(), new)))


def _earlier(keys: Tensor, amounts: Tensor) -> Tensor:
    """For each entry, the sum of the amounts [width, n] of earlier entries with the same key [n]: int32 [width, n]."""
    if not len(keys):
        return amounts
    ordered, order = torch.sort(keys, stable=True)
    sorted_amounts = amounts[:, order]
    before = sorted_amounts.cumsum(1, dtype=torch.int32) - sorted_amounts
    # No cummax of where groups begin: it is slow along one long row on a GPU.
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    group = first.cumsum(0) - 1
    out = torch.empty_like(before)
    out[:, order] = before - before[:, first.nonzero()[group, 0]]
    return out


def _mixed(state: Tensor) -> Tensor:
    """A hash of each integer [n], in the manner of splitmix64 (shifts here keep the sign, which harms nothing)."""
    state = (state ^ (state >> 30)) * MULTIPLIER_A
    state = (state ^ (state >> 27)) * MULTIPLIER_B
    return state ^ (state >> 31)


# --- the table of counts ---

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


# --- the longest match ---

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
