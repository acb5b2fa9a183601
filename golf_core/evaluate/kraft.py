"""Do the mixtures sum to one? Measured at a few positions of every chunk, with the code that scores.

At a position every token of the vocabulary takes the target's place in turn, and exp(-nll) is summed. For a
code length the sum is 1 (Kraft's inequality, with equality for a distribution).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from golf_core.distributed import Ranks
from golf_core.evaluate.experts import NeuralTerms, NgramCounts, Positions, expert_nlls
from golf_core.evaluate.hedge import Hedge
from golf_core.evaluate.windows import Windows
from golf_core.results import KraftSums


class KraftMeter:
    """Collects sums over the vocabulary, on each rank for the positions that it scores."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._rows: list[Tensor] = []

    def choose(self, windows: Windows, count: int) -> Tensor:
        """Positions of a chunk to measure at, sorted [<= count]: its first, its last, and evenly between."""
        if count == 0 or not len(windows):
            return torch.empty(0, dtype=torch.int64, device=self._ranks.device)
        chosen = np.unique(np.linspace(windows.first[0], windows.last[-1] - 1, count).round().astype(np.int64))
        return torch.from_numpy(chosen).to(self._ranks.device)

    def measure(
        self,
        chosen: Tensor,
        positions: Tensor,
        at: Positions,
        neural: NeuralTerms,
        counts: NgramCounts,
        hedge: Hedge,
    ) -> None:
        """Sum over the vocabulary at those of `chosen` that are among this batch's `positions` [n]."""
        rows = torch.isin(positions, chosen).nonzero().flatten()
        if not len(rows):
            return
        vocab = neural.log_probs.size(1)
        every = torch.arange(vocab, device=rows.device).repeat(len(rows))
        repeated = rows.repeat_interleave(vocab)
        substituted = Positions(at.token[repeated], at.before[repeated], every)
        nlls = expert_nlls(neural, repeated, counts, substituted)

        def total(nll: Tensor) -> Tensor:
            return torch.exp(-nll.double()).view(len(rows), vocab).sum(dim=1)

        published = total(hedge.published_nll(nlls))
        formula = hedge.log_z(neural.entropy[rows], vocab).exp()
        self._rows.append(torch.stack((total(nlls[:, 0]), total(hedge.mixture_nll(nlls)), published, formula), dim=1))

    def result(self) -> KraftSums | None:
        """The measurements of all ranks; None where nothing was measured."""
        ranks = self._ranks
        rows = torch.cat(self._rows) if self._rows else torch.empty(0, 4, dtype=torch.float64, device=ranks.device)
        count = ranks.sum_(torch.tensor([float(len(rows)), float(rows[:, 2].sum())], device=ranks.device).double())
        if not count[0]:
            return None
        errors = torch.stack(((rows[:, 0] - 1), (rows[:, 1] - 1), rows[:, 2] / rows[:, 3] - 1), dim=1).abs()
        neural, mixture, formula = (ranks.largest(float(c.max()) if len(rows) else 0.0) for c in errors.unbind(1))
        return KraftSums(int(count[0]), neural, mixture, float(count[1] / count[0]), formula)
