"""A node's GPUs through NVML: exactly those asked for, idle, without errors, joined by NVLink.

`nvml` is the module `pynvml` (package nvidia-ml-py), or something with its functions.
"""

from __future__ import annotations

import importlib
import math
import os
import platform
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from golf_core.errors import UserError
from golf_core.results import MIB
from orchestrator.job.load import Job, Resources
from orchestrator.preflight.findings import Finding, error, ok, warning

IDLE_MIB = 1024
"""Memory that the driver itself may hold."""
IDLE_PERCENT = 10
PACKAGE = "nvidia-ml-py"


@dataclass(frozen=True)
class Gpu:
    """One GPU as NVML sees it. None: this GPU does not tell."""

    index: int
    uuid: str
    name: str
    used_mib: float
    total_mib: float
    busy_percent: int | None
    uncorrected: int | None
    """Memory errors since the driver was loaded that could not be corrected."""
    rows_pending: bool | None
    """Broken memory rows are replaced at the next reset."""
    rows_failed: bool | None
    """Broken memory rows could not be replaced."""
    slowed: bool | None
    """By heat or lack of power, in hardware."""
    mig: bool | None
    """Cut into parts."""


def check_gpus(
    count: int,
    kind: str,
    nvml: Any = None,
    own_mib: float = 0.0,
    uuids: Sequence[str] | None = None,
    exactly: bool = True,
) -> list[Finding]:
    """Whether this machine has `count` GPUs of `kind` (as Ray names it, such as H100), idle and sound.

    `own_mib`: memory of each that our own ranks hold. `uuids`: of the GPUs that the gang was given; others on the
    machine are then left aside. `exactly` False allows more than `count`.
    """
    where = f"GPUs, {platform.node()}"
    try:
        module = nvml if nvml is not None else importlib.import_module("pynvml")
    except ImportError:
        return [warning("not checked, as NVML's Python package is not installed", where, f"pip install {PACKAGE}")]
    try:
        with _opened(module):
            gpus = [gpu for gpu in _gpus(module) if uuids is None or gpu.uuid in uuids]
            pairs = _unlinked(module, gpus)
    except module.NVMLError as problem:
        remedy = "install NVIDIA's driver, or give the container its GPUs (--gpus all)"
        return [error(f"NVML finds none ({problem})", where, remedy)]
    findings = _count_and_kind(gpus, count, kind, exactly, where)
    for gpu in gpus:
        findings += _condition(gpu, own_mib)
    if gpus and not findings:
        findings.append(ok(f"{len(gpus)} x {gpus[0].name}, idle, no memory errors", where))
    if pairs:
        shown = ", ".join(f"{a}-{b}" for a, b in pairs[:6]) + (", …" if len(pairs) > 6 else "")
        what = f"no NVLink between GPUs {shown} ({len(pairs)} of {len(gpus) * (len(gpus) - 1) // 2} pairs)"
        findings.append(warning(what, where, "gradients go over PCIe: use an SXM node, or see nvidia-smi nvlink -s"))
    elif len(gpus) > 1:
        findings.append(ok("NVLink between all pairs", where))
    return findings


def is_kind(name: str, kind: str) -> bool:
    """Whether a GPU that calls itself `name` ("NVIDIA A100-SXM4-40GB") is of Ray's kind ("A100-40G")."""
    words = set(re.split(r"[^A-Z0-9]+", name.upper()))
    return all(part in words or f"{part}B" in words for part in kind.upper().split("-"))


def _count_and_kind(gpus: Sequence[Gpu], count: int, kind: str, exactly: bool, where: str) -> list[Finding]:
    findings = []
    if len(gpus) < count or (exactly and len(gpus) > count):
        what = f"{len(gpus)} GPUs, {count} asked for"
        findings.append(error(what, where, "use a node that has them, or change resources.ranks"))
    others = sorted({gpu.name for gpu in gpus if not is_kind(gpu.name, kind)})
    if others:
        what = f"{', '.join(others)}, {kind} asked for"
        findings.append(error(what, where, "use another node, or change resources.accelerator"))
    return findings


