"""Weights of a mixture, learnt from what has been scored. No learning rate in either of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class ContextWeights:
    """Mixing weights [buckets, experts]: each bucket of contexts has its own, found by online expectation maximisation.

    After every stretch of text an expert's weight becomes its average posterior probability of having produced the
    tokens seen so far in that bucket (Cappe and Moulines 2009, with step 1/n; `prior` counts as `strength` tokens).
    It approaches the best fixed convex combination; nothing needs tuning. `prior` is [experts], or [buckets, experts].
    """

    def __init__(self, buckets: int, prior: Floats, strength: float = 2.0) -> None:
        # A row for each expert, here and in what is handed out: numpy is fast along long rows.
        self._sums: Floats = np.array(np.broadcast_to(prior, (buckets, np.shape(prior)[-1])).T * strength, order="C")
        self._weights: Floats = self._sums / self._sums.sum(axis=0)

    def of(self, bucket: Integers) -> Floats:
        """The weights [n, experts] in force for `bucket` [n]."""
        return self._weights.take(bucket, axis=1).T

    def learn(self, bucket: Integers, posterior: Floats) -> None:
        """Count posteriors [n, experts], whose rows sum to one, for `bucket` [n]."""
        for sums, column in zip(self._sums, posterior.T, strict=True):
            sums += np.bincount(bucket, column, minlength=len(sums))
        np.divide(self._sums, self._sums.sum(axis=0), out=self._weights)


class FixedShare:
    """Switches between experts (Herbster and Warmuth 1998): exact Bayes inside a stretch, sharing after each.

    After stretch number j each expert gives up 1/(j + 1) of its weight, which is dealt out by the prior. With prior
    p on an expert the total loss over J stretches exceeds that expert's by at most -ln p + (1 - p) ln(J + 1) nats,
    whatever the text (`bound`).
    """

    def __init__(self, prior: Floats) -> None:
        self._prior: Floats = np.log(np.asarray(prior, dtype=np.float64))
        self.log_weights: Floats = self._prior.copy()
        self._stretches = 0

    def of(self, log_probs: Floats) -> Floats:
        """Log weights [n, experts] in force at each of n tokens with ln p [n, experts], from those before it."""
        # Summed without a token's own, not with it and less it again: not even its rounding may move the weights.
        earlier = np.zeros_like(log_probs)
        np.cumsum(log_probs[:-1], axis=0, out=earlier[1:])
        return _normalized(self.log_weights + earlier)

    def learn(self, log_probs: Floats) -> None:
        """End a stretch whose tokens had ln p [n, experts]."""
        posterior = _normalized((self.log_weights + log_probs.sum(axis=0))[None])[0]
        self._stretches += 1
        share = 1.0 / (self._stretches + 1)
        self.log_weights = np.logaddexp(np.log1p(-share) + posterior, np.log(share) + self._prior)

    def bound(self, expert: int) -> float:
        """By how many nats the total loss so far can exceed the expert's."""
        p = float(np.exp(self._prior[expert]))
        return float(-np.log(p) + (1.0 - p) * np.log(self._stretches + 1.0))


def log_sum(values: Floats) -> Floats:
    """ln of the sum of exp over the last axis."""
    most = values.max(axis=-1)
    result: Floats = most + np.log(np.exp(values - most[..., None]).sum(axis=-1))
    return result


def _normalized(log_weights: Floats) -> Floats:
    result: Floats = log_weights - log_sum(log_weights)[:, None]
    return result
