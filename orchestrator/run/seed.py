"""One seed from data to result, on a gang that has its room: the line of data flow that the service is about."""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from golf_core import strict_json
from golf_core.errors import GolfError, RunError, UserError
from golf_core.events import Event, JsonLinesLog, Note, ignore
from golf_core.files import sha256, write_bytes, write_text
from golf_core.results import DataRecord
from orchestrator.folder.earlier import EarlierSeed
from orchestrator.folder.event_log import event_of
from orchestrator.folder.ledger import Ledger, figures_of
from orchestrator.folder.provenance import describe_hardware
from orchestrator.folder.redaction import Redactor
from orchestrator.folder.results import (
    ARTIFACT,
    DATA,
    LOG,
    MAKING,
    PREFLIGHT,
    RESULT,
    SNAPSHOT,
    STAGES,
    Attempt,
    SeedResult,
    Stage,
    wanted_stages,
)
from orchestrator.folder.resume import begin_log
from orchestrator.job.load import Job, PhaseLimits, phase_limits
from orchestrator.preflight.findings import Preflight, sentence
from orchestrator.preflight.machine import refuse_misfit
from orchestrator.preflight.on_rank import DRY_STEPS, judge_ranks, request_of
from orchestrator.run.cluster import connected, ray_nodes
from orchestrator.run.failures import kind_of
from orchestrator.run.gang import Gang, Placement, start_gang

SNAPSHOT_WAIT_S = 30.0


