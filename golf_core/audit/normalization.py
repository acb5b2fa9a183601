"""Condition 2: do the losses at a position belong to one distribution?

Every symbol of the alphabet takes the place of the token at a position in turn, the tokens before it unchanged, and
exp(-loss) is summed. A code's sum is at most 1 (Kraft's inequality), a distribution's is 1. Above 1 the scorer is not
normalised, or it looks at the token, or it has learned from the token before scoring it.

Where a scorer shows whole distributions they are summed instead, once it is known that they are fixed before the token
and that the scorer scores with them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from golf_core.audit.report import AuditOptions, DistributionEvidence, FastPath, KraftSum
from golf_core.audit.scorer import F64, Tokens, beyond, differences
from golf_core.audit.trials import Position, Watch, changes

Method = Literal["plain", "snapshot", "distribution"]
Symbols = NDArray[np.int64]
Z_999 = 3.2905
"""Half width of a two-sided 99.9 % normal interval in standard errors."""
FIRST_SAMPLE = 512
"""Symbols that an estimate starts from: half of them the likeliest, the rest drawn. Doubled while it is too wide."""
NEGLIGIBLE = np.log(1e-12)
"""Two log probabilities below this are not told apart: float32 has lost them."""


class Source(Protocol):
    """Where losses of substituted tokens come from."""

    method: Method

    def losses(self, position: Position, symbols: Symbols) -> F64:
        """Losses [names, symbols] of the token at `position` as each of `symbols`."""
        ...

    def expected(self, position: Position) -> Mapping[str, float]:
        """What the scorer's own formula says the sum is."""
        ...


class PlainSource:
    """A plain run from the start for every substitute; earlier losses are watched on the way."""

    method: Method = "plain"

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def losses(self, position: Position, symbols: Symbols) -> F64:
        """One run for each symbol."""
        return np.stack([self._watch.replaced(position, int(s))[1][:, position.index] for s in symbols], axis=1)

    def expected(self, position: Position) -> Mapping[str, float]:
        """Formulas come with snapshots."""
        return {}


class SnapshotSource:
    """Scores each substitute from a snapshot shortly before it. Trusted only after a comparison."""

    method: Method = "snapshot"

    def __init__(self, watch: Watch, positions: Sequence[Position]) -> None:
        self._watch, self._subject, self._tokens = watch, watch.subject, watch.tokens
        wanted = sorted(p.index for p in positions)
        self.snapshots = dict(zip(wanted, self._subject.snapshots(self._tokens, wanted), strict=True))
        self._positions = positions

    def losses(self, position: Position, symbols: Symbols) -> F64:
        """All symbols from one snapshot."""
        snapshot = self.snapshots[position.index]
        return self._subject.score_substitutes(snapshot, self._tokens, position.index, symbols)

    def expected(self, position: Position) -> Mapping[str, float]:
        """From the snapshot, if it has a formula."""
        return self._subject.expected_sums(self.snapshots[position.index], self._tokens, position.index)

    def compared(self, pairs: int, tolerance: float, rng: np.random.Generator) -> FastPath:
        """Every snapshot against the unchanged text, and `pairs` random (position, substitute) against plain runs.

        At each pair the plain scorer is run from the start on the changed text; the snapshot must give its losses
        from its own position to the substituted token, by `score` and by `score_substitutes`.
        """
        sound = True

        def apart(found: F64, expected: F64) -> float:
            nonlocal sound
            difference = differences(found, expected)
            sound = sound and not beyond(difference, expected, tolerance).any()
            return float(difference.max())

        def by_score(position: int, tokens: Tokens, plain: F64) -> float:
            snapshot = self.snapshots[position]
            found = self._subject.score(snapshot, tokens, position + 1)
            return apart(found, plain[:, snapshot.position : position + 1])

        def unchanged() -> float:
            return max(by_score(index, self._tokens, self._watch.base.values) for index in self.snapshots)

        first, most = unchanged(), 0.0
        for _ in range(pairs):
            position = self._positions[int(rng.integers(len(self._positions)))]
            symbol = int(rng.integers(self._subject.vocab))
            changed, plain = self._watch.replaced(position, symbol)
            most = max(most, by_score(position.index, changed, plain))
            most = max(most, apart(self.losses(position, np.array([symbol])), plain[:, [position.index]]))
        return FastPath(pairs, most, first, unchanged(), sound)


