"""The single writer of MLflow for a run that goes on: one thread that copies the run's folder, pass after pass.

Nothing here can fail a run or slow it down: the run writes its folder and knows nothing of MLflow. What MLflow does not
take is reported in a sentence; the folder has it all, and `golf sync` sends it later.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from golf_core.errors import GolfError
from orchestrator.mirror import Mirror, OutageError, shown, sole_writer
from orchestrator.mlflow_store import Store, default_uri
from orchestrator.redaction import Redactor
from orchestrator.spec import Job

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
