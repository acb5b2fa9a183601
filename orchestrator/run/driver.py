"""The driver: gives every seed its gang, in order, side by side where there is room; then judges."""

from __future__ import annotations

import contextlib
import datetime
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import FrameType

from golf_core.errors import GolfError, RunError
from golf_core.events import Event
from golf_core.files import write_text
from golf_core.log_text import describe
from orchestrator.claim.judge import judge, out_of_reach
from orchestrator.folder.earlier import EarlierSeed
from orchestrator.folder.ledger import Ledger, this_process
from orchestrator.folder.provenance import provenance
from orchestrator.folder.redaction import Redactor, save_redacted
from orchestrator.folder.results import JOB, RESULT, RunResult, SeedResult, waiting_result
from orchestrator.folder.resume import ResumePoint, resume_point
from orchestrator.job.load import Job
from orchestrator.plugins import run_written
from orchestrator.preflight.machine import refuse_misfit, this_machine
from orchestrator.run.cluster import connected, ray_nodes, turn
from orchestrator.run.gang import Placement
from orchestrator.run.prometheus import RunMetrics
from orchestrator.run.seed import SeedRun
from orchestrator.signals import interruptible
from orchestrator.tracking.sync import Tracker, store_of

SAY_EVERY_S = 10.0
BY_USER = "stopped by the user"
Say = Callable[[str], None]


def run_job(
    job: Job,
    address: str | None,
    say: Say,
    earlier: Mapping[int, EarlierSeed] | None = None,
    redactor: Redactor | None = None,
) -> tuple[RunResult, Path]:
    """Run all seeds of `job`; returns the result and the run's folder, where everything lies.

    What is written down passes through `redactor`; without one, only tokens of well-known shapes are kept out.
    With `earlier`, nothing is trained: each seed's artifact of an earlier run is evaluated anew.
    Raises `UserError` before anything runs when the data or the cluster cannot serve the job.
    """

    def driver(alone: bool, stopped: threading.Event) -> _Driver:
        folder = new_folder(Path(job.output).absolute(), job.name)
        return _Driver(job, say, folder, alone, stopped, redactor, earlier=earlier or {})

    return _run(job, address, say, driver)


def resume_job(folder: Path, address: str | None, say: Say, redactor: Redactor | None = None) -> tuple[RunResult, Path]:
    """Go on with the run in `folder`: what is finished and whole is not run again.

    Raises as `run_job` does, and `RunError` while another process is at work on the run.
    """
    folder = folder.absolute()
    remains = resume_point(folder)
    for note in remains.notes:
        say(note)

    def driver(alone: bool, stopped: threading.Event) -> _Driver:
        return _Driver(remains.job, say, folder, alone, stopped, redactor, remains=remains)

    return _run(remains.job, address, say, driver)


def _run(
    job: Job, address: str | None, say: Say, driver: Callable[[bool, threading.Event], _Driver]
) -> tuple[RunResult, Path]:
    with connected(address, before_local=lambda: _check_here(job)) as local:
        nodes = ray_nodes()
        refuse_misfit(job.resources, nodes)
        say(_welcome(job, local, len(nodes)))
        stopped = threading.Event()
        with _stopping(stopped, say):  # from before the ledger's first word until after its last
            return driver(local, stopped).run()


def _check_here(job: Job) -> None:
    """What can be refused before Ray is even started: this machine is the one that will run the job."""
    from golf_core.data.manifest import check_data

    refuse_misfit(job.resources, [this_machine()])
    if job.data != "sample" and job.data.fetch is None:
        longest = max(job.config.train.seq_len, job.config.evaluate.seq_len)
        check_data(Path(job.data.path), Path(job.data.tokenizer), job.config.model.vocab_size, longest)


