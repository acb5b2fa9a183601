"""What a job would do, how long, at what price, and how many seeds its claim needs: `golf plan`, without a cluster."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import stdev

from golf_core.train.projection import DryRun
from orchestrator.claim.statistics import ALPHA, MARGIN_NATS, margin_in_bpb
from orchestrator.folder.results import wanted_stages
from orchestrator.job.load import Baseline, Job, phase_limits

POWER = 0.8


@dataclass(frozen=True)
class PlannedStage:
    """One stage of a seed: seconds."""

    name: str
    budget: float | None
    """What a claim may use; None where nothing bounds a claim."""
    limit: float
    """After which the stage is ended."""


@dataclass(frozen=True)
class Plan:
    """A job before it runs."""

    name: str
    runs: str
    """In a sentence: seeds, preset, machines."""
    stages: tuple[PlannedStage, ...]
    cost: CostEstimate
    power: PowerPlan | None
    """None without a baseline."""
    notes: tuple[str, ...]


def plan(job: Job, places: int = 1, power: float = POWER, sd: float | None = None, gain: float | None = None) -> Plan:
    """Plan `job` with `places` seeds side by side. Raises `ValueError` as `plan_power` does."""
    limits = phase_limits(job)
    train = job.config.train
    stages = [PlannedStage("start", None, limits.start)]
    stages += [PlannedStage(stage.name, stage.budget(job), stage.limit(limits)) for stage in wanted_stages(job)]
    needs = None
    if job.baseline is not None:
        needs = plan_power(job.baseline, len(job.seeds), power, sd, gain, job.min_seeds_for_claim)
    r = job.resources
    device = r.accelerator or f"CPU ({r.cpus_per_rank:g} cores each)"
    clock = "no clock" if train.wallclock_seconds is None else f"{train.wallclock_seconds:g} s of training clock"
    runs = (
        f"{len(job.seeds)} seeds ({', '.join(map(str, job.seeds))}), preset {job.preset}, each on {r.ranks} x {device}"
        f"{'' if r.nodes == 1 else f' on {r.nodes} nodes'}; at most {train.iterations:,} steps, {clock}"
    )
    return Plan(job.name, runs, tuple(stages), estimate(job, places), needs, tuple(_notes(job, needs)))


def _notes(job: Job, needs: PowerPlan | None) -> list[str]:
    notes = []
    if job.config.evaluate.max_tokens is not None:
        notes.append("evaluate.max_tokens stops within the text, so that there can be no claim")
    if not job.audit.positions:
        notes.append("audit.positions is 0, and without an audit there is no claim")
    if job.baseline is None:
        notes.append("the job names no baseline, so that there is nothing to claim against")
    if len(job.seeds) < job.min_seeds_for_claim:
        notes.append(f"{len(job.seeds)} seeds are fewer than min_seeds_for_claim = {job.min_seeds_for_claim}")
    if needs is not None and needs.gain is not None:
        if needs.gain <= needs.margin_bpb:
            notes.append(
                f"a gain of {needs.gain:g} BPB is not above the margin of {needs.margin_bpb:.5f}: "
                "no number of seeds makes it a record"
            )
        elif needs.seeds_needed is None:
            notes.append("no number of seeds up to 200 gives this chance with this spread")
        elif needs.seeds_needed > len(job.seeds):
            notes.append(
                f"the claim needs {needs.seeds_needed} seeds for a chance of {needs.power:.0%}, the job has "
                f"{len(job.seeds)}: add seeds, before the first of them has run"
            )
    if job.baseline is not None and job.baseline.bpb is not None and len(job.baseline.bpb) < 4:
        notes.append(
            f"the baseline's {len(job.baseline.bpb)} seeds stay uncertain, however many the candidate has: "
            "Welch's test counts both"
        )
    return notes


# --- how many seeds a claim needs ---

ASSUMED_SD = 0.0005
"""BPB between seeds, where nothing is known."""
MOST_SEEDS = 200
QUANTILES = 2000


@dataclass(frozen=True)
class PowerPlan:
    """How many seeds a claim needs."""

    margin_bpb: float
    """By which the mean must beat the baseline."""
    sd: float
    """Between seeds, BPB."""
    sd_source: str
    power: float
    """Wanted chance of p < 0.01, if the gain is as expected."""
    seeds: int
    """Seeds of the job."""
    least_gain: float | None
    """The gain below the baseline that the job's own seeds show with this power; None where no gain does."""
    gain: float | None
    """Expected, BPB below the baseline."""
    seeds_needed: int | None
    """For that gain; None where it is not given, or no number of seeds suffices."""
    chances: tuple[tuple[int, float], ...]
    """Numbers of seeds, and the chance of a success with so many, for that gain."""


