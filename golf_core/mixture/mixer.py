"""The mixture of an evaluation: what the ranks see of the neural distribution, joined with counts of scored tokens.

Each stretch of positions is handled in this order: `look` gathers what the tokens before each position tell;
`observe` takes the neural distributions from whichever rank computed them; `score` mixes and gives each token's loss;
and only then, before the next stretch, does anything learn from it. Counts see every token before the one that is
predicted; the weights move every `update_tokens` positions, the tilt's exponents with every chunk. All ranks hold the
same state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from golf_core.config import MixerConfig
from golf_core.distributed import Ranks
from golf_core.mixture.contexts import ContextCounts, Statistics
from golf_core.mixture.ladder import Experts, Ladder, Plan, Situation, flow, found, situation
from golf_core.mixture.matching import LongestMatch, Matches
from golf_core.mixture.tilt import DocumentTilt
from golf_core.mixture.weights import Floats

Counts = NDArray[np.int32]
NEURAL, TILTED, LARGEST = range(3)
"""Columns of what is observed: ln q and ln g of the target, and g's largest probability."""
LOWEST = -300.0
"""ln q is raised to this: nothing made of it is then zero in float64, and no sum over a vocabulary moves."""


@dataclass(frozen=True)
class MixtureScores:
    """Of a stretch of positions: nll [n] (float64, nats), and at the measured ones the whole distribution."""

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
        self.ladder = Ladder(self._plan)
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
        self._observed = torch.zeros(end - begin, 3, dtype=torch.float64, device=measured.device)
        self._measured = measured
        self._rows: list[tuple[Tensor, Tensor, Tensor]] = []

    def observe(self, begin: int, log_probs: Tensor) -> None:
        """The neural ln q [n, vocab] of positions begin, begin + 1, ... of the stretch."""
        end = begin + len(log_probs)
        log_probs = log_probs.clamp_min(LOWEST)
        tilted = log_probs
        if self._tilt:
            tilted = self._tilt.tilt(log_probs, begin, self._counts.document_of(begin))
        row = torch.arange(len(log_probs), device=log_probs.device)
        targets = self._tokens[begin + 1 : end + 1]
        columns = (log_probs[row, targets], tilted[row, targets], tilted.amax(dim=1).exp())
        self._observed[begin - self._begin : end - self._begin] = torch.stack(columns, dim=1).double()
        here = self._measured[(self._measured >= begin) & (self._measured < end)]
        if len(here):
            self._rows.append((here, log_probs[here - begin].double().exp(), tilted[here - begin].double().exp()))

    def score(self, chunk_ends: bool) -> MixtureScores:
        """End the stretch: its losses. Collective: every rank calls it."""
        observed = self._ranks.sum_(self._observed).cpu().numpy()
        probs = np.exp(observed[:, :LARGEST])
        statistics = Statistics(*(part.cpu() for part in vars(self._statistics).values()))
        count, total, distinct = (part.numpy() for part in vars(statistics).values())
        matches = Matches(*(part.cpu() for part in vars(self._matches).values()))
        hit = matches.predicted == self._tokens[self._begin + 1 : self._end + 1].cpu()
        experts = Experts(
            uniform=np.full(len(probs), 1.0 / self._vocab),
            neural=probs[:, NEURAL],
            tilted=probs[:, TILTED],
            found=list(found(count, total, distinct)),
            match=hit.numpy().astype(np.float64),
        )
        where = situation(
            total.astype(np.int64),
            distinct.astype(np.int64),
            observed[:, LARGEST],
            matches.length.numpy(),
            self._plan.confidence,
        )
        nll, used = self._stretches(experts, where)
        measured_at, measured = self._distributions(used, total, distinct)
        self._unlearnt, self._chunk_ends = True, chunk_ends
        return MixtureScores(nll, measured_at, measured)

    def _stretches(self, experts: Experts, where: Situation) -> tuple[Floats, dict[str, Floats]]:
        """Score in stretches of `update_tokens`, counted from the chunk's first position."""
        size, offset = self._config.update_tokens, self._begin - self._chunk_begin
        edges = np.unique(
            np.clip(np.arange(-(offset % size), len(experts.neural) + size, size), 0, len(experts.neural))
        )
        parts, weights = [], []
        for first, last in pairwise(edges.tolist()):
            part = slice(first, last)
            some = Experts(
                experts.uniform[part],
                experts.neural[part],
                experts.tilted[part],
                [values[part] for values in experts.found],
                experts.match[part],
            )
            probs, used = self.ladder.score(some, where.part(part))
            parts.append(-np.log(probs))
            weights.append(used)
        return np.concatenate(parts), {name: np.concatenate([w[name] for w in weights]) for name in weights[0]}

    def _distributions(self, used: dict[str, Floats], total: Counts, distinct: Counts) -> tuple[Tensor, Tensor]:
        """The measured positions that this rank observed [m], and the whole distributions there [m, vocab]."""
        device = self._measured.device
        if not self._rows:
            return self._measured[:0], torch.empty(0, self._vocab, dtype=torch.float64, device=device)
        at, neural, tilted = (torch.cat(parts) for parts in zip(*self._rows, strict=True))
        rows = (at - self._begin).cpu().numpy()
        counts = self._counts.distributions(at).cpu().numpy().transpose(1, 0, 2)
        match = np.zeros((len(rows), self._vocab))
        match[np.arange(len(rows)), self._matches.predicted.cpu().numpy()[rows]] = 1.0
        experts = Experts(
            uniform=np.full((len(rows), self._vocab), 1.0 / self._vocab),
            neural=neural.cpu().numpy(),
            tilted=tilted.cpu().numpy(),
            found=list(found(counts, total[:, rows, None], distinct[:, rows, None])),
            match=match,
        )

        def mix(name: str, parts: Sequence[Floats]) -> Floats:
            result: Floats = (used[name][rows][:, None, :] * np.stack(parts, axis=2)).sum(axis=2)
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