def exact_sums(
    source: Source, position: Position, names: Sequence[str], vocab: int, tolerance: float
) -> tuple[list[KraftSum], F64]:
    """The sum over all of the alphabet for each score, and the losses [names, V] that it was made of."""
    losses = source.losses(position, np.arange(vocab))
    expected = source.expected(position)
    return [
        _sum(name, position, losses[row], tolerance, source.method, expected.get(name))
        for row, name in enumerate(names)
    ], losses


def distribution_sums(
    names: Sequence[str], positions: Sequence[Position], log_probs: F64, tolerance: float
) -> list[KraftSum]:
    """Sums of distributions that the scorer gave: ln p [names, positions, V]."""
    return [
        _sum(name, position, -log_probs[row, i], tolerance, "distribution", None)
        for i, position in enumerate(positions)
        for row, name in enumerate(names)
    ]


def estimated_sums(
    source: Source,
    position: Position,
    names: Sequence[str],
    ranking: Symbols,
    options: AuditOptions,
    rng: np.random.Generator,
) -> list[KraftSum]:
    """Stratified estimates with 99.9 % intervals: the top of `ranking` [V] measured, the rest sampled in strata.

    The sample is doubled up to `options.exact_limit` symbols while an interval says neither that the sum is above 1
    nor that it is about 1. An interval's lower end is never below the sum of what was measured, which is certain: no
    probability is negative.
    """
    size = min(FIRST_SAMPLE, options.exact_limit)
    while True:
        sums = _stratified(source, position, names, ranking, size, options, rng)
        told = all(s.low > 1.0 + options.kraft_tolerance or about_one(s, options.estimate_margin) for s in sums)
        if told or size >= options.exact_limit:
            return sums
        size = min(2 * size, options.exact_limit)


def about_one(estimate: KraftSum, margin: float) -> bool:
    """Whether the whole interval lies within `margin` of 1; if it reaches far below, likely symbols were missed."""
    return 1.0 - margin <= estimate.low and estimate.high <= 1.0 + margin


