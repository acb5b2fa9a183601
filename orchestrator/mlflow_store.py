"""What a run's tracker asks of MLflow: the calls themselves, and how runs, events and addresses look there.

Imported by the tracker and by the commands that only need an address. MLflow itself is imported at the first call,
in the tracker's thread, because its import takes seconds.
"""

from __future__ import annotations

import fcntl
import getpass
import json
import logging
import math
import os
import re
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

TRAINING_VIEW = "workflowType=machine_learning"
"""Query of a page's address that makes MLflow show runs and charts rather than its view for chat applications."""

PARENT = None
"""Key of the parent run where a seed is the key of a child."""

Call = Callable[[], None]
"""One call of MLflow, ready to be made, and made again."""


@dataclass(frozen=True)
class Opened:
    """A run begins."""

    key: int | None
    name: str
    params: Mapping[str, Any]
    tags: Mapping[str, str]
    time: float = field(default_factory=time.time)


@dataclass(frozen=True)
class Ended:
    """A run ends."""

    key: int | None
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    files: Sequence[Path]
    ok: bool
    time: float = field(default_factory=time.time)


class NoRunError(Exception):
    """The run that the figures belong to could not be created, which has been reported."""


class Store:
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
        return masked(self._uri)

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

    def create_run(self, item: Opened) -> None:
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
    ) -> Iterator[tuple[str, Call]]:
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

    def end_calls(self, item: Ended) -> Iterator[tuple[str, Call]]:
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
            raise NoRunError
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


def masked(text: str) -> str:
    """Without the user and password that an address may carry."""
    return re.sub(r"//[^/@\s]+@", "//", text)


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
