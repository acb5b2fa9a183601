"""MLflow as a copy of a run's folder: one pass sends what it lacks, and none of it twice.

The folder is the truth, and the spool: nothing is queued in memory, so nothing is lost while MLflow is away, and a
copy that was lost is made again. How far MLflow has come stands in tags of its own runs, so that it can be gone on
with by whoever comes next, in whichever store.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from golf_core.errors import GolfError, RunError
from golf_core.strict_json import printable
from orchestrator.folder.event_log import sound_events, whole_lines
from orchestrator.folder.ledger import in_use
from orchestrator.folder.redaction import Redactor
from orchestrator.folder.results import LEDGER
from orchestrator.folder.view import AttemptView, RunReader, stamp_of, view_of
from orchestrator.job.load import Job
from orchestrator.tracking.content import (
    attempt_beginning,
    attempt_ending,
    digest_of,
    parent_beginning,
    parent_ending,
    points_of,
    running_tags,
)
from orchestrator.tracking.store import Beginning, Call, Ending, Mirrored, Point, Store, default_uri, masked

LOCK = ".mlflow.lock"
POINTS_A_CALL = 900
"""MLflow takes 1,000 entries in a call."""
Complain = Callable[[str], None]


class OutageError(Exception):
    """MLflow does not answer, or not as it should: the pass is to be tried again."""


class Mirror:
    """The copy of one run in one store. Not for several threads."""

    def __init__(self, folder: Path, store: Store, redactor: Redactor, complain: Complain) -> None:
        self._folder, self._store, self._redactor, self._complain = folder, store, redactor, complain
        self._connected = False
        self._known: dict[str, Mirrored] = {}
        self._refused: set[tuple[str, str]] = set()
        self._remarks: set[str] = set()
        self._told: dict[str, str] = {}
        self._reader = RunReader(folder)

    @property
    def refused(self) -> int:
        """How many items MLflow answered with a refusal. They are not tried again by this object."""
        return len(self._refused)

    @property
    def page(self) -> str | None:
        """Address of the parent run's page, where the store is a server and has the run."""
        found = self._known.get(self._reader.view.key)
        return None if found is None else self._store.page(found.run_id)

    def run(self, alive: bool) -> None:
        """Send all that MLflow lacks; `alive`: the run still goes on, and its end is not to be told.

        Raises `OutageError` where MLflow does not answer; the next call goes on from there.
        """
        if not self._connected:
            self._essential("the store", self._store.connect)
            self._connected = True
        view = self._reader.view
        beginning = parent_beginning(view, self._redactor)
        parent = self._open(beginning, goes_on=alive)
        for attempt in view.attempts:
            child = attempt_beginning(view, attempt, parent.run_id, self._redactor)
            ended = not (alive and attempt.newest and attempt.ended is None)
            mirrored = self._open(child, goes_on=not ended)
            self._send_log(child.key, mirrored, attempt)
            if ended:
                self._end(child.key, mirrored, attempt_ending(view, attempt, self._redactor, self._remark))
        if alive:
            self._tell(beginning.key, parent, running_tags(view, self._redactor))
        else:
            self._end(beginning.key, parent, parent_ending(view, self._redactor))

    def _open(self, item: Beginning, goes_on: bool) -> Mirrored:
        found = self._known.get(item.key)
        if found is None:
            opened: list[Mirrored] = []
            self._essential(f"run '{item.name}'", lambda: opened.append(self._store.open(item)))
            found = self._known[item.key] = opened[0]
        if goes_on and not found.running:  # it ended in MLflow, and was gone on with
            self._essential(f"run '{item.name}'", lambda: self._store.reopen(found.run_id))
            found.running, found.described, found.final = True, False, ""
        if not found.described:
            self._all(item.key, self._store.begin_calls(found.run_id, item))
            found.described = True
        return found

    def _send_log(self, key: str, mirrored: Mirrored, attempt: AttemptView) -> None:
        while True:
            before = stamp_of(self._folder / LEDGER)
            block = whole_lines(attempt.log, mirrored.sent)
            # When a new attempt begins, the log becomes that one's: the next pass reads the old one where it is then.
            if not block or stamp_of(self._folder / LEDGER) != before:
                return
            points: list[Point] = []
            sent = mirrored.sent
            for line in block:
                of_line = [point for event in sound_events([line]) for point in points_of(event)]
                if len(points) + len(of_line) > POINTS_A_CALL:
                    self._send(key, mirrored, points, sent)
                    points = []
                points += of_line
                sent += len(line)
            self._send(key, mirrored, points, sent)

    def _send(self, key: str, mirrored: Mirrored, points: list[Point], sent: int) -> None:
        if points:
            self._try(key, f"the series up to byte {sent}", lambda: self._store.send(mirrored.run_id, points, sent))
        mirrored.sent = sent

    def _end(self, key: str, mirrored: Mirrored, ending: Ending) -> None:
        digest = digest_of(ending)
        if mirrored.final == digest:
            return
        if self._all(key, self._store.end_calls(mirrored.run_id, ending, mirrored.model)):
            self._try(key, "a run's end", lambda: self._store.complete(mirrored.run_id, digest))
        mirrored.final, mirrored.running = digest, False

    def _tell(self, key: str, mirrored: Mirrored, tags: dict[str, str]) -> None:
        """Let the parent say how far the run has come."""
        if self._told != tags and self._try(key, "tags", lambda: self._store.tag(mirrored.run_id, tags)):
            self._told = tags

    def _remark(self, sentence: str) -> None:
        """Say once what is wanting in the folder; MLflow refused nothing."""
        if sentence not in self._remarks:
            self._remarks.add(sentence)
            self._complain(sentence)

    def _all(self, key: str, calls: Iterable[tuple[str, Call]]) -> bool:
        # Each stands for itself: a file that cannot be uploaded does not keep the run from ending.
        done = [self._try(key, what, call) for what, call in calls]
        return all(done)

    def _try(self, key: str, what: str, call: Call) -> bool:
        """Make one call. True: it was done; False: MLflow refuses it, which is said."""
        if (key, what) in self._refused:
            return False
        try:
            call()
        except Exception as error:  # nothing that MLflow does may end a run
            if self._store.is_gone(error):
                self._known.clear()
                raise OutageError(f"MLflow at {self._store.address} has lost the run") from error
            self._raise_outage(error)
            self._refused.add((key, what))
            self._complain(f"MLflow failed on {what} ({shown(error)})")
            return False
        return True

    def _essential(self, what: str, call: Call) -> None:
        """Make a call without which nothing goes on: whatever is wrong with it, it is tried again."""
        try:
            call()
        except Exception as error:
            self._raise_outage(error)
            raise OutageError(f"MLflow at {self._store.address} failed on {what} ({shown(error)})") from error

    def _raise_outage(self, error: Exception) -> None:
        if self._store.is_outage(error):
            raise OutageError(f"MLflow at {self._store.address} does not answer ({shown(error)})") from error


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Inside, no other process copies the run in `folder`. Raises `RunError` where one is at it."""
    try:
        lock = FileLock(folder / LOCK, timeout=0).acquire()
    except Timeout:
        raise RunError(f"{folder}: another process is writing this run to MLflow; wait for it") from None
    with lock:
        yield


def shown(error: Exception) -> str:
    """An error of MLflow's in a line."""
    lines = str(error).strip().splitlines()
    text = masked(lines[0] if lines else type(error).__name__)
    if "Caused by" in text:  # how the HTTP library wraps the reason, after everything else
        text = text.rpartition(": ")[2].rstrip("'\")")
    return printable(text, 200)


