"""From the seeds' results to a verdict: what was reached, under which conditions, and what may be claimed.

Only the `mixture` score can carry a claim: `neural` is the model alone and `published` is not a code length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from golf_core.results import SCORERS, AuditRecord, EvalResult, TrainResult
from orchestrator.claim.statistics import (
    ALPHA,
    MARGIN_NATS,
    margin_in_bpb,
    one_sample,
    reachable_p,
    seeds_needed,
    summarize,
    welch,
)
from orchestrator.folder.results import Claim, Condition, SeedResult, Summary, Test, Verdict
from orchestrator.job.load import Baseline, Budgets, Job

T = TypeVar("T")
MAX_KRAFT_ERROR = 1e-4
"""How far from 1 the mixture's probabilities may sum: float32 logits give about 1e-6."""
RATIO_TOLERANCE = 0.005
"""Relative difference in bytes per token beyond which two texts or tokenizers are not the same."""


def judge(job: Job, seeds: Sequence[SeedResult]) -> Claim:
    """Judge the seeds of `job`, given the results of all that were started, failed ones included.

    "claim" needs every condition. "too few seeds" means that their number alone is wanting: every other
    condition holds or cannot be judged yet. Anything else is "no claim".
    """
    scores = {name: summarize(values) for name in SCORERS if (values := _bpbs(seeds, name))}
    ratio = _bytes_per_token(seeds)
    if ratio is None and job.baseline is not None:
        ratio = job.baseline.bytes_per_token
    margin = None if ratio is None else margin_in_bpb(MARGIN_NATS, ratio)
    tests = margin_tests(job.baseline, _bpbs(seeds, "mixture"), margin)
    enough, evaluated, budgets = _enough(job, seeds), _evaluated(seeds), job.budgets
    others = (
        _all_reported(job, seeds),
        _within("training time", "s", budgets.train_seconds, {s.seed: s.train.train_seconds for s in seeds if s.train}),
        _within(
            "evaluation time", "s", budgets.eval_seconds, {s.seed: s.evaluate.seconds for s in seeds if s.evaluate}
        ),
        _within(
            "artifact size",
            "bytes",
            budgets.artifact_bytes,
            {s.seed: s.export.total_bytes for s in seeds if s.export},
        ),
        _judged("mixture score present", evaluated, _scored),
        _judged("mixture normalised", evaluated, _normalised),
        _judged("audit passed", {s.seed: s.audit for s in _finished(seeds) if s.evaluate}, _audited),
        _judged("each token scored once", evaluated, _single_pass),
        _judged("trained in one go", {s.seed: s.train for s in seeds if s.train}, _in_one_go, "no seed was trained"),
        _whole_text(job),
        _has_baseline(job.baseline),
        _significant(job, scores.get("mixture"), tests, margin, enough),
    )
    conditions = (others[0], enough, *others[1:])
    verdict: Verdict = "no claim"
    if all(condition.holds for condition in conditions):
        verdict = "claim"
    elif not enough.holds and all(condition.holds is not False for condition in others):
        verdict = "too few seeds"
    sentence = _sentence(verdict, job, conditions, scores.get("mixture"), tests, margin)
    notes = tuple(_notes(job, seeds, scores.get("mixture"), margin))
    return Claim(verdict, sentence, conditions, scores, tests, margin, notes)


# --- conditions -----------------------------------------------------------------------------------


def _all_reported(job: Job, seeds: Sequence[SeedResult]) -> Condition:
    reported = [result.seed for result in seeds]
    problems = [f"seed {seed} is not reported" for seed in job.seeds if seed not in reported]
    problems += [f"seed {seed} is not in the job" for seed in reported if seed not in job.seeds]
    problems += [f"seed {seed} is reported twice" for seed in sorted({s for s in reported if reported.count(s) > 1})]
    problems += [f"seed {s.seed} failed ({s.error or 'no reason given'})" for s in seeds if s.status != "finished"]
    problems += [
        f"seed {s.seed} finished without its results"
        for s in seeds
        if s.status == "finished" and not (s.train and s.export and s.evaluate)
    ]
    return Condition(
        "every seed finished and reported",
        not problems,
        "; ".join(problems) or f"{len(seeds)} of {len(job.seeds)}",
    )


def _enough(job: Job, seeds: Sequence[SeedResult]) -> Condition:
    n, least = len(_finished(seeds)), job.min_seeds_for_claim
    return Condition("number of seeds", n >= least, f"{n} finished, at least {least} needed")


