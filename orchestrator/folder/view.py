"""The one reader of a run's folder: what its ledger, its seeds' results and its logs say, as far as they have come.

Whatever is shown or made of a run (terminal, board, report, MLflow's copy, resumption, results made anew) is made from
this alone, so that it can be made again at any time. What is damaged is left out, or refused in a sentence.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from golf_core import strict_json
from golf_core.errors import ConfigError, GolfError
from golf_core.events import System
from golf_core.files import MAX_RECORD_BYTES, open_plain
from golf_core.log_text import duration
from golf_core.strict_json import printable
from orchestrator.folder.earlier import job_of_run
from orchestrator.folder.ledger import Entry, in_use, read_ledger
from orchestrator.folder.provenance import describe_hardware
from orchestrator.folder.results import LEDGER, LOG, RESULT, STAGES, SeedResult
from orchestrator.folder.seed_log import LiveLog, Phase
from orchestrator.job.load import Job

KEY_DIGITS = 16
HOUR_S = 3600.0
SeedStatus = Literal["queued", "starting", "running", "finished", "failed", "interrupted"]
R = TypeVar("R")


@dataclass(frozen=True)
class AttemptView:
    """One attempt at a seed, as far as it has come."""

    seed: int
    number: int
    """Counted from 1."""
    started: float
    """Seconds since the epoch."""
    log: Path
    """Its events: those of stages that it took over from the attempt before come first."""
    newest: bool
    ended: float | None = None
    """Seconds since the epoch; None while it goes on, or where it ended without a word."""
    status: str = ""
    """finished or failed, once it has ended."""
    failure: str = ""
    """Kind of the failure, where it failed."""
    stage: str = ""
    error: str = ""
    hardware: str = ""
    node: str = ""
    stages: tuple[str, ...] = ()
    """Stages that were kept from the attempt before, then those that ended in it, in order."""


@dataclass(frozen=True)
class RunView:
    """What the ledger says of a run."""

    folder: Path
    key: str
    """The same wherever the folder is moved, and no other run's."""
    job: Job
    entries: tuple[Entry, ...]
    """The whole ledger."""
    starts: tuple[Entry, ...]
    """One for each time that the run was started, at least one."""
    attempts: tuple[AttemptView, ...]
    """In the order in which they were begun."""
    ended: float | None
    """When the driver wrote that it ended or stopped, seconds since the epoch; None while it goes on."""

    @property
    def started(self) -> float:
        """When it was started first, seconds since the epoch."""
        return self.starts[0].time

    @property
    def provenance(self) -> dict[str, str]:
        """Where it was started last: commit, versions."""
        values = self.starts[-1].fields.get("provenance")
        return {str(name): _text(value) for name, value in values.items()} if isinstance(values, Mapping) else {}

    @property
    def artifacts_of(self) -> str:
        """The run whose artifacts are evaluated, where nothing is trained; else empty."""
        return _text(self.starts[0].fields.get("artifacts_of"))

    @property
    def last_sign(self) -> float:
        """The last sign of life, seconds since the epoch."""
        times = [self.started, *(a.ended or a.started for a in self.attempts)]
        return max(times if self.ended is None else [*times, self.ended])

    @property
    def goes_on(self) -> bool:
        """Whether a driver is at work on it at this moment."""
        return self.ended is None and in_use(self.folder)

    @property
    def hardware(self) -> str:
        """What the gangs ran on, each kind once."""
        return "; ".join(sorted({attempt.hardware for attempt in self.attempts if attempt.hardware}))

    def place(self, seed: int) -> Path:
        """The folder of a seed."""
        return self.folder / f"seed-{seed}"

    def attempts_at(self, seed: int) -> list[AttemptView]:
        """The attempts at a seed, in order."""
        return [attempt for attempt in self.attempts if attempt.seed == seed]

    def node_hours(self, now: float | None = None) -> float:
        """Hours of nodes that all attempts used; those that go on (the newest of each seed) count until `now`."""
        seconds = sum(a.ended - a.started for a in self.attempts if a.ended is not None)
        if now is not None:
            seconds += sum(now - a.started for a in self.attempts if a.ended is None and a.newest)
        return seconds * self.job.resources.nodes / HOUR_S


