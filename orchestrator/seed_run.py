"""One seed from data to result, on a gang that has its room: the line of data flow that the service is about."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from golf_core import records
from golf_core.errors import GolfError, RunError, UserError
from golf_core.events import Event, JsonLinesLog
from golf_core.files import write_bytes, write_text
from golf_core.results import AuditRecord, DataRecord, EvalResult, ExportResult, TrainResult
from orchestrator.claim import SeedResult
from orchestrator.gang import Gang, Placement, describe_hardware, start_gang
from orchestrator.spec import Job

# Names of the files in a seed's folder; the stages give them the same names.
ARTIFACT, PROGRAM, CHECKPOINT = "model.golf", "train_gpt.py", "checkpoint.pt"
READABLE = "train_gpt_readable.py"
LOG, RESULT, DATA, AUDIT = "log.jsonl", "result.json", "data.json", "audit.json"


@dataclass(frozen=True)
class EarlierSeed:
    """What the run called `run_id` left of a seed, for a new evaluation: its artifact and figures."""

    run_id: str
    artifact: bytes
    train: TrainResult | None
    export: ExportResult | None


@dataclass
class SeedRun:
    """Runs one seed in its own thread of the driver. `result` grows with every stage and is always true."""

    job: Job
    folder: Path
    result: SeedResult
    on_event: Callable[[int, Event], None]
    hardware: str = ""
    data: DataRecord | None = None
    mistake: UserError | None = None
    """The user's mistake that ended this seed, if one did."""
    _gang: Gang | None = None
    _log: JsonLinesLog = field(init=False)
    _interrupted: threading.Event = field(default_factory=threading.Event)

    def run(self, placement: Placement, earlier: EarlierSeed | None) -> SeedResult:
        """All stages; never raises: a failure becomes part of the result."""
        # Written here, as the events arrive, and not on the node: a lost machine takes no log with it.
        self._log = JsonLinesLog(self.folder / LOG)
        try:
            self._gang, ranks = start_gang(placement)
            if self._interrupted.is_set():
                raise RunError("interrupted while its ranks were starting")
            self.result = replace(self.result, node=ranks[0]["node"])
            self.hardware = describe_hardware(ranks)
            self._stages(self._gang, earlier)
            self.result = replace(self.result, status="finished", error=None)
        except GolfError as error:
            self.mistake = error if isinstance(error, UserError) else None
            self.result = replace(self.result, status="failed", error=str(error))
        except Exception as error:  # a bug of ours, or of a library: keep the traceback, report a sentence
            write_text(self.folder / "traceback.txt", traceback.format_exc())
            sentence = f"unexpected {type(error).__name__}: {error}; see {self.folder / 'traceback.txt'}"
            self.result = replace(self.result, status="failed", error=sentence)
        finally:
            if self._gang is not None:
                self._gang.close()
            else:
                placement.remove()
            self.result = replace(self.result, finished=time.time())
            self._log.close()
            records.save(self.result, self.folder / RESULT)
        return self.result

    def _stages(self, gang: Gang, earlier: EarlierSeed | None) -> None:
        job, seed = self.job, self.result.seed
        data = None if job.data == "sample" else job.data.model_dump()
        self._note("checking the data")
        self.data = records.from_dict(DataRecord, gang.call("open", records.to_dict(job.config), data)[0])
        records.save(self.data, self.folder / DATA)
        if earlier is None:
            trained = gang.call("train", seed, on_event=self._relay)[0]
            self.result = replace(self.result, train=records.from_dict(TrainResult, trained))
            exported = gang.call("export", on_event=self._relay)[0]
            self.result = replace(self.result, export=records.from_dict(ExportResult, exported))
            # What a seed has reached leaves its node before the next stage begins.
            for name in (ARTIFACT, PROGRAM, READABLE, CHECKPOINT):
                write_bytes(self.folder / name, gang.first("fetch", name))
            records.save(self.result, self.folder / RESULT)
        else:
            write_bytes(self.folder / ARTIFACT, earlier.artifact)
            self.result = replace(self.result, train=earlier.train, export=earlier.export)
        artifact = (self.folder / ARTIFACT).read_bytes()
        evaluated = gang.call("evaluate", artifact, on_event=self._relay)[0]
        self.result = replace(self.result, evaluate=records.from_dict(EvalResult, evaluated))
        records.save(self.result, self.folder / RESULT)
        if job.audit.positions:
            audited = gang.call_first("audit", job.audit.positions, seed, on_event=self._relay)
            self.result = replace(self.result, audit=records.from_dict(AuditRecord, audited))
            write_bytes(self.folder / AUDIT, gang.first("fetch", AUDIT))

    def _relay(self, event: Event) -> None:
        self._log(event)
        self.on_event(self.result.seed, event)

    def _note(self, message: str) -> None:
        self._relay(Event("note", {"message": message}))

    def interrupt(self) -> None:
        """End the gang from another thread, now or as soon as it stands; `run` then returns with a failure."""
        self._interrupted.set()
        if self._gang is not None:
            self._gang.close()


def waiting_result(seed: int) -> SeedResult:
    """The result of a seed that has not begun: what is reported if it never does."""
    now = time.time()
    return SeedResult(seed, "failed", "not started", None, None, None, now, now, "")