@dataclass
class SeedRun:
    """Runs one seed in its own thread of the driver. `result` grows with every stage and is always true.

    A stage whose figures `result` has is not run again.
    """

    job: Job
    folder: Path
    result: SeedResult
    ledger: Ledger
    on_event: Callable[[int, Event], None]
    hardware: str = ""
    data: DataRecord | None = None
    redactor: Redactor = field(default_factory=lambda: Redactor.from_environment({}))
    """Keeps secrets out of what is written down."""
    rehearse: bool = False
    """Rehearse on the gang before the first step that counts: a budget that cannot be kept is refused cheaply."""
    adopted: bool = False
    """The artifact is another run's: nothing is trained, whatever is known of its making."""
    mistake: UserError | None = None
    """The user's mistake that ended this seed, if one did."""
    _gang: Gang | None = None
    _log: JsonLinesLog | None = None
    _limits: PhaseLimits = field(init=False)
    _stage: str = "start"
    _on_gang: set[str] = field(default_factory=set)
    _why: str = ""
    _interrupted: threading.Event = field(default_factory=threading.Event)

    def adopt(self, earlier: EarlierSeed) -> None:
        """Begin with an artifact of another run: nothing is trained."""
        self.adopted = True
        write_bytes(self.folder / ARTIFACT, earlier.artifact)
        self.result = replace(self.result, train=earlier.train, export=earlier.export)
        figures = {stage: figures_of(self.result, stage) for stage in MAKING}
        self.ledger.append("seed_adopted", seed=self.result.seed, figures=figures)

    def _missing(self) -> list[Stage]:
        """The stages that still have to be run, in order."""
        wanted = [stage for stage in wanted_stages(self.job) if not (self.adopted and stage.name in MAKING)]
        return [stage for stage in wanted if getattr(self.result, stage.name) is None]

    def run(self, placement: Placement) -> SeedResult:
        """One attempt at all stages that are missing; never raises: a failure becomes part of the result."""
        seed, attempt = self.result.seed, len(self.result.attempts) + 1
        kept = [stage for stage in STAGES if getattr(self.result, stage) is not None]
        began, self._stage, self.mistake = time.time(), "start", None
        self._limits = phase_limits(self.job)
        self._gang, self._on_gang = None, set()
        failure: BaseException | None = None
        try:
            self.folder.mkdir(exist_ok=True)
            begin_log(self.folder / LOG, kept, len(self.result.attempts))
            # Written here, as the events arrive, and not on the node: a lost machine takes no log with it.
            self._log = JsonLinesLog(self.folder / LOG)
            self.ledger.append("seed_started", seed=seed, attempt=attempt, kept=kept)
            self._attempt(placement)
            self.result = replace(self.result, status="finished", error=None)
        except GolfError as error:
            failure = error
            self.mistake = error if isinstance(error, UserError) else None
            self.result = replace(self.result, status="failed", error=self.redactor.redact(str(error)))
        except OSError as error:
            failure = RunError(f"{error.filename or self.folder}: {error.strerror}; make room or mend it, and resume")
            self.result = replace(self.result, status="failed", error=str(failure))
        except Exception as error:  # a bug of ours, or of a library: keep the traceback, report a sentence
            failure = error
            sentence = f"unexpected {type(error).__name__}: {error}; see {self.folder / 'traceback.txt'}"
            self.result = replace(self.result, status="failed", error=self.redactor.redact(sentence))
            with contextlib.suppress(OSError):
                write_text(self.folder / "traceback.txt", self.redactor.redact(traceback.format_exc()))
        self._end(placement, failure, began)
        return self.result

    def _end(self, placement: Placement, failure: BaseException | None, began: float) -> None:
        """Give the gang's room back and write down how the attempt ended."""
        seed, attempt = self.result.seed, len(self.result.attempts) + 1
        try:
            if self._gang is not None:
                self._gang.close()
            else:
                placement.remove()
        except GolfError as error:
            failure = failure or error
            self.result = replace(self.result, status="failed", error=str(error))
        now = time.time()
        self.result = replace(self.result, finished=now)
        ending: dict[str, Any] = {"status": self.result.status}
        if failure is not None:
            sentence = self._why or self.result.error or ""
            record = Attempt(began, now, self._stage, "stopped" if self._why else kind_of(failure), sentence)
            self.result = replace(self.result, error=sentence, attempts=(*self.result.attempts, record))
            ending |= {"failure": record.kind, "stage": record.stage, "error": sentence}
        # A full disk has failed the seed already; it must not hide why.
        with contextlib.suppress(OSError, RunError):
            if self._log is not None:
                self._log.close()
            strict_json.save(self.result, self.folder / RESULT)
            self.ledger.append("seed_finished", seed=seed, attempt=attempt, **ending)

    def _attempt(self, placement: Placement) -> None:
        job, limits = self.job, self._limits
        self._gang, ranks = start_gang(placement, limits.start, job.limits.stall_seconds)
        if self._interrupted.is_set():
            raise RunError("interrupted while its ranks were starting")
        self.result = replace(self.result, node=ranks[0]["node"])
        self.hardware = describe_hardware(ranks)
        self.ledger.append("gang_started", seed=self.result.seed, ranks=ranks)
        self._note("checking the data")
        data = None if job.data == "sample" else job.data.model_dump()
        config = strict_json.to_dict(job.config)
        opened = self._gang.call("open", config, data, limit_s=limits.start, on_event=self._relay)
        self.data = strict_json.from_dict(DataRecord, opened[0])
        strict_json.save(self.data, self.folder / DATA)
        if job.resources.accelerator is not None:
            self._preflight(self._gang, data)
        for stage in self._missing():
            self._stage, began = stage.name, time.time()
            self._run_stage(self._gang, stage)
            # What a seed has reached has left its node, and is on disk, before the next stage begins.
            strict_json.save(self.result, self.folder / RESULT)
            self.ledger.append(
                "stage_finished",
                seed=self.result.seed,
                stage=stage.name,
                seconds=time.time() - began,
                files={name: sha256(self.folder / name) for name in stage.files},
                figures=figures_of(self.result, stage.name),
            )

    def _preflight(self, gang: Gang, data: dict[str, Any] | None) -> None:
        """Look at the gang's nodes, and rehearse if this seed is the first to come so far."""
        self._stage = "preflight"
        steps = DRY_STEPS if self.rehearse and self.result.train is None and not self.adopted else 0
        found = check_gang(gang, self.job, data, steps, self._limits.train, self._relay)
        strict_json.save(found, self.folder / PREFLIGHT)
        for finding in found.warnings:
            self._note(f"warning: {sentence(finding)}")
        found.refuse_errors()

    def _run_stage(self, gang: Gang, stage: Stage) -> None:
        """Give the ranks what the stage begins with, let them work, and take what it leaves."""
        for name in stage.needs:
            self._put(gang, name, everywhere=not stage.alone)
        if stage.midway is not None:
            self._put_snapshot(gang, self.folder / stage.midway)
        for name in stage.extras:
            (self.folder / name).unlink(missing_ok=True)

        def on_event(event: Event) -> None:
            self._relay(event)
            if isinstance(event, Note) and event.snapshot_step is not None:
                self._keep_snapshot(gang)

        limit_s = stage.limit(self._limits)
        found = gang.work_on(stage, self.result.seed, self.job.audit.positions, limit_s, on_event)
        for name in stage.files:
            self._fetch(gang, name)
        for name in stage.extras:
            content = gang.read_now(name, self._limits.transfer)
            if content is not None:
                write_bytes(self.folder / name, content)
        if stage.midway is not None:
            (self.folder / stage.midway).unlink(missing_ok=True)
        figures: dict[str, Any] = {stage.name: strict_json.from_dict(stage.result, found)}
        self.result = replace(self.result, **figures)

    def _put_snapshot(self, gang: Gang, snapshot: Path) -> None:
        if self.job.config.train.snapshot_seconds is None or not snapshot.exists():
            return
        from golf_core.train.snapshot import is_whole

        if is_whole(snapshot):
            self._put(gang, snapshot.name)
        else:
            self._note(f"{snapshot} is damaged: training begins anew")

    def _keep_snapshot(self, gang: Gang) -> None:
        """Take the latest snapshot off the node. Training goes on without, if that cannot be done."""
        content = gang.read_now(SNAPSHOT, SNAPSHOT_WAIT_S)
        try:
            if content is not None:
                write_bytes(self.folder / SNAPSHOT, content)
        except OSError as error:
            self._note(f"warning: the snapshot is not kept here: {error.strerror}")

    def _fetch(self, gang: Gang, name: str) -> None:
        write_bytes(self.folder / name, gang.call_first("fetch", name, limit_s=self._limits.transfer))
        self._on_gang.add(name)

    def _put(self, gang: Gang, name: str, everywhere: bool = False) -> None:
        """Give rank 0 a file that an earlier attempt left, unless it has it from its own work; or give it to all."""
        if name not in self._on_gang or everywhere:
            put = gang.call if everywhere else gang.call_first
            put("put", name, (self.folder / name).read_bytes(), limit_s=self._limits.transfer)
            self._on_gang.add(name)

    def _relay(self, event: Event) -> None:
        assert self._log is not None
        event = event_of({"kind": event.kind, "time": event.time, **self.redactor.redact_value(event.fields)})
        self._log(event)
        self.on_event(self.result.seed, event)

    def _note(self, message: str) -> None:
        self._relay(Note(message))

    def interrupt(self, why: str) -> None:
        """End the gang from another thread, now or as soon as it stands; `run` then returns with this failure."""
        self._why = why
        self._interrupted.set()
        if self._gang is not None:
            with contextlib.suppress(GolfError):
                self._gang.close()


