"""`golf sync`: MLflow gets what it lacks of runs that have ended, or that ended without a word."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from golf_core.errors import RunError
from orchestrator.ledger import in_use
from orchestrator.mirror import Mirror, OutageError, sole_writer
from orchestrator.redaction import Redactor
from orchestrator.run_view import view_of
from orchestrator.tracking import store_of

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