@dataclass(frozen=True)
class SeedView:
    """A seed as it stands. Figures that do not exist (yet) are None or empty."""

    seed: int
    status: SeedStatus
    attempt: int = 0
    """Number of the attempt, counted from 1; 0: not begun."""
    phase: str = ""
    """The phase that goes on now."""
    done: int = 0
    """Steps or chunks of the phase that are done."""
    total: int = 0
    """Steps or chunks of the whole phase."""
    eta_s: float | None = None
    """Seconds that the phase is expected to take still."""
    ms_per_step: float | None = None
    loss: float | None = None
    """Loss of the last logged step, nats a token."""
    val_bpb: float | None = None
    bpb: Mapping[str, float] = field(default_factory=dict)
    """Running BPB by scorer, as last logged."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Final BPB by scorer, from its result; empty until it has finished."""
    artifact_bytes: int | None = None
    system: System | None = None
    """The last sample of the gang's machine."""
    phases: tuple[Phase, ...] = ()
    started: float | None = None
    """When this attempt began, seconds since the epoch."""
    ended: float | None = None
    """Seconds since the epoch."""
    node: str = ""
    hardware: str = ""
    error: str = ""
    tail: tuple[str, ...] = ()
    """The last lines of its log, as people read them."""
    loss_series: tuple[tuple[float, float], ...] = ()
    """Steps and losses."""
    bpb_series: tuple[tuple[float, float], ...] = ()
    """Chunks and running BPB of the mixture, or of the model alone where there is no mixture."""

    @property
    def took(self) -> str:
        """How long the attempt has taken, in words; empty before it has begun, or where it left no word of its end."""
        if self.started is None or self.status == "interrupted":
            return ""
        return duration(max((time.time() if self.ended is None else self.ended) - self.started, 0.0))


def view_of(folder: Path) -> RunView:
    """Read the run in `folder`. Raises `ConfigError` where it is not the folder of a run that was started."""
    job, entries = job_of_run(folder, {}), read_ledger(folder)
    starts = [entry for entry in entries if entry.kind == "run_started"]
    if not starts:
        raise ConfigError(f"{folder}: its ledger does not say that it was ever started; run the job anew")
    last = entries.index(starts[-1])
    ends = [entry.time for entry in entries[last:] if entry.kind in ("run_finished", "run_stopped")]
    attempts = _attempts(folder, entries)
    return RunView(folder, _key(folder), job, tuple(entries), tuple(starts), attempts, ends[-1] if ends else None)


def recorded(cls: type[R], path: Path, wanting: list[str] | None = None) -> R | None:
    """The record at `path`; None where there is none that can be read, for a reason that `wanting` gets."""
    try:
        return strict_json.load(cls, path, MAX_RECORD_BYTES)
    except GolfError as error:
        if wanting is not None:
            wanting.append(str(error))
        return None


def stamp_of(path: Path) -> tuple[int, int]:
    """Changes whenever the file is written. Raises `OSError`."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


class RunReader:
    """Reads the run in `folder` again and again, and of it only what has changed. Not for several threads.

    Logs are read on from where the last look ended, so that a look costs the same however long a run has gone on.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._view: tuple[tuple[int, int], RunView] | None = None
        self._logs: dict[tuple[int, int], LiveLog] = {}
        self._results: dict[int, tuple[tuple[int, int], SeedResult | None]] = {}

    @property
    def view(self) -> RunView:
        """What the ledger says. Raises `ConfigError` where the folder is not a run's."""
        stamp = stamp_of(self.folder / LEDGER)
        if self._view is None or self._view[0] != stamp:
            self._view = (stamp, view_of(self.folder))
        return self._view[1]

    def seeds(self, view: RunView, goes_on: bool) -> tuple[SeedView, ...]:
        """All seeds of the run as they stand, of which the ledger says `view`."""
        newest = {attempt.seed: attempt for attempt in view.attempts if attempt.newest}
        return tuple(self._seed(seed, newest.get(seed), goes_on) for seed in view.job.seeds)

    def result(self, seed: int) -> SeedResult | None:
        """What is recorded of a seed; None where nothing can be read: `golf rebuild` makes it anew."""
        path = self.folder / f"seed-{seed}" / RESULT
        try:
            stamp = stamp_of(path)
        except OSError:
            return None
        if seed not in self._results or self._results[seed][0] != stamp:
            self._results[seed] = (stamp, recorded(SeedResult, path))
        return self._results[seed][1]

    def _seed(self, seed: int, attempt: AttemptView | None, goes_on: bool) -> SeedView:
        if attempt is None:
            return SeedView(seed, "queued" if goes_on else "interrupted")
        log = self._logs.setdefault((seed, attempt.number), LiveLog(attempt.log))
        log.read_on()
        figures = dict(log.figures)
        status: SeedStatus
        if attempt.ended is not None:
            status = "finished" if attempt.status == "finished" else "failed"
            figures |= {"phase": "", "eta_s": None}
        elif not goes_on:
            status = "interrupted"
        else:
            status = "running" if attempt.hardware else "starting"
        result = self.result(seed)
        if result is not None and result.export is not None:
            figures["artifact_bytes"] = result.export.total_bytes
        if result is not None and result.evaluate is not None and status == "finished":
            figures["scores"] = {name: score.bpb for name, score in result.evaluate.scores.items()}
        return SeedView(
            seed=seed,
            status=status,
            attempt=attempt.number,
            started=attempt.started,
            ended=attempt.ended,
            node=attempt.node,
            hardware=attempt.hardware,
            error=attempt.error,
            tail=tuple(log.tail),
            phases=tuple(log.phases),
            loss_series=tuple(log.loss.points),
            bpb_series=tuple(log.bpb.points),
            **figures,
        )


