"""Small predictors over small alphabets, of which the specimens are made. Each is one distribution at every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Past = Sequence[int]


class Expert(Protocol):
    """Predicts the next token from those before it, and learns when it is told to."""

    def probs(self, past: Past) -> F64:
        """Probabilities [V] of the next token after `past`; not to be changed by the caller."""
        ...

    def learn(self, past: Past, token: int) -> None:
        """`token` followed `past`."""
        ...


class Table:
    """Fixed distributions [V + 1, V], one for each last token and the last row for none. It learns nothing."""

    def __init__(self, rows: F64) -> None:
        self._rows = rows

    def probs(self, past: Past) -> F64:
        return self._rows[past[-1] if past else -1]

    def learn(self, past: Past, token: int) -> None:
        pass


class Static(Table):
    """Fixed random distributions, one for each of the last tokens (`order` 1) or one for all (0)."""

    def __init__(self, vocab: int, seed: int, order: int = 1, sharpness: float = 1.0) -> None:
        rows = np.random.default_rng(seed).dirichlet(np.full(vocab, 1.0 / sharpness), vocab + 1)
        rows = 0.98 * rows + 0.02 / vocab
        super().__init__(rows if order else np.broadcast_to(rows[-1], rows.shape))


class Uniform(Table):
    """Every symbol alike."""

    def __init__(self, vocab: int) -> None:
        super().__init__(np.full((vocab + 1, vocab), 1.0 / vocab))


class Counts:
    """Smoothed counts of what followed the last `order` tokens (Krichevsky and Trofimov's estimator at 1/2).

    With a `decay` below 1 older counts weigh less.
    """

    def __init__(self, vocab: int, order: int, smoothing: float = 0.5, decay: float = 1.0) -> None:
        self._vocab, self._order, self._smoothing, self._decay = vocab, order, smoothing, decay
        self._counts: dict[tuple[int, ...], F64] = {}
        self._empty = np.full(vocab, 1.0 / vocab)

    def _context(self, past: Past) -> tuple[int, ...]:
        return tuple(past[-self._order :]) if self._order else ()

    def probs(self, past: Past) -> F64:
        counts = self._counts.get(self._context(past))
        if counts is None:
            return self._empty
        return (counts + self._smoothing) / (counts.sum() + self._smoothing * self._vocab)

    def learn(self, past: Past, token: int) -> None:
        counts = self._counts.setdefault(self._context(past), np.zeros(self._vocab))
        counts *= self._decay
        counts[token] += 1.0


class HashedCounts(Counts):
    """Counts whose contexts share few buckets: a collision merges contexts, and each bucket still sums to one."""

    def __init__(self, vocab: int, order: int, buckets: int, smoothing: float = 0.5) -> None:
        super().__init__(vocab, order, smoothing)
        self._buckets = buckets

    def _context(self, past: Past) -> tuple[int, ...]:
        value = 0
        for token in past[-self._order :]:
            value = (value * 31 + token + 7) % 1_000_003
        return (value % self._buckets,)


class Match:
    """Says almost surely what followed the longest known context: very sharp where text repeats, uniform elsewhere."""

    def __init__(self, vocab: int, lengths: Sequence[int] = (3, 2), doubt: float = 1e-12) -> None:
        self._vocab, self._lengths, self._doubt = vocab, lengths, doubt
        self._next: dict[tuple[int, ...], int] = {}
        self._uniform = np.full(vocab, 1.0 / vocab)

    def probs(self, past: Past) -> F64:
        for length in self._lengths:
            follower = self._next.get(tuple(past[-length:]))
            if follower is not None:
                probs = np.full(self._vocab, self._doubt / (self._vocab - 1))
                probs[follower] = 1.0 - self._doubt
                return probs
        return self._uniform

    def learn(self, past: Past, token: int) -> None:
        for length in self._lengths:
            if len(past) >= length:
                self._next[tuple(past[-length:])] = token


class Softmax:
    """Softmax regression on the last token in float32, learning by gradient steps: a model small enough to adapt."""

    def __init__(self, vocab: int, seed: int, lr: float = 0.3, temperature: float = 1.0) -> None:
        rng = np.random.default_rng(seed)
        self.weights = rng.normal(0, 1.0, (vocab + 1, vocab)).astype(np.float32)
        self._lr, self._temperature = np.float32(lr), np.float32(temperature)

    def probs(self, past: Past) -> F64:
        logits = self.weights[past[-1] if past else -1] / self._temperature
        raised = np.exp(logits - logits.max())
        return np.asarray(raised / raised.sum(), dtype=np.float64)

    def learn(self, past: Past, token: int) -> None:
        gradient = self.probs(past).astype(np.float32)
        gradient[token] -= 1.0
        self.weights[past[-1] if past else -1] -= self._lr * gradient


def adaptive(vocab: int) -> list[Expert]:
    """Counts of order 0 and 1 beside a fixed model."""
    return [Counts(vocab, 0), Counts(vocab, 1), Static(vocab, seed=1)]


def fixed_first(vocab: int) -> list[Expert]:
    """The same with the fixed model first."""
    return [Static(vocab, seed=1), Counts(vocab, 0), Counts(vocab, 1)]


def fixed(vocab: int) -> list[Expert]:
    """Two fixed models."""
    return [Static(vocab, seed=1), Static(vocab, seed=2)]