def plan_power(
    baseline: Baseline, seeds: int, power: float, sd: float | None, gain: float | None, least: int = 2
) -> PowerPlan:
    """What the test against `baseline` needs; at least `least` seeds in any case.

    `sd` defaults to the spread of the baseline's own seeds, else to `ASSUMED_SD`.
    Raises `ValueError` for a power outside (0, 1) or a negative sd.
    """
    if not 0 < power < 1:
        raise ValueError(f"a power lies between 0 and 1, not {power:g}")
    source = "given"
    if sd is None:
        own = stdev(baseline.bpb) if baseline.bpb is not None else 0.0
        sd, source = (own, "that of the baseline's own seeds") if own else (ASSUMED_SD, "an assumption")
    margin = margin_in_bpb(MARGIN_NATS, baseline.bytes_per_token)
    other = baseline.bpb
    needed = None if gain is None else seeds_for(gain - margin, sd, power, other, least)
    shown = sorted({max(least, 2), 3, 4, 5, 6, 8, 10, seeds, *([needed] if needed else [])})
    chances = [] if gain is None else [(n, success(gain - margin, sd, n, other)) for n in shown if n >= 2]
    enough = least_excess(sd, seeds, power, other)
    return PowerPlan(
        margin_bpb=margin,
        sd=sd,
        sd_source=source,
        power=power,
        seeds=seeds,
        least_gain=None if enough is None else margin + enough,
        gain=gain,
        seeds_needed=needed,
        chances=tuple(chances),
    )


def success(excess: float, sd: float, n: int, baseline: Sequence[float] | None = None, alpha: float = ALPHA) -> float:
    """The chance of p < `alpha` with `n` seeds when the true gain exceeds the margin by `excess` BPB.

    Against a mean alone it is the one-sample test's power (a noncentral t); against a baseline's values Welch's,
    these values being what they are. 0 for fewer than two seeds. Raises `ValueError` for a negative sd.
    """
    import numpy as np
    from scipy.special import chdtri, ndtr, stdtrit

    if not sd >= 0:
        raise ValueError(f"the standard deviation between seeds must not be negative, not {sd:g}")
    if n < 2:
        return 0.0
    if sd == 0:  # a limit: the test itself gives no p without any spread
        sd = 1e-12
    # Over the sampling distribution of the sample variance, at the middles of equally likely parts.
    tail = (np.arange(QUANTILES) + 0.5) / QUANTILES
    own = sd**2 * chdtri(n - 1, tail) / (n - 1) / n
    other = stdev(baseline) ** 2 / len(baseline) if baseline is not None else 0.0
    share = own / (own + other)
    df = (n - 1) / share**2 if baseline is None else 1 / (share**2 / (n - 1) + (1 - share) ** 2 / (len(baseline) - 1))
    threshold = stdtrit(df, 1 - alpha) * np.sqrt(own + other)
    return float(ndtr((excess - threshold) / (sd / math.sqrt(n))).mean())


def seeds_for(
    excess: float, sd: float, power: float, baseline: Sequence[float] | None = None, least: int = 2
) -> int | None:
    """The least number of seeds with that power, from `least` on; None where `MOST_SEEDS` do not suffice."""
    if not excess > 0:
        return None
    # One by one: against few baseline values Welch's test loses degrees of freedom as seeds are added.
    return next((n for n in range(max(least, 2), MOST_SEEDS + 1) if success(excess, sd, n, baseline) >= power), None)


def least_excess(sd: float, n: int, power: float, baseline: Sequence[float] | None = None) -> float | None:
    """The least gain above the margin that `n` seeds show with that power; None for fewer than two."""
    if n < 2:
        return None
    low, high = 0.0, 1e-6
    while success(high, sd, n, baseline) < power:
        low, high = high, 2 * high
        if high > 1e3:
            return None
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if success(middle, sd, n, baseline) >= power else (middle, high)
    return high


# --- time and price ---

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
    attempt = limits.start + sum(stage.limit(limits) for stage in wanted_stages(job))
    worst = attempt * (1 + job.limits.retries)
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
