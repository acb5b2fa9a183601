"""Samples of the machine: what they hold, and that nothing is disturbed by them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any

import psutil
import pytest

from golf_core.events import Event, Gpu, System, TrainStep
from golf_core.log_text import event_line
from golf_core.results import MIB
from orchestrator.run.failures import StallWatch
from orchestrator.run.rank import Sampler

FIGURES = {"elapsed_s", "cpu_percent", "memory_mib", "memory_total_mib", "process_memory_mib", "gpus"}


class Nvml:
    """As pynvml, with two GPUs of which the second does not tell its power."""

    NVML_TEMPERATURE_GPU = 0
    INDEX: Mapping[str, int] = MappingProxyType({"GPU-b": 0, "GPU-a": 5})

    def nvmlInit(self) -> None:  # noqa: N802
        self.started = True

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        return {name: name for name in self.INDEX}[uuid]

    def nvmlDeviceGetIndex(self, handle: str) -> int:  # noqa: N802
        return self.INDEX[handle]

    def nvmlDeviceGetName(self, handle: str) -> bytes:  # noqa: N802
        return b"NVIDIA H100"

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:  # noqa: N802
        return SimpleNamespace(used=20 * 1024 * MIB, total=80 * 1024 * MIB)

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:  # noqa: N802
        return SimpleNamespace(gpu=97)

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:  # noqa: N802
        if handle == "GPU-a":
            raise RuntimeError("not supported")
        return 650_500

    def nvmlDeviceGetTemperature(self, handle: str, kind: int) -> int:  # noqa: N802
        return 61


def samples(count: int, uuids: list[str], nvml: Any = None) -> list[dict[str, Any]]:
    seen: list[Event] = []
    sampler = Sampler(seen.append, uuids, every_s=0.01, nvml=nvml)
    sampler.start()
    deadline = time.monotonic() + 20
    while len(seen) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    sampler.close()
    ended = len(seen)
    time.sleep(0.1)
    assert len(seen) == ended >= count and {event.kind for event in seen} == {"system"}
    json.dumps([dict(event.fields) for event in seen])
    return [dict(event.fields) for event in seen]


def test_without_gpus() -> None:
    first, second = samples(2, [])[:2]
    assert set(first) == FIGURES and first["gpus"] == []
    assert 0 <= first["cpu_percent"] <= 100
    assert first["memory_total_mib"] == pytest.approx(psutil.virtual_memory().total / MIB, abs=1)
    assert 0 < first["process_memory_mib"] < first["memory_total_mib"]
    assert second["elapsed_s"] > first["elapsed_s"] >= 0


def test_the_gangs_own_gpus_in_order() -> None:
    gpus = samples(1, ["GPU-a", "GPU-b"], Nvml())[0]["gpus"]
    assert [gpu["index"] for gpu in gpus] == [0, 5]
    assert gpus[0] == {
        "index": 0,
        "name": "NVIDIA H100",
        "memory_mib": 20_480.0,
        "memory_total_mib": 81_920.0,
        "utilisation_percent": 97.0,
        "power_w": 650.5,
        "temperature_c": 61.0,
    }
    assert "power_w" not in gpus[1] and gpus[1]["utilisation_percent"] == 97.0


@pytest.mark.parametrize("broken", ["nvmlInit", "nvmlDeviceGetHandleByUUID"])
def test_gpus_that_cannot_be_read_are_left_out(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError("no driver")

    monkeypatch.setattr(Nvml, broken, fail)
    assert samples(1, ["GPU-a"], Nvml())[0]["gpus"] == []


def test_a_listener_that_fails_ends_nothing() -> None:
    calls: list[Event] = []

    def listen(event: Event) -> None:
        calls.append(event)
        raise ValueError("no room")

    sampler = Sampler(listen, [], every_s=0.01)
    sampler.start()
    deadline = time.monotonic() + 20
    while len(calls) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    sampler.close()
    assert len(calls) >= 2


def test_samples_are_no_progress() -> None:
    """Ranks that wait for each other still sample; the stall is noticed all the same."""
    now = [0.0]
    steadiness = StallWatch(10.0, lambda: now[0])
    for step in (1, 2):
        now[0] += 1
        steadiness.saw(TrainStep(step, 99))
    for _ in range(12):
        now[0] += 1
        steadiness.saw(System(cpu_percent=1.0))
    with pytest.raises(Exception, match="no training step for 10 s"):
        steadiness.check()


def test_the_line_in_a_plain_log() -> None:
    assert event_line(System(elapsed_s=1.0, cpu_percent=5.0, gpus=(Gpu(3, power_w=650.5),))) == (
        "system elapsed_s:1.00000 cpu_percent:5.00000 gpu3.index:3 gpu3.power_w:650.50000"
    )
