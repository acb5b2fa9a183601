"""Runs of the scorer on one text and on changed copies of it: what moves which losses.

Condition 1: with the tokens before a cut unchanged, every loss before the cut must stay as it is, whatever stands at
the cut and after it. Every plain run of a changed text is compared over all positions before its cut, so one run is a
test of hundreds of positions at once.

Condition 4: the same text gets the same losses, whatever was scored before. Beside it: what early tokens do to later
losses, and whether an earlier document bears on a later one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from golf_core.audit.report import CausalEvidence, Influence, Repeatability
from golf_core.audit.scorer import (
    F64,
    Clock,
    Losses,
    ScorerError,
    Snapshot,
    Subject,
    Tokens,
    WrongCountError,
    beyond,
    differences,
)

KEPT = 24
"""Influences of each score that go into the report; the rest is counted."""
BLOCK = 8
"""Tokens changed at once."""
QUIET = 6
"""Losses so soon after a token may depend on it as context; later ones only if something was kept."""


class Watch:
    """A scorer on one text and its losses there: runs changed copies of the text, and keeps what differs."""

    def __init__(self, subject: Subject, tokens: Tokens, tolerance: float) -> None:
        self.subject, self.tokens, self.tolerance = subject, tokens, tolerance
        self.base = subject.run(tokens)
        self.runs, self.snapshot_runs = 0, 0
        self.influences: list[Influence] = []
        self.largest = dict.fromkeys(self.base.names, 0.0)

    def run(self, change: Change, cut: Position) -> F64:
        """Losses [names, n] of a plain run from the start, of a text changed from `cut` on."""
        values = self.subject.run(change.tokens).values
        self.runs += 1
        self._compare(values[:, : cut.index], self.base.values[:, : cut.index], cut, change)
        return values

    def replaced(self, position: Position, symbol: int) -> tuple[Tokens, F64]:
        """The text with `symbol` at a position, and its losses by a plain run."""
        changed = _with(self.tokens, position.index, np.array([symbol]))
        return changed, self.run(Change("token replaced", changed, single=True), position)

    def try_snapshot(self, snapshot: Snapshot, cut: Position, rng: np.random.Generator) -> None:
        """All changes at one cut after a snapshot: only losses from the snapshot on are seen.

        Losses of both texts come from the same snapshot, so that no difference between it and the plain scorer gets
        in between.
        """
        unchanged = self.subject.score(snapshot, self.tokens, cut.index)
        for change in changes(self.tokens, cut.index, self.subject.vocab, rng):
            values = self.subject.score(snapshot, change.tokens, cut.index)
            self.snapshot_runs += 1
            self._compare(values, unchanged, cut, change)

    def _compare(self, values: F64, base: F64, cut: Position, change: Change) -> None:
        """Losses [names, k] of the k tokens before `cut`."""
        start = cut.index - base.shape[1]
        if not base.shape[1]:
            return
        for row, name in enumerate(self.base.names):
            largest, found = _moved(values[row], base[row], self.tolerance)
            self.largest[name] = max(self.largest[name], largest)
            if len(found):
                first, last = start + int(found[0]), start + int(found[-1])
                self.influences.append(
                    Influence(name, cut.index, cut.where, change.name, change.single, first, last, len(found), largest)
                )

    def evidence(self) -> CausalEvidence:
        """What to report: of each score the largest influences."""
        kept: list[Influence] = []
        for name in self.base.names:
            own = sorted((i for i in self.influences if i.score == name), key=lambda i: -i.difference)
            kept += own[:KEPT]
        return CausalEvidence(self.runs, self.snapshot_runs, self.largest, tuple(kept), len(self.influences))


def try_cuts(watch: Watch, cuts: Sequence[Position], rng: np.random.Generator, clock: Clock) -> int:
    """Plain runs of all changes at each of `cuts`. Returns how many cuts were tried before the time was up.

    For each score, the change that moved the earliest loss is then followed up to see how far ahead it reaches.
    """
    texts: dict[int, Tokens] = {}
    done = 0
    for cut in cuts:
        for change in changes(watch.tokens, cut.index, watch.subject.vocab, rng):
            if clock.over():
                break
            known = len(watch.influences)
            watch.run(change, cut)
            texts |= {id(influence): change.tokens for influence in watch.influences[known:]}
        else:
            done += 1
    for name in watch.base.names:
        own = [i for i in watch.influences if i.score == name and not i.single and id(i) in texts]
        for worst in sorted(own, key=lambda i: i.first - i.cut)[:2]:
            watch.influences.append(_reach_of(watch, worst, texts[id(worst)], clock))
    return done


def _reach_of(watch: Watch, worst: Influence, changed: Tokens, clock: Clock) -> Influence:
    """How far ahead an influence reaches: `worst` with the latest cut that still shows it, found by halving.

    `changed` [n] is the text that showed it. Of its change only the part from a later cut on is kept; the losses that
    moved before are watched. What is found is a lower bound where a change must be long to show.
    """
    low, high, found = worst.cut, len(watch.tokens) - 1, worst
    row, stop = watch.base.names.index(worst.score), worst.last + 1
    while low < high and not clock.over():
        cut = (low + high + 1) // 2
        trial = np.concatenate((watch.tokens[:cut], changed[cut:]))
        values = watch.subject.run(trial).values[row, :stop]
        largest, moved = _moved(values, watch.base.values[row, :stop], watch.tolerance)
        if len(moved):
            low, first, last = cut, int(moved[0]), int(moved[-1])
            found = dataclasses.replace(
                worst, cut=cut, single=False, first=first, last=last, count=len(moved), difference=largest
            )
        else:
            high = cut - 1
    return found


def _moved(values: F64, base: F64, tolerance: float) -> tuple[float, NDArray[np.int64]]:
    """How far losses [k] moved at the most, and where by more than the tolerance."""
    apart = differences(values, base)
    return float(apart.max()), np.flatnonzero(beyond(apart, base, tolerance))


# --- the same text again, and what is learned from it ---


def repeatability(watch: Watch, rng: np.random.Generator) -> Repeatability:
    """Runs A again, another text B, then A; and where fresh scorers can be built, A on two of them.

    Without fresh scorers, a scorer whose second run differs at once may draw random numbers or keep state: the two
    are told apart only by what a fresh one does. Afterwards a scorer that keeps state is renewed for every run.
    """

    subject, tokens, base = watch.subject, watch.tokens, watch.base

    def apart(a: Losses, b: Losses) -> tuple[float, bool]:
        found = differences(a.values, b.values)
        return float(found.max()), bool(beyond(found, b.values, watch.tolerance).any())

    again = apart(subject.run(tokens), base)
    subject.run(rng.permutation(tokens))
    after = apart(subject.run(tokens), base)
    fresh = against = None
    random, keeps = again[1], after[1] and not again[1]
    if subject.fresh is not None:
        one, two = subject.run(tokens, subject.fresh()), subject.run(tokens, subject.fresh())
        fresh, against = apart(one, two), apart(one, base)
        random = fresh[1] or (against[1] and not again[1] and not after[1])
        subject.renewed = keeps = (again[1] or after[1]) and not fresh[1]
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


def prefix_difference(watch: Watch, length: int) -> float | None:
    """Largest difference in nats of the first `length` losses when they are scored alone; None if that fails."""
    try:
        alone = watch.subject.run(watch.tokens[:length])
    except WrongCountError:
        raise
    except ScorerError:
        return None  # a scorer may refuse short texts
    return float(differences(alone.values, watch.base.values[:, :length]).max())


@dataclass(frozen=True)
class Memory:
    """What was seen of a scorer's learning."""

    remembers: tuple[bool, ...]
    """For each score, whether tokens bear on losses more than `QUIET` tokens after them. If not, nothing is learned."""
    updates: tuple[int, ...]
    """Positions, ascending, at which learning seems to take effect. An update may have come a token or two before,
    as not every loss shows it."""


