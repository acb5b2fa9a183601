"""The audit of a scorer: `audit(scorer, tokens, options)` measures the four conditions and returns a report."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Sequence

import numpy as np

from golf_core.audit import diagnosis
from golf_core.audit.normalization import (
    FIRST_SAMPLE,
    DistributionCheck,
    PlainSource,
    SnapshotSource,
    Source,
    distribution_sums,
    estimated_sums,
    exact_sums,
    likely_first,
)
from golf_core.audit.report import (
    PARTS,
    AuditOptions,
    AuditReport,
    Condition,
    DistributionEvidence,
    FastPath,
    KraftSum,
    Repeatability,
)
from golf_core.audit.scorer import F64, Clock, Losses, Scorer, Subject, Tokens, WrongCountError, declared
from golf_core.audit.trials import (
    Edges,
    Position,
    Watch,
    choose_cuts,
    choose_positions,
    documents_apart,
    interleaved,
    look_back,
    prefix_difference,
    repeatability,
    try_cuts,
)
from golf_core.errors import UserError

SHORTEST = 16
"""Tokens below which there is no text to speak of."""
Progress = Callable[[str], None]


def audit(
    scorer: Scorer,
    tokens: np.ndarray,
    options: AuditOptions | None = None,
    label: str = "scorer",
    fresh: Callable[[], Scorer] | None = None,
    progress: Progress = lambda line: None,
) -> AuditReport:
    """Measure `scorer` on `tokens` (integers [n]).

    `fresh` builds a new scorer; without it a scorer that keeps state between runs is found but not measured further.
    Raises `UserError` for text that cannot be used and `ScorerError` for a scorer that fails or returns no losses.
    """
    options = options or AuditOptions()
    text = _checked(tokens, options)
    return _Audit(scorer, text, options, label, fresh, progress).report()


def empty_report(tokens: Tokens, options: AuditOptions, vocab: int) -> AuditReport:
    """A report without a scorer, to which figures can be added."""
    return AuditReport(
        scorer="",
        tokens=len(tokens),
        tokens_sha256=hashlib.sha256(tokens.astype("<i8").tobytes()).hexdigest(),
        vocab_size=vocab,
        chunk_tokens=options.chunk_tokens,
        options=options,
        first_scored=0,
        mean_loss={},
        runs=0,
        seconds=0.0,
        conditions=(),
        notes=(),
        sums=(),
        causal=None,
        repeat=None,
        fast_path=None,
        distributions=None,
        documents=None,
    )


class _Audit:
    """One audit: what was measured so far, and what the next measurement needs of it."""

    def __init__(
        self,
        scorer: Scorer,
        tokens: Tokens,
        options: AuditOptions,
        label: str,
        fresh: Callable[[], Scorer] | None,
        progress: Progress,
    ) -> None:
        self.tokens, self.options, self.progress = tokens, options, progress
        vocab = options.vocab_size or declared(scorer, "vocab_size") or int(tokens.max()) + 1
        if tokens.max() >= vocab:
            raise UserError(
                f"{label}: the text holds token {tokens.max()}, its alphabet {vocab}; set the alphabet's size"
            )
        self.chunk: int | None = options.chunk_tokens or declared(scorer, "chunk_tokens")
        if vocab < 2 or (self.chunk is not None and self.chunk < 1):
            raise UserError(
                f"{label}: an alphabet of {vocab} in chunks of {self.chunk}; give at least 2 and at least 1"
            )
        self.subject = Subject(scorer, label, int(vocab), fresh)
        self.clock = Clock(options.time_budget_s)
        self.rng = np.random.default_rng(options.seed)
        self.notes: list[str] = []
        self.sums: list[KraftSum] = []
        self.swept: dict[int, F64] = {}
        self.repeat: Repeatability | None = None
        self.fast_path: FastPath | None = None
        self.shown: DistributionEvidence | None = None
        self.prefix: float | None = None
        self.documents: float | None = None
        self.noise = 0.0

    def report(self) -> AuditReport:
        """Measure everything that was asked for."""
        tokens, options, watch = self.tokens, self.options, None
        try:
            watch = Watch(self.subject, tokens, options.loss_tolerance)
            self._check_claims()
            self._measure(watch)
            conditions = self._judge(watch)
        except WrongCountError as error:
            conditions = diagnosis.judge_count(error.tokens, error.losses)
        base = watch.base if watch else None
        return dataclasses.replace(
            empty_report(tokens, options, self.subject.vocab),
            scorer=self.subject.label,
            chunk_tokens=self.chunk,
            first_scored=base.first if base else 0,
            mean_loss=_means(base) if base else {},
            runs=self.subject.runs,
            seconds=self.clock.seconds,
            conditions=conditions,
            notes=tuple(self.notes),
            sums=tuple(sorted(self.sums, key=lambda s: (s.position, s.method))),
            causal=watch.evidence() if watch and watch.runs else None,
            repeat=self.repeat,
            fast_path=self.fast_path,
            distributions=self.shown,
            documents=self.documents,
        )

    def _check_claims(self) -> None:
        label, names = self.subject.label, self.subject.names
        unknown = set(self.options.claims) - set(names)
        if unknown:
            raise UserError(f"{label}: has no score named {', '.join(sorted(unknown))}; it has {', '.join(names)}")

    def _asked(self, part: str) -> bool:
        if part not in self.options.parts:
            return False
        if self.clock.over():
            self.notes.append(f"{part}: left out, the time was up")
            return False
        return True

    def _measure(self, watch: Watch) -> None:
        subject, options, first = self.subject, self.options, watch.base.first
        if self._asked("repeat"):
            self.progress("scoring the same text again")
            self.repeat = repeatability(watch, self.rng)
            if self.repeat.keeps_state and subject.fresh is None:
                self.notes.append("losses of changed texts say nothing about a scorer that keeps state between runs")
                return
            self.noise = self.repeat.noise
            watch.tolerance += 4.0 * self.noise
        if self._asked("prefix"):
            self._prefix(watch)
        edges, rng = self._find_edges(watch), np.random.default_rng(options.seed)
        complete = int(declared(subject.scorer, "complete_from") or 0)
        begin = max(first, complete) if complete < len(self.tokens) else first
        places = choose_positions(self.tokens, begin, options.positions, edges, rng)
        if self._asked("causal"):
            self._causal(watch, choose_cuts(len(self.tokens), first, options.cuts, edges, rng))
        check = None
        if self._asked("distributions") and subject.can("distributions") and self._steady:
            check = self._distributions(watch, places)
        if self._asked("kraft") and not self._sums_are_known():
            self._kraft(self._snapshots(watch, places) or PlainSource(watch), places)
        if check and self.shown and self.swept and max(self.shown.own_token.values()) <= options.loss_tolerance * 10:
            self.shown = check.compared(self.shown, self.swept)
        if self._asked("documents") and declared(subject.scorer, "resets_at_documents"):
            self.documents = documents_apart(watch, options.bos, self.rng)

    def _find_edges(self, watch: Watch) -> Edges:
        """What divides the text. Where the scorer's chunks end is found out if it is not known."""
        edges = Edges(self.chunk, self.options.bos)
        if self.clock.over() or not {"kraft", "causal"} & set(self.options.parts):
            return edges
        self.progress("changing earlier tokens, to see what is learned from them")
        memory = look_back(watch, self.rng, blocks=2 if self.chunk else 6)
        if self.repeat is not None:
            named = dict(zip(watch.base.names, memory.remembers, strict=True))
            self.repeat = dataclasses.replace(self.repeat, remembers=named)
        return edges if self.chunk else dataclasses.replace(edges, updates=memory.updates)

    @property
    def _steady(self) -> bool:
        """The scorer answers the same question the same way: its other methods can be compared with its runs."""
        return not self.noise and not (self.repeat and self.repeat.keeps_state)

    def _sums_are_known(self) -> bool:
        """A large alphabet need not be swept where trusted distributions gave all the sums."""
        shown, options = self.shown, self.options
        if shown is None or options.exact or self.subject.vocab <= options.exact_limit:
            return False
        return all(
            shown.scored_with(name, options.kraft_tolerance) and shown.fixed(name, options.loss_tolerance * 10)
            for name in self.subject.names
        )

    def _prefix(self, watch: Watch) -> None:
        length = max(len(self.tokens) * 2 // 3, SHORTEST)
        self.prefix = prefix_difference(watch, length)
        if self.prefix is None:
            self.notes.append("a prefix of the text could not be scored alone")
        if self.repeat is not None:
            self.repeat = dataclasses.replace(self.repeat, prefix=self.prefix, prefix_tokens=length)

    def _causal(self, watch: Watch, cuts: Sequence[Position]) -> None:
        self.progress(f"changing later tokens at {len(cuts)} places")
        tried = try_cuts(watch, cuts, self.rng, self.clock)
        if tried < len(cuts):
            self.notes.append(f"causal: {tried} of {len(cuts)} cuts, then the time was up")

    def _snapshots(self, watch: Watch, places: Sequence[Position]) -> SnapshotSource | None:
        """Snapshots at all places, if the scorer has them and they agree with plain runs."""
        options = self.options
        if not self.subject.can("snapshots") or not self._steady:
            return None
        self.progress(f"comparing snapshots with plain runs at {options.checks} random substitutes")
        source = SnapshotSource(watch, places)
        self.fast_path = source.compared(options.checks, options.loss_tolerance * 10, self.rng)
        if not self.fast_path.trusted:
            self.notes.append("the snapshots do not agree with the plain scorer: measured with plain runs instead")
            return None
        if "causal" in options.parts:
            for place in places:
                if place.index + 1 < len(self.tokens) and not self.clock.over():
                    cut = Position(place.index + 1, tuple(f"after {w}" for w in place.where))
                    watch.try_snapshot(source.snapshots[place.index], cut, self.rng)
        return source

    def _distributions(self, watch: Watch, places: Sequence[Position]) -> DistributionCheck:
        options, names = self.options, self.subject.names
        self.progress("comparing distributions with losses")
        check = DistributionCheck(watch, places)
        self.shown = check.check(options.checks, self.rng)
        sums = distribution_sums(names, check.positions, check.log_probs, options.loss_tolerance)
        for name in names:
            if self.shown.scored_with(name, options.kraft_tolerance):
                self.sums += [s for s in sums if s.score == name]
            else:
                self.notes.append(
                    f"{name}: the distributions shown are not those that it scores with: their sums do not count"
                )
        return check

    def _kraft(self, source: Source, places: Sequence[Position]) -> None:
        subject, options, vocab = self.subject, self.options, self.subject.vocab
        order = interleaved(places)
        sample = min(FIRST_SAMPLE, options.exact_limit)
        exact = options.exact or vocab <= options.exact_limit
        if options.time_budget_s is not None and not options.exact:
            each = self._seconds_of_one(source, order[0])
            exact = exact and each * vocab < self.clock.left
            if each * min(sample, vocab) > self.clock.left:
                self.notes.append(f"kraft: left out, one position takes {each * min(sample, vocab):,.0f} s")
                return
        count = vocab if exact else min(sample, vocab)
        seconds = len(order) * count * subject.seconds_per_run if source.method == "plain" else 0.0
        cost = f", about {seconds:,.0f} s" if seconds > 5.0 else ""
        self.progress(f"summing at {len(order)} positions, {count:,} substitutes each ({source.method}{cost})")
        longest = 0.0
        for done, place in enumerate(order):
            if done and self.clock.left < longest:
                self.notes.append(f"kraft: {done} of {len(order)} positions, then the time was up")
                return
            began = self.clock.seconds
            if exact:
                sums, self.swept[place.index] = exact_sums(source, place, subject.names, vocab, options.loss_tolerance)
            else:
                sums = self._estimate(source, place)
            self.sums += sums
            longest = max(longest, self.clock.seconds - began)

    def _seconds_of_one(self, source: Source, place: Position) -> float:
        """What one substitute takes, from a few."""
        count, began = min(self.subject.vocab, 4), self.clock.seconds
        source.losses(place, np.arange(count))
        return (self.clock.seconds - began) / count

    def _estimate(self, source: Source, place: Position) -> list[KraftSum]:
        """An estimate; the exact sum in its place where the estimate lies above 1 and there is time."""
        options, vocab, names = self.options, self.subject.vocab, self.subject.names
        began = self.clock.seconds
        ranking = likely_first(self.tokens, place.index, vocab)
        sums = estimated_sums(source, place, names, ranking, options, self.rng)
        suspect = any(s.low > 1.0 + options.kraft_tolerance for s in sums)
        exact_seconds = (self.clock.seconds - began) / max(sums[0].symbols, 1) * vocab
        if suspect and exact_seconds < self.clock.left:
            return exact_sums(source, place, names, vocab, options.loss_tolerance)[0]
        return sums

    def _judge(self, watch: Watch) -> tuple[Condition, ...]:
        conditions: list[Condition] = []
        options, base = self.options, watch.base
        if self.prefix and self.prefix > watch.tolerance and watch.runs and not watch.influences:
            self.notes.append(
                f"losses of a prefix scored alone differ by {self.prefix:.3g} nats, though later tokens change none of "
                "them: the scorer goes by the length of the text, which is allowed"
            )
        for row, name in enumerate(base.names):
            facts = diagnosis.Facts(
                score=name,
                options=options,
                chunk=self.chunk,
                tokens=len(self.tokens),
                kraft_tolerance=options.kraft_tolerance + math.expm1(min(4.0 * self.noise, 10.0)),
                loss_tolerance=watch.tolerance,
                noise=self.noise,
                lowest_loss=float(base.values[row, base.first :].min()),
                causal=watch.evidence() if watch.runs else None,
                influences=tuple(i for i in watch.influences if i.score == name),
                sums=tuple(s for s in self.sums if s.score == name),
                repeat=self.repeat,
                distributions=self.shown,
            )
            conditions += diagnosis.judge(facts)
        conditions.append(diagnosis.judge_repeat(self.repeat, base.values.shape[1] - base.first))
        resets = bool(declared(self.subject.scorer, "resets_at_documents"))
        conditions.append(diagnosis.judge_documents(self.documents, resets, options.loss_tolerance))
        return tuple(conditions)


def _checked(tokens: np.ndarray, options: AuditOptions) -> Tokens:
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        raise UserError(f"parts: no part named {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    array = np.asarray(tokens)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise UserError(f"tokens: expected integers [n], got {array.dtype} {list(array.shape)}")
    if options.positions < 1 or options.cuts < 0 or options.checks < 1:
        raise UserError("positions and checks: give at least 1 of each, and cuts of 0 or more")
    if min(options.kraft_tolerance, options.loss_tolerance) <= 0:
        raise UserError("tolerances: give numbers above 0")
    if len(array) < SHORTEST:
        raise UserError(f"tokens: {len(array)} are too few to audit; give at least {SHORTEST}")
    if array.min() < 0:
        raise UserError(f"tokens: {array.min()} is no token; give tokens from 0 on")
    return array.astype(np.int64)


def _means(base: Losses) -> dict[str, float]:
    return {name: float(row[base.first :].mean()) for name, row in zip(base.names, base.values, strict=True)}
