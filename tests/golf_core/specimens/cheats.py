"""Scorers with one violation each, after the kinds that published submissions fell to.

In the order of the conditions: what scores with no distribution, what has seen the token before it scores it, what
looks at later tokens, what does not score each token once, and what reaches out of bounds.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from golf_core.audit.scorer import Tokens
from specimens.experts import F64, Counts, Past, Static, Table, adaptive
from specimens.online import Online, PlainOnline, RestartableOnline, Run

# Condition 2: not one distribution.


class TargetHash(Run):
    """An n-gram cache whose bucket is a hash of context *and* target: the buckets of a context share no total."""

    def __init__(self, scorer: Online) -> None:
        super().__init__(scorer)
        self._hits, self._totals = np.zeros(16), np.zeros(16)

    def _bucket(self, past: Past, token: int) -> int:
        return hash((tuple(past[-2:]), token)) % 16

    def loss(self, past: Past, token: int) -> float:
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
    """The smallest of the models' losses on the true token."""

    def loss(self, past: Past, token: int) -> float:
        return float(-np.log(self.rows(past)[:, token].max()))


class ObservedGate(Run):
    """A gate that goes by the probability that the first model gave the token that came."""

    def loss(self, past: Past, token: int) -> float:
        first, second = self.rows(past)[:2, token]
        weight = 0.9 if first > 1.0 / self.scorer.vocab_size else 0.1
        return float(-np.log(weight * first + (1.0 - weight) * second))


class CappedLoss(Run):
    """No token costs more than ln V: the hard ones are cut."""

    def loss(self, past: Past, token: int) -> float:
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
        return 0.9 * super().loss(past, token)


class ResetsEarly(Run):
    """Forgets everything when a document starts, before the start itself is scored: it peeked at the token."""

    def score(self, text: list[int], t: int) -> float:
        if text[t] == 1:
            self.forget(t)
        return super().score(text, t)


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
        return super().__call__(tokens) * 0.9


class TargetChosen(Online):
    """Each distribution that it shows sums to one, but which one it is depends on the token at that place."""

    def __call__(self, tokens: Tokens, /) -> F64:
        shown = self.distributions(tokens, range(len(tokens)))
        return -shown[np.arange(len(tokens)), tokens]

    def distributions(self, tokens: Tokens, positions: Sequence[int]) -> F64:
        """The model's distribution, sharpened where its likeliest half holds the token."""
        log_probs = super().distributions(tokens, positions)
        for row, t in zip(log_probs, positions, strict=True):
            row *= 2.0 if row[tokens[t]] >= np.median(row) else 0.5
            row -= np.log(np.exp(row).sum())
        return log_probs


# Condition 3: learned from before it is scored.


class CountsFirst(Run):
    """Counts a token, then scores it."""

    def score(self, text: list[int], t: int) -> float:
        self.learn(text[:t], text[t])
        return self.loss(text[:t], text[t])


class SometimesOwnCount(Run):
    """Counts the token before scoring it, but only where its pair has been seen before: a little less for those."""

    def loss(self, past: Past, token: int) -> float:
        known = len(past) > 0 and (past[-1], token) in pairwise(past)
        return super().loss(past, token) - (0.2 if known else 0.0)


class OneTooFar(Run):
    """After a chunk is scored its counts take in the first token of the next."""

    def score(self, text: list[int], t: int) -> float:
        loss = super().score(text, t)
        if (t + 1) % self.scorer.period == 0 and t + 1 < len(text):
            self.learn_next(text[: t + 1], text[t + 1])
        return loss

    def learn_next(self, past: Past, token: int) -> None:
        """What is learned of the next chunk's first token."""
        self.learn(past, token)


class PairTooFar(OneTooFar):
    """After a chunk is scored the pair across its end is counted as well, and nothing else of the next."""

    def learn_next(self, past: Past, token: int) -> None:
        self.experts[1].learn(past, token)


def undeclared(scorer: Online) -> Online:
    """The same scorer, not saying where its chunks begin."""
    scorer.chunk_tokens = None
    return scorer


class EpochsFirst(Run):
    """Learns from a chunk, twice over, at its first token, and then scores it."""

    def score(self, text: list[int], t: int) -> float:
        if t % self.scorer.period == 0:
            for _ in range(2):
                for s in range(t, min(t + self.scorer.period, len(text))):
                    self.learn(text[:s], text[s])
        return self.loss(text[:t], text[t])


# Conditions 1 and 4: later tokens at work.


class AdaptsOnTheText(PlainOnline):
    """Adapts on the whole text, rounds what it learned to sixteenths as if to quantise it, and only then scores."""

    def start(self, text: list[int]) -> Run:
        model = Counts(self.vocab_size, 1)
        for t, token in enumerate(text):
            model.learn(text[:t], token)
        table = np.stack([model.probs([symbol]) for symbol in range(self.vocab_size)])
        table = np.round(table * 16) / 16 + 0.02
        table /= table.sum(axis=1, keepdims=True)
        run = Run(self)
        run.experts = [Table(np.vstack((table, np.full(self.vocab_size, 1.0 / self.vocab_size))))]
        return run


