"""Scorers with one violation each, of the token's own distribution: it is none, or it has seen the token.

After the kinds that published submissions fell to. What is done with later tokens is in `cheats_passes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from golf_core.audit.scorer import Tokens
from golf_core.audit.specimens.experts import F64, Counts, Expert, Past, Static
from golf_core.audit.specimens.online import Online, PlainOnline, Run


def adaptive(vocab: int) -> list[Expert]:
    """Counts of order 0 and 1 beside a fixed model."""
    return [Counts(vocab, 0), Counts(vocab, 1), Static(vocab, seed=1)]


def fixed(vocab: int) -> list[Expert]:
    """Two fixed models."""
    return [Static(vocab, seed=1), Static(vocab, seed=2)]


# Condition 2: not one distribution.


class TargetHash(Run):
    """An n-gram cache whose bucket is a hash of context *and* target: the buckets of a context share no total."""

    def __init__(self, scorer: Online) -> None:
        super().__init__(scorer)
        self._hits, self._totals = np.zeros(16), np.zeros(16)

    def _bucket(self, past: Past, token: int) -> int:
        return hash((tuple(past[-2:]), token)) % 16

    def loss(self, past: Past, token: int) -> float:
        """Cache and model half and half."""
        bucket = self._bucket(past, token)
        cached = (self._hits[bucket] + 0.1) / (self._totals[bucket] + 0.2)
        return float(-np.log(0.5 * cached + 0.5 * self.probs(past)[token]))

    def learn(self, past: Past, token: int) -> None:
        """A hit for the target's bucket, a miss for that of the symbol after it."""
        super().learn(past, token)
        self._hits[self._bucket(past, token)] += 1.0
        self._totals[self._bucket(past, token)] += 1.0
        self._totals[self._bucket(past, (token + 1) % self.scorer.vocab_size)] += 1.0


class LesserLoss(Run):
    """The smaller of two models' losses on the true token."""

    def loss(self, past: Past, token: int) -> float:
        """min over the experts."""
        return float(-np.log(self.rows(past)[:, token].max()))


class ObservedGate(Run):
    """A gate that goes by the probability that the first model gave the token that came."""

    def loss(self, past: Past, token: int) -> float:
        """The first expert where it was right, the second where not."""
        first, second = self.rows(past)[:2, token]
        weight = 0.9 if first > 1.0 / self.scorer.vocab_size else 0.1
        return float(-np.log(weight * first + (1.0 - weight) * second))


class CappedLoss(Run):
    """No token costs more than ln V: the hard ones are cut."""

    def loss(self, past: Past, token: int) -> float:
        """min(loss, ln V)."""
        return min(super().loss(past, token), float(np.log(self.scorer.vocab_size)))


class EntropyExpert(Run):
    """An expert that gives every token the entropy of the model for a loss, mixed in with weight 0.1."""

    WEIGHT = 0.1

    def loss(self, past: Past, token: int) -> float:
        """-ln((1 - w) p + w exp(-H))."""
        probs = self.probs(past)
        entropy = -float(probs @ np.log(probs))
        return float(-np.log((1 - self.WEIGHT) * probs[token] + self.WEIGHT * np.exp(-entropy)))

    def total(self, past: Past) -> float:
        """What the losses sum to: 1 + w (V exp(-H) - 1)."""
        probs = self.probs(past)
        entropy = -float(probs @ np.log(probs))
        return 1.0 + self.WEIGHT * (self.scorer.vocab_size * float(np.exp(-entropy)) - 1.0)


class Sharpened(Run):
    """A temperature of 0.9 on probabilities, and no normalisation after it."""

    def loss(self, past: Past, token: int) -> float:
        """0.9 times the loss."""
        return 0.9 * super().loss(past, token)


class SometimesOwnCount(Run):
    """Counts the token before scoring it, but only where its pair has been seen before."""

    def loss(self, past: Past, token: int) -> float:
        """A little less for what recurs."""
        known = len(past) > 0 and (past[-1], token) in pairwise(past)
        return super().loss(past, token) - (0.2 if known else 0.0)


