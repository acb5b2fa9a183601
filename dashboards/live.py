"""A run as it stands now, from its folder alone: what the board and the terminal show.

Logs are read on from where the last look ended, so that a look costs the same however long a run has gone on.
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from golf_core import strict_json
from golf_core.errors import GolfError
from golf_core.events import Event
from golf_core.files import open_plain
from golf_core.progress import describe
from golf_core.results import EvalResult
from golf_core.strict_json import printable
from orchestrator.claim.judge import judge, out_of_reach
from orchestrator.folder.layout import LEDGER, RESULT
from orchestrator.folder.ledger import in_use
from orchestrator.folder.results import Claim, SeedResult
from orchestrator.folder.view import AttemptView, RunView, view_of

RunStatus = Literal["running", "finished", "stopped", "interrupted"]
SeedStatus = Literal["queued", "starting", "running", "finished", "failed", "interrupted"]

TAIL_LINES = 12
MAX_POINTS = 600
"""Of each series: beyond that, every second point is dropped."""
READ_BYTES = 4 << 20
MAX_LINE = 500
"""Characters that are shown of a line of a log."""
MAX_NAME = 60
"""Of a phase's name."""
MOST = 10**12
"""Of steps, chunks and seconds: what is beyond it is damaged."""
HOUR_S = 3600.0


@dataclass(frozen=True)
class Phase:
    """A phase that has ended."""

    name: str
    seconds: float


@dataclass(frozen=True)
class SeedState:
    """A seed as it stands. Figures that do not exist (yet) are None or empty."""

    seed: int
    status: SeedStatus
    attempt: int = 0
    """Counted from 1; 0: not begun."""
    phase: str = ""
    """Going on now."""
    done: int = 0
    """Steps or chunks of the phase."""
    total: int = 0
    eta_s: float | None = None
    """Of the phase."""
    ms_per_step: float | None = None
    loss: float | None = None
    """Of the last step, nats a token."""
    val_bpb: float | None = None
    bpb: Mapping[str, float] = field(default_factory=dict)
    """Running BPB by scorer, as last logged."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Final BPB by scorer, from its result; empty until it has finished."""
    artifact_bytes: int | None = None
    system: Mapping[str, Any] = field(default_factory=dict)
    """The last sample of the gang's machine: see `Event`."""
    phases: tuple[Phase, ...] = ()
    started: float | None = None
    """Of this attempt, seconds since the epoch."""
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


@dataclass(frozen=True)
class RunState:
    """A run as it stands."""

    folder: Path
    name: str
    """The job's."""
    status: RunStatus
    started: float
    """Seconds since the epoch."""
    ended: float | None
    seeds: tuple[SeedState, ...]
    claim: Claim | None
    """Judged from the seeds that have ended; None before the first has."""
    verdict: str
    """The claim's, or how it firms up."""
    sentence: str
    node_hours: float
    """Of all attempts so far, each on nodes of its own."""
    cost: float | None
    """In the currency of cost.per_node_hour; None where the job names no price."""
    hardware: str = ""

    @property
    def run_id(self) -> str:
        """The name of its folder."""
        return self.folder.name


