"""The mixture of an evaluation: what the ranks see of the neural distribution, joined with counts of scored tokens.

Each stretch of positions is handled in this order: `look` gathers what the tokens before each position tell;
`observe` takes the neural distributions from whichever rank computed them; `score` mixes and gives each token's loss;
and only then, before the next stretch, does anything learn from it. Counts see every token before the one that is
predicted; the weights move every `update_tokens` positions, the tilt's exponents with every chunk. All ranks hold the
same state.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from golf_core.config import MixerConfig
from golf_core.data.tokenizer import BOS
from golf_core.distributed import Ranks
from golf_core.mixture.contexts import ContextCounts, LongestMatch, Matches
from golf_core.mixture.ladder import Buckets, Experts, Floats, Integers, Ladder, Plan, flow, found

LOWEST = -300.0
"""ln q is raised to this: nothing made of it is then zero in float64, and no sum over a vocabulary moves."""


@dataclass(frozen=True)
class MixtureScores:
    """Figures of a stretch of positions: nll [n] (float64, nats), and at the measured ones the whole distribution."""

    nll: Floats
    measured_at: Tensor
    """[m] int64: the measured positions that this rank observed, in order."""
    measured: Tensor
    """[m, vocab] float64: the probabilities there."""


class Mixer:
    """The mixture over `tokens` [n + 1]; position t predicts token t + 1. BOS begins a document."""

    def __init__(self, config: MixerConfig, vocab_size: int, tokens: Tensor, ranks: Ranks) -> None:
        self._config, self._vocab, self._tokens, self._ranks = config, vocab_size, tokens, ranks
        device = ranks.device
        self._plan = Plan(
            orders=range(config.orders + 1) if config.orders else range(0),
            document_orders=range(config.document_orders + 1) if config.document_orders else range(0),
            tilt=config.tilt,
            match=config.match_tokens > 0,
            confidence=config.confidence,
            context_weights=config.context_weights,
        )
        self._counts = ContextCounts(vocab_size, self._plan.orders, self._plan.document_orders, tokens, device)
        self._match = LongestMatch(config.match_tokens, tokens, device) if self._plan.match else None
        self._tilt = DocumentTilt(vocab_size, tokens, device) if config.tilt else None
        self.ladder, self._buckets = Ladder(self._plan), Buckets(self._plan, device)
        self._chunk_begin = 0
        self._unlearnt = self._chunk_ends = False

    @property
    def tables(self) -> tuple[object, ...]:
        """The large parts, which are written only when a stretch is learnt from, never while it is scored."""
        return (*self._counts.tables, *([self._match.table] if self._match else []))

    def look(self, begin: int, end: int, measured: Tensor) -> None:
        """Begin a stretch: positions begin..end - 1. `measured` [m]: those whose whole distribution is wanted."""
        self.settle()
        self._begin, self._end = begin, end
        self._statistics = self._counts.look(begin, end)
        self._matches = self._match.look(begin, end) if self._match else _no_matches(end - begin, measured.device)
        # Rows: ln q and ln g of the target, and g's largest probability. Zero where another rank observes.
        self._observed = torch.zeros(3, end - begin, dtype=torch.float64, device=measured.device)
        self._measured, self._measured_here = measured, measured.tolist()
        self._rows: list[tuple[Tensor, Tensor, Tensor]] = []
        self._rows_here: list[int] = []

    def observe(self, begin: int, log_probs: Tensor) -> None:
        """The neural ln q [n, vocab] of positions begin, begin + 1, ... of the stretch."""
        end = begin + len(log_probs)
        log_probs = log_probs.clamp_min(LOWEST)
        tilted = log_probs
        if self._tilt:
            tilted = self._tilt.tilt(log_probs, begin, self._counts.document_of(begin))
        row = torch.arange(len(log_probs), device=log_probs.device)
        targets = self._tokens[begin + 1 : end + 1]
        rows = (log_probs[row, targets], tilted[row, targets], tilted.amax(dim=1).exp())
        self._observed[:, begin - self._begin : end - self._begin] = torch.stack(rows)
        first, last = (bisect_left(self._measured_here, edge) for edge in (begin, end))
        if first < last:
            here = self._measured[first:last]
            self._rows.append((here, log_probs[here - begin].double().exp(), tilted[here - begin].double().exp()))
            self._rows_here += [position - self._begin for position in self._measured_here[first:last]]

    def score(self, chunk_ends: bool) -> MixtureScores:
        """End the stretch: its losses. Collective: every rank calls it."""
        neural, tilted, largest = self._ranks.sum_(self._observed)
        seen, matches = self._statistics, self._matches
        hit = matches.predicted == self._tokens[self._begin + 1 : self._end + 1]
        buckets = self._buckets.of(seen.total, seen.distinct, largest, matches.length)
        given = torch.stack((neural.exp(), tilted.exp(), hit.double()))
        probs = torch.cat((given, found(seen.count, seen.total, seen.distinct))).cpu().numpy()
        nll, used = self._stretches(probs, buckets.cpu().numpy().astype(np.int64))
        at, measured = self._distributions(used)
        self._unlearnt, self._chunk_ends = True, chunk_ends
        return MixtureScores(nll, at, measured)

    def _stretches(self, probs: Floats, buckets: Integers) -> tuple[Floats, dict[str, Floats]]:
        """Score in stretches of `update_tokens`, counted from the chunk's first position.

        `probs` are as `_experts` takes them. Also the weights [m, parts] by step at the measured positions.
        """
        size, offset, count = self._config.update_tokens, self._begin - self._chunk_begin, self._end - self._begin
        edges = np.unique(np.clip(np.arange(-(offset % size), count + size, size), 0, count))
        parts, weights, rows = [], [], np.array(self._rows_here, dtype=np.int64)
        for first, last in pairwise(edges.tolist()):
            scored, used = self.ladder.score(self._experts(probs[:, first:last]), buckets[:, first:last])
            here = rows[(rows >= first) & (rows < last)] - first
            parts.append(scored)
            weights.append({name: some[here] for name, some in used.items()})
        return -np.log(np.concatenate(parts)), {n: np.concatenate([w[n] for w in weights]) for n in weights[0]}

    def _experts(self, probs: Floats) -> Experts:
        """From probabilities of the neural, the tilted, the match and all sources [3 + sources, ...]."""
        neural, tilted, match, *sources = probs
        return Experts(np.full(neural.shape, 1.0 / self._vocab), neural, tilted, sources, match)

    def _distributions(self, used: dict[str, Floats]) -> tuple[Tensor, Tensor]:
        """The measured positions that this rank observed [m], and the whole distributions there [m, vocab]."""
        device = self._measured.device
        if not self._rows:
            return self._measured[:0], torch.empty(0, self._vocab, dtype=torch.float64, device=device)
        at, neural, tilted = (torch.cat(parts) for parts in zip(*self._rows, strict=True))
        rows, seen = at - self._begin, self._statistics
        match = self._matches.predicted[rows, None] == torch.arange(self._vocab, device=device)
        counts = self._counts.distributions(at).transpose(0, 1)
        sources = found(counts, seen.total[:, rows, None], seen.distinct[:, rows, None])
        experts = self._experts(torch.cat((torch.stack((neural, tilted, match.double())), sources)).cpu().numpy())

        def mix(name: str, parts: Sequence[Floats]) -> Floats:
            result: Floats = (used[name].T[:, :, None] * np.array(parts)).sum(axis=0)
            return result

        return at, torch.from_numpy(flow(self._plan, experts, mix)).to(device)

    def settle(self) -> None:
        """Learn from the stretch scored last; the next `look` does so otherwise. Collective."""
        if not self._unlearnt:
            return
        self._unlearnt = False
        self._counts.learn()
        if self._match:
            self._match.learn()
        if self._chunk_ends:
            if self._tilt:
                self._ranks.sum_(self._tilt.moments)
                self._tilt.learn(self._chunk_begin, self._end)
            self._chunk_begin = self._end


def _no_matches(count: int, device: torch.device) -> Matches:
    none = torch.zeros(count, dtype=torch.int64, device=device)
    return Matches(none, none)


# --- the tilted expert: the model's distribution, moved by counts ---

SMOOTHING = 200.0
"""Tokens that p_all counts for in p_doc."""
LENGTH_BINS = (64, 256, 1024)
"""Documents of different length so far (tokens) have exponents of their own."""
START = (1.0, 0.2)
LIMITS = ((0.5, 2.0), (0.0, 2.0))
PRIOR_PRECISION = (1000.0, 200.0)
"""Curvature of the loss that the starting values count for: a few hundred tokens' worth."""
SAMPLE_EVERY = 8
"""The exponents are learnt from every so many positions: moments over the vocabulary cost more than the tilt."""


