"""The ledger: what happened in a run, one JSON line each, appended and fsynced, readable by people.

It is the truth about a run: which attempts there were, which stages of which seed ended, and what their files hold.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from golf_core.errors import ConfigError, RunError
from golf_core.records import to_dict

LEDGER = "ledger.jsonl"
MAX_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class Entry:
    """One line. `fields` by kind:

    - run_started: attempt, pid, host, git_commit, job_sha256;
    - seed_started: seed, attempt, kept (stages that an earlier attempt finished);
    - gang_started: seed, attempt, ranks (what each runs on);
    - stage_finished: seed, attempt, stage, seconds, files (name to SHA-256);
    - seed_finished: seed, attempt, status, and where it failed: failure (its kind), stage, error;
    - out_of_reach: reason, seeds_left; run_stopped: reason; run_finished: verdict.
    """

    time: float
    """Seconds since the epoch."""
    kind: str
    fields: Mapping[str, Any]


class Ledger:
    """The ledger of the run in `folder`, held by one process at a time.

    Raises `RunError` where another living process holds it.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / LEDGER
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        self._lock = threading.Lock()
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            raise RunError(f"{folder}: another process is at work on this run; wait for it, or stop it") from None
        size = os.fstat(self._fd).st_size
        if size and os.pread(self._fd, 1, size - 1) != b"\n":
            os.write(self._fd, b"\n")  # a line that was torn by a crash stays on a line of its own

    def append(self, kind: str, /, **fields: Any) -> None:
        """Write one entry; it is on the disk when this returns. May be called from any thread.

        Raises `RunError` where it cannot be written.
        """
        line = json.dumps({"time": round(time.time(), 3), "kind": kind, **to_dict(fields)}) + "\n"
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


def this_process() -> dict[str, Any]:
    """Who writes."""
    return {"pid": os.getpid(), "host": socket.gethostname()}


def read_ledger(folder: Path) -> list[Entry]:
    """All entries, in order. Lines that are no entries (torn by a crash) are left out; no ledger is an empty one.

    Raises `ConfigError` for a file that cannot be a ledger.
    """
    path = folder / LEDGER
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path}: too large for a ledger; is this a run's folder?")
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    entries = [entry for line in lines if (entry := _entry(line)) is not None]
    if lines and not entries:
        raise ConfigError(f"{path}: holds no entry of a ledger; is this a run's folder?")
    return entries


def _entry(line: bytes) -> Entry | None:
    try:
        fields = json.loads(line)
        return Entry(float(fields.pop("time")), str(fields.pop("kind")), fields)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
