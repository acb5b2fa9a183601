"""What a run's tracker asks of MLflow: the calls themselves, and how runs, events and addresses look there.

Imported by the tracker and by the commands that only need an address. MLflow itself is imported at the first call,
in the tracker's thread, because its import takes seconds.
"""

from __future__ import annotations

import getpass
import json
import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal
from urllib.parse import unquote

from filelock import FileLock

# What MLflow takes in one call and in one value.
MAX_METRICS = 1000
MAX_PARAMS = 100
MAX_PARAM_CHARS = 6000
MAX_TAG_CHARS = 8000
MAX_NAME_CHARS = 250
MAX_DATASET_NAME = 500

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
MODEL_TAG = "golf.model"
"""Tag with the digest of what the model is made from, set when all of the model is there."""

Call = Callable[[], None]
"""One call of MLflow, ready to be made, and made again."""
Status = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class Point:
    """One point of a series."""

    name: str
    step: int
    value: float
    time: float
    """Seconds since the epoch."""


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
class DataUsed:
    """Data that a run used, as MLflow lists it."""

    name: str
    digest: str
    """At most 36 characters."""
    path: str
    role: Literal["training", "validation"]
    tokens: int
    shards: int


@dataclass(frozen=True)
class Folder:
    """Files that go to MLflow as a folder, made when they are sent."""

    name: str
    """Name of the folder among the run's artifacts."""
    digest: str
    """The same for the same content."""
    make: Callable[[Path], None]
    """Write the files into a folder, which is empty."""


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
    data: Sequence[DataUsed] = ()
    model: Folder | None = None


@dataclass
class Mirrored:
    """What is known of a run in MLflow."""

    run_id: str
    sent: int = 0
    """Bytes of the log that it has."""
    described: bool = False
    final: str = ""
    """Digest of the ending that it has."""
    model: str = ""
    """Digest of the model that it has."""
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
        tame_mlflow()
        from mlflow import MlflowClient

        file = sqlite_path(self._uri)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
        with nullcontext() if file is None else FileLock(file.with_name(f".{file.name}.lock")):
            self._client = MlflowClient(self._uri)
            self._experiment_id = self._find_experiment() or self._create_experiment(file)

    def _find_experiment(self) -> str | None:
        found = self._client.get_experiment_by_name(self._experiment)
        if found is None:
            return None
        if found.lifecycle_stage == "deleted":
            raise LookupError(
                f"the experiment '{self._experiment}' is in its trash; set another mlflow.experiment, or: "
                f"mlflow experiments restore -x {found.experiment_id}"
            )
        if VIEW_TAG not in found.tags:
            with suppress(Exception):  # a convenience, which some servers may not allow
                self._client.set_experiment_tag(found.experiment_id, VIEW_TAG, view_state(time.time()))
        return str(found.experiment_id)

    def _create_experiment(self, file: Path | None) -> str:
        # MLflow's default would be a folder in the current directory. A server chooses for itself.
        location = None if file is None else (file.parent / "mlflow-artifacts" / _slug(self._experiment)).as_uri()
        # MLflow guesses the kind otherwise, and asks the reader.
        tags = {"mlflow.experimentKind": "custom_model_development", VIEW_TAG: view_state(time.time())}
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
                model=tags.get(MODEL_TAG, ""),
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

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set a few tags."""
        for _, call in self._tag_calls(run_id, tags):
            call()

    def end_calls(self, run_id: str, item: Ending, model_there: str = "") -> Iterator[tuple[str, Call]]:
        """Calls that log the final figures, tags and files and end the run; `model_there`: digest of its model."""
        from mlflow.entities import Metric

        at_ms = int(item.time * 1000)
        metrics = [Metric(_name(name), value, at_ms, 0) for name, value in finite(item.metrics).items()]
        for part in _parts(metrics, MAX_METRICS):
            yield "final figures", partial(self._client.log_batch, run_id, metrics=part)
        yield from self._tag_calls(run_id, item.tags)
        if item.data:
            yield "the data's names", partial(self._client.log_inputs, run_id, datasets=_inputs(item.data))
        for path in item.files:
            yield f"the file {path.name}", partial(self._client.log_artifact, run_id, str(path))
        for name, text in item.texts.items():
            yield f"the file {name}", partial(self._client.log_text, run_id, text, name)
        if item.model is not None and item.model.digest != model_there:
            yield f"the {item.model.name}", partial(self._send_folder, run_id, item.model)
        yield "a run's end", partial(self._client.set_terminated, run_id, item.status, at_ms)

    def _send_folder(self, run_id: str, folder: Folder) -> None:
        with TemporaryDirectory(prefix="golf-") as place:
            content = Path(place) / folder.name
            folder.make(content)
            self._client.log_artifacts(run_id, str(content), folder.name)
        self._client.set_tag(run_id, MODEL_TAG, folder.digest)

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


def tame_mlflow() -> None:
    """Import MLflow with our patience and our silence."""
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


def _inputs(data: Sequence[DataUsed]) -> list[Any]:
    """Data as MLflow's entities."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    return [
        DatasetInput(
            Dataset(
                name=item.name[:MAX_DATASET_NAME],
                digest=item.digest,
                source_type="local",
                source=json.dumps({"uri": item.path}),
                profile=json.dumps({"num_tokens": item.tokens, "num_shards": item.shards}),
            ),
            [InputTag("mlflow.data.context", item.role)],
        )
        for item in data
    ]


def _parts(entries: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for first in range(0, len(entries), size):
        yield entries[first : first + size]


def _name(name: str) -> str:
    """A name that MLflow takes."""
    return re.sub(r"[^\w\-. :/]", "_", str(name), flags=re.ASCII)[:MAX_NAME_CHARS]


def _slug(name: str) -> str:
    return re.sub(r"[^\w\-.]", "_", name, flags=re.ASCII).lstrip(".") or "_"


# --- tables ---

VIEW = "golf"
"""Its key in addresses."""
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
"""Tag of the experiment in which MLflow's own pages keep such a view."""
VIEW_QUERY = f"viewStateShareKey={VIEW}"
"""Query in the address of the experiment's page, to see it in this view."""
VIEW_NAME = "Claims and seeds"
COLUMNS = {
    "tags.`verdict`": 110,
    "tags.`job`": 110,
    "tags.`seeds_finished`": 120,
    "metrics.`claim/bpb_mixture_mean`": 180,
    "metrics.`claim/bpb_mixture_sd`": 165,
    "metrics.`claim/gain_bpb`": 120,
    "metrics.`claim/p_margin`": 125,
    "metrics.`bpb/mixture`": 110,
    "metrics.`bpb/neural`": 110,
    "metrics.`artifact/total_bytes`": 150,
    "metrics.`train/seconds`": 120,
    "metrics.`eval/seconds`": 120,
    "metrics.`run/node_hours`": 130,
    "tags.`hardware`": 200,
    "tags.`git_commit`": 110,
}
"""In their order, with their widths in pixels: a run fills those of the claim, its seeds fill the others."""


def view_state(now: float) -> str:
    """The value of `VIEW_TAG`; `now`: seconds since the epoch. What it does not name stays as MLflow has it."""
    state = {
        "selectedColumns": list(COLUMNS),
        "columnOrder": list(COLUMNS),
        "columnWidths": COLUMNS,
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
    }
    at_ms = int(now * 1000)
    return json.dumps({"name": VIEW_NAME, "createdAt": at_ms, "updatedAt": at_ms, "state": json.dumps(state)})


def finite(values: Mapping[str, Any]) -> dict[str, float]:
    """What is there and finite. Raises `TypeError` for what is no number."""
    return {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)}
