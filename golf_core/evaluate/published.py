"""The record's own mixture, faithfully: five experts, of which the last is no distribution."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from golf_core.config import EvalConfig
from golf_core.evaluate.experts import NeuralTerms, NgramCounts, Positions, expert_nlls
from golf_core.evaluate.hedge import Hedge


@dataclass(frozen=True)
class PublishedScores:
    """Of n positions: the "nll", ln of the mixture's sum over the vocabulary, and the experts' nlls [n, 5]."""

    nll: Tensor
    log_z: Tensor
    experts: Tensor | None
    """None while the neural expert stands alone."""


class Published:
    """Counts, weights, and the rule by which they move: with whole chunks."""

    def __init__(self, config: EvalConfig, vocab_size: int, device: torch.device) -> None:
        self._least, self._vocab = config.hedge_min_tokens, vocab_size
        self.counts = NgramCounts(vocab_size, config.trigram_buckets, config.count_smoothing, device)
        self.hedge = Hedge(config.neural_log_weight, config.hedge_eta, device)

    @property
    def speaks(self) -> bool:
        """Whether enough tokens have been counted; until then the neural expert stands alone."""
        return self.counts.tokens >= self._least

    def score(self, neural: NeuralTerms, rows: Tensor, at: Positions) -> PublishedScores:
        """Score n positions, whose neural distributions are `rows` [n] of `neural`."""
        if not self.speaks:
            nll = neural.log_probs[rows, at.target].neg()
            return PublishedScores(nll, torch.zeros_like(nll), None)
        nlls = expert_nlls(neural, rows, self.counts, at)
        return PublishedScores(self.hedge.published_nll(nlls), self.hedge.log_z(neural.entropy, self._vocab), nlls)
