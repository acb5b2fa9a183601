"""A node's GPUs through NVML: exactly those asked for, idle, without errors, joined by NVLink.

`nvml` is the module `pynvml` (package nvidia-ml-py), or something with its functions.
"""

from __future__ import annotations

import importlib
import platform
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from golf_core.results import MIB
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
