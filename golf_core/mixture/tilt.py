"""The neural distribution, sharpened or flattened and tilted towards the words of the document: geometric mixing.

    g(y)  ~  q(y)^beta * (p_doc(y) / p_all(y))^w

with q the model's distribution and p_doc, p_all the token frequencies of the document so far and of all text so far,
the first smoothed by the second (BOS is no word of its document; p_all begins with half a token each, and moves with
whole chunks). It is normalised over the whole vocabulary; beta is the inverse of a temperature.
Unigram rescaling of this kind: Kneser, Peters and Klakow 1997; beta and w are learnt here by online Newton steps.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from golf_core.data.tokenizer import BOS

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
