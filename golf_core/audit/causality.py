"""Condition 1: do later tokens change earlier losses?

With the tokens before a cut unchanged, every loss before the cut must stay as it is, whatever stands at the cut and
after it. Every plain run of a changed text is compared over all positions before its cut, so one run is a test of
hundreds of positions at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from golf_core.audit.positions import Change, Position, changes
from golf_core.audit.report import CausalEvidence, Influence
from golf_core.audit.scorer import F64, Clock, Losses, Snapshot, Subject, Tokens, beyond, differences

KEPT = 24
"""Influences of each score that go into the report; the rest is counted."""


class Watch:
    """Compares losses of changed texts with those of the original and keeps what differs."""

    def __init__(self, base: Losses, tolerance: float) -> None:
        self.base, self.tolerance = base, tolerance
        self.runs, self.snapshot_runs = 0, 0
        self.influences: list[Influence] = []
        self.largest = dict.fromkeys(base.names, 0.0)

    def whole(self, values: F64, cut: Position, change: str, single: bool) -> None:
        """A plain run from the start: `values` [names, n], changed from `cut` on."""
        self.runs += 1
        self._compare(values[:, : cut.index], self.base.values[:, : cut.index], cut, change, single)

    def part(self, values: F64, unchanged: F64, cut: Position, change: Change) -> None:
        """From a snapshot: losses [names, k] of the k tokens before `cut`, of a text changed there and of the original.

        Both come from the same snapshot, so that no difference between it and the plain scorer gets in between.
        """
        self.snapshot_runs += 1
        self._compare(values, unchanged, cut, change.name, change.single)

    def _compare(self, values: F64, base: F64, cut: Position, change: str, single: bool) -> None:
        start = cut.index - base.shape[1]
        if not base.shape[1]:
            return
        apart = differences(values, base)
        wrong = beyond(apart, base, self.tolerance)
        for row, name in enumerate(self.base.names):
            largest = float(apart[row].max())
            self.largest[name] = max(self.largest[name], largest)
            found = np.flatnonzero(wrong[row])
            if len(found):
                first, last = start + int(found[0]), start + int(found[-1])
                self.influences.append(
                    Influence(name, cut.index, cut.where, change, single, first, last, len(found), largest)
                )

    def compare(self, values: F64, score: str, stop: int) -> tuple[int, int, int, float] | None:
        """First and last position before `stop` at which a score's loss moved, how many, and how far; None for none."""
        row = self.base.names.index(score)
        base = self.base.values[row, :stop]
        apart = differences(values[row, :stop], base)
        found = np.flatnonzero(beyond(apart, base, self.tolerance))
        return (int(found[0]), int(found[-1]), len(found), float(apart.max())) if len(found) else None

    def evidence(self) -> CausalEvidence:
        """What to report: of each score the largest influences."""
        kept: list[Influence] = []
        for name in self.base.names:
            own = sorted((i for i in self.influences if i.score == name), key=lambda i: -i.difference)
            kept += own[:KEPT]
        return CausalEvidence(self.runs, self.snapshot_runs, self.largest, tuple(kept), len(self.influences))


def try_cuts(
    subject: Subject, tokens: Tokens, cuts: Sequence[Position], watch: Watch, rng: np.random.Generator, clock: Clock
) -> int:
    """Plain runs of all changes at each of `cuts`. Returns how many cuts were tried before the time was up.

    For each score, the change that moved the earliest loss is then followed up to see how far ahead it reaches.
    """
    texts: dict[int, Tokens] = {}
    done = 0
    for cut in cuts:
        for change in changes(tokens, cut.index, subject.vocab, rng):
            if clock.over():
                break
            known = len(watch.influences)
            watch.whole(subject.run(change.tokens).values, cut, change.name, change.single)
            texts |= {id(influence): change.tokens for influence in watch.influences[known:]}
        else:
            done += 1
    for name in watch.base.names:
        own = [i for i in watch.influences if i.score == name and not i.single and id(i) in texts]
        for worst in sorted(own, key=lambda i: i.first - i.cut)[:2]:
            watch.influences.append(reach_of(subject, tokens, watch, worst, texts[id(worst)], clock))
    return done


def try_snapshot(
    subject: Subject, tokens: Tokens, snapshot: Snapshot, cut: Position, watch: Watch, rng: np.random.Generator
) -> None:
    """All changes at one cut after a snapshot: only losses from the snapshot on are seen."""
    unchanged = subject.score(snapshot, tokens, cut.index)
    for change in changes(tokens, cut.index, subject.vocab, rng):
        watch.part(subject.score(snapshot, change.tokens, cut.index), unchanged, cut, change)


def reach_of(
    subject: Subject, tokens: Tokens, watch: Watch, worst: Influence, changed: Tokens, clock: Clock
) -> Influence:
    """How far ahead an influence reaches: `worst` with the latest cut that still shows it, found by halving.

    `changed` [n] is the text that showed it. Of its change only the part from a later cut on is kept; the losses that
    moved before are watched. What is found is a lower bound where a change must be long to show.
    """
    low, high, found = worst.cut, len(tokens) - 1, worst
    while low < high and not clock.over():
        cut = (low + high + 1) // 2
        trial = np.concatenate((tokens[:cut], changed[cut:]))
        moved = watch.compare(subject.run(trial).values, worst.score, worst.last + 1)
        if moved is None:
            high = cut - 1
        else:
            low = cut
            found = dataclasses.replace(
                worst, cut=cut, single=False, first=moved[0], last=moved[1], count=moved[2], difference=moved[3]
            )
    return found
