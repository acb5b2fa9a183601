"""Whether the seeds that are done leave a claim within reach of those that are not."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.claim import SeedResult, judge, margin_tests
from orchestrator.spec import Job
from orchestrator.statistics import ALPHA, reachable_p

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
