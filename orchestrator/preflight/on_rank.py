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

from golf_core import strict_json as records
from golf_core.config import GolfConfig
from golf_core.train.projection import AllReduce, DryRun
from orchestrator.preflight.cost import estimate
from orchestrator.preflight.data import check_data_folder
from orchestrator.preflight.findings import Finding, Preflight, error, ok
from orchestrator.preflight.gpus import check_gpus, is_kind
from orchestrator.preflight.rehearsal import judge_all_reduce, judge_dry_run, judge_gpu_all_reduce
from orchestrator.preflight.room import check_disk, check_shm, need_of
from orchestrator.spec import Job

if TYPE_CHECKING:
    from golf_core.distributed import Ranks

SEARCH_TOKENS = 1_000_000_000
"""Of the training shards: some ten seconds, once on each node."""
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
    """Of the rehearsal; 0 rehearses nothing."""


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
    asked, settings = records.from_dict(RankRequest, request), records.from_dict(GolfConfig, config)
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
    plain: dict[str, Any] = records.to_dict(report)
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
    found = sorted((records.from_dict(RankReport, report) for report in reports), key=lambda report: report.rank)
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
