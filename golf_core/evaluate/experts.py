"""The record's mixture, faithfully: what each of five experts says about a token, in nats, and how Hedge mixes them.

The last expert is no distribution. Hedge (Freund and Schapire 1997) weighs them by accumulated loss; the weights move
between chunks. Whether the scores are distributions is measured beside it, with the code that scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from golf_core.config import EvalConfig
from golf_core.distributed import Ranks
from golf_core.model.blocks import HASH_CURRENT, HASH_PREVIOUS
from golf_core.results import EXPERTS, KraftSums


@dataclass(frozen=True)
class Positions:
    """n positions about to be scored: their own tokens, those before, and the tokens that follow.

    All int64 [n]. `before` is 0 at the first position of a window.
    """

    token: Tensor
    before: Tensor
    target: Tensor


@dataclass(frozen=True)
class NeuralTerms:
    """The neural expert's whole distributions at n positions: log probabilities [n, vocab]."""

    log_probs: Tensor

    @cached_property
    def entropy(self) -> Tensor:
        """Entropy of each distribution [n], nats. The published mixture alone asks for it."""
        return -(self.log_probs.exp() * self.log_probs).sum(dim=-1)


def neural_terms(logits: Tensor, temperature: float) -> NeuralTerms:
    """From logits [n, vocab] float32, divided by the temperature."""
    return NeuralTerms(F.log_softmax(logits / temperature, dim=-1))


class NgramCounts:
    """Unigram, bigram and hashed-trigram counts of the tokens seen so far, exact integers on the device.

    A hash collision merges two trigram contexts; each context still has one normalised distribution.
    """

    def __init__(self, vocab_size: int, trigram_buckets: int, smoothing: float, device: torch.device) -> None:
        self._vocab, self._buckets, self._smoothing = vocab_size, trigram_buckets, smoothing
        self._unigram = torch.zeros(vocab_size, dtype=torch.int32, device=device)
        self._bigram = torch.zeros(vocab_size * vocab_size, dtype=torch.int32, device=device)
        self._trigram = torch.zeros(trigram_buckets * vocab_size, dtype=torch.int32, device=device)
        self._bigram_total = torch.zeros(vocab_size, dtype=torch.int32, device=device)
        self._trigram_total = torch.zeros(trigram_buckets, dtype=torch.int32, device=device)
        self.tokens = 0

    def update(self, tokens: Tensor) -> None:
        """Count `tokens` [n] int64: its tokens, pairs and triples, none of which reaches out of it."""
        self.tokens += tokens.numel()
        _count(self._unigram, tokens)
        _count(self._bigram_total, tokens[:-1])
        _count(self._bigram, tokens[:-1] * self._vocab + tokens[1:])
        context = self._context(tokens[1:-1], tokens[:-2])
        _count(self._trigram_total, context)
        _count(self._trigram, context * self._vocab + tokens[2:])

    def nlls(self, at: Positions) -> list[Tensor]:
        """-ln of the smoothed probability of each target under unigram, bigram and trigram, float32 [n] each."""
        context = self._context(at.token, at.before)
        total = torch.full_like(at.target, self.tokens)
        return [
            self._nll(self._unigram[at.target], total),
            self._nll(self._bigram[at.token * self._vocab + at.target], self._bigram_total[at.token]),
            self._nll(self._trigram[context * self._vocab + at.target], self._trigram_total[context]),
        ]

    def _nll(self, count: Tensor, total: Tensor) -> Tensor:
        smoothing = self._smoothing
        return torch.log((total.float() + smoothing * self._vocab) / (count.float() + smoothing))

    def _context(self, token: Tensor, before: Tensor) -> Tensor:
        return ((HASH_CURRENT * before) ^ (HASH_PREVIOUS * token)) % self._buckets


