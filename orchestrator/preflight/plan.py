"""What a job would do, how long, at what price, and how many seeds its claim needs: `golf plan`, without a cluster."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.limits import phase_limits
from orchestrator.preflight.cost import CostEstimate, estimate
from orchestrator.preflight.power import PowerPlan, plan_power
from orchestrator.spec import Job

POWER = 0.8


@dataclass(frozen=True)
class Stage:
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
    stages: tuple[Stage, ...]
    cost: CostEstimate
    power: PowerPlan | None
    """None without a baseline."""
    notes: tuple[str, ...]


def plan(job: Job, places: int = 1, power: float = POWER, sd: float | None = None, gain: float | None = None) -> Plan:
    """Plan `job` with `places` seeds side by side. Raises `ValueError` as `plan_power` does."""
    limits = phase_limits(job)
    train = job.config.train
    stages = [
        Stage("start", None, limits.start),
        Stage("train", job.budgets.train_seconds, limits.train),
        Stage("export", None, limits.export),
        Stage("evaluate", job.budgets.eval_seconds, limits.evaluate),
    ]
    if job.audit.positions:
        stages.append(Stage("audit", None, limits.audit))
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
