"""What runs in each rank's process: a thin shell around `golf_core`'s stages."""

from __future__ import annotations

import importlib
import math
import os
import platform
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from golf_core.events import Event, Gpu, Listener, Note, System, ignore
from golf_core.results import MIB
from golf_core.strict_json import from_dict, to_dict
from orchestrator.folder.results import STAGES

FOLDER_PREFIX = "golf-rank-"


class Rank:
    """One rank of a seed's gang. Rank 0 keeps the events that the driver has not fetched yet.

    Torch and `golf_core`'s heavy modules are imported inside the methods: the driver imports this class too.
    """

    def __init__(self, rank: int, world_size: int, cpus: float, gpu: bool) -> None:
        if not gpu:
            # OpenMP reads this when PyTorch is loaded: threads that spin while they wait take many times as long
            # where seeds, or anything else, share the processors.
            os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        import torch

        self._rank, self._world_size, self._gpu = rank, world_size, gpu
        torch.set_num_threads(max(1, int(cpus)))
        self._folder = rank_folder()
        self._events: deque[Event] = deque()
        self._lock = threading.Lock()
        self._listener: Listener = self._keep if rank == 0 else ignore

    def path(self, name: str) -> Path:
        """A file in this rank's own folder."""
        return self._folder / name

    def describe(self) -> dict[str, Any]:
        """Where this rank runs, and the process that must be gone when the gang is."""
        import psutil

        return {
            "node": platform.node(),
            "pid": os.getpid(),
            "created": psutil.Process().create_time(),
            "folder": str(self._folder),
        }

    def serve(self, host: str) -> int:
        """Rank 0: start the gang's rendezvous on `host`; returns its port."""
        from golf_core.distributed import serve_store

        self._store, port = serve_store(self._world_size, host)
        return port

    def join(self, host: str, port: int) -> dict[str, str]:
        """Enter the process group; returns what this rank runs on."""
        import torch

        from golf_core.distributed import LOOPBACK, connect_store, device_name, join

        device = torch.device("cuda", 0) if self._gpu else torch.device("cpu")
        store = None
        if self._world_size > 1:
            if host == LOOPBACK:
                # On one node gloo need not listen to the network, nor resolve the host's name.
                os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
            store = self._store if self._rank == 0 else connect_store(port, self._world_size, host)
        self._ranks = join(self._rank, self._world_size, device, store)
        found = {"device": device_name(device), "cuda": str(torch.version.cuda)}
        return found | ({"gpu": f"GPU-{torch.cuda.get_device_properties(device).uuid}"} if self._gpu else {})

    def watch(self, uuids: list[str]) -> None:
        """Begin to emit what this machine and these of its GPUs are doing, every few seconds."""

        Sampler(self._listener, uuids).start()

    def open(self, config: dict[str, Any], data: dict[str, Any] | None) -> dict[str, Any] | None:
        """Find and check the data on this node; rank 0 returns its `DataRecord` as a mapping.

        `data` None stands for the sample corpus, which is built here if this node has none yet. Data that the node
        lacks are fetched where the job says from where.
        """
        from golf_core.config import GolfConfig
        from golf_core.data.manifest import check_data
        from golf_core.data.sample import build_sample, default_sample_folder
        from golf_core.stages import DataPaths

        self._config = from_dict(GolfConfig, config)
        if data is None:
            folder = build_sample(default_sample_folder())
            self._paths = DataPaths(folder, folder / "tokenizer.model")
        else:
            self._paths = DataPaths(Path(data["path"]), Path(data["tokenizer"]))
            if data.get("fetch"):
                self._fetch(data["fetch"])
        if self._rank != 0:
            return None
        longest = max(self._config.train.seq_len, self._config.evaluate.seq_len)
        vocab_size = self._config.model.vocab_size
        return to_dict(check_data(self._paths.folder, self._paths.tokenizer, vocab_size, longest))

    def _fetch(self, fetch: dict[str, Any]) -> None:
        from orchestrator.data.fetch import ensure_data
        from orchestrator.job.sections import Fetch

        def say(line: str) -> None:
            self._listener(Note(line))

        found = ensure_data(Fetch.model_validate(fetch), self._paths.folder, self._paths.tokenizer, say=say)
        self._paths = replace(self._paths, tokenizer=found.tokenizer)

    def check(self, data: dict[str, Any] | None, request: dict[str, Any]) -> dict[str, Any]:
        """What forbids the run on this rank's node, and what a rehearsal projects: a `RankReport` as a mapping."""
        from orchestrator.preflight.on_rank import check_rank

        self._listener(Note("preflight: node, interconnect, rehearsal"))
        return check_rank(to_dict(self._config), data, self._ranks, request)

    def work_on(self, name: str, seed: int, positions: int) -> dict[str, Any] | None:
        """Run the stage of this name for `seed`; rank 0 returns its result as a mapping and holds its files."""
        from golf_core import seed as stages
        from golf_core.distributed import single

        ranks = single(self._ranks.device) if STAGES[name].alone else self._ranks
        work = stages.Work(self._config, self._paths, ranks, seed, self._folder, self._listener, positions)
        result = getattr(stages, name)(work)
        return None if result is None else to_dict(result)

    def fetch(self, name: str) -> bytes:
        """The bytes of a file in this rank's folder."""
        return self.path(name).read_bytes()

    def read_now(self, name: str) -> bytes | None:
        """The same while a stage runs; None where there is no such file yet."""
        path = self.path(name)
        return path.read_bytes() if path.exists() else None

    def put(self, name: str, content: bytes) -> None:
        """Put a file that an earlier attempt left into this rank's folder."""
        from golf_core.files import write_bytes

        write_bytes(self.path(name), content)

    def heartbeat(self) -> None:
        """A sign of life. Answers while a stage runs; a process that is frozen or swapped out does not."""

    def events(self) -> list[Event]:
        """Events since the last call. May be called while a stage runs."""
        with self._lock:
            events = list(self._events)
            self._events.clear()
        return events

    def _keep(self, event: Event) -> None:
        with self._lock:
            self._events.append(event)


def rank_folder() -> Path:
    """A new folder for this process's files; those of processes that are gone are removed.

    A rank is ended without being asked, so that whoever comes next on the node cleans up.
    """
    import psutil

    place = Path(tempfile.gettempdir())
    for folder in place.glob(f"{FOLDER_PREFIX}*"):
        pid = folder.name.removeprefix(FOLDER_PREFIX).partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}-"))


# --- what the machine is doing, every few seconds ---

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