def look_back(watch: Watch, rng: np.random.Generator, blocks: int = 6) -> Memory:
    """Change blocks of tokens, one at a time, and see which later losses change.

    Losses right after a block change with the context; if they come to rest and change again later, what was learned
    from the block took effect there.
    """
    tokens, base, vocab = watch.tokens, watch.base, watch.subject.vocab
    n, updates = len(tokens), set[int]()
    remembers = np.zeros(len(base.names), dtype=bool)
    for begin in np.linspace(base.first, n * (blocks - 1) // (blocks + 1), blocks).astype(int).tolist():
        end = min(begin + BLOCK, n)
        block = (tokens[begin:end] + rng.integers(1, vocab, end - begin)) % vocab
        values, expected = watch.subject.run(_with(tokens, begin, block)).values[:, end:], base.values[:, end:]
        wrong = beyond(differences(values, expected), expected, watch.tolerance)
        remembers |= wrong[:, QUIET:].any(axis=1)
        moved = np.flatnonzero(wrong.any(axis=0))
        onsets = moved[np.diff(np.concatenate(([-1], moved))) > QUIET]
        # Only the first: later ones may be the next updates, or the same one showing again.
        updates |= {end + int(onset) for onset in onsets[:1]}
    return Memory(tuple(bool(r) for r in remembers), tuple(sorted(updates)))


def documents_apart(watch: Watch, bos: int, rng: np.random.Generator) -> float | None:
    """Largest change in nats of losses after a document's start when all documents before it change.

    The documents' starts stay where they are. The loss of the start itself is left out: that a document ends may be
    told from it. None where the text holds no two documents.
    """
    tokens, base = watch.tokens, watch.base
    starts = np.flatnonzero(tokens == bos)
    starts = starts[(starts > base.first) & (starts + 1 < len(tokens))]
    if not len(starts):
        return None
    largest = 0.0
    symbols = np.arange(watch.subject.vocab)
    others = symbols[symbols != bos]
    for start in np.unique(starts[[0, len(starts) // 2, -1]]):
        for _ in range(2):
            changed = tokens.copy()
            free = np.flatnonzero(tokens[:start] != bos)
            changed[free] = rng.choice(others, len(free))
            late = watch.subject.run(changed).values[:, start + 1 :]
            largest = max(largest, float(differences(late, base.values[:, start + 1 :]).max()))
    return largest


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
