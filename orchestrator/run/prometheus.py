"""A run's figures as Ray metrics, for the operators' Prometheus: the series of log and board, as they stand.

Ray forgets a gauge that nobody sets again for two of its report intervals (ten seconds each unless
`RAY_metrics_report_interval_ms` says otherwise). A thread sets all values that hold, once a second; what no longer
holds is simply left out, and its series end.
"""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from golf_core.events import Chunk, Event, PhaseFinished, PhaseStarted, System, TrainStep, Validation
from golf_core.files import write_text
from golf_core.results import MIB
from orchestrator.folder.results import SeedResult
from orchestrator.folder.view import HOUR_S, view_of
from orchestrator.job.load import Job

PREFIX = "ray_"
"""What Ray puts before the name of every series."""
TARGETS = "prom_metrics_service_discovery.json"
"""Where Ray writes which addresses Prometheus can read, in the session's folder."""
BEAT_S = 1.0
RUN_TAGS = ("run", "job_name")
SEED_TAGS = (*RUN_TAGS, "seed")
STATUSES = ("queued", "running", "finished", "failed")


@dataclass(frozen=True)
class Series:
    """One gauge."""

    name: str
    """Without the prefix that Ray adds."""
    meaning: str
    tags: tuple[str, ...] = SEED_TAGS
    lasts: bool = False
    """Whether its values stay when the seed has ended, until the driver does."""


ALL_SERIES = (
    Series("golf_train_loss_nats", "loss of the last logged step, nats a token"),
    Series("golf_step_seconds", "mean seconds of a training step"),
    Series("golf_train_tokens_per_second", "training tokens a second"),
    Series("golf_learning_rate_ratio", "learning rate as a share of its peak"),
    Series("golf_train_steps", "training steps done", lasts=True),
    Series("golf_train_steps_planned", "training steps of the whole seed, as now expected", lasts=True),
    Series("golf_validation_loss_nats", "loss on the validation text, nats a token", lasts=True),
    Series("golf_validation_bpb", "bits per byte on the validation text, weights in full precision", lasts=True),
    Series("golf_eval_chunks", "chunks of the validation text scored", lasts=True),
    Series("golf_eval_chunks_planned", "chunks of the validation text", lasts=True),
    Series("golf_eval_bpb", "bits per byte, running; the result when the seed has ended", (*SEED_TAGS, "scorer"), True),
    Series("golf_expert_weight", "weight of each expert of the published mixture", (*SEED_TAGS, "expert"), True),
    Series("golf_mixture_weight", "weight of each part of the valid mixture", (*SEED_TAGS, "part"), True),
    Series("golf_artifact_bytes", "bytes of the weights and of the code", (*SEED_TAGS, "part"), True),
    Series("golf_phase_info", "1 for the phase that goes on", (*SEED_TAGS, "phase")),
    Series("golf_phase_remaining_seconds", "seconds that the phase is expected to take still"),
    Series("golf_phase_seconds", "seconds that a phase took", (*SEED_TAGS, "phase"), True),
    Series("golf_gpu_memory_bytes", "memory in use", (*SEED_TAGS, "gpu")),
    Series("golf_gpu_memory_total_bytes", "memory there is", (*SEED_TAGS, "gpu")),
    Series("golf_gpu_utilisation_ratio", "share of the time in which the GPU works", (*SEED_TAGS, "gpu")),
    Series("golf_node_memory_bytes", "memory in use on the gang's machine"),
    Series("golf_node_memory_total_bytes", "memory of the gang's machine"),
    Series("golf_process_memory_bytes", "memory of the process of rank 0"),
    Series("golf_cpu_utilisation_ratio", "share of the machine's processors that work"),
    Series("golf_attempts", "attempts at the seed so far", lasts=True),
    Series("golf_seeds", "seeds of the run by how they stand", (*RUN_TAGS, "status"), True),
    Series("golf_node_hours", "hours of nodes used so far, all attempts", RUN_TAGS, True),
    Series("golf_cost", "the same in the currency of cost.per_node_hour; absent without a price", RUN_TAGS, True),
)

# Fields of an event of kind "system", and what turns them into the series' units.
OF_NODE = {
    "golf_cpu_utilisation_ratio": ("cpu_percent", 0.01),
    "golf_node_memory_bytes": ("memory_mib", MIB),
    "golf_node_memory_total_bytes": ("memory_total_mib", MIB),
    "golf_process_memory_bytes": ("process_memory_mib", MIB),
}
OF_GPU = {
    "golf_gpu_memory_bytes": ("memory_mib", MIB),
    "golf_gpu_memory_total_bytes": ("memory_total_mib", MIB),
    "golf_gpu_utilisation_ratio": ("utilisation_percent", 0.01),
}


