"""How long each phase of a seed may take before it is ended: far below the half hour of NCCL's own time-out."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.job.load import Job

COMPILE_S = 900.0
"""Warm-up and compilation, which the training clock leaves out, and validation."""
EVAL_BUDGETS = 3.0
UNCLOCKED_S = 86_400.0
TRANSFER_S = 300.0
FETCH_S = 7200.0
"""For a node that may have to fetch its data first: 16 GB over a line of 20 Mbit/s."""


@dataclass(frozen=True)
class PhaseLimits:
    """Seconds."""

    start: float
    train: float
    export: float
    evaluate: float
    audit: float
    transfer: float
    """Of one file between a rank and the driver."""


def phase_limits(job: Job) -> PhaseLimits:
    """The limits of `job`: as given, else by its budgets; a training without a clock is given a day."""
    given, clock = job.limits, job.config.train.wallclock_seconds
    train = given.train_seconds or (UNCLOCKED_S if clock is None else clock + COMPILE_S)
    evaluate = given.eval_seconds or (UNCLOCKED_S if clock is None else EVAL_BUDGETS * job.budgets.eval_seconds)
    fetched = job.data != "sample" and job.data.fetch is not None
    start = given.start_seconds + (FETCH_S if fetched else 0.0)
    return PhaseLimits(start, train, given.export_seconds, evaluate, given.audit_seconds, TRANSFER_S)
