"""How far MLflow has come with a run: asked in a thread of its own, so that no page ever waits for it."""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from orchestrator.folder.view import RunView
from orchestrator.tracking.store import FINAL_TAG, KEY_TAG, TRAINING_VIEW, default_uri, masked, sqlite_path, tame_mlflow

ASK_EVERY_S = 10.0
IDLE_S = 0.2
UNTIL_FORGOTTEN_S = 60.0
"""A run that no page has shown for so long is not asked about any more."""
OF_A_FILE = """
    SELECT runs.status, final.value FROM runs
    JOIN tags AS own ON own.run_uuid = runs.run_uuid AND own.key = ? AND own.value = ?
    LEFT JOIN tags AS final ON final.run_uuid = runs.run_uuid AND final.key = ?
    WHERE runs.lifecycle_stage = 'active' ORDER BY runs.start_time DESC LIMIT 1
"""


@dataclass(frozen=True)
class Standing:
    """What is known of a run in MLflow."""

    words: str
    address: str | None = None
    """Address of the run's page, where the store is a server."""
    command: str | None = None
    """That opens MLflow on the store, where it is a file."""


class MlflowLook:
    """Answers at once with what it knew last; asks MLflow about the runs that pages have shown of late."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted: dict[Path, tuple[float, RunView]] = {}
        self._known: dict[Path, tuple[float, Standing]] = {}
        self._thread: threading.Thread | None = None

    def of(self, view: RunView) -> Standing:
        """What is known of the run of `view`."""
        with self._lock:
            self._wanted[view.folder] = (time.monotonic(), view)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="mlflow-look", daemon=True)
                self._thread.start()
            return self._known[view.folder][1] if view.folder in self._known else Standing("being asked")

    def _work(self) -> None:
        while True:
            for view in self._due():
                standing = _ask(view)
                with self._lock:
                    self._known[view.folder] = (time.monotonic(), standing)
            time.sleep(IDLE_S)

    def _due(self) -> list[RunView]:
        now = time.monotonic()
        with self._lock:
            self._wanted = {f: wanted for f, wanted in self._wanted.items() if now - wanted[0] < UNTIL_FORGOTTEN_S}
            self._known = {f: known for f, known in self._known.items() if f in self._wanted}
            wanted = self._wanted.items()
            return [view for f, (_, view) in wanted if f not in self._known or now - self._known[f][0] >= ASK_EVERY_S]


def _ask(view: RunView) -> Standing:
    uri = view.job.mlflow.tracking_uri or default_uri(view.folder.parent)
    file = sqlite_path(uri)
    command = None if file is None else f"golf ui {view.folder.parent}"
    try:
        return _asked_file(view, file, command) if file is not None else _asked_server(view, uri)
    except Exception as error:  # whatever is wrong there, the board goes on
        return Standing(f"does not answer ({type(error).__name__}) at {masked(uri)}", command=command)


def _asked_file(view: RunView, file: Path, command: str | None) -> Standing:
    """Opened for reading alone, and without MLflow, which would bring an older file up to its own version."""
    if not file.is_file():
        return Standing("has nothing yet")
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0)) as store:
        found = store.execute(OF_A_FILE, (KEY_TAG, view.key, FINAL_TAG)).fetchone()
    if found is None:
        return Standing(_wanting(view), command=command)
    return Standing(_words(view, found[0] == "RUNNING", found[1] is not None), command=command)


def _asked_server(view: RunView, uri: str) -> Standing:
    tame_mlflow()
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(view.job.mlflow.experiment)
    key = f"tags.`{KEY_TAG}` = '{view.key}'"
    runs = client.search_runs([experiment.experiment_id], key, max_results=1) if experiment is not None else []
    if not runs:
        return Standing(_wanting(view))
    info = runs[0].info
    address = None
    if uri.startswith(("http://", "https://")):
        page = f"/#/experiments/{info.experiment_id}/runs/{info.run_id}?{TRAINING_VIEW}"
        address = masked(uri).rstrip("/") + page
    return Standing(_words(view, info.status == "RUNNING", FINAL_TAG in runs[0].data.tags), address)


def _wanting(view: RunView) -> str:
    return "does not have this run" + (f"; golf sync {view.folder} sends it" if view.ended is not None else " yet")


def _words(view: RunView, running: bool, final: bool) -> str:
    if final and not running:
        return "has all of it"
    return "has it so far" if view.ended is None else f"lacks the end; golf sync {view.folder} sends it"