class Gauge(Protocol):
    """What Ray's gauges can do."""

    def set(self, value: float, tags: dict[str, str]) -> None:
        """Note a value."""


MakeGauge = Callable[[Series], Gauge]
Key = tuple[str, tuple[str, ...]]
"""A series' name, and the values of its tags beyond the run's own."""


class RunMetrics:
    """The figures of the run in `folder`, whose ledger says that it was started, for as long as the driver lives.

    To be made when Ray is connected. Nothing here raises, waits or takes longer than writing to a dictionary:
    whoever cannot be measured is run all the same. May be used from any thread.
    """

    def __init__(self, folder: Path, job: Job, alone: bool, make_gauge: MakeGauge | None = None) -> None:
        self._tags = {"run": folder.name, "job_name": job.name}
        self._job, self._lock, self._closed = job, threading.Lock(), threading.Event()
        self._values: dict[Key, float] = {}
        self._status = dict.fromkeys(job.seeds, "queued")
        self._began: dict[int, float] = {}
        self._seconds = self._earlier_hours = 0.0
        self._gauges: dict[str, Gauge] = {}
        self._targets: Path | None = None
        with contextlib.suppress(Exception):
            self._take_up(folder)
        with contextlib.suppress(Exception):
            make = make_gauge or _ray_gauge
            self._gauges = {series.name: make(series) for series in ALL_SERIES}
            if alone and make_gauge is None:
                self._targets = announce()
        self._thread = threading.Thread(target=self._beat, name="metrics", daemon=True)
        self._thread.start()

    # --- what the driver tells ---

    def on_start(self, seed: int, attempt: int) -> None:
        """An attempt at a seed begins; counted from 1."""
        with contextlib.suppress(Exception), self._lock:
            self._clear(seed, lasting=True)
            self._status[seed] = "running"
            self._began[seed] = time.time()
            self._values["golf_attempts", (str(seed),)] = attempt
            self._values["golf_phase_info", (str(seed), "start")] = 1.0

    def on_event(self, seed: int, event: Event) -> None:
        """Something happened in a seed's gang."""
        with contextlib.suppress(Exception), self._lock:
            for name, tags, value in _samples(event):
                if name == "golf_phase_info":
                    self._clear_series(name, seed)
                self._values[name, (str(seed), *tags)] = float(value)
            if isinstance(event, PhaseFinished):
                self._clear_series("golf_phase_info", seed)
                self._clear_series("golf_phase_remaining_seconds", seed)

    def on_end(self, result: SeedResult) -> None:
        """An attempt at a seed has ended, with this result: its last figures stay, those of the moment end."""
        with contextlib.suppress(Exception), self._lock:
            self._clear(result.seed, lasting=False)
            self._status[result.seed] = result.status
            self._seconds += time.time() - self._began.pop(result.seed, time.time())
            self._keep(result)

    def close(self) -> None:
        """Set everything once more and end. Ray keeps the values for two of its report intervals."""
        with contextlib.suppress(Exception):
            self._closed.set()
            self._thread.join(timeout=BEAT_S)
            if self._targets is not None:
                self._targets.unlink(missing_ok=True)

    # --- what is told on ---

    def samples(self) -> list[tuple[str, dict[str, str], float]]:
        """Everything that holds now: name, tags, value."""
        with self._lock:
            values = dict(self._values)
            statuses = list(self._status.values())
            seconds = self._seconds + sum(time.time() - began for began in self._began.values())
        tags_of = {series.name: series.tags for series in ALL_SERIES}
        found = [
            (name, self._tags | dict(zip(tags_of[name][len(RUN_TAGS) :], tags, strict=True)), value)
            for (name, tags), value in values.items()
        ]
        found += [("golf_seeds", {**self._tags, "status": s}, float(statuses.count(s))) for s in STATUSES]
        hours = self._earlier_hours + seconds * self._job.resources.nodes / HOUR_S
        found.append(("golf_node_hours", self._tags, hours))
        price = self._job.cost.per_node_hour
        if price is not None:
            found.append(("golf_cost", self._tags, price * hours))
        return [sample for sample in found if math.isfinite(sample[2])]

    def _beat(self) -> None:
        while True:
            last = self._closed.wait(timeout=BEAT_S)
            with contextlib.suppress(Exception):
                for name, tags, value in self.samples():
                    self._gauges[name].set(value, tags)
            if last:
                return

    def _take_up(self, folder: Path) -> None:
        """What earlier drivers of the run have done."""
        view = view_of(folder)
        self._earlier_hours = view.node_hours()
        for attempt in view.attempts:
            if attempt.newest and attempt.status == "finished":
                self._status[attempt.seed] = "finished"

    def _keep(self, result: SeedResult) -> None:
        seed = str(result.seed)
        if result.export is not None:
            self._values["golf_artifact_bytes", (seed, "weights")] = result.export.weight_bytes
            self._values["golf_artifact_bytes", (seed, "code")] = result.export.code_bytes
        for scorer, score in (result.evaluate.scores if result.evaluate else {}).items():
            self._values["golf_eval_bpb", (seed, scorer)] = score.bpb

    def _clear(self, seed: int, lasting: bool) -> None:
        for series in ALL_SERIES:
            if series.tags[: len(SEED_TAGS)] == SEED_TAGS and (lasting or not series.lasts):
                self._clear_series(series.name, seed)

    def _clear_series(self, name: str, seed: int) -> None:
        for key in [key for key in self._values if key[0] == name and key[1][0] == str(seed)]:
            del self._values[key]


