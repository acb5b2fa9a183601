"""A node's GPUs, as an NVML of our own describes them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.preflight.findings import Finding
from orchestrator.preflight.machine import check_gpus, is_kind

GIB = 1024**3


class NVMLError(Exception):
    pass


def fake_nvml(
    *gpus: dict[str, Any], unlinked: tuple[tuple[int, int], ...] = (), driver: bool = True
) -> SimpleNamespace:
    """The functions of pynvml that are used; each GPU is a mapping of what differs from a healthy H100."""

    def told(name: str, usual: Any) -> Callable[[int], Any]:
        return lambda gpu: gpus[gpu].get(name, usual)

    def add_open(change: int) -> None:
        if not driver:
            raise NVMLError("Driver Not Loaded")
        nvml.open += change

    def mig_mode(gpu: int) -> tuple[int, int]:
        if told("mig", 0)(gpu) is None:
            raise NVMLError("Not Supported")
        return (told("mig", 0)(gpu),) * 2

    def ecc_errors(gpu: int, kind: int, counter: int) -> int:
        assert (kind, counter) == (1, 0)
        return int(told("ecc", 0)(gpu))

    def p2p_status(a: int, b: int, caps: int) -> int:
        assert caps == 2
        return 5 if (min(a, b), max(a, b)) in unlinked else 0

    nvml = SimpleNamespace(
        open=0,
        NVMLError=NVMLError,
        NVML_MEMORY_ERROR_TYPE_UNCORRECTED=1,
        NVML_VOLATILE_ECC=0,
        NVML_P2P_CAPS_INDEX_NVLINK=2,
        NVML_P2P_STATUS_OK=0,
        nvmlClocksThrottleReasonHwSlowdown=8,
        nvmlClocksThrottleReasonHwThermalSlowdown=64,
        nvmlClocksThrottleReasonHwPowerBrakeSlowdown=128,
        nvmlInit=lambda: add_open(1),
        nvmlShutdown=lambda: add_open(-1),
        nvmlDeviceGetCount=lambda: len(gpus),
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetMemoryInfo=lambda gpu: SimpleNamespace(used=told("used", 0.4)(gpu) * GIB, total=80 * GIB),
        nvmlDeviceGetUtilizationRates=lambda gpu: SimpleNamespace(gpu=told("busy", 0)(gpu)),
        nvmlDeviceGetUUID="GPU-{}".format,
        nvmlDeviceGetName=lambda gpu: told("name", "NVIDIA H100 80GB HBM3")(gpu).encode(),
        nvmlDeviceGetRemappedRows=lambda gpu: (0, 0, *told("rows", (0, 0))(gpu)),
        nvmlDeviceGetCurrentClocksThrottleReasons=told("reasons", 1),  # 1: idle
        nvmlDeviceGetMigMode=mig_mode,
        nvmlDeviceGetTotalEccErrors=ecc_errors,
        nvmlDeviceGetP2PStatus=p2p_status,
    )
    return nvml


def levels(findings: list[Finding]) -> list[str]:
    return [finding.level for finding in findings]


def test_eight_healthy_gpus_are_fine() -> None:
    nvml = fake_nvml(*[{}] * 8)
    findings = check_gpus(8, "H100", nvml)
    assert levels(findings) == ["ok", "ok"]
    assert "8 x NVIDIA H100 80GB HBM3" in findings[0].what and "NVLink" in findings[1].what
    assert nvml.open == 0


@pytest.mark.parametrize(
    ("gpu", "level", "words"),
    [
        ({"used": 30.0, "busy": 97}, "error", "30,720 of 81,920 MiB taken, 97% busy"),
        ({"busy": 50}, "error", "in use"),
        ({"ecc": 3}, "error", "3 uncorrected"),
        ({"rows": (0, 1)}, "error", "could not be replaced"),
        ({"rows": (1, 0)}, "warning", "wait for a reset"),
        ({"reasons": 64}, "warning", "slowed down"),
        ({"mig": 1}, "error", "MIG"),
        ({"name": "NVIDIA A100-SXM4-80GB"}, "error", "A100-SXM4-80GB, H100 asked for"),
    ],
)
def test_each_fault_is_found_on_its_gpu(gpu: dict[str, Any], level: str, words: str) -> None:
    findings = check_gpus(2, "H100", fake_nvml({}, gpu))
    (fault,) = [finding for finding in findings if finding.level != "ok"]
    assert fault.level == level and words in fault.what and fault.remedy
    if "asked for" not in words:
        assert fault.where.startswith("GPU 1,")


@pytest.mark.parametrize(("there", "exactly", "level"), [(7, True, "error"), (9, True, "error"), (9, False, "ok")])
def test_the_number_of_gpus(there: int, exactly: bool, level: str) -> None:
    findings = check_gpus(8, "H100", fake_nvml(*[{}] * there), exactly=exactly)
    assert findings[0].level == level
    assert (f"{there} GPUs, 8 asked for" in findings[0].what) == (level == "error")


def test_what_is_no_fault() -> None:
    """A driver that does not tell, GPUs of others, and memory of our own."""
    assert set(levels(check_gpus(1, "H100", fake_nvml({"mig": None})))) == {"ok"}
    nvml = fake_nvml({}, {"used": 60.0}, {})
    assert set(levels(check_gpus(2, "H100", nvml, uuids=["GPU-0", "GPU-2"]))) == {"ok"}
    assert "error" in levels(check_gpus(2, "H100", nvml, uuids=["GPU-0", "GPU-1"]))
    nvml = fake_nvml({"used": 2.0, "busy": 60})
    assert "error" in levels(check_gpus(1, "H100", nvml))
    assert levels(check_gpus(1, "H100", nvml, own_mib=3072)) == ["ok"]


def test_missing_nvlink_is_a_warning_that_names_the_pairs() -> None:
    findings = check_gpus(4, "H100", fake_nvml(*[{}] * 4, unlinked=((0, 2), (1, 3))))
    (warning,) = [finding for finding in findings if finding.level == "warning"]
    assert "0-2, 1-3" in warning.what and "2 of 6 pairs" in warning.what


def test_no_driver_is_an_error_and_no_package_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    assert levels(check_gpus(1, "H100", fake_nvml(driver=False))) == ["error"]
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    (finding,) = check_gpus(1, "H100")
    assert finding.level == "warning" and "pip install nvidia-ml-py" in finding.remedy


@pytest.mark.parametrize(
    ("name", "kind", "same"),
    [
        ("NVIDIA H100 80GB HBM3", "H100", True),
        ("NVIDIA H100 PCIe", "H100", True),
        ("NVIDIA H200", "H100", False),
        ("NVIDIA L40S", "L4", False),
        ("NVIDIA A100-SXM4-40GB", "A100-40G", True),
        ("NVIDIA A100-SXM4-80GB", "A100-40G", False),
        ("Tesla T4", "T4", True),
        ("NVIDIA H100 80GB HBM3", "h100", True),
    ],
)
def test_kinds_of_gpus(name: str, kind: str, same: bool) -> None:
    assert is_kind(name, kind) == same
