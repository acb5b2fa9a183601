"""Further runs of the scorer that tell how it goes through a text.

Condition 4: the same text gets the same losses, whatever was scored before, and each token one. Beside it: what early
tokens do to later losses, whether an earlier document bears on a later one, and whether snapshots, which make an audit
fast, agree with the plain scorer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from golf_core.audit.causality import Position, Watch
from golf_core.audit.report import FastPath, Repeatability
from golf_core.audit.scorer import Losses, ScorerError, Snapshot, Subject, Tokens, WrongCountError, beyond, differences

BLOCK = 8
"""Tokens changed at once."""
QUIET = 6
"""Losses so soon after a token may depend on it as context; later ones only if something was kept."""


def repeatability(
    subject: Subject, tokens: Tokens, base: Losses, tolerance: float, rng: np.random.Generator
) -> Repeatability:
    """Runs A again, another text B, then A; and where fresh scorers can be built, A on two of them.

    Without fresh scorers, a scorer whose second run differs at once may draw random numbers or keep state: the two
    are told apart only by what a fresh one does. Afterwards a scorer that keeps state is renewed for every run.
    """

    def apart(a: Losses, b: Losses) -> tuple[float, bool]:
        found = differences(a.values, b.values)
        return float(found.max()), bool(beyond(found, b.values, tolerance).any())

    again = apart(subject.run(tokens), base)
    subject.run(rng.permutation(tokens))
    after = apart(subject.run(tokens), base)
    fresh = against = None
    random, keeps = again[1], after[1] and not again[1]
    if subject.fresh is not None:
        one, two = subject.run(tokens, subject.fresh()), subject.run(tokens, subject.fresh())
        fresh, against = apart(one, two), apart(one, base)
        random = fresh[1] or (against[1] and not again[1] and not after[1])
        keeps = (again[1] or after[1]) and not fresh[1]
        if keeps:
            subject.renew()
    return Repeatability(
        same_object=again[0],
        after_other_text=after[0],
        fresh=fresh[0] if fresh else None,
        fresh_against_first=against[0] if against else None,
        keeps_state=keeps,
        random=random,
        remembers={},
        prefix=None,
        prefix_tokens=None,
    )


def prefix_difference(subject: Subject, tokens: Tokens, base: Losses, length: int) -> float | None:
    """Largest difference in nats of the first `length` losses when they are scored alone; None if that fails."""
    try:
        alone = subject.run(tokens[:length])
    except WrongCountError:
        raise
    except ScorerError:
        return None  # a scorer may refuse short texts
    return float(differences(alone.values, base.values[:, :length]).max()) if length else 0.0


def noise_of(found: Repeatability) -> float:
    """How far losses move by themselves, in nats: 0 for a scorer that can be renewed to a fixed start."""
    if found.random:
        return max(found.same_object, found.after_other_text, found.fresh or 0.0)
    return 0.0


def usable(found: Repeatability, subject: Subject) -> bool:
    """Whether losses of changed texts can be compared at all: the scorer does not carry state that stays."""
    return not found.keeps_state or subject.fresh is not None


@dataclass(frozen=True)
class Memory:
    """What was seen of a scorer's learning."""

    remembers: tuple[bool, ...]
    """For each score, whether tokens bear on losses more than `QUIET` tokens after them. If not, nothing is learned."""
    updates: tuple[int, ...]
    """Positions, ascending, at which learning seems to take effect. An update may have come a token or two before,
    as not every loss shows it."""


def look_back(
    subject: Subject, tokens: Tokens, base: Losses, tolerance: float, rng: np.random.Generator, blocks: int = 6
) -> Memory:
    """Change blocks of tokens, one at a time, and see which later losses change.

    Losses right after a block change with the context; if they come to rest and change again later, what was learned
    from the block took effect there.
    """
    n, updates = len(tokens), set[int]()
    remembers = np.zeros(len(base.names), dtype=bool)
    for begin in np.linspace(base.first, n * (blocks - 1) // (blocks + 1), blocks).astype(int).tolist():
        changed = tokens.copy()
        end = min(begin + BLOCK, n)
        changed[begin:end] = (tokens[begin:end] + rng.integers(1, max(subject.vocab, 2), end - begin)) % subject.vocab
        expected = base.values[:, end:]
        wrong = beyond(differences(subject.run(changed).values[:, end:], expected), expected, tolerance)
        remembers |= wrong[:, QUIET:].any(axis=1)
        moved = np.flatnonzero(wrong.any(axis=0))
        onsets = moved[np.diff(np.concatenate(([-1], moved))) > QUIET]
        # Only the first: later ones may be the next updates, or the same one showing again.
        updates |= {end + int(onset) for onset in onsets[:1]}
    return Memory(tuple(bool(r) for r in remembers), tuple(sorted(updates)))


def documents_apart(subject: Subject, tokens: Tokens, base: Losses, bos: int, rng: np.random.Generator) -> float | None:
    """Largest change in nats of losses after a document's start when all documents before it change.

    The documents' starts stay where they are. The loss of the start itself is left out: that a document ends may be
    told from it. None where the text holds no two documents.
    """
    starts = np.flatnonzero(tokens == bos)
    starts = starts[(starts > base.first) & (starts + 1 < len(tokens))]
    if not len(starts):
        return None
    largest = 0.0
    others = np.delete(np.arange(subject.vocab), bos) if bos < subject.vocab else np.arange(subject.vocab)
    for start in np.unique(starts[[0, len(starts) // 2, -1]]):
        for _ in range(2):
            changed = tokens.copy()
            free = np.flatnonzero(tokens[:start] != bos)
            changed[free] = rng.choice(others, len(free))
            late = subject.run(changed).values[:, start + 1 :]
            largest = max(largest, float(differences(late, base.values[:, start + 1 :]).max()))
    return largest


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