# --- while a run goes on ---

PASS_EVERY_S = 1.0
"""Pause between passes, so that a fast run costs a few calls a second at the most."""
LONGEST_PAUSE_S = 60.0
"""Between tries while MLflow does not answer; the first ones are 1, 4 and 16 s."""
CLOSE_TIMEOUT_S = 60.0
TRIES_CLOSING = 3


def store_of(job: Job, folder: Path, uri: str | None = None) -> Store:
    """The store that `job` names, or the one beside the run in `folder`; `uri` goes first."""
    return Store(uri or job.mlflow.tracking_uri or default_uri(folder.absolute().parent), job.mlflow.experiment)


class Tracker:
    """Copies the run in `folder` while it goes on. No method raises, nor waits for MLflow but `close`.

    `warn` receives at most a few sentences in a run's life, from the writing thread.
    """

    def __init__(self, folder: Path, store: Store, redactor: Redactor, warn: Callable[[str], None]) -> None:
        self._folder, self._warn = folder, warn
        self._complained: set[str] = set()
        self._mirror = Mirror(folder, store, redactor, lambda sentence: self._complain("refusal", sentence))
        self._closing = threading.Event()
        self._complete = False
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)

    def start(self) -> None:
        """Begin to copy. The ledger must say that the run was started."""
        self._thread.start()

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> str | None:
        """Copy the run's end and wait for that at most `timeout_s` seconds; returns what is wanting, if anything."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        if self._complete and not self._mirror.refused:
            return None
        return f"MLflow has not got everything; the run's folder has, and sends it with: golf sync {self._folder}"

    # From here on: the writing thread.

    def _work(self) -> None:
        try:
            with sole_writer(self._folder):
                failures = 0
                while not self._closing.is_set():
                    failures = 0 if self._pass(alive=True) else failures + 1
                    self._closing.wait(min(4.0 ** (failures - 1), LONGEST_PAUSE_S) if failures else PASS_EVERY_S)
                for _ in range(TRIES_CLOSING):
                    self._complete = self._pass(alive=False)
                    if self._complete:
                        return
                    time.sleep(PASS_EVERY_S)
        except (GolfError, OSError) as error:
            self._complain("folder", f"MLflow: {error}")

    def _pass(self, alive: bool) -> bool:
        try:
            self._mirror.run(alive)
        except OutageError as error:
            self._complain("outage", str(error))
            return False
        except Exception as error:  # of the folder's, say: nothing here may end the run
            self._complain("failure", f"MLflow: {type(error).__name__} ({shown(error)})")
            return False
        return True

    def _complain(self, kind: str, sentence: str) -> None:
        if kind not in self._complained:
            self._complained.add(kind)
            with suppress(Exception):
                self._warn(f"{sentence}; the run goes on")


# --- afterwards: golf sync ---

TRIES = 3
PAUSE_S = 1.0


def sync(folder: Path, uri: str | None, redactor: Redactor, say: Callable[[str], None]) -> None:
    """Send MLflow what it lacks of the run in `folder`; `uri` names another store than the job's.

    Raises `ConfigError` where it is not the folder of a run, and `RunError` where MLflow does not take everything.
    """
    folder = folder.absolute()
    store = store_of(view_of(folder).job, folder, uri)
    with sole_writer(folder):
        mirror = Mirror(folder, store, redactor, say)
        for tries_left in range(TRIES - 1, -1, -1):
            try:
                mirror.run(alive=in_use(folder))
                break
            except OutageError as error:
                if not tries_left:
                    raise RunError(f"{error}; see to it, and go on with: golf sync {folder}") from None
                time.sleep(PAUSE_S)
        if mirror.refused:
            raise RunError(f"MLflow refused {mirror.refused} of the run's items; mend that, and: golf sync {folder}")
        say(f"MLflow has all of {folder.name}: {mirror.page or store.address}")
