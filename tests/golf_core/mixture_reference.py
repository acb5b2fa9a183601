"""The valid mixture again, plainly: token by token, with dictionaries and whole distributions over the vocabulary.

Written from the docstrings of `golf_core.mixture`, for small vocabularies and short texts. It takes constants from
there and nothing else.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from golf_core.config import MixerConfig
from golf_core.data.tokenizer import BOS
from golf_core.mixture import contexts, ladder, mixer

Floats = NDArray[np.float64]
Tokens = Sequence[int]
FIRST_COUNT = 0.5
"""What every token of the vocabulary counts in p_all before any is seen."""
RUNG_STRENGTH = 2.0


def document_start(tokens: Tokens, t: int) -> int:
    """Where the document of position t begins: at its BOS, or with the text."""
    return max((s for s in range(t + 1) if tokens[s] == BOS), default=0)


def bin_of(value: float, edges: Iterable[float]) -> int:
    """How many of the edges the value has reached."""
    return sum(value >= edge for edge in edges)


class Followers:
    """What followed each context: of each order over the whole text, then of each order within the document."""

    def __init__(self, orders: Iterable[int], document_orders: Iterable[int]) -> None:
        self._sources = [(False, order) for order in orders] + [(True, order) for order in document_orders]
        self._text: dict[tuple[int, tuple[int, ...]], Counter[int]] = {}
        self._document: dict[tuple[int, tuple[int, ...]], Counter[int]] = {}

    def at(self, tokens: Tokens, t: int) -> list[Counter[int]]:
        """The counter of each source's context at position t; `tokens` up to t are looked at."""
        if tokens[t] == BOS:
            self._document = {}
        start = document_start(tokens, t)
        found = []
        for within, order in self._sources:
            context = tuple(tokens[max(start, t + 1 - order) : t + 1])
            store = self._document if within else self._text
            found.append(store.setdefault((order, context), Counter()))
        return found


def longest_match(tokens: Tokens, t: int, least: int) -> tuple[int, int]:
    """The token after the latest earlier place that ends like position t, and the match's length; (0, 0) for none."""
    for place in range(t - 1, least - 2, -1):
        if tokens[place - least + 1 : place + 1] == tokens[t - least + 1 : t + 1]:
            length = 0
            while length <= place and length < contexts.LONGEST and tokens[place - length] == tokens[t - length]:
                length += 1
            return tokens[place + 1], length
    return 0, 0


@dataclass
class Moments:
    """Of a bin of document lengths: d(-loss)/d(beta, w) and the loss's second derivatives, summed."""

    gradient: Floats
    curvature: Floats


class PlainTilt:
    """g(y) ~ q(y)^beta (p_doc(y) / p_all(y))^w, dense; BOS counts for no word of a document."""

    def __init__(self, vocab_size: int) -> None:
        bins = len(mixer.LENGTH_BINS) + 1
        self.exponents = [np.array(mixer.START) for _ in range(bins)]
        self._precision = [np.diag(mixer.PRIOR_PRECISION) for _ in range(bins)]
        self._counts = np.full(vocab_size, FIRST_COUNT)
        self.moments = self._no_moments()

    def ratio(self, tokens: Tokens, t: int) -> tuple[Floats, int]:
        """ln(p_doc / p_all) [vocab] at position t, and the bin of the document's length so far."""
        start = document_start(tokens, t)
        words = [token for token in tokens[start : t + 1] if token != BOS]
        of_all = self._counts / self._counts.sum()
        in_document = np.bincount(words, minlength=len(of_all)) if words else np.zeros(len(of_all))
        of_document = (in_document + mixer.SMOOTHING * of_all) / (len(words) + mixer.SMOOTHING)
        return np.log(of_document / of_all), bin_of(t - start, mixer.LENGTH_BINS)

    def distribution(self, log_q: Floats, tokens: Tokens, t: int) -> Floats:
        """g [vocab] at position t."""
        ratio, which = self.ratio(tokens, t)
        beta, weight = self.exponents[which]
        score = beta * log_q + weight * ratio
        unnormalised = np.exp(score - score.max())
        result: Floats = unnormalised / unnormalised.sum()
        return result

    def lesson(self, log_q: Floats, tokens: Tokens, t: int) -> None:
        """Take the derivatives of position t's loss, if it is one that counts."""
        if t % mixer.SAMPLE_EVERY:
            return
        ratio, which = self.ratio(tokens, t)
        g = self.distribution(log_q, tokens, t)
        features = np.stack((log_q, ratio), axis=1)
        mean = g @ features
        self.moments[which].gradient += features[tokens[t + 1]] - mean
        centred = features - mean
        self.moments[which].curvature += (centred * g[:, None]).T @ centred

    def learn(self, targets: Tokens) -> None:
        """A Newton step; then count the chunk's targets."""
        for which, moments in enumerate(self.moments):
            self._precision[which] = self._precision[which] + moments.curvature
            moved = self.exponents[which] + np.linalg.inv(self._precision[which]) @ moments.gradient
            self.exponents[which] = np.array([min(max(v, a), b) for v, (a, b) in zip(moved, mixer.LIMITS, strict=True)])
        self.moments = self._no_moments()
        for token in targets:
            self._counts[token] += 1

    def _no_moments(self) -> list[Moments]:
        return [Moments(np.zeros(2), np.zeros((2, 2))) for _ in self.exponents]


