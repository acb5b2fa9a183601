"""The checks that need the gang: they run in each rank's process, and their reports travel to the driver.

`check_rank` is called on all ranks at once, after they have joined and opened their data.
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from golf_core import strict_json
from golf_core.config import GolfConfig
from golf_core.train.projection import AllReduce, DryRun
from orchestrator.job.load import Job, phase_limits
from orchestrator.preflight.data import check_data_folder
from orchestrator.preflight.findings import Finding, Preflight, error, ok, warning
from orchestrator.preflight.machine import check_disk, check_gpus, check_shm, is_kind, need_of
from orchestrator.preflight.plan import estimate

if TYPE_CHECKING:
    from golf_core.distributed import Ranks

SEARCH_TOKENS = 1_000_000_000
"""Tokens of the training shards that are searched: some ten seconds, once on each node."""
OWN_MIB = 3072.0
"""What a rank's own CUDA context and NCCL hold of its GPU before it trains."""
DRY_STEPS = 20
READ_ALL = 2**62
UUID_BYTES = 64


@dataclass(frozen=True)
class RankRequest:
    """What a rank needs to know of the job, beside configuration and data."""

    accelerator: str | None
    ranks: int
    nodes: int
    disk_bytes: int
    """Free in the node's temporary folder."""
    shm_bytes: int
    steps: int = DRY_STEPS
    """Steps of the rehearsal; 0 rehearses nothing."""


@dataclass(frozen=True)
class RankReport:
    """What one rank found. The rehearsal is the same on all."""

    rank: int
    node: str
    gpu: str | None
    """The GPU's UUID."""
    device: str
    findings: tuple[Finding, ...]
    all_reduce: AllReduce | None
    dry_run: DryRun | None


def request_of(job: Job, steps: int = DRY_STEPS) -> RankRequest:
    """What the ranks of `job` have to look for."""
    need, resources = need_of(job), job.resources
    return RankRequest(resources.accelerator, resources.ranks, resources.nodes, need.node, need.shm, steps)