def _within(name: str, unit: str, most: float, figures: Mapping[int, float]) -> Condition:
    if not figures:
        return Condition(name, None, "no seed got that far")
    # "not <=" rather than ">": a figure that is not a number breaks the budget too.
    over = [f"seed {seed}: {_exact(value)} {unit}" for seed, value in figures.items() if not value <= most]
    if over:
        return Condition(name, False, f"{'; '.join(over)}, over the budget of {_exact(most)} {unit}")
    largest = max(figures.values())
    shown = f"{largest:,}" if isinstance(largest, int) else f"{largest:,.1f}"
    return Condition(name, True, f"at most {shown} {unit} of {_exact(most)} {unit}")


def _judged(
    name: str,
    found: Mapping[int, T],
    judged: Callable[[Mapping[int, T]], tuple[bool, str]],
    none: str = "no seed was evaluated",
) -> Condition:
    """What `judged` says of what was found by seed; not to be judged where there is nothing."""
    return Condition(name, *judged(found)) if found else Condition(name, None, none)


def _scored(evaluated: Mapping[int, EvalResult]) -> tuple[bool, str]:
    bad = [seed for seed, result in evaluated.items() if not (result.mixture and math.isfinite(result.mixture.bpb))]
    if bad:
        return False, f"no finite mixture score for {_seeds(bad)}; only the mixture can carry a claim"
    return True, f"finite for {_seeds(evaluated)}"


def _normalised(evaluated: Mapping[int, EvalResult]) -> tuple[bool, str]:
    sums = {seed: result.kraft for seed, result in evaluated.items() if result.mixture and result.kraft}
    unmeasured = [seed for seed in evaluated if seed not in sums or not sums[seed].positions]
    if unmeasured:
        return False, f"its sum over the vocabulary was not measured for {_seeds(unmeasured)}"
    errors = {seed: kraft.mixture_max_error for seed, kraft in sums.items()}
    off = [f"seed {seed}: off by {error:.2g}" for seed, error in errors.items() if not error <= MAX_KRAFT_ERROR]
    if off:
        return False, f"{'; '.join(off)}; probabilities must sum to 1 within {MAX_KRAFT_ERROR:g}"
    positions = sum(kraft.positions for kraft in sums.values())
    return True, f"sums to 1 within {max(errors.values()):.1g} at all {positions:,} positions measured"


def _audited(audits: Mapping[int, AuditRecord | None]) -> tuple[bool, str]:
    done = {seed: audit for seed, audit in audits.items() if audit is not None and audit.positions}
    missing = [seed for seed in audits if seed not in done]
    if missing:
        return False, f"the evaluation was not audited for {_seeds(missing)}; set audit.positions"
    bad = [f"seed {seed}: {', '.join(audit.violated)}" for seed, audit in done.items() if audit.violated]
    if bad:
        return False, f"{'; '.join(bad)}: see audit.json"
    positions, worst = sum(a.positions for a in done.values()), max(a.mixture_max_error for a in done.values())
    return True, f"run as a black box, sums to 1 within {worst:.1g} at {positions} positions"


def _in_one_go(trained: Mapping[int, TrainResult]) -> tuple[bool, str]:
    resumed = [
        f"seed {s}: step {', '.join(map(str, t.resumed_at_steps))}" for s, t in trained.items() if t.resumed_at_steps
    ]
    if resumed:
        return False, f"resumed in the middle ({'; '.join(resumed)}); a claim's training is run anew"
    return True, f"no training was resumed in the middle for {_seeds(trained)}"


def _single_pass(evaluated: Mapping[int, EvalResult]) -> tuple[bool, str]:
    repeated = [seed for seed, result in evaluated.items() if result.repeat_tail]
    if repeated:
        return False, f"the end of the text was scored repeatedly (repeat_tail) for {_seeds(repeated)}"
    texts = {(result.tokens, result.bytes) for result in evaluated.values()}
    if len(texts) > 1:
        shown = "; ".join(
            f"seed {seed}: {result.tokens:,} tokens, {result.bytes:,.0f} bytes" for seed, result in evaluated.items()
        )
        return False, f"the seeds were scored on different texts ({shown})"
    return True, f"{next(iter(texts))[0]:,} tokens, the same for every seed"


def _whole_text(job: Job) -> Condition:
    most = job.config.evaluate.max_tokens
    if most is not None:
        return Condition("whole text scored", False, f"evaluate.max_tokens stops after {most:,} tokens; remove it")
    return Condition("whole text scored", True, "evaluate.max_tokens is not set")


