"""From measurements to verdicts: which condition is violated, and what the measurements cannot tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from golf_core.audit.causality import AFTER_UPDATE
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

NOISY = 0.01
"""A scorer whose losses move by themselves by more than this many nats hides what is looked for."""
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
    def remembers(self) -> bool | None:
        """Whether anything is learned from tokens; None where this was not measured."""
        return self.repeat.remembers.get(self.score) if self.repeat else None


def judge(facts: Facts) -> tuple[Condition, ...]:
    """The four conditions for one of the losses, as far as they were measured."""
    reach = _reach(facts)
    single_pass = _single_pass(facts, reach)
    first_three = (_causal(facts, reach), _normalized(facts), _score_first(facts, reach))
    return first_three if single_pass is None else (*first_three, single_pass)


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
        return Condition(SINGLE_PASS, None, "not measured", "not asked for, or out of time")
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
        return Condition(CAUSAL, facts.score, "not measured", "not asked for, or out of time")
    later = facts.distributions.later_tokens[facts.score] if facts.distributions else 0.0
    if reach is None:
        if later > facts.loss_tolerance * 10:
            summary = f"later tokens change the distributions that the scorer shows by {later:.3g} nats"
            return Condition(CAUSAL, facts.score, "violated", summary)
        if facts.noise > NOISY:
            return Condition(CAUSAL, facts.score, "not measured", f"its own noise of {facts.noise:.3g} nats hides it")
        runs = f"{causal.runs:,} runs of changed texts" + (
            f" and {causal.snapshot_runs:,} from snapshots" if causal.snapshot_runs else ""
        )
        largest = causal.largest_difference[facts.score]
        return Condition(CAUSAL, facts.score, "holds", f"{runs} change no earlier loss by more than {largest:.1e} nats")
    worst = max(facts.influences, key=lambda i: i.difference)
    what = (
        f"the token at {worst.cut:,} moves" if worst.single else f"tokens from {worst.cut:,} on ({worst.change}) move"
    )
    places = f"the loss at {worst.first:,}" if worst.count == 1 else f"{worst.count:,} losses from {worst.first:,} on"
    summary = f"{what} {places} by {worst.difference:.3g} nats ({reach})"
    return Condition(CAUSAL, facts.score, "violated", summary)


def _excess(facts: Facts, exact: bool) -> list[KraftSum]:
    limit = 1.0 + facts.kraft_tolerance
    return [s for s in facts.sums if s.exact == exact and s.low > limit]


def _normalized(facts: Facts) -> Condition:
    name, score, limit = NORMALIZED, facts.score, facts.kraft_tolerance
    if facts.lowest_loss < -limit:
        return Condition(name, score, "violated", f"a loss of {facts.lowest_loss:.3g} nats: a probability above 1")
    if not facts.sums:
        return Condition(name, score, "not measured", "not asked for, or out of time")
    mismatch = _mismatch(facts)
    wrong = _excess(facts, exact=True)
    if wrong:
        worst = max(wrong, key=lambda s: s.total)
        asked = sum(s.exact for s in facts.sums)
        formula = "" if worst.expected is None else f", where its formula says {worst.expected:.6g}"
        summary = (
            f"sums to {worst.total:.6g} at {worst.position:,} ({', '.join(worst.where)}){formula}; "
            f"above 1 are {len(wrong)} of {asked} sums{_cause(facts)}"
        )
        return Condition(name, score, "violated", summary)
    if mismatch:
        return Condition(name, score, "violated", mismatch)
    suspects = _excess(facts, exact=False)
    if suspects:
        worst = max(suspects, key=lambda s: s.low)
        where = f"at {worst.position:,} it is estimated at {worst.total:.4g} [{worst.low:.4g}, {worst.high:.4g}]"
        return Condition(name, score, "undecided", f"{where}; measure the sum with exact or more time")
    if facts.noise > NOISY:
        return Condition(name, score, "not measured", f"its own noise of {facts.noise:.3g} nats hides it")
    if not any(s.exact or about_one(s, facts.options.estimate_margin) for s in facts.sums):
        summary = f"{_sum_summary(facts)}: too wide to tell; ask for exact sums, or show distributions"
        return Condition(name, score, "not measured", summary)
    return Condition(name, score, "holds", _sum_summary(facts))


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
    shown = facts.distributions
    if shown is None:
        return ""
    if _fixed(shown, facts) and _scored_with(shown, facts):
        return "; the distribution does not depend on the token: it is not normalised"
    if not _scored_with(shown, facts):
        return "; the losses are not those of the distributions that it shows"
    return "; the distribution depends on the token that it scores"


def _mismatch(facts: Facts) -> str:
    shown = facts.distributions
    if shown is None:
        return ""
    score, limit = facts.score, facts.loss_tolerance * 10
    if shown.own_token[score] > limit:
        return f"the distribution shown changes by {shown.own_token[score]:.3g} nats with the token that it scores"
    return ""


def _fixed(shown: DistributionEvidence, facts: Facts) -> bool:
    return shown.own_token[facts.score] <= facts.loss_tolerance * 10


def _scored_with(shown: DistributionEvidence, facts: Facts) -> bool:
    return scored_with(shown, facts.score, facts.kraft_tolerance)


def scored_with(shown: DistributionEvidence, score: str, tolerance: float) -> bool:
    """Whether the losses are those of the distributions shown, within `tolerance` nats."""
    return max(shown.substituted[score], shown.against_losses[score]) <= tolerance


def _score_first(facts: Facts, reach: _Reach | None) -> Condition:
    """Condition 3 cannot be seen by itself, only by what it does to sums and to earlier losses."""

    def found(verdict: Verdict, summary: str) -> Condition:
        return Condition(SCORE_FIRST, facts.score, verdict, summary)

    if reach is not None and not reach.short:
        span = "of its chunk" if reach.within_chunk else "of the text"
        return found("violated", f"a loss is final only after later tokens {span} have been read")
    wrong = _excess(facts, exact=True)
    if wrong:
        if _only_after_edges(facts, wrong):
            return found("violated", "sums exceed 1 only where an update takes effect: it reaches one token too far")
        if facts.distributions and _fixed(facts.distributions, facts) and _scored_with(facts.distributions, facts):
            return found("holds", "the distribution is the same whatever the token is")
        if facts.remembers is False:
            return found("holds", "no token bears on losses beyond its context: none is learned from")
        return found("undecided", "from outside, a token that was learned first looks like one that was peeked at")
    if facts.distributions and not _fixed(facts.distributions, facts):
        return found("undecided", "the distribution depends on its own token: learned first, or peeked at")
    if facts.causal is None or not facts.sums or facts.noise > NOISY:
        return found("not measured", "takes both the causal part and the sums, without noise")
    if _excess(facts, exact=False):
        return found("undecided", "the sums are not decided")
    return found("holds", "no loss shows its own token or a later one")


def _only_after_edges(facts: Facts, wrong: Sequence[KraftSum]) -> bool:
    others = [s for s in facts.sums if s.exact and not AFTER_UPDATE & set(s.where)]
    return len(others) >= 3 and all(AFTER_UPDATE & set(s.where) for s in wrong)


def _single_pass(facts: Facts, reach: _Reach | None) -> Condition | None:
    """The part of condition 4 that shows in the losses themselves."""
    if any(s.free_symbols > 1 for s in _excess(facts, exact=True) + _excess(facts, exact=False)):
        at = next(s for s in facts.sums if s.free_symbols > 1 and s.low > 1.0)
        summary = f"{at.free_symbols} symbols cost nothing at {at.position:,}: a token there is not scored"
        return Condition(SINGLE_PASS, facts.score, "violated", summary)
    if reach is None or reach.short:
        return None  # what is left of the condition concerns the scorer as a whole
    if reach.wide:
        summary = f"losses depend on tokens {reach.tokens:,} ahead: the text was gone through before"
        return Condition(SINGLE_PASS, facts.score, "violated", summary)
    what = "a chunk" if reach.within_chunk else "some text"
    summary = f"{what} was read before it was scored, or scored twice: from outside the two look the same"
    return Condition(SINGLE_PASS, facts.score, "undecided", summary)
