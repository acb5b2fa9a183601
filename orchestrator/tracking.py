"""The single writer of MLflow for one run: a parent run for the claim, a child run for every seed.

Nothing here can fail a run or slow it down: the public calls only put work on a queue, one daemon thread does
the rest, and what MLflow does not take is reported in a sentence and counted. The figures themselves lie in the
run's folder in any case.
"""

from __future__ import annotations

import fcntl
import getpass
import json
import logging
import math
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from golf_core.events import Event

# What MLflow takes in one call and in one value.
MAX_METRICS = 1000
MAX_PARAMS = 100
MAX_PARAM_CHARS = 6000
MAX_TAG_CHARS = 8000
MAX_NAME_CHARS = 250

MAX_WAITING = 20_000
"""Items in the queue beyond which series are dropped; starts and ends of runs are always kept."""
BATCH_EVERY_S = 1.0
"""Pause between batches, so that a fast run costs a few calls a second at the most."""
MAX_TRIES = 5
"""Of one call while MLflow does not answer, after 1, 4, 16 and 60 s."""
MAX_TRIES_CLOSING = 3
GIVE_UP_AFTER = 20
"""Failed tries in a row that end tracking for good."""

TRAINING_VIEW = "workflowType=machine_learning"
"""Query of a page's address that makes MLflow show runs and charts rather than its view for chat applications."""

PARENT = None
"""Key of the parent run where a seed is the key of a child."""


@dataclass(frozen=True)
class _Opened:
    """A run begins."""

    key: int | None
    name: str
    params: Mapping[str, Any]
    tags: Mapping[str, str]
    time: float = field(default_factory=time.time)


@dataclass(frozen=True)
class _Happened:
    """An event of a seed."""

    key: int
    event: Event


@dataclass(frozen=True)
class _Ended:
    """A run ends."""

    key: int | None
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    files: Sequence[Path]
    ok: bool
    time: float = field(default_factory=time.time)


_Item = _Opened | _Happened | _Ended
_Call = Callable[[], None]


