"""What a gang's machine is doing, as events of kind "system": for charts, never for decisions."""

from __future__ import annotations

import importlib
import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from golf_core.events import Gpu, Listener, System
from golf_core.results import MIB

SAMPLE_EVERY_S = 10.0
MOMENT_S = 0.2
MILLIWATTS = 1000.0


class Sampler:
    """Emits a sample at once and then every `every_s` seconds, from a thread that ends with the process.

    `uuids`: of the GPUs to look at, as NVML names them. What cannot be read is left out; nothing here raises.
    """

    def __init__(self, emit: Listener, uuids: Sequence[str], every_s: float = SAMPLE_EVERY_S, nvml: Any = None) -> None:
        self._emit, self._every_s = emit, every_s
        self._began = time.monotonic()
        self._gpus = _Gpus(uuids, nvml)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="system-sampler", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End; nothing is emitted after that."""
        self._ended.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._ended.is_set():
            with suppress(Exception):  # a picture less, and no reason to disturb a training
                self._emit(self._sample())
            self._ended.wait(self._every_s)

    def _sample(self) -> System:
        elapsed_s = round(time.monotonic() - self._began, 3)
        return System(elapsed_s=elapsed_s, **node_figures(), gpus=tuple(self._gpus.figures()))


def node_figures() -> dict[str, Any]:
    """CPU load over a moment (percent of all cores), memory of this machine and of this process in MiB."""
    import psutil

    memory = psutil.virtual_memory()
    return {
        "cpu_percent": psutil.cpu_percent(interval=MOMENT_S),
        "memory_mib": round((memory.total - memory.available) / MIB, 1),
        "memory_total_mib": round(memory.total / MIB, 1),
        "process_memory_mib": round(psutil.Process().memory_info().rss / MIB, 1),
    }


class _Gpus:
    """Some GPUs through NVML, found once. Without NVML there are none."""

    def __init__(self, uuids: Sequence[str], nvml: Any) -> None:
        self._handles: list[tuple[int, Any]] = []
        self._nvml = nvml
        if not uuids:
            return
        with suppress(Exception):  # no library, no driver, no such GPU
            self._nvml = nvml or importlib.import_module("pynvml")
            self._nvml.nvmlInit()
            for uuid in uuids:
                handle = self._nvml.nvmlDeviceGetHandleByUUID(uuid)
                self._handles.append((int(self._nvml.nvmlDeviceGetIndex(handle)), handle))

    def figures(self) -> list[Gpu]:
        """One for each GPU; figures that it does not tell are left out."""
        return [Gpu(index, **self._of(handle)) for index, handle in sorted(self._handles, key=lambda h: h[0])]

    def _of(self, handle: Any) -> dict[str, Any]:
        nvml = self._nvml
        sources: dict[str, Callable[[], Any]] = {
            "name": lambda: _text(nvml.nvmlDeviceGetName(handle)),
            "memory_mib": lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used / MIB,
            "memory_total_mib": lambda: nvml.nvmlDeviceGetMemoryInfo(handle).total / MIB,
            "utilisation_percent": lambda: float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu),
            "power_w": lambda: nvml.nvmlDeviceGetPowerUsage(handle) / MILLIWATTS,
            "temperature_c": lambda: float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
        }
        found = {}
        for name, read in sources.items():
            with suppress(Exception):  # this GPU does not tell
                value = read()
                if isinstance(value, str) or math.isfinite(value):
                    found[name] = value if isinstance(value, str) else round(value, 1)
        return found


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