def find_runs(output: Path) -> list[Path]:
    """The folders of runs in `output`, the newest first. An empty list where there are none."""
    newest = {}
    try:
        for ledger in output.glob(f"*/{LEDGER}"):
            with suppress(OSError):  # it was there a moment ago
                if ledger.is_file():
                    newest[ledger.parent] = ledger.stat().st_mtime
    except OSError:
        return []
    return sorted(newest, key=newest.__getitem__, reverse=True)


def _key(folder: Path) -> str:
    """From the ledger's first line, which is never written again."""
    with open_plain(folder / LEDGER) as file:
        return hashlib.sha256(file.readline(1 << 20)).hexdigest()[:KEY_DIGITS]


def _attempts(folder: Path, entries: Sequence[Entry]) -> tuple[AttemptView, ...]:
    found: dict[tuple[int, int], AttemptView] = {}
    newest: dict[int, int] = {}
    for entry in entries:
        seed, number = entry.fields.get("seed"), entry.fields.get("attempt")
        if not isinstance(seed, int):
            continue
        if entry.kind == "seed_started" and isinstance(number, int):
            newest[seed] = number
            log, kept = folder / f"seed-{seed}" / LOG, entry.fields.get("kept")
            stages = tuple(s for s in STAGES if s in kept) if isinstance(kept, list) else ()
            found[seed, number] = AttemptView(seed, number, entry.time, log, newest=True, stages=stages)
        key = (seed, newest.get(seed, 0))
        if key not in found:
            continue
        if entry.kind == "gang_started":
            found[key] = _with_gang(found[key], entry.fields.get("ranks"))
        elif entry.kind == "seed_finished":
            texts = {name: _text(entry.fields.get(name)) for name in ("status", "failure", "stage", "error")}
            ended: dict[str, Any] = {"ended": entry.time, **texts}
            found[key] = replace(found[key], **ended)
        elif entry.kind == "stage_finished" and (stage := _text(entry.fields.get("stage"))) in STAGES:
            found[key] = replace(found[key], stages=(*found[key].stages, stage))
    return tuple(
        attempt if attempt.number == newest[attempt.seed] else _superseded(attempt) for attempt in found.values()
    )


def _superseded(attempt: AttemptView) -> AttemptView:
    # Where the log of an attempt is kept when the next begins: see `resume.begin_log`.
    log = attempt.log.with_name(f"{attempt.log.stem}.attempt-{attempt.number}{attempt.log.suffix}")
    return replace(attempt, newest=False, log=log)


def _with_gang(attempt: AttemptView, ranks: Any) -> AttemptView:
    sound = isinstance(ranks, list) and all(isinstance(rank, Mapping) for rank in ranks)
    if not sound or not ranks or not all(isinstance(rank.get("device"), str) for rank in ranks):
        return attempt
    return replace(attempt, hardware=printable(describe_hardware(ranks)), node=_text(ranks[0].get("node")))


def _text(value: Any) -> str:
    return printable(value) if isinstance(value, str) else ""  # a control code in it is shown, not obeyed
