"""From measurements to verdicts: which condition is violated, and what the measurements cannot tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from golf_core.audit.normalization import about_one
from golf_core.audit.report import (
    CAUSAL,
    DOCUMENTS,
    NORMALIZED,
    SCORE_FIRST,
    SINGLE_PASS,
    AuditOptions,
    CausalEvidence,
    Condition,
    DistributionEvidence,
    Influence,
    KraftSum,
    Repeatability,
    Verdict,
)
from golf_core.audit.trials import AFTER_UPDATE

NOISY = 0.01
"""A scorer whose losses move by themselves by more than this many nats hides what is looked for."""
NOT_ASKED = "not asked for, or out of time"
AHEAD = 3
"""Influence over at most this many tokens is a look ahead; over more, tokens were learned from before their score."""


@dataclass(frozen=True)
class Facts:
    """All that was measured about one of the scorer's losses."""

    score: str
    options: AuditOptions
    chunk: int | None
    tokens: int
    kraft_tolerance: float
    """Largest |sum - 1| that this audit allows: the option's, widened by a random scorer's noise."""
    loss_tolerance: float
    noise: float
    """How far the losses of a random scorer move by themselves, in nats."""
    lowest_loss: float
    """Lowest loss on the unchanged text, nats."""
    causal: CausalEvidence | None
    influences: tuple[Influence, ...]
    """Influences of later tokens on this loss."""
    sums: tuple[KraftSum, ...]
    repeat: Repeatability | None
    distributions: DistributionEvidence | None

    @property
    def fixed(self) -> bool:
        """Whether the distributions shown are the same whatever the token is."""
        return self.distributions is not None and self.distributions.fixed(self.score, self.loss_tolerance * 10)

    @property
    def scored_with(self) -> bool:
        """Whether the losses are those of the distributions shown."""
        return self.distributions is not None and self.distributions.scored_with(self.score, self.kraft_tolerance)

    def excess(self, exact: bool) -> list[KraftSum]:
        """Sums that are certainly above 1, of those that are exact or of the estimates."""
        return [s for s in self.sums if s.exact == exact and s.low > 1.0 + self.kraft_tolerance]

    def verdict(self, name: str, verdict: Verdict, summary: str) -> Condition:
        """A condition's verdict for this loss."""
        return Condition(name, self.score, verdict, summary)

    @property
    def hidden(self) -> str:
        """Why nothing can be told of a scorer whose losses move too much by themselves; empty if they do not."""
        return f"its own noise of {self.noise:.3g} nats hides it" if self.noise > NOISY else ""


def judge(facts: Facts) -> tuple[Condition, ...]:
    """The four conditions for one of the losses, as far as they were measured."""
    reach = _reach(facts)
    judged = (_causal(facts, reach), _normalized(facts), _score_first(facts, reach), _single_pass(facts, reach))
    return tuple(condition for condition in judged if condition)


def judge_count(tokens: int, losses: int) -> tuple[Condition, ...]:
    """A scorer that does not return one loss a token: nothing else can be measured."""
    what = "some are left out" if losses < tokens else "some are scored more than once"
    summary = f"{losses:,} losses for {tokens:,} tokens: {what}"
    rest = (CAUSAL, NORMALIZED, SCORE_FIRST)
    missing = tuple(Condition(name, None, "not measured", "losses and tokens do not match up") for name in rest)
    return (*missing, Condition(SINGLE_PASS, None, "violated", summary))


def judge_repeat(repeat: Repeatability | None, losses: int) -> Condition:
    """Condition 4 for the scorer as a whole: a second run gives the same."""
    if repeat is None:
        return Condition(SINGLE_PASS, None, "not measured", NOT_ASKED)
    apart = max(repeat.same_object, repeat.after_other_text)
    if repeat.keeps_state:
        told = (
            "a fresh scorer gives the first figures again" if repeat.fresh is not None else "no fresh one was at hand"
        )
        summary = f"keeps state between runs: a later run of the same text differs by {apart:.3g} nats; {told}"
        return Condition(SINGLE_PASS, None, "violated", summary)
    if repeat.random:
        apart = max(apart, repeat.fresh or 0.0, repeat.fresh_against_first or 0.0)
        cause = "" if repeat.fresh is not None else " (random, or state kept: no fresh scorer was at hand to tell)"
        summary = f"a second run of the same text differs by {apart:.3g} nats{cause}"
        return Condition(SINGLE_PASS, None, "violated", summary)
    summary = f"{losses:,} losses in order; the same again, after another text"
    summary += " and from a fresh start" if repeat.fresh is not None else ""
    return Condition(SINGLE_PASS, None, "holds", f"{summary}, within {apart:.1e} nats")