def _condition(gpu: Gpu, own_mib: float) -> Iterator[Finding]:
    where = f"GPU {gpu.index}, {platform.node()}"
    if gpu.used_mib - own_mib > IDLE_MIB or (not own_mib and (gpu.busy_percent or 0) > IDLE_PERCENT):
        busy = "" if gpu.busy_percent is None else f", {gpu.busy_percent}% busy"
        yield error(
            f"in use: {gpu.used_mib:,.0f} of {gpu.total_mib:,.0f} MiB taken{busy}", where, "end what runs on it"
        )
    if gpu.uncorrected:
        yield error(f"{gpu.uncorrected} uncorrected memory errors", where, "reset the GPU, or use another node")
    if gpu.rows_failed:
        yield error("broken memory rows could not be replaced", where, "take the GPU out of service")
    if gpu.rows_pending:
        yield warning("broken memory rows wait for a reset", where, "reset the GPU before the run")
    if gpu.slowed:
        yield warning("slowed down by heat or lack of power", where, "see nvidia-smi -q -d PERFORMANCE")
    if gpu.mig:
        yield error("cut into parts (MIG)", where, "use a whole GPU: nvidia-smi -mig 0")


# --- NVML -------------------------------------------------------------------------------------------


@contextmanager
def _opened(nvml: Any) -> Iterator[None]:
    nvml.nvmlInit()
    try:
        yield
    finally:
        nvml.nvmlShutdown()