class _Driver:
    """State of one run: its folder, its ledger, its seeds' threads, its tracker."""

    def __init__(
        self,
        job: Job,
        say: Say,
        folder: Path,
        alone: bool,
        stopped: threading.Event,
        redactor: Redactor | None = None,
        earlier: Mapping[int, EarlierSeed] | None = None,
        remains: ResumePoint | None = None,
    ) -> None:
        self._redactor = redactor = redactor or Redactor.from_environment({})
        self._job, self._say, self.folder, self._alone = job, say, folder, alone
        self._stopped, self._cut_short = stopped, False
        self._reason = BY_USER
        self._ended = [result for result in (remains.seeds.values() if remains else ()) if result.status == "finished"]
        self._looking, self._out_of_reach = threading.Lock(), ""
        self._placing = threading.Lock()
        self._ledger = Ledger(folder, redactor.redact_value)
        self._origin = provenance(redactor.redact)
        self._started = remains.started if remains else time.time()
        artifacts_of = remains.artifacts_of if remains else None
        if earlier:  # these figures are a second look at somebody's artifacts, and say so
            artifacts_of = ", ".join(sorted({seed.run_id for seed in earlier.values()}))
        if artifacts_of:
            self._origin["artifacts_of"] = artifacts_of
        if remains is None:
            write_text(folder / JOB, _json(job))
        self._ledger.append(
            "run_started",
            attempt=1 + (remains.attempt if remains else 0),
            job_sha256=job.digest,
            git_commit=self._origin["git_commit"],
            artifacts_of=artifacts_of,
            provenance=self._origin,
            **this_process(),
        )
        self._last_said: dict[int, float] = {}
        self._tracking = Tracker(folder, store_of(job, folder), redactor, say)
        self._tracking.start()
        self._metrics = RunMetrics(folder, job, alone)
        self._runs: dict[int, SeedRun] = {}
        for seed in job.seeds:
            result = remains.seeds[seed] if remains else waiting_result(seed)
            run = SeedRun(job, folder / f"seed-{seed}", result, self._ledger, self._on_event, redactor=redactor)
            run.adopted, run.rehearse = artifacts_of is not None, not self._runs
            if earlier:
                run.adopt(earlier[seed])
            self._runs[seed] = run

    def run(self) -> tuple[RunResult, Path]:
        try:
            self._run_seeds()
        finally:
            result = self._result()
            unwritten = self._save(result)
            self._tell_others(not unwritten)
        if unwritten:
            raise RunError(f"{unwritten}; make room or mend it, and go on with: golf run --resume {self.folder}")
        if self._cut_short:
            raise RunError(f"{self._reason}; what was finished is kept; go on with: golf run --resume {self.folder}")
        mistakes = [run.mistake for run in self._runs.values()]
        if mistakes[0] is not None and all(mistakes):
            raise mistakes[0]
        return result, self.folder

    def _tell_others(self, written: bool) -> None:
        """Draw the report and wait for MLflow. The figures are on disk: who has no patience may break this off."""
        try:
            with interruptible(signal.SIGINT, signal.SIGTERM):
                if self._stopped.is_set() and not self._cut_short:  # when there was nothing left to stop
                    raise KeyboardInterrupt
                if written and not self._cut_short:  # else three seconds may be all that is left
                    run_written(self.folder, self._say)
                wanting = self._tracking.close()
                if wanting:
                    self._say(wanting)
        except KeyboardInterrupt:
            if written and not self._cut_short:
                raise RunError(
                    "interrupted when all seeds had ended; the figures are written, and the report and what MLflow "
                    f"lacks are made up for by: golf rebuild {self.folder}"
                ) from None
        finally:
            self._metrics.close()
            self._ledger.close()

    def _save(self, result: RunResult) -> str:
        """Write down how the run stands; returns why that cannot be done, if so."""
        try:
            save_redacted(result, self._redactor, self.folder / RESULT)
            if not self._cut_short:
                self._ledger.append("run_finished", verdict=result.claim.verdict)
        except OSError as error:
            return f"{self.folder / RESULT}: {error.strerror}"
        except RunError as error:
            return str(error)
        return ""

    def _run_seeds(self) -> None:
        """Start the seeds in order, each as soon as it has its room, and wait for all."""
        threads: list[threading.Thread] = []
        try:
            for run in self._runs.values():
                if run.result.status == "finished":
                    self._say(f"seed {run.result.seed}: finished before")
                    self._metrics.on_end(run.result)
                    continue
                placement = self._place()
                if placement is None:
                    break
                threads.append(self._start_seed(run, placement))
            while any(thread.is_alive() for thread in threads) and not self._stopped.wait(timeout=0.2):
                pass
        except BaseException:
            self._stopped.set()  # the other seeds have no claim to make without this one
            raise
        finally:
            if self._stopped.is_set():
                self._end_early(threads)
            for thread in threads:
                thread.join()

    def _place(self) -> Placement | None:
        """Room for a gang, when there is any; None if the run is stopped first.

        Ray serves waiting groups in no order, so only one waits at a time, of all jobs on the cluster.
        """
        kind = self._job.resources.accelerator or "cpu"
        others = nullcontext(lambda: None) if self._alone else turn(kind, self._stopped)
        with self._placing, others as keep:
            if keep is None:
                return None
            placement = Placement(self._job.resources)
            try:
                if placement.wait(self._stopped, keep):
                    return placement
            except BaseException:
                placement.remove()
                raise
            placement.remove()
            return None

    def _end_early(self, threads: Sequence[threading.Thread]) -> None:
        """Stopped: three seconds may be all that is left, so the state is on disk before the ranks are ended."""
        self._cut_short = True
        with contextlib.suppress(RunError):
            self._ledger.append("run_stopped", reason=self._reason)
        self._save(self._result())
        interrupts = [threading.Thread(target=run.interrupt, args=(self._reason,)) for run in self._runs.values()]
        for thread in interrupts:
            thread.start()
        for thread in (*interrupts, *threads):
            thread.join()

    def _start_seed(self, run: SeedRun, placement: Placement) -> threading.Thread:
        started = run.result.started if run.result.attempts else time.time()
        run.result = replace(run.result, error="interrupted", started=started)
        thread = threading.Thread(target=self._run_seed, args=(run, placement), name=f"seed-{run.result.seed}")
        thread.start()
        return thread

    def _run_seed(self, run: SeedRun, first: Placement) -> None:
        """All attempts at a seed: a failure of the machines is worth another."""
        seed, placement = run.result.seed, first
        for retries_left in range(self._job.limits.retries, -1, -1):
            self._metrics.on_start(seed, len(run.result.attempts) + 1)
            result = run.run(placement)
            self._metrics.on_end(result)
            self._say(f"seed {seed}: {result.status}" + (f": {result.error}" if result.error else ""))
            again = result.status == "failed" and result.attempts[-1].kind == "infrastructure" and retries_left
            if not again or self._stopped.is_set():
                break
            self._say(f"seed {seed}: is tried again ({retries_left} left); what it had finished is kept")
            try:
                room = self._place()
            except GolfError as error:
                run.result = replace(run.result, error=f"{run.result.error}; no room for another try: {error}")
                break
            if room is None:
                break
            placement = room
        self._look_ahead(run.result)

    def _look_ahead(self, ended: SeedResult) -> None:
        """Say when the claim is out of reach of the seeds that are left, and stop if the job asks for that."""
        if self._stopped.is_set():
            return
        with self._looking:
            self._ended.append(ended)
            left = len(self._runs) - len(self._ended)
            why = out_of_reach(self._job, self._ended) if left else None
            if why is None or self._out_of_reach:
                return
            self._out_of_reach = why
        self._say(f"a claim is out of reach: {why}")
        with contextlib.suppress(RunError):
            self._ledger.append("out_of_reach", reason=why, seeds_left=left)
        if self._job.cost.stop_when_hopeless:
            self._reason = f"stopped early (cost.stop_when_hopeless), a claim is out of reach: {why}"
            self._stopped.set()

    def _on_event(self, seed: int, event: Event) -> None:
        self._metrics.on_event(seed, event)
        if event.kind == "system":
            return
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
            job=self._job,
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
    return json.dumps(job.to_dict(), indent=2) + "\n"