def check_rank(
    config: Mapping[str, Any],
    data: Mapping[str, str] | None,
    ranks: Ranks,
    request: Mapping[str, Any],
    checksums: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Check this rank's node and GPU, then, if no rank found an error, the gang: all-reduce and rehearsal.

    All ranks call it together, each with its own `ranks`. `config`: a `GolfConfig`; `data`: as the job names it, None
    for the sample; `request`: a `RankRequest`; `checksums`: of a `check_data` that has just passed here. Returns a
    `RankReport`; all as plain values. Raises what the rehearsal raises (`GolfError`, a GPU out of memory) on the rank
    where it happens: its fellows then wait in vain, so end the gang.
    """
    asked, settings = strict_json.from_dict(RankRequest, request), strict_json.from_dict(GolfConfig, config)
    per_node = asked.ranks // asked.nodes
    uuid, device, findings = _own_gpu(ranks, asked.accelerator)
    gpus = _gang_gpus(ranks, uuid) if asked.accelerator is not None else []
    if ranks.rank % per_node == 0:  # the first rank of its node looks at the node for all
        findings += check_node(settings, data, asked, checksums, gpus[ranks.rank : ranks.rank + per_node])
    reduced: AllReduce | None = None
    dry: DryRun | None = None
    if not ranks.largest(float(any(finding.level == "error" for finding in findings))):
        reduced, dry = _rehearse(settings, data, ranks, asked.steps)
    report = RankReport(ranks.rank, platform.node(), uuid, device, tuple(findings), reduced, dry)
    plain: dict[str, Any] = strict_json.to_dict(report)
    return plain


def check_node(
    config: GolfConfig,
    data: Mapping[str, str] | None,
    asked: RankRequest,
    checksums: Mapping[str, str] | None,
    gpus: Sequence[str],
) -> list[Finding]:
    """Disk, shared memory, data, and the gang's GPUs (UUIDs) of the node where this is called."""
    node, per_node = platform.node(), asked.ranks // asked.nodes
    findings = [
        check_disk(tempfile.gettempdir(), asked.disk_bytes, f"temporary folder, {node}"),
        check_shm(asked.shm_bytes, f"shared memory, {node}", strict=asked.accelerator is not None and per_node > 1),
    ]
    if asked.accelerator is not None:
        findings += check_gpus(per_node, asked.accelerator, own_mib=OWN_MIB, uuids=gpus)
    longest = max(config.train.seq_len, config.evaluate.seq_len)
    whole_bytes = 0 if checksums is not None else READ_ALL
    vocab_size = config.model.vocab_size
    return findings + check_data_folder(data, vocab_size, longest, checksums, whole_bytes, SEARCH_TOKENS)


def judge_ranks(job: Job, reports: Sequence[Mapping[str, Any]], places: int = 1) -> Preflight:
    """All ranks' reports as one result: their findings, whether each has a GPU of its own, the budgets, the cost."""
    found = sorted((strict_json.from_dict(RankReport, report) for report in reports), key=lambda report: report.rank)
    findings = [finding for report in found for finding in report.findings]
    if job.resources.accelerator is not None:
        findings.append(_own_gpus_each(found))
    reduced = next((report.all_reduce for report in found if report.all_reduce is not None), None)
    if reduced is not None:
        gpu = job.resources.accelerator is not None
        findings.append(judge_gpu_all_reduce(reduced, job.resources.nodes) if gpu else judge_all_reduce(reduced))
    dry = next((report.dry_run for report in found if report.dry_run is not None), None)
    if dry is not None:
        findings += judge_dry_run(job, dry)
    return Preflight(tuple(dict.fromkeys(findings)), dry, estimate(job, places, dry))


def _own_gpu(ranks: Ranks, accelerator: str | None) -> tuple[str | None, str, list[Finding]]:
    """UUID and name of this rank's GPU, and whether it is one of its own and of the right kind."""
    if accelerator is None:
        return None, "cpu", []
    import torch

    where = f"rank {ranks.rank}, {platform.node()}"
    visible = torch.cuda.device_count()
    if ranks.device.type != "cuda" or visible < 1:
        return None, "cpu", [error("sees no GPU", where, "check the driver and Ray's --num-gpus on this node")]
    properties = torch.cuda.get_device_properties(ranks.device)
    uuid = f"GPU-{properties.uuid}"
    findings = []
    if visible != 1:
        findings.append(
            error(
                f"sees {visible} GPUs, where Ray gives it one",
                where,
                "unset RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES",
            )
        )
    if not is_kind(properties.name, accelerator):
        what = f"runs on {properties.name}, {accelerator} asked for"
        findings.append(error(what, where, "use another node, or change resources.accelerator"))
    return uuid, properties.name, findings


def _own_gpus_each(reports: Sequence[RankReport]) -> Finding:
    uuids = [report.gpu for report in reports if report.gpu is not None]
    what = f"{len(set(uuids))} GPUs for {len(reports)} ranks"
    if len(set(uuids)) < len(reports):
        return error(what, "gang", "every rank needs one of its own: check Ray's --num-gpus")
    return ok(f"{what}: {', '.join(sorted({report.device for report in reports}))}", "gang")


def _gang_gpus(ranks: Ranks, uuid: str | None) -> list[str]:
    """The UUIDs of all ranks' GPUs, in rank order."""
    import torch

    own = torch.tensor([list((uuid or "").ljust(UUID_BYTES).encode())], dtype=torch.uint8, device=ranks.device)
    return [bytes(row).decode().strip() for row in ranks.gather(own).tolist()]


def _rehearse(
    config: GolfConfig, data: Mapping[str, str] | None, ranks: Ranks, steps: int
) -> tuple[AllReduce, DryRun | None]:
    from golf_core.data.sample import default_sample_folder
    from golf_core.stages import DataPaths
    from golf_core.train.dry_run import dry_run, time_all_reduce

    folder = default_sample_folder() if data is None else Path(data["path"])
    tokenizer = folder / "tokenizer.model" if data is None else Path(data["tokenizer"])
    reduced = time_all_reduce(ranks)
    return reduced, dry_run(config, DataPaths(folder, tokenizer), ranks, steps) if steps else None


# --- rehearsal: a few steps and chunks, and what they project ---

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