class RunWatcher:
    """Looks at the run in `folder` again and again. Not for several threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._view: tuple[tuple[int, int], RunView] | None = None
        self._logs: dict[tuple[int, int], _Log] = {}
        self._results: dict[int, tuple[tuple[int, int], SeedResult | None]] = {}

    @property
    def view(self) -> RunView:
        """What the ledger says. Raises `ConfigError` where the folder is not a run's."""
        stamp = _stamp(self.folder / LEDGER)
        if self._view is None or self._view[0] != stamp:
            self._view = (stamp, view_of(self.folder))
        return self._view[1]

    def look(self) -> RunState:
        """The run as it stands now. Raises `ConfigError` where the folder is not a run's."""
        view = self.view
        going_on = view.ended is None and in_use(self.folder)
        newest = {attempt.seed: attempt for attempt in view.attempts if attempt.newest}
        seeds = tuple(self._seed(view, seed, newest.get(seed), going_on) for seed in view.job.seeds)
        ended = [r for s in seeds if s.status in ("finished", "failed") and (r := self._result(s.seed)) is not None]
        claim = judge(view.job, ended) if ended else None
        status: RunStatus = "running" if going_on else _status(view, seeds)
        verdict, sentence = _verdict(view, status, ended, claim)
        hours = sum(_seconds(a, going_on) for a in view.attempts) * view.job.resources.nodes / HOUR_S
        price = view.job.cost.per_node_hour
        return RunState(
            folder=self.folder,
            name=view.job.name,
            status=status,
            started=view.started,
            ended=None if going_on else view.last_sign,
            seeds=seeds,
            claim=claim,
            verdict=verdict,
            sentence=sentence,
            node_hours=hours,
            cost=None if price is None else price * hours,
            hardware="; ".join(sorted({a.hardware for a in view.attempts if a.hardware})),
        )

    def _seed(self, view: RunView, seed: int, attempt: AttemptView | None, going_on: bool) -> SeedState:
        if attempt is None:
            return SeedState(seed, "queued" if going_on else "interrupted")
        log = self._logs.setdefault((seed, attempt.number), _Log(attempt.log))
        log.read_on()
        figures = dict(log.figures)
        status: SeedStatus
        if attempt.ended is not None:
            status = "finished" if attempt.status == "finished" else "failed"
            figures |= {"phase": "", "eta_s": None}
        elif not going_on:
            status = "interrupted"
        else:
            status = "running" if attempt.hardware else "starting"
        result = self._result(seed)
        if result is not None and result.export is not None:
            figures["artifact_bytes"] = result.export.total_bytes
        if result is not None and result.evaluate is not None and status == "finished":
            figures["scores"] = _scores(result.evaluate)
        return SeedState(
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

    def _result(self, seed: int) -> SeedResult | None:
        path = self.folder / f"seed-{seed}" / RESULT
        try:
            stamp = _stamp(path)
        except OSError:
            return None
        if seed not in self._results or self._results[seed][0] != stamp:
            try:
                found: SeedResult | None = strict_json.load(SeedResult, path)
            except GolfError:
                found = None  # damaged: `golf rebuild` makes it anew
            self._results[seed] = (stamp, found)
        return self._results[seed][1]


class _Series:
    """Points of a curve, thinned out as they become many."""

    def __init__(self) -> None:
        self.points: list[tuple[float, float]] = []
        self._every, self._seen = 1, 0

    def add(self, x: Any, y: Any) -> None:
        if not isinstance(x, (int, float)) or not isinstance(y, (int, float)) or not math.isfinite(y):
            return
        if self._seen % self._every == 0:
            self.points.append((float(x), float(y)))
        self._seen += 1
        if len(self.points) > MAX_POINTS:
            self.points = self.points[::2]
            self._every *= 2


class _Log:
    """A log read so far."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0
        self._clear()

    def _clear(self) -> None:
        self.figures: dict[str, Any] = {}
        self.phases: list[Phase] = []
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.loss, self.bpb = _Series(), _Series()

    def read_on(self) -> None:
        """Take in the whole lines that have come since; a log that was written anew is read from its beginning."""
        try:
            with open_plain(self._path) as file:
                if file.seek(0, 2) < self._offset:
                    self._offset = 0
                    self._clear()
                file.seek(self._offset)
                while block := file.read(READ_BYTES):
                    whole = block[: block.rfind(b"\n") + 1]
                    if not whole:
                        break
                    self._offset += len(whole)
                    file.seek(self._offset)
                    for line in whole.splitlines():
                        self._take(line)
        except OSError:
            return  # there is no log yet

    def _take(self, line: bytes) -> None:
        try:
            fields = json.loads(line)
            event = Event(fields.pop("kind"), fields, float(fields.pop("time")))
            self._add(event)
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, OSError):
            return  # damaged; the clock refuses some times as an error of the system

    def _add(self, event: Event) -> None:
        f, now = event.fields, self.figures
        if event.kind == "system":
            now["system"] = {**f, "time": event.time}
            return
        if event.kind == "phase_started":
            now.update(phase=_name(f["phase"]), done=0, total=_count(f.get("total", 0)), eta_s=None)
        elif event.kind == "train_step":
            now.update(done=_count(f["step"]), total=_count(f["total"]), eta_s=_seconds_left(f.get("eta_s")))
            now.update(loss=float(f["loss"]), ms_per_step=float(f["ms_per_step"]))
            self.loss.add(f["step"], f["loss"])
        elif event.kind == "validation":
            now.update(val_bpb=float(f["val_bpb"]))
        elif event.kind == "chunk":
            now.update(done=_count(f["chunk"]), total=_count(f["total"]), eta_s=_seconds_left(f.get("eta_s")))
            names = ("neural", "mixture", "published")
            now["bpb"] = {name: float(f[f"bpb_{name}"]) for name in names if f"bpb_{name}" in f}
            self.bpb.add(f["chunk"], now["bpb"].get("mixture", now["bpb"].get("neural")))
        elif event.kind == "phase_finished":
            self.phases.append(Phase(_name(f["phase"]), float(f["seconds"])))
            now.update(phase="", eta_s=None)
        stamp = time.strftime("%H:%M:%S", time.localtime(event.time))
        line = printable(describe(event))
        self.tail.append(f"{stamp}  {line if len(line) <= MAX_LINE else line[: MAX_LINE - 1] + '…'}")


def _name(value: Any) -> str:
    return printable(str(value))[:MAX_NAME]


def _count(value: Any) -> int:
    """Raises `ValueError` for what cannot be counted."""
    number = int(value)
    if not 0 <= number <= MOST:
        raise ValueError("damaged")
    return number


def _seconds_left(value: Any) -> float | None:
    sound = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= MOST
    return float(value) if sound else None


def _scores(result: EvalResult) -> dict[str, float]:
    scores = {"neural": result.neural, "mixture": result.mixture, "published": result.published}
    return {name: score.bpb for name, score in scores.items() if score is not None}


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _seconds(attempt: AttemptView, going_on: bool) -> float:
    if attempt.ended is not None:
        return attempt.ended - attempt.started
    return time.time() - attempt.started if going_on and attempt.newest else 0.0


def _status(view: RunView, seeds: Sequence[SeedState]) -> RunStatus:
    if view.ended is None:
        return "interrupted"
    return "stopped" if any(s.status in ("interrupted", "queued") for s in seeds) else "finished"


def _verdict(view: RunView, status: RunStatus, ended: Sequence[SeedResult], claim: Claim | None) -> tuple[str, str]:
    """The verdict and its sentence: the claim's own when the run is over, before that what can be said."""
    if status == "finished" and claim is not None:
        return claim.verdict, claim.sentence
    done = f"{len(ended)} of {len(view.job.seeds)} seeds have ended"
    why = out_of_reach(view.job, ended)
    if why is not None:
        return "out of reach", f"{done}; a claim is out of reach: {why}"
    summary = claim.scores.get("mixture") if claim is not None else None
    so_far = f"; so far {summary.mean:.5f} BPB" if summary is not None else ""
    return ("open", f"{done}{so_far}") if status == "running" else (status, f"{status}: {done}{so_far}")


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
