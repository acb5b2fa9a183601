"""The ledger: what happened in a run, one JSON line each, appended and fsynced, readable by people.

It is the truth about a run: which attempts there were, which stages of which seed ended, and what their files hold.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from golf_core import strict_json
from golf_core.errors import ConfigError, RunError
from golf_core.files import MAX_RECORD_BYTES, read_bytes
from golf_core.results import EvalResult
from golf_core.strict_json import printable, to_dict
from orchestrator.folder.results import LEDGER, MAKING, STAGES, SeedResult

LOCK_TRIES, LOCK_PAUSE_S = 10, 0.05


@dataclass(frozen=True)
class Entry:
    """One line. `fields` by kind:

    - run_started: attempt, pid, host, git_commit, job_sha256, provenance, artifacts_of;
    - seed_adopted: seed, figures by stage (of the artifact of another run, which is evaluated again);
    - seed_started: seed, attempt, kept (stages that an earlier attempt finished);
    - gang_started: seed, ranks (what each runs on);
    - stage_finished: seed, stage, seconds, files (name to SHA-256), figures (the stage's result, without its
      history by chunks);
    - seed_finished: seed, attempt, status, and where it failed: failure (its kind), stage, error;
    - out_of_reach: reason, seeds_left; run_stopped: reason; run_finished: verdict.
    """

    time: float
    """Seconds since the epoch."""
    kind: str
    fields: Mapping[str, Any]


def _as_they_are(fields: Any) -> Any:
    return fields


class Ledger:
    """The ledger of the run in `folder`, held by one process at a time.

    Every entry's fields pass through `redact` before they are written (`Redactor.redact_value`).
    Raises `RunError` where another living process holds it.
    """

    def __init__(self, folder: Path, redact: Callable[[Any], Any] = _as_they_are) -> None:
        path = folder / LEDGER
        self._redact = redact
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        self._lock = threading.Lock()
        if not _held(self._fd):
            os.close(self._fd)
            raise RunError(f"{folder}: another process is at work on this run; wait for it, or stop it")
        size = os.fstat(self._fd).st_size
        if size and os.pread(self._fd, 1, size - 1) != b"\n":
            os.write(self._fd, b"\n")  # a line that was torn by a crash stays on a line of its own

    def append(self, kind: str, /, **fields: Any) -> None:
        """Write one entry; it is on the disk when this returns. May be called from any thread.

        Raises `RunError` where it cannot be written.
        """
        fields = self._redact(to_dict(fields))
        line = json.dumps({"time": round(time.time(), 3), "kind": kind, **fields}) + "\n"
        with self._lock:
            try:
                # One write of a line to a file opened for appending is whole, or cut short by a full disk.
                if os.write(self._fd, line.encode()) != len(line.encode()):
                    raise OSError(28, "No space left on device")
                os.fsync(self._fd)
            except OSError as error:
                raise RunError(f"the run's ledger cannot be written ({error.strerror}); make room and resume") from None

    def close(self) -> None:
        """Let another process have it."""
        os.close(self._fd)


def _held(fd: int) -> bool:
    """Try to have the file alone. Whoever merely asks whether it is in use has it for an instant: see `in_use`."""
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            time.sleep(LOCK_PAUSE_S)
    return False


def in_use(folder: Path) -> bool:
    """Whether a living process holds the ledger of the run in `folder`."""
    try:
        fd = os.open(folder / LEDGER, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def this_process() -> dict[str, Any]:
    """Who writes."""
    return {"pid": os.getpid(), "host": socket.gethostname()}


def read_ledger(folder: Path) -> list[Entry]:
    """All entries, in order. Lines that are no entries (torn by a crash) are left out; no ledger is an empty one.

    Raises `ConfigError` for a file that cannot be a ledger.
    """
    path = folder / LEDGER
    try:
        lines = read_bytes(path, MAX_RECORD_BYTES).splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); is this a run's folder?") from None
    entries = [entry for line in lines if (entry := _entry(line)) is not None]
    if lines and not entries:
        raise ConfigError(f"{path}: holds no entry of a ledger; is this a run's folder?")
    return entries


def _entry(line: bytes) -> Entry | None:
    try:
        fields = json.loads(line)
        moment, kind = float(fields.pop("time")), fields.pop("kind")
    except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return Entry(moment, kind, fields) if isinstance(kind, str) and math.isfinite(moment) else None


# --- figures of stages in the ledger ---


def figures_of(result: SeedResult, stage: str) -> Any:
    """A stage's figures for the ledger, in a line that people can read; None where there are none."""
    figures = getattr(result, stage)
    return strict_json.to_dict(without_history(figures) if isinstance(figures, EvalResult) else figures)


def without_history(evaluated: EvalResult) -> EvalResult:
    """Without the scores after each chunk, of which there are thousands."""
    return replace(evaluated, history=())


def figures_in(entries: Sequence[Entry], seed: int, other: SeedResult | None, notes: list[str]) -> dict[str, Any]:
    """Results by stage, as the ledger has them last, without those that a later attempt did not keep.

    Stages that an older ledger names without figures have those of `other`, if there is one. What is lost is said in
    `notes`.
    """
    found: dict[str, Any] = {}
    for entry in entries:
        if entry.fields.get("seed") != seed:
            continue
        figures, stage = entry.fields.get("figures"), entry.fields.get("stage")
        if entry.kind == "seed_started":
            kept = entry.fields.get("kept")
            found = {name: found[name] for name in found if isinstance(kept, list) and name in kept}
        elif entry.kind == "stage_finished" and isinstance(stage, str) and stage in STAGES:
            found[stage] = figures
        elif entry.kind == "seed_adopted" and isinstance(figures, Mapping):
            found |= {name: figures[name] for name in MAKING if figures.get(name) is not None}
    return {stage: _result(stage, values, seed, other, notes) for stage, values in found.items()}


def _result(stage: str, values: Any, seed: int, other: SeedResult | None, notes: list[str]) -> Any:
    if values is None:
        figures = None if other is None else getattr(other, stage)
        if figures is None:
            notes.append(f"seed {seed}: the figures of its {stage} are lost")
        return figures
    try:
        return strict_json.from_dict(STAGES[stage].result, values, where=f"{stage} of seed {seed} in the ledger")
    except ConfigError as error:
        notes.append(f"seed {seed}: the figures of its {stage} are lost: {printable(error)}")
        return None
