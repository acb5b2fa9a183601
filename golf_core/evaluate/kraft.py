"""Do the mixtures sum to one? Measured at a few positions of every chunk, with the code that scores.

At a position every token of the vocabulary takes the target's place in turn, and exp(-nll) is summed. For a
code length the sum is 1 (Kraft's inequality, with equality for a distribution).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from golf_core.distributed import Ranks
from golf_core.evaluate.experts import NeuralTerms, Positions, Published, expert_nlls
from golf_core.results import KraftSums


class KraftMeter:
    """Collects sums over the vocabulary, on each rank for the positions that it scores."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._neural, self._published, self._formula, self._mixture = (_Values(ranks) for _ in range(4))

    def choose(self, first: int, last: int, count: int) -> Tensor:
        """Positions of first..last - 1 to measure at, sorted [<= count]: the first, the last, and evenly between."""
        if count == 0 or first == last:
            return torch.empty(0, dtype=torch.int64, device=self._ranks.device)
        chosen = np.unique(np.linspace(first, last - 1, count).round().astype(np.int64))
        return torch.from_numpy(chosen).to(self._ranks.device)

    def measure(self, chosen: Tensor, positions: Tensor, at: Positions, neural: NeuralTerms, mixer: Published) -> None:
        """Sum over the vocabulary at those of `chosen` that are among this batch's `positions` [n]."""
        rows = torch.isin(positions, chosen).nonzero().flatten()
        if not len(rows):
            return
        self._neural.add(neural.log_probs[rows].double().exp().sum(dim=1))
        if not mixer.speaks:
            return
        vocab = neural.log_probs.size(1)
        every = torch.arange(vocab, device=rows.device).repeat(len(rows))
        repeated = rows.repeat_interleave(vocab)
        substituted = Positions(at.token[repeated], at.before[repeated], every)
        nlls = expert_nlls(neural, repeated, mixer.counts, substituted)
        self._published.add(torch.exp(-mixer.hedge.published_nll(nlls)).view(len(rows), vocab).sum(dim=1))
        self._formula.add(mixer.hedge.log_z(neural.entropy[rows], vocab).exp())

    def measure_mixture(self, distributions: Tensor, targets: Tensor, nll: Tensor) -> None:
        """Take the mixture's distributions [m, vocab]: their sums, and whether the score is what they say.

        `targets` and `nll` [m] are the realised tokens and their losses; a loss that is not -ln p counts as an error
        of the same relative size.
        """
        if not len(targets):
            return
        sums = distributions.sum(dim=1)
        said = distributions[torch.arange(len(targets), device=targets.device), targets]
        off = torch.maximum((sums - 1).abs(), (torch.exp(-nll) / said - 1).abs())
        self._mixture.add(off)

    def result(self) -> KraftSums | None:
        """The measurements of all ranks; None where nothing was measured."""
        positions = self._neural.count()
        if not positions:
            return None
        published = self._published.count()
        formula = _Values(self._ranks)
        formula.add(self._published.all() / self._formula.all() - 1)
        neural = _Values(self._ranks)
        neural.add(self._neural.all() - 1)
        return KraftSums(
            positions=positions,
            neural_max_error=neural.largest(),
            mixture_max_error=self._mixture.largest(),
            published_mean_sum=self._published.sum() / published if published else 1.0,
            published_formula_max_error=formula.largest(),
            published_positions=published,
        )


class _Values:
    """Figures that the ranks collect, each its own [n] float64."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks, self._parts = ranks, [torch.empty(0, dtype=torch.float64, device=ranks.device)]

    def add(self, values: Tensor) -> None:
        self._parts.append(values.double())

    def all(self) -> Tensor:
        return torch.cat(self._parts)

    def sum(self) -> float:
        return float(self._ranks.sum_(self.all().sum()))

    def count(self) -> int:
        return round(float(self._ranks.sum_(torch.full_like(self.all().sum(), float(len(self.all()))))))

    def largest(self) -> float:
        values = self.all().abs()
        return self._ranks.largest(float(values.max()) if len(values) else 0.0)