def _has_baseline(baseline: Baseline | None) -> Condition:
    if baseline is None:
        return Condition("baseline given", False, "the job names none; add baseline to the job file")
    return Condition("baseline given", True, f"{baseline.name}: {baseline.mean_bpb:.5f} BPB")


def _significant(
    job: Job, mixture: Summary | None, tests: Sequence[Test], margin: float | None, enough: Condition
) -> Condition:
    name = f"better by the margin, p < {ALPHA:g}"
    if job.baseline is None or mixture is None or margin is None or not tests:
        return Condition(name, None, "needs a baseline and mixture scores")
    gain = job.baseline.mean_bpb - mixture.mean
    shown = f"gain {gain:.5f} BPB, margin {margin:.5f}"
    if not gain > margin:
        return Condition(name, False, f"{shown}: the gain is not above the margin")
    p = tests[0].p
    if p is None:
        return Condition(name, None, f"{shown}: no p, {tests[0].note}")
    if p < ALPHA:
        return Condition(name, True, f"{shown}: p = {p:.2g}")
    # A large p with fewer seeds than planned says that seeds are missing, not that the gain is.
    return Condition(name, False if enough.holds else None, f"{shown}: p = {p:.2g} is not below {ALPHA:g}")


# --- figures --------------------------------------------------------------------------------------


def _finished(seeds: Sequence[SeedResult]) -> list[SeedResult]:
    return [result for result in seeds if result.status == "finished"]


def _evaluated(seeds: Sequence[SeedResult]) -> dict[int, EvalResult]:
    return {result.seed: result.evaluate for result in _finished(seeds) if result.evaluate is not None}


def _bpbs(seeds: Sequence[SeedResult], scorer: str) -> list[float]:
    """The scorer's finite BPBs, in the order of the seeds."""
    scores = [getattr(result, scorer) for result in _evaluated(seeds).values()]
    return [score.bpb for score in scores if score is not None and math.isfinite(score.bpb)]


def _bytes_per_token(seeds: Sequence[SeedResult]) -> float | None:
    """Over the text of all evaluated seeds together (they share it)."""
    evaluated = _evaluated(seeds).values()
    tokens, size = sum(result.tokens for result in evaluated), math.fsum(result.bytes for result in evaluated)
    return size / tokens if tokens > 0 and size > 0 and math.isfinite(size) else None


def margin_tests(baseline: Baseline | None, values: Sequence[float], margin: float | None) -> tuple[Test, ...]:
    """The test of a gain above the margin, and that of any gain; none where something is wanting."""
    if baseline is None or not values or margin is None:
        return ()
    if baseline.bpb is not None:
        return welch(values, baseline.bpb, margin), welch(values, baseline.bpb, 0.0)
    return one_sample(values, baseline.mean_bpb, margin), one_sample(values, baseline.mean_bpb, 0.0)


# --- words ----------------------------------------------------------------------------------------


def _sentence(
    verdict: Verdict,
    job: Job,
    conditions: Sequence[Condition],
    mixture: Summary | None,
    tests: Sequence[Test],
    margin: float | None,
) -> str:
    if verdict == "claim":
        assert job.baseline is not None and mixture is not None and margin is not None and tests[0].p is not None
        return (
            f"Claim: over {mixture.n} seeds the mixture reaches {mixture.mean:.5f} BPB, "
            f"{job.baseline.mean_bpb - mixture.mean:.5f} below {job.baseline.name} "
            f"({job.baseline.mean_bpb:.5f}), which is more than the margin of {MARGIN_NATS:g} nats a token "
            f"({margin:.5f} BPB) at p = {tests[0].p:.2g}."
        )
    if verdict == "too few seeds":
        return f"Too few seeds: {next(c.detail for c in conditions if c.holds is False)}."
    # What failed is enough; what could not be judged matters when nothing failed.
    failed = [c for c in conditions if c.holds is False]
    wanting = failed or [c for c in conditions if c.holds is None]
    reasons = "; ".join(f"{c.name} ({c.detail})" for c in wanting)
    return f"No claim; {'not met' if failed else 'not to be judged'}: {reasons}."


