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
from golf_core.mixture.table import CountTable

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
    """Of n positions under S sources: context keys and keys of (context, target), int64 [S, n]."""

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
        self._global, self._document = (_Tables(device), _Tables(device))
        self._begin = self._end = 0
        self._starts = self._starts_here = torch.empty(0, dtype=torch.int64, device=device)
        self._last_start = 0

    @property
    def sources(self) -> int:
        """How many sources there are: S."""
        return len(self._orders) + len(self._document_orders)

    @property
    def tables(self) -> tuple[object, ...]:
        """Where the counts are kept; `look` only reads them."""
        return self._global, self._document

    def look(self, begin: int, end: int) -> Statistics:
        """Statistics of positions begin..end - 1, which must follow those learnt last."""
        assert begin == self._end, "positions are gone through once, in order"
        self._begin, self._end = begin, end
        self._starts = self._document_starts(begin, end)
        self._starts_here = self._starts.cpu()
        self._keys = self._all_keys(begin, end)
        split = len(self._orders)
        parts = [
            tables.statistics(_Keys(self._keys.context[part], self._keys.pair[part]))
            for tables, part in ((self._global, slice(0, split)), (self._document, slice(split, None)))
        ]
        self._fresh = torch.cat([fresh for _, fresh in parts])
        return Statistics(*(torch.cat([getattr(s, name) for s, _ in parts]) for name in Statistics.__annotations__))

    def document_of(self, position: int) -> int:
        """Where the document of a position of the last `look` begins."""
        return int(self._starts_here[position - self._begin])

    def distributions(self, positions: Tensor) -> Tensor:
        """What each token would count at `positions` [m] of the last `look`, int32 [m, S, vocab].

        For measuring sums over the vocabulary: `look` gives the same for the realised tokens alone.
        """
        at, contexts = positions - self._begin, self._keys.context
        asked = contexts[:, at]
        keys = asked[..., None] * self._vocab + torch.arange(self._vocab, device=at.device)
        split = len(self._orders)
        parts = ((self._global, keys[:split]), (self._document, keys[split:]))
        out = torch.cat([tables.pairs.get(part.flatten())[0] for tables, part in parts])
        # What came earlier in the stretch: [S, m, n].
        index = torch.arange(self._end - self._begin, device=at.device)
        earlier = (contexts[:, None] == asked[..., None]) & (index < at[:, None])
        source, row, column = earlier.nonzero(as_tuple=True)
        target = self._tokens[self._begin + 1 + column]
        cell = (source * len(at) + row) * self._vocab + target
        return out.index_add_(0, cell, torch.ones_like(cell, dtype=torch.int32)).view(keys.shape).transpose(0, 1)

    def learn(self) -> None:
        """Count the positions of the last `look`. Of the document sources only the current document is kept."""
        split = len(self._orders)
        self._global.learn(_Keys(self._keys.context[:split], self._keys.pair[:split]), self._fresh[:split])
        begin = int(self._starts_here[-1])
        kept = max(begin - self._begin, 0)
        if begin >= self._begin:
            self._document.clear()
        rest = _Keys(self._keys.context[split:, kept:], self._keys.pair[split:, kept:])
        self._document.learn(rest, self._fresh[split:, kept:])
        self._last_start = begin

    def _document_starts(self, begin: int, end: int) -> Tensor:
        """Where the document of each position begins [n]: its BOS, or the text's beginning."""
        at = torch.arange(begin, end, device=self._tokens.device)
        marked = torch.where(self._tokens[begin:end] == BOS, at, self._last_start)
        return marked.cummax(0).values

    def _all_keys(self, begin: int, end: int) -> _Keys:
        device, at = self._tokens.device, torch.arange(begin, end, device=self._tokens.device)
        contexts: list[Tensor] = []
        for salted, orders in ((False, self._orders), (True, self._document_orders)):
            if not len(orders):
                continue
            state = _mixed(self._starts + DOCUMENT_SALT) if salted else torch.zeros_like(at)
            for length in range(orders.stop):
                if length:
                    index = at - (length - 1)
                    token = self._tokens[index.clamp_min(0)].masked_fill(index < self._starts, self._vocab)
                    state = _mixed(state ^ (token + 1 + (length << 24)))
                if length in orders:
                    contexts.append(state & self._context_mask)
        stacked = torch.stack(contexts) if contexts else torch.empty(0, end - begin, dtype=torch.int64, device=device)
        return _Keys(stacked, stacked * self._vocab + self._tokens[begin + 1 : end + 1])


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
