"""Snapshots make an audit fast; here they are compared with the plain scorer before anything is believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from golf_core.audit.causality import Watch
from golf_core.audit.positions import Position
from golf_core.audit.report import FastPath
from golf_core.audit.scorer import Snapshot, Tokens
from golf_core.audit.subject import Losses, Subject, beyond, differences


def take_snapshots(subject: Subject, tokens: Tokens, positions: Sequence[Position]) -> dict[int, Snapshot]:
    """The scorer's snapshots by the position that they serve."""
    wanted = sorted(p.index for p in positions)
    return dict(zip(wanted, subject.snapshots(tokens, wanted), strict=True))


class Comparison:
    """Compares answers of snapshots with plain losses."""

    def __init__(self, subject: Subject, tokens: Tokens, base: Losses, tolerance: float, watch: Watch) -> None:
        self._subject, self._tokens, self._base = subject, tokens, base
        self._tolerance, self._watch = tolerance, watch

    def check(
        self,
        snapshots: Mapping[int, Snapshot],
        positions: Sequence[Position],
        pairs: int,
        rng: np.random.Generator,
    ) -> FastPath:
        """Every snapshot against the unchanged text, and `pairs` random (position, substitute) against plain runs.

        At each pair the plain scorer is run from the start on the changed text; the snapshot must give its losses
        from its own position to the substituted token, by `score` and by `score_substitutes`.
        """
        sound, base_apart = True, 0.0
        for index, snapshot in snapshots.items():
            expected = self._base.values[:, snapshot.position : index + 1]
            apart = self._apart(self._subject.score(snapshot, self._tokens, index + 1), expected)
            sound, base_apart = sound and apart[1], max(base_apart, apart[0])
        apart_most = 0.0
        for _ in range(pairs):
            position = positions[int(rng.integers(len(positions)))]
            apart = self._pair(snapshots[position.index], position, int(rng.integers(self._subject.vocab)))
            sound, apart_most = sound and apart[1], max(apart_most, apart[0])
        unchanged = 0.0
        for index, snapshot in snapshots.items():
            expected = self._base.values[:, snapshot.position : index + 1]
            apart = self._apart(self._subject.score(snapshot, self._tokens, index + 1), expected)
            sound, unchanged = sound and apart[1], max(unchanged, apart[0])
        return FastPath(pairs, apart_most, base_apart, unchanged, sound)

    def _pair(self, snapshot: Snapshot, position: Position, symbol: int) -> tuple[float, bool]:
        changed = self._tokens.copy()
        changed[position.index] = symbol
        plain = self._subject.run(changed).values
        self._watch.whole(plain, position, "token replaced", single=True)
        expected = plain[:, snapshot.position : position.index + 1]
        by_score = self._apart(self._subject.score(snapshot, changed, position.index + 1), expected)
        substitute = self._subject.score_substitutes(snapshot, self._tokens, position.index, np.array([symbol]))
        by_substitute = self._apart(substitute, expected[:, -1:])
        return max(by_score[0], by_substitute[0]), by_score[1] and by_substitute[1]

    def _apart(self, found: np.ndarray, expected: np.ndarray) -> tuple[float, bool]:
        apart = differences(found, expected)
        return float(apart.max()), not beyond(apart, expected, self._tolerance).any()