# --- checks on a gang ---


def check_on_gang(job: Job, address: str) -> Preflight:
    """Start one gang of `job` on the cluster, look at its nodes, rehearse, and end it. Nothing is kept."""
    with connected(address, before_local=lambda: None):
        refuse_misfit(job.resources, ray_nodes())
        limits = phase_limits(job)
        placement = _room_within(job, limits.start)
        gang, _ = start_gang(placement, limits.start, job.limits.stall_seconds)
        try:
            data = None if job.data == "sample" else job.data.model_dump()
            gang.call("open", strict_json.to_dict(job.config), data, limit_s=limits.start)
            return check_gang(gang, job, data, DRY_STEPS, limits.train, ignore)
        finally:
            gang.close()


def _room_within(job: Job, seconds: float) -> Placement:
    placement, late = Placement(job.resources), threading.Event()
    timer = threading.Timer(seconds, late.set)
    timer.daemon = True
    timer.start()
    granted = False
    try:
        granted = placement.wait(late)
    finally:
        timer.cancel()
        if not granted:
            placement.remove()
    if not granted:
        raise RunError(f"no room for one seed's gang within {seconds:g} s (limits.start_seconds): other jobs have it")
    return placement


def check_gang(
    gang: Gang, job: Job, data: dict[str, Any] | None, steps: int, limit_s: float, on_event: Callable[[Event], None]
) -> Preflight:
    """What the ranks find on their nodes, and what a rehearsal of `steps` steps projects. The data are open."""
    request = strict_json.to_dict(request_of(job, steps))
    return judge_ranks(job, gang.call("check", data, request, limit_s=limit_s, on_event=on_event))
