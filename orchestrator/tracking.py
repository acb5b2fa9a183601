"""The single writer of MLflow for one run: a parent run for the claim, a child run for every seed.

Nothing here can fail a run or slow it down: the public calls only put work on a queue, one daemon thread does
the rest, and what MLflow does not take is reported in a sentence and counted. The figures themselves lie in the
run's folder in any case.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from golf_core.events import Event
from orchestrator.mlflow_store import PARENT, Call, Ended, NoRunError, Opened, Store, masked

MAX_WAITING = 20_000
"""Items in the queue beyond which series are dropped; starts and ends of runs are always kept."""
BATCH_EVERY_S = 1.0
"""Pause between batches, so that a fast run costs a few calls a second at the most."""
MAX_TRIES = 5
"""Of one call while MLflow does not answer, after 1, 4, 16 and 60 s."""
MAX_TRIES_CLOSING = 3
GIVE_UP_AFTER = 20
"""Failed tries in a row that end tracking for good."""


@dataclass(frozen=True)
class _Happened:
    """An event of a seed."""

    key: int
    event: Event


_Item = Opened | _Happened | Ended


class Tracker:
    """MLflow for one run. All methods return at once, may be called from any thread, and never raise.

    `warn` receives at most a few sentences in a run's life, from the writing thread.
    """

    def __init__(self, uri: str, experiment: str, warn: Callable[[str], None]) -> None:
        self._store = Store(uri, experiment)
        self._warn = warn
        self._waiting: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._given = 0
        self._written = 0
        self._closing = threading.Event()
        self._given_up = False
        self._failed_in_a_row = 0
        self._complained: set[str] = set()
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)

    @property
    def parent_run_id(self) -> str | None:
        """MLflow's id of the parent run; None until it exists."""
        return self._store.run_ids.get(PARENT)

    @property
    def url_hint(self) -> str | None:
        """Address of the parent run's page on a tracking server; None until known, and for a local store."""
        return self._store.page(self.parent_run_id) if self.parent_run_id else None

    def start(self, run_name: str, params: Mapping[str, Any], tags: Mapping[str, str], description: str) -> None:
        """Create the store and the experiment where they do not exist, and the parent run. Call once, first."""
        self._put(Opened(PARENT, run_name, dict(params), _described(tags, description)))
        self._thread.start()

    def seed_started(self, seed: int, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Create the seed's child run."""
        self._put(Opened(seed, f"seed {seed}", dict(params), dict(tags)))

    def seed_event(self, seed: int, event: Event) -> None:
        """Log the event's figures as points of the seed's series, at the event's time; see `series`."""
        self._put(_Happened(seed, event))

    def seed_finished(
        self, seed: int, metrics: Mapping[str, float], tags: Mapping[str, str], files: Sequence[Path], ok: bool
    ) -> None:
        """Log a seed's final figures and files and end its run, as FINISHED or FAILED."""
        self._put(Ended(seed, dict(metrics), dict(tags), tuple(files), ok))

    def finish(
        self,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        files: Sequence[Path],
        description: str,
        ok: bool,
    ) -> None:
        """Log the verdict's figures and files to the parent run and end it, and what is left open of the seeds."""
        self._put(Ended(PARENT, dict(metrics), _described(tags, description), tuple(files), ok))

    def close(self, timeout_s: float) -> int:
        """Wait at most `timeout_s` seconds for the queue to empty; returns how many items were not written.

        An item is one call of a method above. What comes later is not written.
        """
        self._closing.set()
        self._waiting.put(None)
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        with self._lock:
            return self._given - self._written

    def _put(self, item: _Item) -> None:
        with self._lock:
            self._given += 1
        # A full queue loses points of a curve rather than a run's start or end.
        if not isinstance(item, _Happened) or self._waiting.qsize() < MAX_WAITING:
            self._waiting.put(item)

    # From here on: the writing thread.

    def _work(self) -> None:
        if not self._attempt("the store", self._store.connect, essential=True):
            self._given_up = True
        last = False
        while not last:
            items, last = self._take()
            self._write(items)
            self._closing.wait(BATCH_EVERY_S)

    def _take(self) -> tuple[list[_Item], bool]:
        """Everything that waits, one item at least, and whether it was the last."""
        items: list[_Item] = []
        item = self._waiting.get()
        while item is not None:
            items.append(item)
            try:
                item = self._waiting.get_nowait()
            except queue.Empty:
                return items, False
        return items, True

    def _write(self, items: Iterable[_Item]) -> None:
        points: dict[int, list[Event]] = {}
        for item in items:
            if isinstance(item, _Happened):
                points.setdefault(item.key, []).append(item.event)
                continue
            self._write_points(points)
            points = {}
            written = self._open(item) if isinstance(item, Opened) else self._end(item)
            self._count(1 if written else 0)
        self._write_points(points)

    def _write_points(self, points: Mapping[int, Sequence[Event]]) -> None:
        for seed, events in points.items():
            if self._attempt(f"the series of seed {seed}", partial(self._store.log_events, seed, events)):
                self._count(len(events))

    def _open(self, item: Opened) -> bool:
        if not self._attempt(f"run '{item.name}'", partial(self._store.create_run, item), essential=True):
            if item.key is PARENT:
                self._given_up = True
            return False
        return self._attempt_all(self._store.describe_calls(item.key, item.params, item.tags))

    def _end(self, item: Ended) -> bool:
        if item.key not in self._store.run_ids:
            return False
        return self._attempt_all(self._store.end_calls(item))

    def _attempt_all(self, calls: Iterable[tuple[str, Call]]) -> bool:
        # Each stands for itself: a file that cannot be uploaded does not keep the run from ending.
        try:
            done = [self._attempt(what, call) for what, call in calls]
        except Exception as error:  # from what was given, say a figure that is no number
            return self._try_again("what it was given", error, MAX_TRIES, essential=False)
        return all(done)

    def _attempt(self, what: str, call: Call, essential: bool = False) -> bool:
        """Make one call; while MLflow does not answer, try again after growing pauses. True: it was done."""
        tries = 0
        while not self._given_up:
            try:
                call()
            except Exception as error:  # nothing that MLflow does may end the run
                tries += 1
                if not self._try_again(what, error, tries, essential):
                    return False
            else:
                self._failed_in_a_row = 0
                return True
        return False

    def _try_again(self, what: str, error: Exception, tries: int, essential: bool) -> bool:
        """Judge a failed try: False drops the call; True, after a pause, makes it again."""
        if isinstance(error, NoRunError):
            return False
        self._failed_in_a_row += 1
        reason = f"({_shown(error)}); the run goes on"
        outage = self._store.is_outage(error)
        if outage:
            self._complain("outage", f"MLflow at {self._store.address} does not answer {reason}")
        else:
            self._complain("refusal", f"MLflow failed on {what} {reason}")
        if self._failed_in_a_row >= GIVE_UP_AFTER:
            self._complain("end", f"MLflow: given up after {GIVE_UP_AFTER} failures; the run's folder has it all")
            self._given_up = True
        return outage and self._pause(tries, essential)

    def _pause(self, tries: int, essential: bool) -> bool:
        """Wait for MLflow to come back; False when it has been waited for long enough."""
        if self._closing.is_set():
            # Nobody waits for an outage to end once the run has ended.
            self._given_up = self._given_up or tries >= MAX_TRIES_CLOSING
            time.sleep(0.0 if self._given_up else 1.0)
            return not self._given_up
        if tries >= MAX_TRIES and not essential:
            return False
        self._closing.wait(min(4.0 ** (tries - 1), 60.0))
        return True

    def _complain(self, kind: str, sentence: str) -> None:
        if kind not in self._complained:
            self._complained.add(kind)
            with suppress(Exception):
                self._warn(sentence)

    def _count(self, written: int) -> None:
        with self._lock:
            self._written += written


def _described(tags: Mapping[str, str], description: str) -> dict[str, str]:
    return {**tags, "mlflow.note.content": description}


def _shown(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    text = masked(lines[0] if lines else type(error).__name__)
    if "Caused by" in text:  # how the HTTP library wraps the reason, after everything else
        text = text.rpartition(": ")[2].rstrip("'\")")
    return text if len(text) <= 200 else text[:197] + "..."