class PlainSteps:
    """Weights of every step and bucket: average posteriors, which move at the end of a stretch."""

    def __init__(self) -> None:
        self._sums: dict[object, Floats] = {}
        self._pending: list[tuple[object, Floats]] = []

    def mix(self, bucket: object, prior: Sequence[float], parts: Sequence[Floats], target: int) -> Floats:
        """The mixture [vocab] of some distributions; what the target teaches is kept for the end of the stretch."""
        sums = self._sums.setdefault(bucket, RUNG_STRENGTH * np.array(prior))
        weights = sums / sums.sum()
        mixed: Floats = sum((w * part for w, part in zip(weights, parts, strict=True)), start=np.zeros(len(parts[0])))
        posterior = np.array([w * part[target] / mixed[target] for w, part in zip(weights, parts, strict=True)])
        self._pending.append((bucket, posterior))
        return mixed

    def learn(self) -> None:
        """End a stretch."""
        for bucket, posterior in self._pending:
            self._sums[bucket] = self._sums[bucket] + posterior
        self._pending = []


class PlainShare:
    """Bayes over the experts token by token; after stretch j each gives up 1/(j + 1), dealt out by the prior."""

    def __init__(self, prior: Sequence[float]) -> None:
        self.prior = np.array(prior)
        self.weights, self._stretches = self.prior.copy(), 0

    def mix(self, parts: Sequence[Floats], target: int) -> Floats:
        """The mixture [vocab]; the weights then become the posterior."""
        mixed: Floats = np.einsum("e,ev->v", self.weights, np.stack(parts))
        self.weights = self.weights * np.array([part[target] for part in parts]) / mixed[target]
        return mixed

    def learn(self) -> None:
        """End a stretch."""
        self._stretches += 1
        given_up = 1.0 / (self._stretches + 1)
        self.weights = (1.0 - given_up) * self.weights + given_up * self.prior