class Tracker:
    """MLflow for one run. All methods return at once, may be called from any thread, and never raise.

    `warn` receives at most a few sentences in a run's life, from the writing thread.
    """

    def __init__(self, uri: str, experiment: str, warn: Callable[[str], None]) -> None:
        self._store = _Store(uri, experiment)
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
        self._put(_Opened(PARENT, run_name, dict(params), _described(tags, description)))
        self._thread.start()

    def seed_started(self, seed: int, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Create the seed's child run."""
        self._put(_Opened(seed, f"seed {seed}", dict(params), dict(tags)))

    def seed_event(self, seed: int, event: Event) -> None:
        """Log the event's figures as points of the seed's series, at the event's time; see `series`."""
        self._put(_Happened(seed, event))

    def seed_finished(
        self, seed: int, metrics: Mapping[str, float], tags: Mapping[str, str], files: Sequence[Path], ok: bool
    ) -> None:
        """Log a seed's final figures and files and end its run, as FINISHED or FAILED."""
        self._put(_Ended(seed, dict(metrics), dict(tags), tuple(files), ok))

    def finish(
        self,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        files: Sequence[Path],
        description: str,
        ok: bool,
    ) -> None:
        """Log the verdict's figures and files to the parent run and end it, and what is left open of the seeds."""
        self._put(_Ended(PARENT, dict(metrics), _described(tags, description), tuple(files), ok))

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
            written = self._open(item) if isinstance(item, _Opened) else self._end(item)
            self._count(1 if written else 0)
        self._write_points(points)

    def _write_points(self, points: Mapping[int, Sequence[Event]]) -> None:
        for seed, events in points.items():
            if self._attempt(f"the series of seed {seed}", partial(self._store.log_events, seed, events)):
                self._count(len(events))

    def _open(self, item: _Opened) -> bool:
        if not self._attempt(f"run '{item.name}'", partial(self._store.create_run, item), essential=True):
            if item.key is PARENT:
                self._given_up = True
            return False
        return self._attempt_all(self._store.describe_calls(item.key, item.params, item.tags))

    def _end(self, item: _Ended) -> bool:
        if item.key not in self._store.run_ids:
            return False
        return self._attempt_all(self._store.end_calls(item))

    def _attempt_all(self, calls: Iterable[tuple[str, _Call]]) -> bool:
        # Each stands for itself: a file that cannot be uploaded does not keep the run from ending.
        try:
            done = [self._attempt(what, call) for what, call in calls]
        except Exception as error:  # from what was given, say a figure that is no number
            return self._try_again("what it was given", error, MAX_TRIES, essential=False)
        return all(done)

    def _attempt(self, what: str, call: _Call, essential: bool = False) -> bool:
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
        if isinstance(error, _NoRunError):
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


class _NoRunError(Exception):
    """The run that the figures belong to could not be created, which has been reported."""


class _Store:
    """The MLflow calls themselves. They raise whatever MLflow raises, and import it at the first one."""

    def __init__(self, uri: str, experiment: str) -> None:
        self._uri = uri
        self._experiment = experiment
        self._client: Any = None
        self._experiment_id = ""
        self.run_ids: dict[int | None, str] = {}
        self._open: set[int] = set()

    @property
    def address(self) -> str:
        """The store's address, fit to be printed."""
        return _masked(self._uri)

    def connect(self) -> None:
        """Import MLflow and find or create the experiment. A new SQLite store is created by one process alone."""
        _tame_mlflow()
        from mlflow import MlflowClient

        file = sqlite_path(self._uri)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
        with nullcontext() if file is None else _locked(file.with_name(f".{file.name}.lock")):
            self._client = MlflowClient(self._uri)
            self._experiment_id = self._find_experiment() or self._create_experiment(file)

    def _find_experiment(self) -> str | None:
        found = self._client.get_experiment_by_name(self._experiment)
        return None if found is None else found.experiment_id

    def _create_experiment(self, file: Path | None) -> str:
        # MLflow's default would be a folder in the current directory. A server chooses for itself.
        location = None if file is None else (file.parent / "mlflow-artifacts" / _slug(self._experiment)).as_uri()
        # MLflow guesses the kind otherwise, and asks the reader.
        tags = {"mlflow.experimentKind": "custom_model_development"}
        try:
            return self._client.create_experiment(self._experiment, artifact_location=location, tags=tags)
        except Exception:
            # On a server another run may have been quicker.
            if found := self._find_experiment():
                return found
            raise

    def create_run(self, item: _Opened) -> None:
        """Create the run of `item`; a seed's run becomes a child of the parent's."""
        tags = {"mlflow.source.name": "golf", "mlflow.source.type": "JOB"}
        with suppress(Exception):  # there need not be a user name, as in a container
            tags["mlflow.user"] = getpass.getuser()
        if item.key is not PARENT:
            tags["mlflow.parentRunId"] = self._run_id(PARENT)
        run = self._client.create_run(self._experiment_id, int(item.time * 1000), tags, item.name)
        self.run_ids[item.key] = run.info.run_id
        if item.key is not PARENT:
            self._open.add(item.key)

    def describe_calls(
        self, key: int | None, params: Mapping[str, Any], tags: Mapping[str, str]
    ) -> Iterator[tuple[str, _Call]]:
        """Calls that log parameters and tags, with the name of what each logs."""
        from mlflow.entities import Param, RunTag

        log = partial(self._client.log_batch, self._run_id(key))
        entries = [Param(_name(name), str(value)[:MAX_PARAM_CHARS]) for name, value in params.items()]
        for part in _parts(entries, MAX_PARAMS):
            yield "parameters", partial(log, params=part)
        labels = [RunTag(_name(name), str(value)[:MAX_TAG_CHARS]) for name, value in tags.items()]
        for part in _parts(labels, MAX_PARAMS):
            yield "tags", partial(log, tags=part)

    def log_events(self, key: int, events: Iterable[Event]) -> None:
        """Log the points of `events` to their series."""
        from mlflow.entities import Metric

        run_id = self._run_id(key)
        points = [
            Metric(_name(name), value, int(event.time * 1000), step)
            for event in events
            for step, values in [series(event)]
            for name, value in values.items()
        ]
        for part in _parts(points, MAX_METRICS):
            self._client.log_batch(run_id, metrics=part)

    def end_calls(self, item: _Ended) -> Iterator[tuple[str, _Call]]:
        """Calls that log the final figures, tags and files and end the run."""
        from mlflow.entities import Metric

        run_id, at_ms = self._run_id(item.key), int(item.time * 1000)
        metrics = [Metric(_name(name), value, at_ms, 0) for name, value in _finite(item.metrics).items()]
        for part in _parts(metrics, MAX_METRICS):
            yield "final figures", partial(self._client.log_batch, run_id, metrics=part)
        yield from self.describe_calls(item.key, {}, item.tags)
        for path in item.files:
            yield f"the file {path.name}", partial(self._client.log_artifact, run_id, str(path))
        if item.key is PARENT:
            for seed in sorted(self._open):
                yield "a run's end", partial(self._terminate, seed, "KILLED", at_ms)
        yield "a run's end", partial(self._terminate, item.key, "FINISHED" if item.ok else "FAILED", at_ms)

    def _terminate(self, key: int | None, status: str, at_ms: int) -> None:
        self._client.set_terminated(self._run_id(key), status, at_ms)
        if key is not PARENT:
            self._open.discard(key)

    def is_outage(self, error: Exception) -> bool:
        """Whether MLflow could not be reached or did not work, rather than refused what it was given."""
        try:
            from mlflow.exceptions import MlflowException
            from requests import ConnectionError, Timeout
        except ImportError:
            return False
        if isinstance(error, MlflowException):
            return error.error_code in ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
        return isinstance(error, (ConnectionError, Timeout))

    def page(self, run_id: str) -> str | None:
        """Address of a run's page where the store is a server."""
        if not self._uri.startswith(("http://", "https://")):
            return None
        return f"{self.address.rstrip('/')}/#/experiments/{self._experiment_id}/runs/{run_id}?{TRAINING_VIEW}"

    def _run_id(self, key: int | None) -> str:
        if key not in self.run_ids:
            raise _NoRunError
        return self.run_ids[key]


def series(event: Event) -> tuple[int, dict[str, float]]:
    """The points that an event adds to a seed's series: the step (or chunk, or 0), and values by metric name.

    Losses in nats a token, weights as shares of 1, times in the unit that the name ends in. What is missing or not
    finite is left out.
    """
    f = event.fields
    if event.kind == "train_step":
        names = ("loss", "lr_factor", "ms_per_step", "tokens_per_s")
        return int(f["step"]), _finite({f"train/{name}": f.get(name) for name in names})
    if event.kind == "validation":
        return int(f["step"]), _finite({"val/loss": f.get("val_loss"), "val/bpb": f.get("val_bpb")})
    if event.kind == "chunk":
        values = {f"eval/bpb_{name}": f.get(f"bpb_{name}") for name in ("neural", "mixture", "published")}
        values |= {f"eval/weight_{expert}": weight for expert, weight in (f.get("weights") or {}).items()}
        return int(f["chunk"]), _finite(values)
    if event.kind == "phase_finished":
        return 0, _finite({f"time/{f['phase']}_seconds": f.get("seconds")})
    return 0, {}


def flatten(record: Mapping[str, Any]) -> dict[str, str | float]:
    """Nested values as parameters with dotted names.

    Numbers and strings stay; lists, truth values, null and empty mappings become JSON text.
    """
    flat: dict[str, str | float] = {}
    for name, value in record.items():
        if isinstance(value, Mapping) and value:
            flat |= {f"{name}.{inner}": leaf for inner, leaf in flatten(value).items()}
        elif isinstance(value, (str, int, float)) and not isinstance(value, bool):
            flat[str(name)] = value
        else:
            flat[str(name)] = json.dumps(value, default=str)
    return flat


def default_uri(output: Path) -> str:
    """Address of the SQLite store in the folder `output`, the same from any current directory."""
    # As in any URL, '%' and '?' mean something else unless they are quoted.
    path = str(output.absolute() / "mlflow.db").replace("%", "%25").replace("?", "%3F")
    return f"sqlite:///{path}"


def sqlite_path(uri: str) -> Path | None:
    """The file of a SQLite address; None for any other address."""
    scheme, _, path = uri.partition(":///")
    if not scheme.startswith("sqlite") or not path:
        return None
    return Path(unquote(path.partition("?")[0])).absolute()


def _tame_mlflow() -> None:
    # Ours is the patience with a server that is away, and ours are the sentences about it; the user's own settings
    # go first. Set before the import because some are read there.
    for name, value in {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401  (its import sets up the loggers below)

    for name in ("mlflow", "alembic", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock among the machine's processes; the file stays."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _described(tags: Mapping[str, str], description: str) -> dict[str, str]:
    return {**tags, "mlflow.note.content": description}


def _finite(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)}


def _parts(entries: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for first in range(0, len(entries), size):
        yield entries[first : first + size]


def _name(name: str) -> str:
    """A name that MLflow takes."""
    return re.sub(r"[^\w\-. :/]", "_", str(name), flags=re.ASCII)[:MAX_NAME_CHARS]


def _slug(name: str) -> str:
    return re.sub(r"[^\w\-.]", "_", name, flags=re.ASCII).lstrip(".") or "_"


def _masked(text: str) -> str:
    """Without the user and password that an address may carry."""
    return re.sub(r"//[^/@\s]+@", "//", text)


def _shown(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    text = _masked(lines[0] if lines else type(error).__name__)
    if "Caused by" in text:  # how the HTTP library wraps the reason, after everything else
        text = text.rpartition(": ")[2].rstrip("'\")")
    return text if len(text) <= 200 else text[:197] + "..."
