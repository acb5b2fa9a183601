"""The runs of a folder, each looked at by one reader, for requests that come from several threads."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from dashboards.live import Damaged, RunState, damaged, state_of
from golf_core.errors import GolfError
from orchestrator.folder.layout import LEDGER
from orchestrator.folder.view import RunReader, find_runs, stamp_of

FRESH_S = 0.5
"""A look this young is good enough for whoever asks next."""


class Registry:
    """What the folder `output` holds. A run that is over is read once, until its ledger changes."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self._lock = threading.Lock()
        self._watched: dict[str, _Watched] = {}

    def all(self) -> list[RunState | Damaged]:
        """Every run: those that go on first, then the newest first."""
        found = [self.one(folder.name) for folder in find_runs(self.output)]
        with self._lock:
            gone = [name for name, watched in self._watched.items() if not watched.is_there()]
            for name in gone:
                del self._watched[name]
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
                found = damaged(self._folder, error)
            except (ArithmeticError, ValueError, TypeError, LookupError, RecursionError) as error:
                # A made-up figure that no reader foresaw: the other runs are shown all the same.
                found = Damaged(self._folder.name, f"holds figures that cannot be read ({type(error).__name__})")
            self._last, self._reader = None, RunReader(self._folder)
            return found

    @staticmethod
    def _good_enough(last: tuple[float, tuple[int, int], RunState]) -> bool:
        return last[2].status in ("finished", "stopped") or time.monotonic() - last[0] < FRESH_S
