"""How the experts are put together: a chain of small mixtures, each of whose weights depends on its context.

Every step mixes distributions linearly with weights that are fixed before the token is known, so every
step's result is a distribution again. A *rung* mixes what followed one context so far (with an absolute discount) into
the result of the rung before; its weight depends on how often the context was seen and how varied its followers were,
which is the escape probability of PPM, learnt (Cleary and Witten 1984; Jelinek and Mercer 1980).

    text      uniform -> the text's contexts, shortest first
    neural    the tilted neural distribution -> the text's contexts of two tokens and more
    blend     neural, tilted, text's and neural's result, by the longest context known (without counts of the
              text: the tilted distribution)
    document  blend -> the document's contexts, shortest first -> the longest match
    share     neural, tilted, blend, document's result: whichever is best of late
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

DISCOUNT = 0.5
"""Taken off every count, so that the rest goes to tokens not seen in the context."""
TOTAL_BINS = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128, 512)
VARIETY_BINS = (0.1, 0.2, 0.35, 0.5, 0.75, 0.999)
CONFIDENCE_BINS = (0.15, 0.4, 0.75)
DISTINCT_BINS = (2, 4, 8)
LENGTH_BINS = (1, 5, 6, 7, 8, 10, 12, 16, 20, 24, 32)
CONFIDENCES = len(CONFIDENCE_BINS) + 1
SEEN_KINDS = (len(TOTAL_BINS) + 1) * (len(VARIETY_BINS) + 1)
TEXT_PRIOR, DOCUMENT_PRIOR, MATCH_PRIOR = 0.2, 0.2, 0.2
NEURAL_SHARE = 0.8
"""The neural expert's prior in the last step: what bounds the loss against it (see `FixedShare`)."""
NEURAL_FROM = 2
"""The neural distribution knows single tokens and pairs better than any count of them."""

Floats = NDArray[np.float64]
Mix = Callable[[str, Sequence[Floats]], Floats]


@dataclass(frozen=True)
class Plan:
    """Which experts there are: orders of the sources, and the optional ones."""

    orders: range
    document_orders: range
    tilt: bool
    match: bool
    confidence: bool
    context_weights: bool

    @property
    def shared(self) -> tuple[str, ...]:
        """Names of what the last step mixes."""
        return ("neural", *(("tilted",) if self.tilt else ()), "blend", "document")

    @property
    def sources(self) -> int:
        """How many sources of counts there are."""
        return len(self.orders) + len(self.document_orders)


@dataclass(frozen=True)
class Experts:
    """What each expert gives to the token asked about. Arrays are [n] for realised tokens, [n, vocab] for all."""

    uniform: Floats
    neural: Floats
    tilted: Floats
    found: Sequence[Floats]
    """For each source, the discounted share of the token among what followed the context."""
    match: Floats


def flow(plan: Plan, experts: Experts, mix: Mix) -> Floats:
    """The whole mixture of the module's table. `mix` combines the given distributions with the named step's weights."""
    split = len(plan.orders)
    result = experts.uniform
    for source in range(split):
        result = mix(f"text {source}", (experts.found[source], result))
    text, result = result, experts.tilted
    for source, order in enumerate(plan.orders):
        if order >= NEURAL_FROM:
            result = mix(f"neural {source}", (experts.found[source], result))
    neural = (experts.neural, experts.tilted) if plan.tilt else (experts.neural,)
    if split:
        result = blend = mix("blend", (*neural, text, result))
    else:
        blend = result
    for source in range(split, plan.sources):
        result = mix(f"document {source}", (experts.found[source], result))
    if plan.match:
        result = mix("match", (experts.match, result))
    return mix("share", (*neural, blend, result))


