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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal
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

KEY_TAG = "golf.key"
"""Tag by which a run is found again, whoever wrote it."""
SENT_TAG = "golf.sent"
"""Tag that says how many bytes of the log MLflow has, set in the call that sends them."""
DESCRIBED_TAG = "golf.described"
"""Tag that is set when all parameters are there."""
FINAL_TAG = "golf.final"
"""Tag with the digest of the final figures and files, set when all of them are there."""

Call = Callable[[], None]
"""One call of MLflow, ready to be made, and made again."""
Status = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class Beginning:
    """A run of MLflow as it begins."""

    key: str
    name: str
    parent: str | None
    """MLflow's id of the run that this one belongs to."""
    started: float
    """Seconds since the epoch."""
    params: Mapping[str, Any]
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Ending:
    """What a run of MLflow gets when it ends."""

    status: Status
    time: float
    """Seconds since the epoch."""
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    files: Sequence[Path] = ()
    texts: Mapping[str, str] = field(default_factory=dict)
    """Further files, by name."""


@dataclass
class Mirrored:
    """What is known of a run in MLflow."""

    run_id: str
    sent: int = 0
    """Bytes of the log that it has."""
    described: bool = False
    final: str = ""
    """Digest of the ending that it has."""
    running: bool = True


class Store:
    """The MLflow calls themselves. They raise whatever MLflow raises, and import it at the first one."""

    def __init__(self, uri: str, experiment: str) -> None:
        self._uri = uri
        self._experiment = experiment
        self._client: Any = None
        self._experiment_id = ""

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

    def open(self, item: Beginning) -> Mirrored:
        """Find the run of `item`, or create it."""
        found = self._client.search_runs([self._experiment_id], f"tags.`{KEY_TAG}` = '{item.key}'", max_results=1)
        if found:
            tags, info = found[0].data.tags, found[0].info
            sent = tags.get(SENT_TAG, "")
            return Mirrored(
                info.run_id,
                sent=int(sent) if sent.isdecimal() else 0,
                described=DESCRIBED_TAG in tags,
                final=tags.get(FINAL_TAG, ""),
                running=info.status == "RUNNING",
            )
        tags = {"mlflow.source.name": "golf", "mlflow.source.type": "JOB", KEY_TAG: item.key}
        with suppress(Exception):  # there need not be a user name, as in a container
            tags["mlflow.user"] = getpass.getuser()
        if item.parent is not None:
            tags["mlflow.parentRunId"] = item.parent
        run = self._client.create_run(self._experiment_id, int(item.started * 1000), tags, item.name)
        return Mirrored(run.info.run_id)

    def begin_calls(self, run_id: str, item: Beginning) -> Iterator[tuple[str, Call]]:
        """Calls that log parameters and tags, with the name of what each logs."""
        from mlflow.entities import Param

        entries = [Param(_name(name), str(value)[:MAX_PARAM_CHARS]) for name, value in item.params.items()]
        for part in _parts(entries, MAX_PARAMS):
            yield "parameters", partial(self._client.log_batch, run_id, params=part)
        yield from self._tag_calls(run_id, {**item.tags, DESCRIBED_TAG: "yes"})

    def reopen(self, run_id: str) -> None:
        """Let a run that has ended go on."""
        self._client.update_run(run_id, status="RUNNING")

    def send(self, run_id: str, points: Sequence[Point], sent: int) -> None:
        """Log points of series, at most `MAX_METRICS` of them, and that `sent` bytes of the log are there now."""
        from mlflow.entities import Metric, RunTag

        metrics = [Metric(_name(point.name), point.value, int(point.time * 1000), point.step) for point in points]
        self._client.log_batch(run_id, metrics=metrics, tags=[RunTag(SENT_TAG, str(sent))])

    def end_calls(self, run_id: str, item: Ending) -> Iterator[tuple[str, Call]]:
        """Calls that log the final figures, tags and files and end the run."""
        from mlflow.entities import Metric

        at_ms = int(item.time * 1000)
        metrics = [Metric(_name(name), value, at_ms, 0) for name, value in _finite(item.metrics).items()]
        for part in _parts(metrics, MAX_METRICS):
            yield "final figures", partial(self._client.log_batch, run_id, metrics=part)
        yield from self._tag_calls(run_id, item.tags)
        for path in item.files:
            yield f"the file {path.name}", partial(self._client.log_artifact, run_id, str(path))
        for name, text in item.texts.items():
            yield f"the file {name}", partial(self._client.log_text, run_id, text, name)
        yield "a run's end", partial(self._client.set_terminated, run_id, item.status, at_ms)

    def complete(self, run_id: str, digest: str) -> None:
        """Note that all of an ending is there."""
        self._client.set_tag(run_id, FINAL_TAG, digest)

    def _tag_calls(self, run_id: str, tags: Mapping[str, str]) -> Iterator[tuple[str, Call]]:
        from mlflow.entities import RunTag

        labels = [RunTag(_name(name), str(value)[:MAX_TAG_CHARS]) for name, value in tags.items()]
        for part in _parts(labels, MAX_PARAMS):
            yield "tags", partial(self._client.log_batch, run_id, tags=part)

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

    def is_gone(self, error: Exception) -> bool:
        """Whether MLflow does not know the run any more, as when its store was made anew."""
        from mlflow.exceptions import MlflowException

        return isinstance(error, MlflowException) and error.error_code == "RESOURCE_DOES_NOT_EXIST"


@dataclass(frozen=True)
class Point:
    """One point of a series."""

    name: str
    step: int
    value: float
    time: float
    """Seconds since the epoch."""


def points_of(event: Event) -> list[Point]:
    """The points that an event adds to a seed's series; none for one whose fields are damaged."""
    try:
        step, values = series(event)
    except (LookupError, TypeError, ValueError, OverflowError):
        return []
    return [Point(name, step, value, event.time) for name, value in values.items()]


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
