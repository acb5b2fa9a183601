"""Where a scorer shows whole distributions: are they fixed before the token, and does it score with them?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from golf_core.audit.causality import Watch
from golf_core.audit.changes import changes
from golf_core.audit.positions import Position
from golf_core.audit.report import DistributionEvidence
from golf_core.audit.scorer import Tokens
from golf_core.audit.subject import F64, Losses, Subject, differences

NEGLIGIBLE = np.log(1e-12)
"""Two log probabilities below this are not told apart: float32 has lost them."""


class DistributionCheck:
    """Compares the distributions of one text with its losses and with the distributions of changed texts."""

    def __init__(self, subject: Subject, tokens: Tokens, base: Losses, positions: Sequence[Position]) -> None:
        self._subject, self._tokens, self._base = subject, tokens, base
        self.positions = sorted(positions, key=lambda p: p.index)
        self._index = [p.index for p in self.positions]
        self.log_probs = subject.distributions(tokens, self._index)
        """ln p [names, positions, V]."""

    def check(self, checks: int, watch: Watch, rng: np.random.Generator) -> DistributionEvidence:
        """Compare with the losses, and at `checks` random (position, symbol) with changed texts."""
        realized = self.log_probs[:, np.arange(len(self._index)), self._tokens[self._index]]
        against = _apart(realized, -self._base.values[:, self._index]).max(axis=1)
        own, later, substituted = np.zeros((3, len(against)))
        order = rng.permutation(len(self.positions))
        for turn in range(checks):
            apart = self._substitute(int(order[turn % len(order)]), turn, watch, rng)
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

    def _substitute(self, at: int, turn: int, watch: Watch, rng: np.random.Generator) -> tuple[F64, F64]:
        """Another symbol at a position: its plain loss against the distribution that it meets, and that against the
        distribution that the original token met.

        Every other turn takes one of the likeliest symbols, the rest any.
        """
        index, vocab = self._index[at], self._subject.vocab
        symbol = int(rng.integers(vocab))
        if turn % 2:
            symbol = int(np.argsort(-self.log_probs[0, at])[int(rng.integers(min(4, vocab)))])
        changed = self._tokens.copy()
        changed[index] = symbol
        plain = self._subject.run(changed).values
        watch.whole(plain, self.positions[at], "token replaced", single=True)
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