Sample = tuple[str, tuple[str, ...], float]


def _samples(event: Event) -> Iterator[Sample]:
    """Name, tags beyond the seed, and value of everything that an event tells."""
    match event:
        case TrainStep():
            yield "golf_train_loss_nats", (), event.loss
            yield "golf_step_seconds", (), event.ms_per_step / 1e3
            yield "golf_train_tokens_per_second", (), event.tokens_per_s
            yield "golf_learning_rate_ratio", (), event.lr_factor
            yield "golf_train_steps", (), event.step
            yield "golf_train_steps_planned", (), event.total
            yield "golf_phase_remaining_seconds", (), event.eta_s
        case Validation():
            yield "golf_validation_loss_nats", (), event.val_loss
            yield "golf_validation_bpb", (), event.val_bpb
        case Chunk():
            yield "golf_eval_chunks", (), event.chunk
            yield "golf_eval_chunks_planned", (), event.total
            yield "golf_phase_remaining_seconds", (), event.eta_s
            yield from (("golf_eval_bpb", (scorer,), value) for scorer, value in event.bpb.items())
            yield from (("golf_expert_weight", (expert,), weight) for expert, weight in event.weights.items())
            yield from (("golf_mixture_weight", (part,), share) for part, share in event.shares.items())
        case PhaseStarted(phase):
            yield "golf_phase_info", (phase,), 1.0
        case PhaseFinished():
            yield from _of_phase(event)
        case System():
            yield from _of_machine(event)


def _of_phase(event: PhaseFinished) -> Iterator[Sample]:
    yield "golf_phase_seconds", (event.phase,), event.seconds
    if "steps" in event.more:
        yield "golf_train_steps", (), event.more["steps"]
    if "val_bpb" in event.more:
        yield "golf_validation_loss_nats", (), event.more["val_loss"]
        yield "golf_validation_bpb", (), event.more["val_bpb"]
    if "weight_bytes" in event.more:
        yield "golf_artifact_bytes", ("weights",), event.more["weight_bytes"]
        yield "golf_artifact_bytes", ("code",), event.more["code_bytes"]


def _of_machine(event: System) -> Iterator[Sample]:
    for name, (field, factor) in OF_NODE.items():
        if (value := getattr(event, field)) is not None:
            yield name, (), value * factor
    for gpu in event.gpus:
        for name, (field, factor) in OF_GPU.items():
            if (value := getattr(gpu, field)) is not None:  # a GPU may not tell everything
                yield name, (str(gpu.index),), value * factor


def _ray_gauge(series: Series) -> Gauge:
    from ray.util.metrics import Gauge as RayGauge

    gauge: Gauge = RayGauge(series.name, series.meaning, series.tags)
    return gauge


def announce() -> Path | None:
    """Write down for Prometheus where a local Ray's figures are to be read; returns the file.

    A cluster's head does so itself, and a local Ray without a dashboard does not.
    """
    import ray

    context = ray.get_runtime_context()
    session = Path(context.get_temp_dir()) / context.get_session_name()
    ports = [(n["NodeManagerAddress"], n["MetricsExportPort"]) for n in ray.nodes() if n["Alive"]]
    addresses = [f"{host}:{port}" for host, port in ports if port > 0]
    path = session / TARGETS
    if path.exists() or not addresses:
        return None
    write_text(path, json.dumps([{"labels": {"job": "ray"}, "targets": addresses}]) + "\n")
    return path