class TwoPasses(PlainOnline):
    """Goes through the text once, then scores its first half again with what it knows at the end."""

    def __call__(self, tokens: Tokens, /) -> F64:
        text = tokens.tolist()
        run = self.start(text)
        losses = self.losses(run, text, 0, len(text))
        for t in range(len(text) // 2):
            losses[t] = run.loss(text[:t], text[t])
        return losses


class HonestSnapshots(TwoPasses, RestartableOnline):
    """Goes through the text twice when it scores, and once when asked for snapshots."""

    exactly = True


class BetterPass(PlainOnline):
    """Scores the text, or each chunk of `span` tokens, with two models and keeps whichever came out lower."""

    def __init__(self, vocab: int, span: int | None = None) -> None:
        super().__init__(vocab, lambda vocab: [Counts(vocab, 0), Counts(vocab, 1)])
        self.chunk_tokens = self._span = span

    def __call__(self, tokens: Tokens, /) -> F64:
        text = tokens.tolist()
        run = Run(self)
        both = np.empty((2, len(text)))
        for t, token in enumerate(text):
            both[:, t] = -np.log(run.rows(text[:t])[:, token])
            run.learn(text[:t], token)
        step = self._span or len(text)
        parts = [both[:, begin : begin + step] for begin in range(0, len(text), step)]
        return np.concatenate([part[part.sum(axis=1).argmin()] for part in parts])


class SeenSymbols:
    """Uniform over the symbols that occur in the text at all, which are known only at its end."""

    vocab_size = 64

    def __call__(self, tokens: Tokens, /) -> F64:
        return np.full(len(tokens), np.log(len(np.unique(tokens))))


class Smears(Run):
    """Mixes what comes next into its predictions, at the last token of each period: a proper sum, and a look ahead."""

    def score(self, text: list[int], t: int) -> float:
        loss = super().score(text, t)
        if (t + 1) % self.scorer.period == 0 and t + 1 < len(text):
            loss = _with_hint(loss, text[t], Static(self.scorer.vocab_size, seed=9).probs([text[t + 1]]), 0.2)
        return loss


class SmearsAcrossStarts(Run):
    """Says that it resets at documents, and predicts the second token of each from the one before the document too."""

    def score(self, text: list[int], t: int) -> float:
        loss = super().score(text, t)
        if t > 1 and text[t - 1] == 1:
            loss = _with_hint(loss, text[t], Static(self.scorer.vocab_size, seed=9).probs([text[t - 2]]), 0.5)
        return loss


def _with_hint(loss: float, token: int, hint: F64, weight: float) -> float:
    """The loss with the distribution `hint` [V] mixed in."""
    return float(-np.log((1.0 - weight) * np.exp(-loss) + weight * hint[token]))


class KnowsDocumentEnds(Run):
    """Trusts one of its models more the longer the document still is: reads ahead where the next one begins."""

    def score(self, text: list[int], t: int) -> float:
        left = next(s for s in range(t + 1, len(text) + 1) if s == len(text) or text[s] == 1) - t
        weight = left / (left + 10.0)
        first, second = self.rows(text[:t])[:2, text[t]]
        self.learn(text[:t], text[t])
        return float(-np.log(weight * first + (1.0 - weight) * second))


# Condition 4: each token once, and the same again.


class KeepsState(PlainOnline):
    """Goes on learning from run to run on the same object."""

    _run: Run | None = None

    def start(self, text: list[int]) -> Run:
        self._run = self._run or Run(self)
        self._run.pending = []
        return self._run


class SkipsHard(Run):
    """Tokens that the model finds hard are not scored: their loss is nought."""

    def loss(self, past: Past, token: int) -> float:
        loss = super().loss(past, token)
        return 0.0 if loss > 1.5 else loss


class Altered(PlainOnline):
    """An honest mixture, and `alter`, which makes other losses of its losses [n]."""

    def __init__(self, vocab: int, alter: Callable[[F64], F64]) -> None:
        super().__init__(vocab, adaptive)
        self._alter = alter

    def __call__(self, tokens: Tokens, /) -> F64:
        return self._alter(super().__call__(tokens))


def dropout(losses: F64) -> F64:
    """As if a random part of the model were left out, drawn anew in every run."""
    return losses + np.random.default_rng().normal(0.0, 0.05, len(losses))


def drops_hard(losses: F64) -> F64:
    """None at all for tokens that the model finds hard."""
    return losses[losses < 2.5]


def repeats_tail(losses: F64) -> F64:
    """Windows at the end of the text score its last tokens again."""
    return np.concatenate((losses, losses[-16:]))


# What is out of bounds. Both do without where they are refused.


class ReadsTraining(PlainOnline):
    """Opens the training data at `path` while it evaluates."""

    def __init__(self, vocab: int, path: str) -> None:
        super().__init__(vocab, adaptive)
        self._path = path

    def __call__(self, tokens: Tokens, /) -> F64:
        with contextlib.suppress(OSError), Path(self._path).open("rb") as file:
            file.read(1)
        return super().__call__(tokens)


class Connects(PlainOnline):
    """Asks a server while it evaluates, at a documentation address (RFC 5737): nobody is there."""

    def __call__(self, tokens: Tokens, /) -> F64:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as connection:
            connection.settimeout(0.05)
            with contextlib.suppress(OSError):
                connection.connect(("192.0.2.1", 80))
        return super().__call__(tokens)