def _notes(job: Job, seeds: Sequence[SeedResult], mixture: Summary | None, margin: float | None) -> list[str]:
    notes = []
    own, baseline = _bytes_per_token(seeds), job.baseline
    if own is not None and baseline is not None and abs(own / baseline.bytes_per_token - 1) > RATIO_TOLERANCE:
        notes.append(
            f"Tokenizer or text differs from the baseline's ({own:.4f} bytes a token here, "
            f"{baseline.bytes_per_token:.4f} there): BPB are compared, and the margin of "
            f"{MARGIN_NATS:g} nats a token is converted with the ratio here."
        )
    if baseline is not None and baseline.bpb is None:
        notes.append("Of the baseline only the mean is known, so its own spread over seeds is left out of the test.")
    sums = [s.audit for s in seeds if s.audit is not None]
    if sums:
        most = max(sums, key=lambda audit: audit.published_sum)
        notes.append(
            "The published score violates the second condition of a valid score (normalised): audited, its "
            f"probabilities sum to {most.published_sum:.5f} at one position, where its formula gives "
            f"{most.published_formula:.5f}."
            if most.published_sum > 1.0 + MAX_KRAFT_ERROR
            else "Where it was audited, the published score's fifth expert did not speak yet."
        )
    notes += [_attempts_note(seed) for seed in seeds if seed.attempts]
    challenge = Budgets()
    wider = [name for name in Budgets.model_fields if getattr(job.budgets, name) > getattr(challenge, name)]
    if wider:
        notes.append(f"Wider than the challenge allows, so no record there: budgets.{', budgets.'.join(wider)}.")
    if baseline is not None and mixture is not None and mixture.sd is not None and margin is not None:
        needed = seeds_needed(mixture.sd, baseline.mean_bpb - mixture.mean - margin)
        if needed is not None and needed > mixture.n:
            notes.append(
                f"With this gain and spread p < {ALPHA:g} takes at least {needed} seeds, fixed before a new "
                "run: adding seeds to this one after seeing its figures would be choosing."
            )
    return notes


def _seeds(seeds: Sequence[object] | Mapping[int, object]) -> str:
    names = [str(seed) for seed in seeds]
    return f"seed{'s' if len(names) > 1 else ''} {', '.join(names)}"


def _exact(value: float) -> str:
    """Enough digits that a budget and a figure just over it look different."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.10g}"


def _attempts_note(seed: SeedResult) -> str:
    """What was tried before: a reader must be able to tell a lost machine from a chosen figure."""
    ended = "; ".join(
        f"{number}. in {a.stage} after {a.finished - a.started:.0f} s ({a.kind}: {a.error})"
        for number, a in enumerate(seed.attempts, start=1)
    )
    again = any(attempt.stage == "train" for attempt in seed.attempts) and seed.train is not None
    trained = " Its training was run anew from the start." if again else ""
    if again and seed.train is not None and seed.train.resumed_at_steps:
        trained = f" Its training was resumed at step {seed.train.resumed_at_steps[-1]}, its clock carried on."
    count = len(seed.attempts)
    return f"Seed {seed.seed} had {count} attempt{'s' if count > 1 else ''} that did not end well: {ended}.{trained}"


# --- before the end: whether a claim is still within reach ---

OF_SEEDS = (
    "training time",
    "evaluation time",
    "artifact size",
    "mixture score present",
    "mixture normalised",
    "audit passed",
    "each token scored once",
)
"""Conditions that one seed can break for all."""


def out_of_reach(job: Job, ended: Sequence[SeedResult]) -> str | None:
    """Why `job` can make no claim any more, given the seeds that have ended for good; None while it can.

    What the job itself rules out (a shortened text, no baseline, no audit) is no news and not named.
    """
    if not ended:
        return None
    failed = [seed for seed in ended if seed.status == "failed"]
    if failed:
        return f"seed {failed[0].seed} failed, and every seed of a claim must be reported"
    claim = judge(job, ended)
    of_seeds = [name for name in OF_SEEDS if job.audit.positions or name != "audit passed"]
    broken = [c for c in claim.conditions if c.name in of_seeds and c.holds is False]
    if broken:
        return f"{broken[0].name}: {broken[0].detail}"
    values = [s.evaluate.mixture.bpb for s in ended if s.evaluate and s.evaluate.mixture]
    margin, baseline = claim.margin_bpb, job.baseline
    if baseline is None or margin is None or not values:
        return None

    def p_of(all_values: Sequence[float]) -> float | None:
        test = margin_tests(baseline, all_values, margin)[0]
        return test.p if test.statistic is None or test.statistic < 0 else 1.0

    best = reachable_p(values, len(job.seeds) - len(ended), p_of)
    if best < ALPHA:
        return None
    return (
        f"whatever the remaining seeds bring, p cannot fall below {best:.2g}, and {ALPHA:g} is needed "
        f"(so far {', '.join(f'{value:.5f}' for value in values)} BPB against {baseline.mean_bpb:.5f})"
    )
