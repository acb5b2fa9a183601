"""The driver: gives every seed its gang, in order, side by side where there is room; then judges."""

from __future__ import annotations

import datetime
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

from golf_core import records
from golf_core.errors import RunError
from golf_core.events import Event
from golf_core.files import write_text
from golf_core.progress import describe
from orchestrator.claim import RunResult, SeedResult, judge
from orchestrator.cluster import connected, ray_nodes, refuse_misfit, this_machine
from orchestrator.gang import Placement
from orchestrator.mlflow_run import MlflowRun
from orchestrator.provenance import provenance
from orchestrator.seed_run import EarlierSeed, SeedRun, waiting_result
from orchestrator.spec import Job

SAY_EVERY_S = 10.0
Say = Callable[[str], None]


def run_job(
    job: Job, address: str | None, say: Say, earlier: Mapping[int, EarlierSeed] | None = None
) -> tuple[RunResult, Path]:
    """Run all seeds of `job`; returns the result and the run's folder, where everything lies.

    With `earlier`, nothing is trained: each seed's artifact of an earlier run is evaluated anew.
    Raises `UserError` before anything runs when the data or the cluster cannot serve the job.
    """
    with connected(address, before_local=lambda: _check_here(job)) as local:
        nodes = ray_nodes()
        refuse_misfit(job.resources, nodes)
        say(_welcome(job, local, len(nodes)))
        return _Driver(job, say, earlier or {}).run()


def _check_here(job: Job) -> None:
    """What can be refused before Ray is even started: this machine is the one that will run the job."""
    from golf_core.data.manifest import check_data

    refuse_misfit(job.resources, [this_machine()])
    if job.data != "sample":
        longest = max(job.config.train.seq_len, job.config.evaluate.seq_len)
        check_data(Path(job.data.path), Path(job.data.tokenizer), job.config.model.vocab_size, longest)


class _Driver:
    """State of one run: its folder, its seeds' threads, its tracker."""

    def __init__(self, job: Job, say: Say, earlier: Mapping[int, EarlierSeed]) -> None:
        self._job, self._say, self._earlier = job, say, earlier
        self._stopped = threading.Event()
        self._started = time.time()
        self.folder = new_folder(Path(job.output).absolute(), job.name)
        self._origin = provenance()
        if earlier:  # these figures are a second look at somebody's artifacts, and say so
            self._origin["artifacts_of"] = ", ".join(sorted({seed.run_id for seed in earlier.values()}))
        self._last_said: dict[int, float] = {}
        self._tracking = MlflowRun(job, self.folder, self._origin, say)
        self._runs = {
            seed: SeedRun(job, self.folder / f"seed-{seed}", waiting_result(seed), self._on_event) for seed in job.seeds
        }

    def run(self) -> tuple[RunResult, Path]:
        write_text(self.folder / "job.json", _json(self._job))
        try:
            with _stopping(self._stopped, self._say):
                self._run_seeds()
        finally:
            result = self._result()
            records.save(result, self.folder / "result.json")
            self._tracking.finish(result)
        if self._stopped.is_set():
            raise RunError(f"stopped; what was finished lies in {self.folder}")
        mistakes = [run.mistake for run in self._runs.values()]
        if mistakes[0] is not None and all(mistakes):
            raise mistakes[0]
        return result, self.folder

    def _run_seeds(self) -> None:
        """Start the seeds in order, each as soon as it has its room, and wait for all.

        Ray serves waiting groups in no order, so only one waits at a time.
        """
        threads: list[threading.Thread] = []
        try:
            for run in self._runs.values():
                placement = Placement(self._job.resources)
                if not placement.wait(self._stopped):
                    placement.remove()
                    break
                threads.append(self._start_seed(run, placement))
            while any(thread.is_alive() for thread in threads) and not self._stopped.wait(timeout=0.2):
                pass
        except BaseException:
            self._stopped.set()  # the other seeds have no claim to make without this one
            raise
        finally:
            if self._stopped.is_set():
                for run in self._runs.values():
                    run.interrupt()
            for thread in threads:
                thread.join()

    def _start_seed(self, run: SeedRun, placement: Placement) -> threading.Thread:
        run.folder.mkdir()
        run.result = replace(run.result, error="interrupted", started=time.time())
        self._tracking.seed_started(run.result.seed)
        thread = threading.Thread(target=self._run_seed, args=(run, placement), name=f"seed-{run.result.seed}")
        thread.start()
        return thread

    def _run_seed(self, run: SeedRun, placement: Placement) -> None:
        seed = run.result.seed
        result = run.run(placement, self._earlier.get(seed))
        if self._stopped.is_set() and result.status == "failed":
            run.result = result = replace(result, error="stopped by the user")
        self._say(f"seed {seed}: {result.status}" + (f": {result.error}" if result.error else ""))
        self._tracking.seed_finished(run)

    def _on_event(self, seed: int, event: Event) -> None:
        self._tracking.seed_event(seed, event)
        frequent = event.kind in ("train_step", "chunk")
        due = time.time() - self._last_said.get(seed, 0.0) >= SAY_EVERY_S
        if not frequent or due:
            self._say(f"seed {seed}: {describe(event)}")
            if frequent:
                self._last_said[seed] = time.time()

    def _result(self) -> RunResult:
        seeds: tuple[SeedResult, ...] = tuple(run.result for run in self._runs.values())
        hardware = sorted({run.hardware for run in self._runs.values() if run.hardware})
        return RunResult(
            name=self._job.name,
            run_id=self.folder.name,
            job=self._job.to_dict(),
            provenance={**self._origin, "hardware": "; ".join(hardware), "job_sha256": self._job.digest},
            seeds=seeds,
            claim=judge(self._job, seeds),
            started=self._started,
            finished=time.time(),
        )


def new_folder(output: Path, name: str) -> Path:
    """Make the run's own folder, `output/name-date-time`, which nobody else has."""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    for attempt in range(100):
        folder = output / (f"{name}-{stamp}" if attempt == 0 else f"{name}-{stamp}-{attempt}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise RunError(f"{output}: no free name for a run's folder")


@contextmanager
def _stopping(stopped: threading.Event, say: Say) -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM set `stopped` instead of ending the process in the middle of things."""

    def stop(signum: int, frame: FrameType | None) -> None:
        if not stopped.is_set():
            say("stopping: ending all ranks")
        stopped.set()

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _welcome(job: Job, local: bool, nodes: int) -> str:
    where = "a local Ray" if local else f"the Ray cluster ({nodes} node{'s' if nodes != 1 else ''})"
    r = job.resources
    device = r.accelerator or f"CPU ({r.cpus_per_rank:g} core{'s' if r.cpus_per_rank != 1 else ''} each)"
    seeds = ", ".join(map(str, job.seeds))
    return f"{job.name}: seeds {seeds} on {where}; each seed on {r.ranks} x {device}"


def _json(job: Job) -> str:
    import json

    return json.dumps(job.to_dict(), indent=2) + "\n"