def judge_documents(largest: float | None, declared: bool, tolerance: float) -> Condition:
    """Whether documents are scored apart, for a scorer that says they are."""
    if largest is None:
        why = "no text of several documents" if declared else "the scorer does not declare that it resets at documents"
        return Condition(DOCUMENTS, None, "not measured", why)
    verdict: Verdict = "violated" if largest > tolerance else "holds"
    what = f"earlier documents change losses of later ones by {largest:.3g} nats at the most"
    return Condition(DOCUMENTS, None, verdict, what)


@dataclass(frozen=True)
class _Reach:
    """How far ahead a loss was seen to look: `tokens` at the most, which may be less than it can."""

    tokens: int
    within_chunk: bool
    text: int
    """Tokens of the text."""

    @property
    def short(self) -> bool:
        """No more than a look at what comes next."""
        return self.tokens <= AHEAD

    @property
    def wide(self) -> bool:
        """So much of the text that it must have been gone through before."""
        return not self.within_chunk and self.tokens >= self.text // 3

    def __str__(self) -> str:
        return "within a chunk" if self.within_chunk and not self.short else f"{self.tokens:,} ahead"


def _reach(facts: Facts) -> _Reach | None:
    if not facts.influences:
        return None
    # A change of the whole tail says only that something from the cut on was seen: at least `cut - first` ahead.
    tokens = max(i.cut - i.first for i in facts.influences)
    chunk = facts.chunk
    # Chunk k may begin one token later than k * chunk; a look over an edge by one token is found by the sums.
    within = chunk is not None and all(i.first >= (i.cut - 1) // chunk * chunk for i in facts.influences)
    return _Reach(tokens, within, facts.tokens)


def _causal(facts: Facts, reach: _Reach | None) -> Condition:
    causal = facts.causal
    if causal is None:
        return facts.verdict(CAUSAL, "not measured", NOT_ASKED)
    if reach is not None:
        worst = max(facts.influences, key=lambda i: i.difference)
        what = f"the token at {worst.cut:,} moves"
        if not worst.single:
            what = f"tokens from {worst.cut:,} on ({worst.change}) move"
        places = (
            f"the loss at {worst.first:,}" if worst.count == 1 else f"{worst.count:,} losses from {worst.first:,} on"
        )
        return facts.verdict(CAUSAL, "violated", f"{what} {places} by {worst.difference:.3g} nats ({reach})")
    later = facts.distributions.later_tokens[facts.score] if facts.distributions else 0.0
    if later > facts.loss_tolerance * 10:
        summary = f"later tokens change the distributions that the scorer shows by {later:.3g} nats"
        return facts.verdict(CAUSAL, "violated", summary)
    if facts.hidden:
        return facts.verdict(CAUSAL, "not measured", facts.hidden)
    snapshots = f" and {causal.snapshot_runs:,} from snapshots" if causal.snapshot_runs else ""
    largest = causal.largest_difference[facts.score]
    summary = f"{causal.runs:,} runs of changed texts{snapshots} change no earlier loss by more than {largest:.1e} nats"
    return facts.verdict(CAUSAL, "holds", summary)


def _normalized(facts: Facts) -> Condition:
    if facts.lowest_loss < -facts.kraft_tolerance:
        summary = f"a loss of {facts.lowest_loss:.3g} nats: a probability above 1"
        return facts.verdict(NORMALIZED, "violated", summary)
    if not facts.sums:
        return facts.verdict(NORMALIZED, "not measured", NOT_ASKED)
    wrong, suspects, shown = facts.excess(exact=True), facts.excess(exact=False), facts.distributions
    if wrong:
        worst = max(wrong, key=lambda s: s.total)
        asked = sum(s.exact for s in facts.sums)
        formula = "" if worst.expected is None else f", where its formula says {worst.expected:.6g}"
        summary = (
            f"sums to {worst.total:.6g} at {worst.position:,} ({', '.join(worst.where)}){formula}; "
            f"above 1 are {len(wrong)} of {asked} sums{_cause(facts)}"
        )
        return facts.verdict(NORMALIZED, "violated", summary)
    if shown and not facts.fixed:
        apart = shown.own_token[facts.score]
        summary = f"the distribution shown changes by {apart:.3g} nats with the token that it scores"
        return facts.verdict(NORMALIZED, "violated", summary)
    if suspects:
        worst = max(suspects, key=lambda s: s.low)
        where = f"at {worst.position:,} it is estimated at {worst.total:.4g} [{worst.low:.4g}, {worst.high:.4g}]"
        return facts.verdict(NORMALIZED, "undecided", f"{where}; measure the sum with exact or more time")
    if facts.hidden:
        return facts.verdict(NORMALIZED, "not measured", facts.hidden)
    summary = _sum_summary(facts)
    if not any(s.exact or about_one(s, facts.options.estimate_margin) for s in facts.sums):
        summary += ": too wide to tell; ask for exact sums, or show distributions"
        return facts.verdict(NORMALIZED, "not measured", summary)
    return facts.verdict(NORMALIZED, "holds", summary)


def _sum_summary(facts: Facts) -> str:
    exact, estimated = [s for s in facts.sums if s.exact], [s for s in facts.sums if not s.exact]
    parts = []
    if exact:
        off = max(abs(s.total - 1.0) for s in exact)
        low = min(s.total for s in exact)
        if low < 1.0 - facts.kraft_tolerance:
            parts.append(f"{len(exact)} sums, down to {low:.4g}: deficient (wasteful, and no violation)")
        else:
            parts.append(f"{len(exact)} sums are 1 within {off:.1e}")
    if estimated:
        low, high = min(s.low for s in estimated), max(s.high for s in estimated)
        parts.append(f"{len(estimated)} estimated sums lie in [{low:.4g}, {high:.4g}]")
    return "; ".join(parts)


def _cause(facts: Facts) -> str:
    """What distributions tell about a sum above 1."""
    if facts.distributions is None:
        return ""
    if not facts.scored_with:
        return "; the losses are not those of the distributions that it shows"
    if facts.fixed:
        return "; the distribution does not depend on the token: it is not normalised"
    return "; the distribution depends on the token that it scores"


def _score_first(facts: Facts, reach: _Reach | None) -> Condition:
    """Condition 3 cannot be seen by itself, only by what it does to sums and to earlier losses."""

    found = partial(facts.verdict, SCORE_FIRST)
    remembers = facts.repeat.remembers.get(facts.score) if facts.repeat else None

    if reach is not None and not reach.short:
        span = "of its chunk" if reach.within_chunk else "of the text"
        return found("violated", f"a loss is final only after later tokens {span} have been read")
    wrong = facts.excess(exact=True)
    if wrong:
        if _only_after_edges(facts, wrong):
            return found("violated", "sums exceed 1 only where an update takes effect: it reaches one token too far")
        if facts.fixed and facts.scored_with:
            return found("holds", "the distribution is the same whatever the token is")
        if remembers is False:
            return found("holds", "no token bears on losses beyond its context: none is learned from")
        return found("undecided", "from outside, a token that was learned first looks like one that was peeked at")
    if facts.distributions and not facts.fixed:
        return found("undecided", "the distribution depends on its own token: learned first, or peeked at")
    if facts.causal is None or not facts.sums or facts.hidden:
        return found("not measured", "takes both the causal part and the sums, without noise")
    if facts.excess(exact=False):
        return found("undecided", "the sums are not decided")
    return found("holds", "no loss shows its own token or a later one")


def _only_after_edges(facts: Facts, wrong: Sequence[KraftSum]) -> bool:
    others = [s for s in facts.sums if s.exact and not AFTER_UPDATE & set(s.where)]
    return len(others) >= 3 and all(AFTER_UPDATE & set(s.where) for s in wrong)


def _single_pass(facts: Facts, reach: _Reach | None) -> Condition | None:
    """The part of condition 4 that shows in the losses themselves."""
    if any(s.free_symbols > 1 for s in facts.excess(exact=True) + facts.excess(exact=False)):
        at = next(s for s in facts.sums if s.free_symbols > 1 and s.low > 1.0)
        summary = f"{at.free_symbols} symbols cost nothing at {at.position:,}: a token there is not scored"
        return facts.verdict(SINGLE_PASS, "violated", summary)
    if reach is None or reach.short:
        return None  # what is left of the condition concerns the scorer as a whole
    if reach.wide:
        summary = f"losses depend on tokens {reach.tokens:,} ahead: the text was gone through before"
        return facts.verdict(SINGLE_PASS, "violated", summary)
    what = "a chunk" if reach.within_chunk else "some text"
    summary = f"{what} was read before it was scored, or scored twice: from outside the two look the same"
    return facts.verdict(SINGLE_PASS, "undecided", summary)
