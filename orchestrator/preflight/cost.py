"""How long a job takes and what it costs, from its budgets and limits, before anything has run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from golf_core.train.projection import DryRun
from orchestrator.limits import phase_limits
from orchestrator.spec import Job

START_S = 60.0
"""A gang starts, joins, and checks its data."""
WARMUP_S = 110.0
"""Compilation and warm-up with a GPU (101 s on an H200 that had compiled nothing before); a CPU compiles nothing."""
CPU_WARMUP_S = 5.0
EXPORT_S = 120.0
AUDIT_S = 120.0
DRY_RUN_S = 210.0
"""All checks on the gang, the rehearsal included (reckoned from what its parts took on an H200), once a run."""
HOUR_S = 3600.0


@dataclass(frozen=True)
class CostEstimate:
    """Time on machines and its price. Costs are None where the job names no price."""

    places: int
    """Gangs at work side by side."""
    nodes: int
    """Nodes held for the whole run."""
    seed_seconds: float
    """Expected, of one seed."""
    seed_seconds_worst: float
    """Every phase up to its limit, in every attempt."""
    wall_seconds: float
    wall_seconds_worst: float
    node_hours: float
    node_hours_worst: float
    per_node_hour: float | None
    cost: float | None
    cost_worst: float | None
    assumptions: tuple[str, ...]


def estimate(job: Job, places: int = 1, dry: DryRun | None = None) -> CostEstimate:
    """What `job` takes with `places` gangs side by side, each on nodes of its own.

    The expected time uses the rehearsal `dry` where there is one, else the budgets: a phase rarely takes more, and
    often less. The worst case is every limit in every attempt.
    """
    seeds = len(job.seeds)
    places = max(1, min(places, seeds))
    rounds = math.ceil(seeds / places)
    nodes = places * job.resources.nodes
    expected, assumptions = _expected(job, dry)
    limits = phase_limits(job)
    attempt = limits.start + limits.train + limits.export + limits.evaluate
    worst = (attempt + (limits.audit if job.audit.positions else 0.0)) * (1 + job.limits.retries)
    rehearsal = DRY_RUN_S if job.resources.accelerator is not None else 0.0
    wall, wall_worst = rehearsal + rounds * expected, rehearsal + rounds * worst
    hours, hours_worst = nodes * wall / HOUR_S, nodes * wall_worst / HOUR_S
    price = job.cost.per_node_hour
    return CostEstimate(
        places=places,
        nodes=nodes,
        seed_seconds=expected,
        seed_seconds_worst=worst,
        wall_seconds=wall,
        wall_seconds_worst=wall_worst,
        node_hours=hours,
        node_hours_worst=hours_worst,
        per_node_hour=price,
        cost=None if price is None else price * hours,
        cost_worst=None if price is None else price * hours_worst,
        assumptions=(*assumptions, _about_nodes(job, places)),
    )


def _expected(job: Job, dry: DryRun | None) -> tuple[float, list[str]]:
    """Seconds of one seed, and what they rest on."""
    gpu, clock = job.resources.accelerator is not None, job.config.train.wallclock_seconds
    audit = AUDIT_S if job.audit.positions else 0.0
    if dry is not None:
        warmup, train, evaluation = dry.warmup_seconds, dry.train_seconds, dry.eval_seconds
        rest = f"start {START_S:g}, export {EXPORT_S:g}, audit {audit:g}"
        said = [f"training, warm-up and evaluation as rehearsed; assumed in seconds: {rest}"]
    else:
        warmup = WARMUP_S if gpu else CPU_WARMUP_S
        train, evaluation = clock or job.budgets.train_seconds, job.budgets.eval_seconds
        rest = f"start {START_S:g}, warm-up {warmup:g}, export {EXPORT_S:g}, audit {audit:g}"
        said = [f"training and evaluation take their whole budgets; assumed in seconds: {rest}"]
        if clock is None:
            said.append(
                f"the training has no clock: {job.config.train.iterations:,} steps are taken to last "
                f"budgets.train_seconds ({train:g} s), and may take less"
            )
    if gpu:
        said.append(f"checks and rehearsal before the first seed: {DRY_RUN_S:g} s")
    return START_S + warmup + train + EXPORT_S + evaluation + audit, said


def _about_nodes(job: Job, places: int) -> str:
    side = f"{places} seeds side by side" if places > 1 else "one seed after another"
    each = "a node" if job.resources.nodes == 1 else f"{job.resources.nodes} nodes"
    return f"{side}, each on {each} of its own, paid from the first seed's start to the last one's end"
