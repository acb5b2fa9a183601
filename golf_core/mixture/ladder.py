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
from numpy.typing import NDArray

from golf_core.mixture.weights import ContextWeights, FixedShare, Floats, Integers

DISCOUNT = 0.5
"""Taken off every count, so that the rest goes to tokens not seen in the context."""
TOTAL_BINS = np.array([1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128, 512])
VARIETY_BINS = np.array([0.1, 0.2, 0.35, 0.5, 0.75, 0.999])
CONFIDENCE_BINS = np.array([0.15, 0.4, 0.75])
DISTINCT_BINS = np.array([2, 4, 8])
LENGTH_BINS = np.array([1, 5, 6, 7, 8, 10, 12, 16, 20, 24, 32])
CONFIDENCES = len(CONFIDENCE_BINS) + 1
SEEN_KINDS = (len(TOTAL_BINS) + 1) * (len(VARIETY_BINS) + 1)
TEXT_PRIOR, DOCUMENT_PRIOR, MATCH_PRIOR = 0.2, 0.2, 0.2
NEURAL_SHARE = 0.8
"""The neural expert's prior in the last step: what bounds the loss against it (see `FixedShare`)."""
NEURAL_FROM = 2
"""The neural distribution knows single tokens and pairs better than any count of them."""

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
    """Of each source: the discounted share of the token among what followed the context."""
    match: Floats


@dataclass(frozen=True)
class Situation:
    """What the weights may depend on, of n positions: all of it known before the token."""

    seen: NDArray[np.bool_]
    """[sources, n]: the context has followers."""
    kind: Integers
    """[sources, n]: how many, and how varied."""
    distinct: Integers
    """[sources, n]."""
    confidence: Integers
    """[n]: bin of the largest tilted probability."""
    match_length: Integers
    """[n]; 0 for none."""

    def part(self, where: slice) -> Situation:
        """The same for some of the positions."""
        return Situation(
            self.seen[:, where],
            self.kind[:, where],
            self.distinct[:, where],
            self.confidence[where],
            self.match_length[where],
        )


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


def situation(
    total: Integers, distinct: Integers, largest: Floats, match_length: Integers, use_confidence: bool
) -> Situation:
    """From a source's C and u [sources, n], the largest tilted probability [n] and the match's length [n]."""
    variety = np.digitize(distinct / np.maximum(total, 1), VARIETY_BINS)
    kind = np.digitize(total, TOTAL_BINS) * (len(VARIETY_BINS) + 1) + variety
    confidence = np.digitize(largest, CONFIDENCE_BINS) if use_confidence else np.zeros(len(largest), dtype=np.int64)
    return Situation(total > 0, kind, distinct, confidence, match_length)


def found(count: NDArray[np.int32], total: NDArray[np.int32], distinct: NDArray[np.int32]) -> Floats:
    """Share of a token that was counted `count` times in its context, less the discount; 0 in unseen contexts."""
    kept = np.maximum(count - DISCOUNT, 0.0)
    result: Floats = kept / np.maximum(total - DISCOUNT * distinct, DISCOUNT)
    return result


class Ladder:
    """The weights of every step, and what they have learnt."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        split = len(plan.orders)
        self._steps: dict[str, ContextWeights] = {}
        for source, order in enumerate(plan.orders):
            self._steps[f"text {source}"] = _rung(SEEN_KINDS, TEXT_PRIOR)
            if order >= NEURAL_FROM:
                self._steps[f"neural {source}"] = _rung(SEEN_KINDS, TEXT_PRIOR)
        for source in range(split, plan.sources):
            self._steps[f"document {source}"] = _rung(SEEN_KINDS * CONFIDENCES, DOCUMENT_PRIOR)
        self._steps["match"] = _rung((len(LENGTH_BINS) + 1) * CONFIDENCES, MATCH_PRIOR)
        inputs, others = 4 if plan.tilt else 3, len(plan.shared) - 1
        even = np.full(inputs, 1.0 / inputs)
        self._steps["blend"] = ContextWeights((split + 1) * (len(DISTINCT_BINS) + 1), even, strength=2.0 * inputs)
        self.share = FixedShare(np.array([NEURAL_SHARE] + [(1.0 - NEURAL_SHARE) / others] * others))

    def shares(self) -> dict[str, float]:
        """Weights of the last step as they stand, by name."""
        return dict(zip(self.plan.shared, np.exp(self.share.log_weights).tolist(), strict=True))

    def score(self, experts: Experts, where: Situation) -> tuple[Floats, dict[str, Floats]]:
        """Probabilities [n] of a stretch's realised tokens, from which all weights then learn.

        Also the weights that were in force, [n, parts] by step, with which `flow` gives whole distributions.
        """
        used: dict[str, Floats] = {}
        lessons: list[Callable[[], None]] = []

        def mix(name: str, parts: Sequence[Floats]) -> Floats:
            stacked = np.stack(parts, axis=1)
            if name == "share":
                logs = np.log(stacked)
                weights = np.exp(self.share.of(logs))
                lessons.append(lambda: self.share.learn(logs))
            else:
                step, bucket, seen = self._steps[name], *self._context(name, where)
                weights = step.of(bucket)
                if seen is not None:
                    weights = np.where(seen[:, None], weights, (0.0, 1.0))
            result: Floats = (weights * stacked).sum(axis=1)
            if name != "share":
                posterior = weights * stacked / result[:, None]
                kept = slice(None) if seen is None else seen
                lessons.append(lambda: step.learn(bucket[kept], posterior[kept]))
            used[name] = weights
            return result

        result = flow(self.plan, experts, mix)
        for learn in lessons:
            learn()
        return result, used

    def _context(self, name: str, where: Situation) -> tuple[Integers, NDArray[np.bool_] | None]:
        """Bucket [n] of a step, and where it has anything to say (None: everywhere)."""
        kind, _, number = name.partition(" ")
        bucket, seen = self._bucket(kind, number, where)
        return bucket if self.plan.context_weights else np.zeros_like(bucket), seen

    def _bucket(self, kind: str, number: str, where: Situation) -> tuple[Integers, NDArray[np.bool_] | None]:
        if kind == "blend":
            return _longest(where, len(self.plan.orders)), None
        if kind == "match":
            length = np.digitize(where.match_length, LENGTH_BINS)
            return length * CONFIDENCES + where.confidence, where.match_length > 0
        source = int(number)
        bucket = where.kind[source]
        if kind == "document":
            bucket = bucket * CONFIDENCES + where.confidence
        return bucket, where.seen[source]


def _rung(buckets: int, prior: float) -> ContextWeights:
    return ContextWeights(buckets, np.array([prior, 1.0 - prior]))


def _longest(where: Situation, sources: int) -> Integers:
    """Bucket by how many of the text's contexts are known, and how many followers the longest of these has."""
    known = where.seen[:sources].sum(axis=0)
    longest = np.maximum(known - 1, 0)
    distinct = where.distinct[longest, np.arange(len(longest))]
    bucket: Integers = known * (len(DISTINCT_BINS) + 1) + np.digitize(distinct, DISTINCT_BINS)
    return bucket