class PlainMixture:
    """The whole mixture of `golf_core.mixture.ladder`'s table over `tokens`, gone through in order."""

    def __init__(self, config: MixerConfig, vocab_size: int, tokens: Tokens) -> None:
        self._config, self._vocab, self._tokens = config, vocab_size, list(tokens)
        self._orders = range(config.orders + 1) if config.orders else range(0)
        self._document_orders = range(config.document_orders + 1) if config.document_orders else range(0)
        self._followers = Followers(self._orders, self._document_orders)
        self.tilt = PlainTilt(vocab_size)
        self._steps = PlainSteps()
        others = 3 if config.tilt else 2
        self.share = PlainShare([ladder.NEURAL_SHARE] + [(1.0 - ladder.NEURAL_SHARE) / others] * others)
        self._chunk_begin = self._target = 0

    def run(self, log_q: Floats, chunk_ends: Sequence[int], halts: Sequence[int] = ()) -> Floats:
        """Distributions [n, vocab] of all positions; ln q is given for each, and where each chunk ends.

        At `halts`, too, the weights learn from what was scored since they last did.
        """
        rows = []
        for t in range(len(self._tokens) - 1):
            rows.append(self._step(t, log_q[t]))
            done = t + 1 - self._chunk_begin
            if done % self._config.update_tokens == 0 or t + 1 in (*chunk_ends, *halts):
                self._steps.learn()
                self.share.learn()
            if t + 1 in chunk_ends:
                if self._config.tilt:
                    self.tilt.learn(self._tokens[self._chunk_begin + 1 : t + 2])
                self._chunk_begin = t + 1
        return np.array(rows)

    def _step(self, t: int, log_q: Floats) -> Floats:
        """The distribution at position t; then everything that learns at once learns from token t + 1."""
        tokens, config = self._tokens, self._config
        self._target = target = tokens[t + 1]
        neural = np.exp(log_q)
        tilted = self.tilt.distribution(log_q, tokens, t) if config.tilt else neural
        confidence = bin_of(tilted.max(), ladder.CONFIDENCE_BINS) if config.confidence else 0
        followers = self._followers.at(tokens, t)
        of_text = list(zip(self._orders, followers, strict=False))
        of_document = list(zip(self._document_orders, followers[len(of_text) :], strict=True))

        from_uniform = np.full(self._vocab, 1.0 / self._vocab)
        from_neural = tilted
        for order, counter in of_text:
            from_uniform = self._rung("text", order, counter, from_uniform, None)
            if order >= ladder.NEURAL_FROM:
                from_neural = self._rung("neural", order, counter, from_neural, None)
        models = [neural, tilted] if config.tilt else [neural]
        blend = from_neural
        if of_text:
            known = [counter for _, counter in of_text if counter]
            variety = bin_of(len(known[-1]), ladder.DISTINCT_BINS) if known else 0
            parts = [*models, from_uniform, from_neural]
            bucket = self._bucket("blend", (len(known), variety))
            blend = self._steps.mix(bucket, [1.0] * len(parts), parts, target)
        document = blend
        for order, counter in of_document:
            document = self._rung("document", order, counter, document, confidence)
        if config.match_tokens:
            document = self._matched(t, document, confidence)
        result = self.share.mix([*models, blend, document], target)
        for counter in followers:
            counter[target] += 1
        if config.tilt:
            self.tilt.lesson(log_q, tokens, t)
        return result

    def _rung(self, kind: str, order: int, counter: Counter[int], below: Floats, confidence: int | None) -> Floats:
        """What followed a context, less the discount, mixed into the result of the rung before."""
        if not counter:
            return below
        total, distinct = sum(counter.values()), len(counter)
        found = np.zeros(self._vocab)
        for token, count in counter.items():
            found[token] = (count - ladder.DISCOUNT) / (total - ladder.DISCOUNT * distinct)
        seen = (bin_of(total, ladder.TOTAL_BINS), bin_of(distinct / total, ladder.VARIETY_BINS))
        prior = ladder.TEXT_PRIOR if confidence is None else ladder.DOCUMENT_PRIOR
        return self._mixed(self._bucket((kind, order), (seen, confidence)), prior, found, below)

    def _matched(self, t: int, below: Floats, confidence: int) -> Floats:
        predicted, length = longest_match(self._tokens, t, self._config.match_tokens)
        if not length:
            return below
        certain = np.zeros(self._vocab)
        certain[predicted] = 1.0
        bucket = self._bucket("match", (bin_of(length, ladder.LENGTH_BINS), confidence))
        return self._mixed(bucket, ladder.MATCH_PRIOR, certain, below)

    def _mixed(self, bucket: object, prior: float, expert: Floats, below: Floats) -> Floats:
        return self._steps.mix(bucket, (prior, 1.0 - prior), (expert, below), self._target)

    def _bucket(self, step: object, context: object) -> object:
        return (step, context if self._config.context_weights else None)


def losses(distributions: Floats, tokens: Tokens) -> list[float]:
    """-ln p of each realised token, from the distributions [n, vocab] of tokens[1:]."""
    return [-math.log(row[token]) for row, token in zip(distributions, tokens[1:], strict=True)]