def _gpus(nvml: Any) -> list[Gpu]:
    return [_look(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]


def _look(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    rows = _told(nvml, "nvmlDeviceGetRemappedRows", handle)
    load = _told(nvml, "nvmlDeviceGetUtilizationRates", handle)
    reasons = _told(nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", handle)
    mig = _told(nvml, "nvmlDeviceGetMigMode", handle)
    errors = _told(
        nvml,
        "nvmlDeviceGetTotalEccErrors",
        handle,
        getattr(nvml, "NVML_MEMORY_ERROR_TYPE_UNCORRECTED", 1),
        getattr(nvml, "NVML_VOLATILE_ECC", 0),
    )
    return Gpu(
        index=index,
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        name=_text(nvml.nvmlDeviceGetName(handle)),
        used_mib=memory.used / MIB,
        total_mib=memory.total / MIB,
        busy_percent=None if load is None else int(load.gpu),
        uncorrected=None if errors is None else int(errors),
        rows_pending=None if rows is None else bool(rows[2]),
        rows_failed=None if rows is None else bool(rows[3]),
        slowed=None if reasons is None else bool(int(reasons) & _slowdowns(nvml)),
        mig=None if mig is None else bool(mig[0]),
    )


def _slowdowns(nvml: Any) -> int:
    names = ("HwSlowdown", "HwThermalSlowdown", "HwPowerBrakeSlowdown")
    return sum({int(getattr(nvml, f"nvmlClocksThrottleReason{name}", 0)) for name in names})


def _unlinked(nvml: Any, gpus: Sequence[Gpu]) -> list[tuple[int, int]]:
    """Pairs that cannot reach each other over NVLink; none where NVML does not tell."""
    handles = {gpu.index: nvml.nvmlDeviceGetHandleByIndex(gpu.index) for gpu in gpus}
    found = []
    for a in handles:
        for b in handles:
            if a < b:
                status = _told(
                    nvml,
                    "nvmlDeviceGetP2PStatus",
                    handles[a],
                    handles[b],
                    getattr(nvml, "NVML_P2P_CAPS_INDEX_NVLINK", 2),
                )
                if status is not None and int(status) != int(getattr(nvml, "NVML_P2P_STATUS_OK", 0)):
                    found.append((a, b))
    return found


def _told(nvml: Any, function: str, *arguments: Any) -> Any:
    """What NVML says, or None where this GPU or driver does not tell."""
    try:
        return getattr(nvml, function)(*arguments)
    except (AttributeError, nvml.NVMLError):
        return None


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


# --- nodes, and whether they can hold the gang of a seed ---

ACCELERATOR_PREFIX = "accelerator_type:"


class ClusterError(UserError):
    """No cluster, or one that can never run the job."""


@dataclass(frozen=True)
class Node:
    """What one node of the cluster offers in all, used or not."""

    name: str
    resources: Mapping[str, float]

    @property
    def cpus(self) -> float:
        """CPU cores, as Ray counts them."""
        return self.resources.get("CPU", 0.0)

    @property
    def gpus(self) -> float:
        """GPUs of any kind."""
        return self.resources.get("GPU", 0.0)

    @property
    def kinds(self) -> list[str]:
        """Kinds of its GPUs, as Ray names them; none where it was not asked."""
        names = (name for name in self.resources if name.startswith(ACCELERATOR_PREFIX))
        return sorted(name.removeprefix(ACCELERATOR_PREFIX) for name in names)

    def has(self, accelerator: str) -> bool:
        """Whether its GPUs are of this kind."""
        return accelerator in self.kinds


def this_machine() -> Node:
    """What a local Ray would find here, without starting one."""
    gpus = len([path for path in Path("/dev").glob("nvidia[0-9]*") if path.name[6:].isdigit()])
    return Node("this machine", {"CPU": float(os.cpu_count() or 1), "GPU": float(gpus)})


@dataclass(frozen=True)
class Misfit:
    """Why no node can ever hold one seed's gang, as a sentence about each seed, and the field that would help."""

    what: str
    remedy: str


def misfit(resources: Resources, nodes: Sequence[Node]) -> Misfit | None:
    """What keeps every node from holding one seed's gang; None where one can.

    Where a gang is shared out between two nodes, two must hold a half each.
    """
    ranks = resources.ranks // resources.nodes
    place = "on one node" if resources.nodes == 1 else f"on each of {resources.nodes} nodes"
    smaller = "use a larger node, or lower resources.ranks (fewer ranks take fewer steps in the same time)"
    if resources.accelerator is not None:
        most = int(max((node.gpus for node in nodes), default=0))
        if most < ranks:
            shared = resources.model_copy(update={"nodes": 2})
            in_halves = resources.nodes == 1 and not resources.ranks % 2 and misfit(shared, nodes) is None
            remedy = f"set resources.nodes to 2, or {smaller}" if in_halves else smaller
            return Misfit(f"needs {_count(ranks, 'GPU')} {place}; the largest node has {most}", remedy)
        # A machine that was only looked at does not tell the kind of its GPUs; Ray does.
        told = [node for node in nodes if node.kinds]
        if told and not any(node.has(resources.accelerator) and node.gpus >= ranks for node in told):
            kinds = sorted({kind for node in told for kind in node.kinds})
            what = f"needs {ranks} GPUs of type {resources.accelerator} {place}; the cluster has {', '.join(kinds)}"
            fitting = [node for node in told if node.gpus >= ranks]
            other = next((kind for node in fitting for kind in node.kinds if kind != resources.accelerator), None)
            if other is None:
                return Misfit(what, smaller)
            return Misfit(what, f"set resources.accelerator to {other}, or use a cluster that has what is asked for")
    cpus = ranks * resources.cpus_per_rank
    fitting = [node for node in nodes if resources.accelerator is None or node.gpus >= ranks]
    most_cpus = max((node.cpus for node in fitting), default=0.0)
    if most_cpus < cpus:
        what = f"needs {cpus:g} CPUs {place}; the largest node has {most_cpus:g}"
        room = math.floor(100 * most_cpus / ranks) / 100
        if room <= 0:
            return Misfit(what, smaller)
        return Misfit(what, f"lower resources.cpus_per_rank to {room:g}, or {smaller}")
    enough = sum(node.cpus >= cpus for node in fitting)
    if enough < resources.nodes:
        what = f"needs {resources.nodes} nodes with {_count(ranks, 'rank')} each; the cluster has {enough} such"
        return Misfit(what, "add a node, or lower resources.nodes or resources.ranks")
    return None


def refuse_misfit(resources: Resources, nodes: Sequence[Node]) -> None:
    """Raise `ClusterError` with the sentence of `misfit`, and the remedy, if there is one."""
    found = misfit(resources, nodes)
    if found is not None:
        raise ClusterError(f"resources: each seed {found.what}; {found.remedy}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


# --- disk and shared memory ---

LOG_BYTES_PER_STEP, LOG_BYTES_PER_CHUNK = 300, 2000
"""Bytes of the log and the result, measured and rounded up."""
SEED_OVERHEAD = 4 * MIB
"""Program, audit, results."""
RESERVE = 1.5
SHM_PER_RANK = 64 * MIB
"""NCCL's buffers between the ranks of one node."""
SHM = Path("/dev/shm")


@dataclass(frozen=True)
class Need:
    """Bytes that a job takes."""

    run: int
    """In the run's folder, all seeds together."""
    node: int
    """In the temporary folder of a rank's node, for one seed."""
    shm: int
    """In a node's shared memory, for one seed: NCCL, and files on their way through Ray."""


def need_of(job: Job) -> Need:
    """What `job` takes: a checkpoint in float32, the artifact and a log for each seed, with half as much again."""
    checkpoint, artifact = 4 * parameters(job), job.budgets.artifact_bytes
    train, evaluate = job.config.train, job.config.evaluate
    # The length of the text is not known here; the challenge's has 62 million tokens.
    targets = evaluate.max_tokens or 62_000_000
    log = train.iterations // train.log_every * LOG_BYTES_PER_STEP
    log += 2 * (targets // evaluate.chunk_tokens + 1) * LOG_BYTES_PER_CHUNK
    seed = checkpoint + artifact + log + SEED_OVERHEAD
    per_node = job.resources.ranks // job.resources.nodes
    shm = (per_node * SHM_PER_RANK if job.resources.accelerator else 0) + checkpoint + artifact
    return Need(int(RESERVE * seed * len(job.seeds)), int(RESERVE * 2 * seed), int(shm))


def parameters(job: Job) -> int:
    """Weights of the job's model."""
    from golf_core.model.gpt import expected_shapes

    return sum(math.prod(shape) for shape in expected_shapes(job.config.model).values())


def check_disk(folder: str, needed: int, where: str) -> Finding:
    """Whether `folder`, or what will hold it, can be written and has `needed` bytes."""
    place = existing(Path(folder))
    if not place.is_dir():
        return error(f"{place} is a file, where a folder is needed", where, "name another folder")
    if not os.access(place, os.W_OK | os.X_OK):
        return error(f"{place} cannot be written", where, "name another folder, or change its permissions")
    free = shutil.disk_usage(place).free
    if free < needed:
        return error(f"{_mib(free)} free in {place}, {_mib(needed)} needed", where, "make room, or name another folder")
    return ok(f"{_mib(free)} free in {place}, {_mib(needed)} needed", where)


def check_shm(needed: int, where: str, strict: bool, shm: Path = SHM) -> Finding:
    """Whether shared memory has `needed` bytes free; too little is an error where `strict`, as with NCCL."""
    if not shm.is_dir():
        return warning(f"there is no {shm}", where, "NCCL and Ray will use slower ways")
    free = shutil.disk_usage(shm).free
    if free >= needed:
        return ok(f"{_mib(free)} free in {shm}, {_mib(needed)} needed", where)
    remedy = "start the container with more, such as --shm-size=8g, or remount it larger"
    return (error if strict else warning)(f"{_mib(free)} free in {shm}, {_mib(needed)} needed", where, remedy)


def existing(path: Path) -> Path:
    """The path itself, or the nearest folder above it that is there."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _mib(count: float) -> str:
    return f"{count / MIB:,.0f} MiB" if count < 10_000 * MIB else f"{count / MIB / 1024:,.0f} GiB"