def _stratified(
    source: Source,
    position: Position,
    names: Sequence[str],
    ranking: Symbols,
    size: int,
    options: AuditOptions,
    rng: np.random.Generator,
) -> list[KraftSum]:
    top = ranking[: size // 2]
    parts = [part for part in np.array_split(ranking[len(top) :], options.strata) if len(part)]
    drawn = max(size // 2 // options.strata, 2)
    samples = [rng.choice(part, min(drawn, len(part)), replace=False) for part in parts]
    losses = source.losses(position, np.concatenate([top, *samples]))
    expected = source.expected(position)
    with np.errstate(over="ignore"):
        probs = np.exp(-losses)
    sums = []
    for row, name in enumerate(names):
        total, variance, offset = float(probs[row, : len(top)].sum()), 0.0, len(top)
        for part, sample in zip(parts, samples, strict=True):
            values = probs[row, offset : offset + len(sample)]
            offset += len(sample)
            total += len(part) * float(values.mean())
            if len(sample) < len(part):
                left_out = 1.0 - len(sample) / len(part)
                variance += len(part) ** 2 * left_out * float(values.var(ddof=1)) / len(sample)
        margin = Z_999 * variance**0.5
        low = max(float(probs[row].sum()), total - margin)
        whole = _sum(name, position, losses[row], options.loss_tolerance, source.method, expected.get(name))
        sums.append(dataclasses.replace(whole, total=total, low=low, high=max(total + margin, low), exact=False))
    return sums


def likely_first(tokens: Tokens, position: int, vocab: int) -> Symbols:
    """All symbols [V], those first that followed the token before `position` elsewhere in the text, then the frequent.

    A guess about where probability lies, by which strata are formed; it need not be right, only helpful.
    """
    counts = np.bincount(tokens, minlength=vocab)[:vocab].astype(np.float64)
    if position:
        followers = tokens[1:][tokens[:-1] == tokens[position - 1]]
        counts += len(tokens) * np.bincount(followers, minlength=vocab)[:vocab]
    counts[tokens[position]] = np.inf
    return np.argsort(-counts, kind="stable").astype(np.int64)


def _sum(
    name: str, position: Position, losses: F64, tolerance: float, method: Method, expected: float | None
) -> KraftSum:
    with np.errstate(over="ignore"):
        total = float(np.exp(-losses).sum())
    return KraftSum(
        score=name,
        position=position.index,
        where=position.where,
        total=total,
        low=total,
        high=total,
        exact=True,
        symbols=len(losses),
        free_symbols=int((losses <= tolerance).sum()),
        method=method,
        expected=expected,
    )


class DistributionCheck:
    """Compares the distributions of one text with its losses and with the distributions of changed texts."""

    def __init__(self, watch: Watch, positions: Sequence[Position]) -> None:
        self._watch, self._subject, self._tokens, self._base = watch, watch.subject, watch.tokens, watch.base
        self.positions = sorted(positions, key=lambda p: p.index)
        self._index = [p.index for p in self.positions]
        self.log_probs = self._subject.distributions(self._tokens, self._index)
        """ln p [names, positions, V]."""

    def check(self, checks: int, rng: np.random.Generator) -> DistributionEvidence:
        """Compare with the losses, and at `checks` random (position, symbol) with changed texts."""
        realized = self.log_probs[:, np.arange(len(self._index)), self._tokens[self._index]]
        against = _apart(realized, -self._base.values[:, self._index]).max(axis=1)
        own, later, substituted = np.zeros((3, len(against)))
        order = rng.permutation(len(self.positions))
        for turn in range(checks):
            apart = self._substitute(int(order[turn % len(order)]), turn, rng)
            substituted, own = np.maximum(substituted, apart[0]), np.maximum(own, apart[1])
        for at in order[: max(checks // 4, 1)]:
            later = np.maximum(later, self._later(int(at), rng))
        names = self._base.names
        return DistributionEvidence(
            positions=len(self.positions),
            against_losses=_named(names, against),
            substituted=_named(names, substituted),
            own_token=_named(names, own),
            later_tokens=_named(names, later),
            checked=checks,
        )

    def compared(self, found: DistributionEvidence, swept: Mapping[int, F64]) -> DistributionEvidence:
        """`found` with the losses [names, V] of all substitutes compared too, at positions where they were measured.

        Takes distributions that are the same whatever the token is: they are those of the unchanged text.
        """
        names = self._base.names
        worst = np.array([found.substituted[name] for name in names])
        for index, losses in swept.items():
            worst = np.maximum(worst, _apart(self.log_probs[:, self._index.index(index)], -losses).max(axis=1))
        return dataclasses.replace(
            found, substituted=_named(names, worst), checked=found.checked + sum(v.shape[1] for v in swept.values())
        )

    def _substitute(self, at: int, turn: int, rng: np.random.Generator) -> tuple[F64, F64]:
        """Another symbol at a position: its plain loss against the distribution that it meets, and that against the
        distribution that the original token met.

        Every other turn takes one of the likeliest symbols, the rest any.
        """
        index, vocab = self._index[at], self._subject.vocab
        symbol = int(rng.integers(vocab))
        if turn % 2:
            symbol = int(np.argsort(-self.log_probs[0, at])[int(rng.integers(min(4, vocab)))])
        changed, plain = self._watch.replaced(self.positions[at], symbol)
        row = self.log_probs[:, at]
        met = self._subject.distributions(changed, [index])[:, 0]
        return _apart(met[:, [symbol]], -plain[:, [index]])[:, 0], _apart(met, row).max(axis=1)

    def _later(self, at: int, rng: np.random.Generator) -> F64:
        """Other tokens after a position: the distributions up to it."""
        cut = self._index[at] + 1
        most = np.zeros(len(self._base.names))
        if cut < len(self._tokens):
            for change in changes(self._tokens, cut, self._subject.vocab, rng):
                found = self._subject.distributions(change.tokens, self._index[: at + 1])
                most = np.maximum(most, _apart(found, self.log_probs[:, : at + 1]).max(axis=(1, 2)))
        return most


def _apart(a: F64, b: F64) -> F64:
    apart = differences(a, b)
    apart[(a < NEGLIGIBLE) & (b < NEGLIGIBLE)] = 0.0
    return apart


def _named(names: Sequence[str], values: F64) -> dict[str, float]:
    return {name: float(value) for name, value in zip(names, values, strict=True)}
