"""What a rehearsal says about the job: budgets that cannot be kept end the run before it costs anything."""

from __future__ import annotations

from golf_core.train.projection import AllReduce, DryRun
from orchestrator.limits import phase_limits
from orchestrator.preflight.findings import Finding, error, ok, warning
from orchestrator.spec import Job

MARGIN = 0.9
"""Share of a budget beyond which a projection is too close to it: chunks and steps vary by some percent."""
SLOW_GB_PER_S = 50.0
"""Bus bandwidth that NVLink exceeds several times over, and PCIe does not reach."""


def judge_dry_run(job: Job, dry: DryRun) -> list[Finding]:
    """Each budget against its projection: above it an error, above 90% of it a warning."""
    return [
        *_training(job, dry),
        *_evaluation(job, dry),
        *_artifact(job, dry),
        *_memory(dry),
    ]


def judge_all_reduce(reduced: AllReduce) -> Finding:
    """The gang's interconnect. Only a slow one between GPUs is worth a warning, and that is for the caller to know."""
    where = f"all-reduce over {reduced.world_size} ranks"
    if reduced.world_size == 1:
        return ok("one rank has nothing to reduce", where)
    return ok(f"{reduced.mib:g} MiB in {1e3 * reduced.seconds:.2f} ms, {reduced.bus_gb_per_s:.1f} GB/s (bus)", where)


def judge_gpu_all_reduce(reduced: AllReduce, nodes: int) -> Finding:
    """The same between GPUs: slow within one node means that NVLink is not used."""
    finding = judge_all_reduce(reduced)
    if reduced.world_size == 1 or nodes > 1 or reduced.bus_gb_per_s >= SLOW_GB_PER_S:
        return finding
    remedy = "see NCCL_DEBUG=INFO and nvidia-smi topo -m, or use another node"
    return warning(f"{finding.what}; NVLink gives several times {SLOW_GB_PER_S:g}", finding.where, remedy)


def _training(job: Job, dry: DryRun) -> list[Finding]:
    train, where = job.config.train, "rehearsed training"
    budget, limit = job.budgets.train_seconds, phase_limits(job).train
    what = (
        f"{dry.ms_per_step:.1f} ms a step on {dry.world_size} x {dry.device} ({dry.steps} measured): "
        f"{dry.steps_in_budget:,} steps in {dry.train_seconds:.0f} s"
    )
    whole = dry.warmup_seconds + dry.train_seconds
    if dry.steps_in_budget < 1:
        return [error(f"not one step of {dry.ms_per_step:.0f} ms fits into the clock", where, "raise the budget")]
    if dry.train_seconds > budget:
        remedy = "lower overrides.train.iterations, or set train.wallclock_seconds to the budget"
        return [error(f"{what}, budgets.train_seconds is {budget:g}", where, remedy)]
    if whole > limit:
        remedy = "raise limits.train_seconds, or leave it out"
        return [error(f"{what} after a warm-up of {dry.warmup_seconds:.0f} s; the limit is {limit:g} s", where, remedy)]
    if train.wallclock_seconds is None and dry.train_seconds > MARGIN * budget:
        remedy = "lower overrides.train.iterations"
        return [warning(f"{what}, within 10% of budgets.train_seconds = {budget:g}", where, remedy)]
    if dry.steps_in_budget < min(train.warmdown_steps, train.iterations):
        what = f"{what}, fewer than the warm-down of train.warmdown_steps = {train.warmdown_steps:,}"
        remedy = "the learning rate falls from the first step on: shorten the warm-down, or use more or faster GPUs"
        return [warning(what, where, remedy)]
    return [ok(what, where)]


def _evaluation(job: Job, dry: DryRun) -> list[Finding]:
    budget, where = job.budgets.eval_seconds, "rehearsed evaluation"
    what = (
        f"{dry.eval_seconds:.0f} s projected for {dry.chunks:,} chunks ({dry.chunks_measured} measured, adaptation "
        f"included), budgets.eval_seconds is {budget:g}"
    )
    remedy = "use more ranks, or raise overrides.evaluate.stride, or lower evaluate.ttt_epochs"
    if dry.eval_seconds > budget:
        return [error(what, where, remedy)]
    if dry.eval_seconds > MARGIN * budget:
        return [warning(f"{what}: less than 10% is left", where, remedy)]
    return [ok(what, where)]


def _artifact(job: Job, dry: DryRun) -> list[Finding]:
    cap, allowed, where = job.budgets.artifact_bytes, job.config.artifact, "rehearsed artifact"
    remedy = "make the model smaller, or raise budgets.artifact_bytes"
    if dry.refused is not None:
        return [error(dry.refused, where, remedy)]
    if dry.weight_bytes + dry.code_bytes > cap:
        what = f"{dry.weight_bytes + dry.code_bytes:,} bytes of hardly trained weights and code, the cap is {cap:,}"
        return [error(what, where, f"{remedy}, or let the exporter fit it (artifact.cap_bytes)")]
    projected, room = dry.weight_bytes_projected + dry.code_bytes, 8 * (cap - dry.code_bytes) / dry.parameters
    what = (
        f"{projected:,} bytes if trained weights look Gaussian under the published quantisation "
        f"({dry.weight_bytes + dry.code_bytes:,} with these hardly trained ones), the cap is {cap:,}: "
        f"{room:.2f} bits a weight"
    )
    if projected <= cap:
        return [ok(what, where)]
    if allowed.cap_bytes is not None and allowed.requantize:
        return [ok(f"{what}; the exporter fits the weights to it", where)]
    return [warning(what, where, f"allow artifact.requantize, or {remedy}")]


def _memory(dry: DryRun) -> list[Finding]:
    where = "rehearsed memory"
    if dry.memory_mib is None:
        return [ok(f"{dry.peak_memory_mib:,.0f} MiB a rank", where)]
    what = f"{dry.peak_memory_mib:,.0f} of {dry.memory_mib:,.0f} MiB of a GPU"
    remedy = "raise overrides.train.micro_batches, or lower evaluate.batch_windows"
    if dry.peak_memory_mib > dry.memory_mib:
        return [error(what, where, remedy)]
    if dry.peak_memory_mib > MARGIN * dry.memory_mib:
        return [warning(f"{what}: less than 10% is left", where, remedy)]
    return [ok(what, where)]
