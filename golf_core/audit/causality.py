"""Condition 1: do later tokens change earlier losses?

With the tokens before a cut unchanged, every loss before the cut must stay as it is, whatever stands at the cut and
after it. Every plain run of a changed text is compared over all positions before its cut, so one run is a test of
hundreds of positions at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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


# --- which positions are looked at ---

CHUNK_START, AFTER_CHUNK_START = "chunk start", "after chunk start"
UPDATE_SEEN, BEFORE_UPDATE = "update seen", "before update seen"
AFTER_UPDATE = {CHUNK_START, AFTER_CHUNK_START, UPDATE_SEEN, BEFORE_UPDATE}
"""Places that may be the first to be scored after an update."""


@dataclass(frozen=True)
class Position:
    """One place in the text and what is special about it."""

    index: int
    where: tuple[str, ...]


@dataclass(frozen=True)
class Edges:
    """What divides a text, as far as it is known."""

    chunk: int | None = None
    """A new chunk every so many tokens."""
    bos: int = 1
    """The token that begins a document."""
    updates: tuple[int, ...] = ()
    """Positions at which learning was seen to take effect."""


def choose_positions(
    tokens: Tokens, first: int, count: int, edges: Edges, rng: np.random.Generator
) -> tuple[Position, ...]:
    """At most `count` positions in [first, n), in turn from every kind of place; ascending, each with all its kinds.

    A chunk's edge is three places: scorers differ in whether chunk k begins with token k·chunk or the one after.
    """
    kinds = _kinds(tokens, first, edges)
    queues = [_shuffled(kind, found, rng) for kind, found in kinds.items()]
    chosen: dict[int, None] = {}
    for turn in range(max(map(len, queues), default=0)):
        for queue in queues:
            if turn < len(queue) and len(chosen) < count:
                chosen.setdefault(int(queue[turn]))
    members = {kind: set(found.tolist()) for kind, found in kinds.items() if kind != "middle"}
    return tuple(
        Position(index, tuple(kind for kind, found in members.items() if index in found) or ("middle",))
        for index in sorted(chosen)
    )


def choose_cuts(n: int, first: int, count: int, edges: Edges, rng: np.random.Generator) -> tuple[Position, ...]:
    """`count` places in (first, n) from which to change the text: early, within chunks, at their edges, and anywhere.

    An early cut leaves the most to change, on which a choice with the whole text in view turns; a cut within a chunk
    shows whether the chunk is read before it is scored; one at an edge, whether an update reaches over it.
    """
    chunk = edges.chunk
    cuts = {max(first + 1, n // 8): ("early",)}
    turn = 0
    while len(cuts) <= count and turn < 20 * (count + 1):
        kind = turn % 4
        turn += 1
        if chunk and chunk < n and kind < 3:
            begin = int(rng.integers(0, -(-n // chunk))) * chunk
            offset, name = [(chunk // 2, "mid-chunk"), (chunk, "chunk start"), (chunk * 7 // 8, "late in a chunk")][
                kind
            ]
            place = begin + offset
        elif edges.updates and kind < 2:
            place, name = int(rng.choice(edges.updates)) - kind, "update seen"
        else:
            place, name = int(rng.integers(first + 1, n)), "middle"
        if first < place < n:
            cuts.setdefault(place, (name,))
    return tuple(Position(place, where) for place, where in cuts.items())


def interleaved(positions: Sequence[Position]) -> list[Position]:
    """The positions in an order of which every beginning holds as many kinds of places as it can."""
    rest, order = list(positions), list[Position]()
    seen: dict[str, int] = {}
    while rest:
        best = min(rest, key=lambda p: min(seen.get(kind, 0) for kind in p.where))
        rest.remove(best)
        order.append(best)
        for kind in best.where:
            seen[kind] = seen.get(kind, 0) + 1
    return order


def _kinds(tokens: Tokens, first: int, edges: Edges) -> dict[str, NDArray[np.int64]]:
    n, chunk = len(tokens), edges.chunk
    kinds: dict[str, NDArray[np.int64]] = {}
    if chunk:
        begins = np.arange(chunk, n, chunk)
        kinds |= {CHUNK_START: begins, "chunk end": begins - 1, AFTER_CHUNK_START: begins + 1}
    if edges.updates:
        seen = np.array(edges.updates)
        # An update shows in the first loss that it changes: it may have come a little before.
        kinds |= {UPDATE_SEEN: seen, BEFORE_UPDATE: np.unique(np.concatenate((seen - 1, seen - 2)))}
    starts = np.flatnonzero(tokens == edges.bos)
    kinds |= {"document start": starts, "after document start": starts + 1}
    kinds |= {"middle": np.arange(first, n), "recurring": _recurring(tokens)}
    kinds |= {"text start": np.array([first, first + 1]), "text end": np.array([n - 1, n - 2])}
    return {kind: found[(found >= first) & (found < n)] for kind, found in kinds.items()}


def _recurring(tokens: Tokens) -> NDArray[np.int64]:
    """Positions whose two tokens before occurred together earlier: there n-gram counts have something to say."""
    seen: set[tuple[int, int]] = set()
    found = []
    for t in range(2, len(tokens)):
        pair = (int(tokens[t - 2]), int(tokens[t - 1]))
        if pair in seen:
            found.append(t)
        seen.add(pair)
    return np.array(found, dtype=np.int64)


def _shuffled(kind: str, found: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    if kind in ("text start", "text end"):
        return found
    if ("chunk" in kind or "update" in kind) and len(found) > 1:
        # The first edge always: what was learned in one chunk alone weighs most there.
        return np.concatenate((found[:1], rng.permutation(found[1:])))
    return rng.permutation(found)


@dataclass(frozen=True)
class Change:
    """A text equal to the original before the cut."""

    name: str
    tokens: Tokens
    single: bool = False
    """Only the token at the cut differs."""


def changes(tokens: Tokens, cut: int, vocab: int, rng: np.random.Generator) -> list[Change]:
    """Changed copies of `tokens` [n], each different from it somewhere in [cut, n).

    Counts that reach into the future show when the future repeats what is about to be scored ("echo" repeats the
    last tokens before the cut, "constant" the very last), lookahead when the next token changes, and a choice made
    with the whole text in view when the rest becomes easy ("constant") or hard ("replaced").
    """
    n, last = len(tokens), int(tokens[max(cut - 1, 0)])
    echo = tokens[max(cut - int(rng.integers(2, 6)), 0) : max(cut, 1)]
    rarest = int(np.argmin(np.bincount(tokens, minlength=vocab)[:vocab]))
    tails = {
        "replaced": rng.integers(0, vocab, n - cut),
        "permuted": rng.permutation(tokens[cut:]),
        "constant": np.full(n - cut, last),
        "echo": np.resize(echo, n - cut),
        "rare": np.full(n - cut, rarest),
    }
    other = (int(tokens[cut]) + int(rng.integers(1, vocab))) % vocab
    made = [Change("next token", _with(tokens, cut, np.array([other])), single=True)]
    if last not in (other, int(tokens[cut])):
        made.append(Change("next token repeats", _with(tokens, cut, np.array([last])), single=True))
    made += [Change(name, _with(tokens, cut, tail)) for name, tail in tails.items()]
    return [change for change in made if not np.array_equal(change.tokens, tokens)]


def _with(tokens: Tokens, cut: int, tail: np.ndarray) -> Tokens:
    changed = tokens.copy()
    changed[cut : cut + len(tail)] = tail
    return changed