def expert_nlls(neural: NeuralTerms, rows: Tensor, counts: NgramCounts, at: Positions) -> Tensor:
    """nll of each target under the five experts, float32 [n, 5] in the order of `EXPERTS`.

    `rows` [n] tells which row of `neural` belongs to each position. The fifth "nll" is the neural entropy,
    whatever the token: it is no probability distribution (see docs/science.md).
    """
    columns = [neural.log_probs[rows, at.target].neg(), *counts.nlls(at), neural.entropy[rows]]
    assert len(columns) == len(EXPERTS)
    return torch.stack(columns, dim=1)


def _count(table: Tensor, index: Tensor) -> None:
    table.index_add_(0, index, torch.ones_like(index, dtype=table.dtype))


class Hedge:
    """Log weights of the record's five experts (float64 [5])."""

    def __init__(self, neural_log_weight: float, eta: float, device: torch.device) -> None:
        self._eta = eta
        self.log_weights = torch.zeros(len(EXPERTS), dtype=torch.float64, device=device)
        self.log_weights[0] = neural_log_weight

    def published_nll(self, nlls: Tensor) -> Tensor:
        """ "nll" [n] of the published mixture, from the experts' nlls [n, 5]. Not a code length."""
        return -torch.logsumexp(torch.log_softmax(self.log_weights, dim=0) - nlls.double(), dim=1)

    def log_z(self, entropy: Tensor, vocab_size: int) -> Tensor:
        """ln of the published mixture's sum over the vocabulary [n]: 1 + w (V exp(-H) - 1), w the fifth weight."""
        weight = torch.softmax(self.log_weights, dim=0)[-1]
        return torch.log1p(weight * (vocab_size * torch.exp(-entropy.double()) - 1.0))

    def update(self, mean_nlls: Tensor) -> None:
        """Move every log weight by -eta times its expert's mean nll [5] over the chunk."""
        self.log_weights -= self._eta * mean_nlls


@dataclass(frozen=True)
class PublishedScores:
    """Figures of n positions: the "nll", ln of the mixture's sum over the vocabulary, and the experts' nlls [n, 5]."""

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


# --- do the scores sum to one? ---


class KraftMeter:
    """Collects sums over the vocabulary at a few positions of every chunk, on each rank for those that it scores.

    At a position every token of the vocabulary takes the target's place in turn, and exp(-nll) is summed. For a code
    length the sum is 1 (Kraft's inequality, with equality for a distribution).
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        nothing = torch.empty(0, dtype=torch.float64, device=ranks.device)
        self._neural, self._published, self._formula, self._mixture = ([nothing] for _ in range(4))

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
        self._neural.append(neural.log_probs[rows].double().exp().sum(dim=1))
        if not mixer.speaks:
            return
        vocab = neural.log_probs.size(1)
        every = torch.arange(vocab, device=rows.device).repeat(len(rows))
        repeated = rows.repeat_interleave(vocab)
        substituted = Positions(at.token[repeated], at.before[repeated], every)
        nlls = expert_nlls(neural, repeated, mixer.counts, substituted)
        self._published.append(torch.exp(-mixer.hedge.published_nll(nlls)).view(len(rows), vocab).sum(dim=1))
        self._formula.append(mixer.hedge.log_z(neural.entropy[rows], vocab).exp())

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
        self._mixture.append(off)

    def result(self) -> KraftSums | None:
        """The measurements of all ranks; None where nothing was measured."""
        parts = (self._neural, self._published, self._formula, self._mixture)
        neural, published, formula, mixture = (torch.cat(each) for each in parts)
        positions, mixed = round(self._total(torch.ones_like(neural))), round(self._total(torch.ones_like(published)))
        if not positions:
            return None
        return KraftSums(
            positions=positions,
            neural_max_error=self._largest(neural - 1),
            mixture_max_error=self._largest(mixture),
            published_mean_sum=self._total(published) / mixed if mixed else 1.0,
            published_formula_max_error=self._largest(published / formula - 1),
            published_positions=mixed,
        )

    def _total(self, values: Tensor) -> float:
        return float(self._ranks.sum_(values.sum()))

    def _largest(self, values: Tensor) -> float:
        return self._ranks.largest(float(values.abs().max()) if len(values) else 0.0)