class Buckets:
    """Which weights each step uses, of n positions: all of it known before the token."""

    def __init__(self, plan: Plan, device: torch.device) -> None:
        self._plan = plan
        bins = (TOTAL_BINS, VARIETY_BINS, CONFIDENCE_BINS, DISTINCT_BINS, LENGTH_BINS)
        self._total, self._variety, self._confidence, self._distinct, self._length = (
            torch.tensor(some, dtype=torch.float64, device=device) for some in bins
        )

    def of(self, total: Tensor, distinct: Tensor, largest: Tensor, match_length: Tensor) -> Tensor:
        """Buckets [sources + 2, n] int16 of the sources' rungs, the match's and the blend.

        From the sources' C and u [sources, n], the largest tilted probability [n] and the match's length [n]. A rung's
        bucket 0 means that there is nothing to mix in.
        """
        plan, split = self._plan, len(self._plan.orders)
        confidence = _binned(largest, self._confidence) if plan.confidence else torch.zeros_like(match_length)
        variety = _binned(distinct.double() / total.clamp_min(1), self._variety)
        kind = _binned(total, self._total) * (len(VARIETY_BINS) + 1) + variety
        kind[split:] = kind[split:] * CONFIDENCES + confidence
        match = _binned(match_length, self._length) * CONFIDENCES + confidence
        rungs = torch.cat((kind.where(total > 0, 0), match.where(match_length > 0, 0)[None]))
        blend = self._longest(total[:split] > 0, distinct[:split])
        if not plan.context_weights:
            rungs, blend = rungs.clamp_max(1), torch.zeros_like(blend)
        return torch.cat((rungs, blend[None])).short()

    def _longest(self, seen: Tensor, distinct: Tensor) -> Tensor:
        """By how many of the text's contexts [split, n] are known, and how many followers the longest of these has."""
        known = seen.sum(dim=0)
        if not len(seen):
            return known
        followers = distinct.gather(0, (known - 1).clamp_min(0)[None])[0]
        return known * (len(DISTINCT_BINS) + 1) + _binned(followers, self._distinct)


def found(count: Tensor, total: Tensor, distinct: Tensor) -> Tensor:
    """Share of a token that was counted `count` times in its context, less the discount; 0 in unseen contexts."""
    return (count.double() - DISCOUNT).clamp_min(0.0) / (total - DISCOUNT * distinct.double()).clamp_min(DISCOUNT)


class Ladder:
    """The weights of every step, and what they have learnt."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        split = len(plan.orders)
        # Each with its row of the buckets.
        self._steps: dict[str, tuple[ContextWeights, int]] = {}
        for source, order in enumerate(plan.orders):
            self._steps[f"text {source}"] = _rung(SEEN_KINDS, TEXT_PRIOR), source
            if order >= NEURAL_FROM:
                self._steps[f"neural {source}"] = _rung(SEEN_KINDS, TEXT_PRIOR), source
        for source in range(split, plan.sources):
            self._steps[f"document {source}"] = _rung(SEEN_KINDS * CONFIDENCES, DOCUMENT_PRIOR), source
        self._steps["match"] = _rung((len(LENGTH_BINS) + 1) * CONFIDENCES, MATCH_PRIOR), plan.sources
        inputs, others = 4 if plan.tilt else 3, len(plan.shared) - 1
        even = np.full(inputs, 1.0 / inputs)
        blend = ContextWeights((split + 1) * (len(DISTINCT_BINS) + 1), even, strength=2.0 * inputs)
        self._steps["blend"] = blend, plan.sources + 1
        self.share = FixedShare(np.array([NEURAL_SHARE] + [(1.0 - NEURAL_SHARE) / others] * others))

    def shares(self) -> dict[str, float]:
        """Weights of the last step as they stand, by name."""
        return dict(zip(self.plan.shared, np.exp(self.share.log_weights).tolist(), strict=True))

    def score(self, experts: Experts, buckets: Integers) -> tuple[Floats, dict[str, Floats]]:
        """Probabilities [n] of a stretch's realised tokens, from which all weights then learn.

        Also the weights that were in force, [n, parts] by step, with which `flow` gives whole distributions.
        """
        used: dict[str, Floats] = {}
        lessons: list[Callable[[], None]] = []

        def mix(name: str, parts: Sequence[Floats]) -> Floats:
            stacked = np.array(parts).T
            if name == "share":
                logs = np.log(stacked)
                weights = np.exp(self.share.of(logs))
                lessons.append(lambda: self.share.learn(logs))
            else:
                step, row = self._steps[name]
                weights = step.of(buckets[row])
            used[name] = weights
            weighted = weights * stacked
            result: Floats = weighted.sum(axis=1)
            if name != "share":
                lessons.append(lambda: step.learn(buckets[row], weighted / result[:, None]))
            return result

        result = flow(self.plan, experts, mix)
        for learn in lessons:
            learn()
        return result, used


def _rung(buckets: int, prior: float) -> ContextWeights:
    """Weights of an expert and of what lies below it; bucket 0 gives all to the latter, and so does what it learns."""
    priors = np.tile((prior, 1.0 - prior), (buckets, 1))
    priors[0] = 0.0, 1.0
    return ContextWeights(buckets, priors)


def _binned(values: Tensor, bins: Tensor) -> Tensor:
    return torch.bucketize(values.double(), bins, right=True)


# --- weights by context ---

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
