"""A run as it stands now, judged as far as it has come: what the board and the terminal show."""

from __future__ import annotations

import datetime
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dashboards.pages import MADE_UP
from golf_core.errors import ConfigError, GolfError
from orchestrator.claim.judge import judge, out_of_reach
from orchestrator.folder.results import LEDGER, Claim, SeedResult, Summary
from orchestrator.folder.view import RunReader, RunView, SeedView, find_runs, stamp_of
from orchestrator.job.document import printable

FRESH_S = 0.5
"""A look this young is good enough for whoever asks next."""
RunStatus = Literal["running", "finished", "stopped", "interrupted"]


@dataclass(frozen=True)
class RunState:
    """A run as it stands."""

    view: RunView
    """What its ledger says."""
    status: RunStatus
    started: str
    """When it was started first, to the minute, in local time."""
    ended: float | None
    """Seconds since the epoch; None while it goes on."""
    seeds: tuple[SeedView, ...]
    claim: Claim | None
    """Judged from the seeds that have ended; None before the first has."""
    verdict: str
    """The claim's, or how it firms up."""
    sentence: str
    node_hours: float
    """Hours of nodes used by all attempts so far, each on nodes of its own."""
    cost: float | None
    """In the currency of cost.per_node_hour; None where the job names no price."""

    @property
    def run_id(self) -> str:
        """The name of its folder."""
        return self.view.folder.name

    @property
    def finished(self) -> int:
        """How many seeds have finished."""
        return sum(seed.status == "finished" for seed in self.seeds)

    @property
    def mixture(self) -> Summary | None:
        """BPB of the valid mixture over the finished seeds."""
        return self.claim.scores.get("mixture") if self.claim is not None else None

    @property
    def seconds(self) -> float:
        """How long it has gone on, or went on."""
        return max((time.time() if self.ended is None else self.ended) - self.view.started, 0.0)


@dataclass(frozen=True)
class Damaged:
    """A folder that cannot be read as a run's."""

    run_id: str
    reason: str


def state_of(reader: RunReader) -> RunState:
    """The run as it stands now. Raises `ConfigError` where the folder is not a run's."""
    view = reader.view
    goes_on = view.goes_on
    seeds = reader.seeds(view, goes_on)
    ended = [r for s in seeds if s.status in ("finished", "failed") and (r := reader.result(s.seed)) is not None]
    claim = judge(view.job, ended) if ended else None
    status: RunStatus = "running" if goes_on else _status(view, seeds)
    verdict, sentence = _verdict(view, status, ended, claim)
    hours, price = view.node_hours(time.time() if goes_on else None), view.job.cost.per_node_hour
    return RunState(
        view=view,
        status=status,
        started=_started(view),
        ended=None if goes_on else view.last_sign,
        seeds=seeds,
        claim=claim,
        verdict=verdict,
        sentence=sentence,
        node_hours=hours,
        cost=None if price is None else price * hours,
    )


def _started(view: RunView) -> str:
    try:
        return f"{datetime.datetime.fromtimestamp(view.started):%Y-%m-%d %H:%M}"
    except (ArithmeticError, OSError, ValueError) as error:  # a time that no clock shows
        kind = type(error).__name__
        raise ConfigError(f"{view.folder}: holds figures that cannot be shown ({kind})") from None


def _status(view: RunView, seeds: Sequence[SeedView]) -> RunStatus:
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


class Registry:
    """What the folder `output` holds, for requests that come from several threads.

    A run that is over is read once, until its ledger changes.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self._lock = threading.Lock()
        self._watched: dict[str, _Watched] = {}

    def all(self) -> list[RunState | Damaged]:
        """Every run: those that go on first, then the newest first."""
        found = [self.one(folder.name) for folder in find_runs(self.output)]
        with self._lock:
            self._watched = {name: watched for name, watched in self._watched.items() if watched.is_there()}
        runs = [run for run in found if run is not None]
        return sorted(runs, key=lambda run: not (isinstance(run, RunState) and run.status == "running"))

    def one(self, run_id: str) -> RunState | Damaged | None:
        """The run in the folder of that name; None where there is none."""
        # A name, not a path: nothing outside the folder is ever read.
        if not run_id or run_id in (".", "..") or "/" in run_id or "\0" in run_id:
            return None
        with self._lock:
            watched = self._watched.get(run_id) or _Watched(self.output / run_id)
            if watched.is_there():
                self._watched[run_id] = watched
            else:  # what takes its place under the name is another run
                self._watched.pop(run_id, None)
                return None
        return watched.look()


class _Watched:
    def __init__(self, folder: Path) -> None:
        self._folder, self._lock = folder, threading.Lock()
        self._reader = RunReader(folder)
        self._last: tuple[float, tuple[int, int], RunState] | None = None

    def is_there(self) -> bool:
        try:
            return (self._folder / LEDGER).is_file()
        except (OSError, ValueError):  # a name that no folder can have
            return False

    def look(self) -> RunState | Damaged:
        with self._lock:
            try:
                stamp = stamp_of(self._folder / LEDGER)
                if self._last is None or self._last[1] != stamp or not self._good_enough(self._last):
                    self._last = time.monotonic(), stamp, state_of(self._reader)
                return self._last[2]
            except (GolfError, OSError) as error:
                # The folder's name stands beside the sentence.
                reason = printable(str(error)).replace(f"{self._folder}/", "").replace(f"{self._folder}: ", "")
            except MADE_UP as error:
                # A made-up figure that no reader foresaw: the other runs are shown all the same.
                reason = f"holds figures that cannot be read ({type(error).__name__})"
            self._last, self._reader = None, RunReader(self._folder)
            return Damaged(self._folder.name, reason)

    @staticmethod
    def _good_enough(last: tuple[float, tuple[int, int], RunState]) -> bool:
        return last[2].status in ("finished", "stopped") or time.monotonic() - last[0] < FRESH_S