class DocumentTilt:
    """Exponents (beta, w) for each bin of document length, and the token counts that they are applied to.

    `moments` [bins, 5] gathers gradient and curvature of the current chunk on this rank; they are summed over the
    ranks before `learn`.
    """

    def __init__(self, vocab_size: int, tokens: Tensor, device: torch.device) -> None:
        self._vocab, self._tokens = vocab_size, tokens
        bins = len(LENGTH_BINS) + 1
        self.exponents = torch.tensor(START, dtype=torch.float64, device=device).repeat(bins, 1)
        self.moments = torch.zeros(bins, 5, dtype=torch.float64, device=device)
        self._precision = torch.diag(torch.tensor(PRIOR_PRECISION, dtype=torch.float64)).to(device).repeat(bins, 1, 1)
        self._unigram = torch.full((vocab_size,), 0.5, dtype=torch.float64, device=device)
        self._bins = torch.tensor(LENGTH_BINS, device=device)

    def tilt(self, log_probs: Tensor, begin: int, document: int) -> Tensor:
        """ln g from ln q, [n, vocab] each, of positions begin, begin + 1, ... `document`: where the first begins."""
        ratio, length = self._ratios(log_probs, begin, document)
        bucket = torch.bucketize(length, self._bins, right=True)
        beta, weight = self.exponents[bucket].to(log_probs.dtype).T
        score = torch.addcmul(beta[:, None] * log_probs, weight[:, None], ratio)
        tilted = torch.log_softmax(score, dim=1)
        # Positions that are multiples, whatever the batch: the same sample on any number of ranks.
        part = slice(-begin % SAMPLE_EVERY, None, SAMPLE_EVERY)
        targets = self._tokens[begin + 1 : begin + 1 + len(log_probs)]
        self._gather(tilted[part], log_probs[part], ratio[part], targets[part], bucket[part])
        return tilted

    def learn(self, begin: int, end: int) -> None:
        """A Newton step with `moments` (summed over all ranks); count the tokens after positions begin..end - 1."""
        gradient, curvature = self.moments[:, :2], self.moments[:, [2, 3, 3, 4]].view(-1, 2, 2)
        self._precision += curvature
        self.exponents += torch.linalg.solve(self._precision, gradient)
        for which, (least, most) in enumerate(LIMITS):
            self.exponents[:, which].clamp_(least, most)
        self.moments.zero_()
        self._unigram += torch.bincount(self._tokens[begin + 1 : end + 1], minlength=self._vocab)

    def _ratios(self, log_probs: Tensor, begin: int, document: int) -> tuple[Tensor, Tensor]:
        """ln(p_doc / p_all) up to a constant, like `log_probs` [n, vocab], and the document's length so far [n]."""
        count = len(log_probs)
        tokens, earlier = self._tokens[begin : begin + count], self._tokens[document:begin]
        length = seen_length(tokens, begin, document)
        at = torch.arange(count, device=tokens.device)
        # How often each word came before a token; a row for each word, since cumsum is fast along rows.
        seen = log_probs.new_zeros(self._vocab, count + 1)
        seen[tokens, at + 1] = 1.0
        # The document that reaches in from before.
        seen[:, 1].index_add_(0, earlier, torch.ones_like(earlier, dtype=seen.dtype))
        seen[BOS] = 0.0
        seen = seen.cumsum(1).T.contiguous()
        # Less what came before the position's document.
        seen = seen[1:] - seen[(at - length).clamp_min(0)]
        inverse = (self._unigram.sum() / (SMOOTHING * self._unigram)).to(seen.dtype)
        return seen.mul_(inverse).log1p_(), length

    def _gather(self, tilted: Tensor, neural: Tensor, ratio: Tensor, targets: Tensor, bucket: Tensor) -> None:
        """Add gradient and curvature of the loss in (beta, w): means and covariances of (ln q, ratio) under g."""
        if not len(tilted):
            return
        probs = tilted.exp()
        weighted_neural, weighted_ratio = probs * neural, probs * ratio
        mean_neural, mean_ratio = weighted_neural.sum(1), weighted_ratio.sum(1)
        row = torch.arange(len(targets), device=targets.device)
        columns = (
            neural[row, targets] - mean_neural,
            ratio[row, targets] - mean_ratio,
            (weighted_neural * neural).sum(1) - mean_neural.square(),
            (weighted_neural * ratio).sum(1) - mean_neural * mean_ratio,
            (weighted_ratio * ratio).sum(1) - mean_ratio.square(),
        )
        # A product, not index_add_: that adds in no fixed order on a GPU.
        members = F.one_hot(bucket, len(self.moments)).double()
        self.moments += members.T @ torch.stack(columns, dim=1).double()


def seen_length(tokens: Tensor, begin: int, document: int) -> Tensor:
    """Tokens of the document so far at each of the positions [n] from `begin` on, whose tokens are given."""
    at = torch.arange(begin, begin + len(tokens), device=tokens.device)
    return at - torch.where(tokens == BOS, at, document).cummax(0).values