class CheatingOnline(PlainOnline):
    """An `Online` whose runs are of another kind."""

    def __init__(self, kind: type[Run], vocab: int, period: int = 1, learns: bool = True) -> None:
        if learns:
            super().__init__(vocab, lambda: adaptive(vocab), period)
        else:
            super().__init__(vocab, lambda: fixed(vocab), period, mixing="fixed")
        self._kind = kind

    def start(self, text: list[int]) -> Run:
        """A run of the cheating kind."""
        return self._kind(self)


def undeclared(scorer: Online) -> Online:
    """The same scorer, not saying where its chunks begin."""
    scorer.chunk_tokens = None
    return scorer


class ByteMixture:
    """Tokens are strings of two bytes' alphabet, each the product of its bytes: "a", "b", "ab" together exceed 1."""

    vocab_size = 6
    STRINGS = ("a", "b", "ab", "ba", "aa", "bb")

    def __call__(self, tokens: Tokens, /) -> F64:
        """Adaptive byte counts, no account of where a token ends."""
        counts = {"a": 1.0, "b": 1.0}
        losses = np.zeros(len(tokens))
        for t, token in enumerate(tokens.tolist()):
            for byte in self.STRINGS[token]:
                losses[t] -= np.log(counts[byte] / sum(counts.values()))
                counts[byte] += 1.0
        return losses


class DistributionLiar(Online):
    """Shows a proper distribution and takes a tenth off each loss."""

    def __call__(self, tokens: Tokens, /) -> F64:
        """Cheaper than shown."""
        return np.asarray(super().__call__(tokens) * 0.9)


class TargetChosen(Online):
    """Each distribution that it shows sums to one, but which one it is depends on the token at that place."""

    def __call__(self, tokens: Tokens, /) -> F64:
        """-ln of the realised token's entry."""
        shown = self.distributions(tokens, range(len(tokens)))
        return np.asarray(-shown[np.arange(len(tokens)), tokens])

    def distributions(self, tokens: Tokens, positions: Sequence[int]) -> F64:
        """The model's distribution, sharpened where its likeliest half holds the token."""
        log_probs = super().distributions(tokens, positions)
        for row, t in zip(log_probs, positions, strict=True):
            power = 2.0 if row[tokens[t]] >= np.median(row) else 0.5
            row *= power
            row -= np.log(np.exp(row).sum())
        return log_probs


# Condition 3: learned from before it is scored.


class CountsFirst(Run):
    """Counts a token, then scores it."""

    def score(self, text: list[int], t: int) -> float:
        """The wrong way round."""
        past, token = text[:t], text[t]
        self.learn(past, token)
        return self.loss(past, token)


class OneTooFar(Run):
    """After a chunk is scored its counts take in the first token of the next."""

    def score(self, text: list[int], t: int) -> float:
        """As always, and at a chunk's end one token more."""
        loss = super().score(text, t)
        if (t + 1) % self.scorer.period == 0 and t + 1 < len(text):
            self.learn(text[: t + 1], text[t + 1])
        return loss


class PairTooFar(Run):
    """After a chunk is scored the pair across its end is counted as well."""

    def score(self, text: list[int], t: int) -> float:
        """Only the counts of pairs know."""
        loss = super().score(text, t)
        if (t + 1) % self.scorer.period == 0 and t + 1 < len(text):
            self.experts[1].learn(text[: t + 1], text[t + 1])
        return loss


class EpochsFirst(Run):
    """Learns from a chunk, twice over, and then scores it."""

    def score(self, text: list[int], t: int) -> float:
        """All of the chunk is learned at its first token."""
        if t % self.scorer.period == 0:
            for _ in range(2):
                for s in range(t, min(t + self.scorer.period, len(text))):
                    self.learn(text[:s], text[s])
        return self.loss(text[:t], text[t])
