"""MLflow's pages on the results: one child process, which never outlives this one."""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO

from golf_core.errors import GolfError, RunError, UserError
from orchestrator.folder.earlier import job_of_run
from orchestrator.folder.results import JOB
from orchestrator.job.load import Job
from orchestrator.signals import interruptible
from orchestrator.tracking.store import TRAINING_VIEW, VIEW_QUERY, default_uri, masked, sqlite_path

DEFAULT_PORT = 5000
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 5.0
PR_SET_PDEATHSIG = 1  # of Linux's prctl


class NoResultsError(UserError):
    """There is nothing to look at yet."""


def serve(uri: str, port: int | None, host: str = "127.0.0.1") -> None:
    """Show the MLflow store `uri` on `host`:`port` until Ctrl-C or SIGTERM; prints the address in one line.

    Without a port: 5000, or a free one. A tracking server's address is printed, nothing is started. Raises
    `NoResultsError` for a SQLite file that does not exist, `UserError` for a port that is taken, and `RunError`
    when MLflow does not start. Call it from the main thread: it handles signals.
    """
    if uri.startswith(("http://", "https://")):
        _say(f"MLflow: {uri}")
        return
    file = sqlite_path(uri)
    if file is not None and not file.is_file():
        raise NoResultsError(f"{file}: no results yet; `golf run` with a job file makes some")
    port = _choose_port(host, port)
    address = f"http://{_reachable(host)}:{port}"
    with (
        tempfile.TemporaryFile() as log,
        interruptible(signal.SIGTERM, signal.SIGHUP),
        server_process(uri, host, port, log) as server,
        suppress(KeyboardInterrupt),
    ):
        wait_until_healthy(server, address, log)
        _say(f"MLflow: {address}{_runs_page(file)}   (Ctrl-C ends it)")
        server.wait()
        raise RunError(f"MLflow ended by itself: {_last_line(log)}")


def store_in(output: Path) -> str:
    """Address of the MLflow store of the runs in the folder `output`: where they say so, that of the newest."""
    own = default_uri(output)
    file = sqlite_path(own)
    if file is not None and file.is_file():
        return own
    for job in sorted(output.glob(f"*/{JOB}"), key=lambda path: path.stat().st_mtime, reverse=True):
        with suppress(GolfError):
            return job_of_run(job.parent, {}).mlflow.tracking_uri or own
    return own


def command_of(job: Job, folder: Path) -> str:
    """The command that opens MLflow on the run of `job` in `folder`; no password of an address is in it."""
    uri = job.mlflow.tracking_uri
    if uri is None or uri == default_uri(folder.parent):
        return f"golf ui {shlex.quote(str(folder.parent))}"
    return f"golf ui --uri {shlex.quote(masked(uri))}"


@contextmanager
def server_process(uri: str, host: str, port: int, log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The server as a process group of its own, which is gone when the block is left."""
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    command += ["--host", host, "--port", str(port), "--workers", "1"]
    # An open browser tab must not hold up the end.
    command += ["--uvicorn-opts", "--log-level warning --timeout-graceful-shutdown 2"]
    file = sqlite_path(uri)
    if file is not None:
        # Only for what is created through the pages; without it MLflow writes into the current directory.
        command += ["--artifacts-destination", str(file.parent / "mlflow-artifacts")]
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    server = subprocess.Popen(
        command,
        env={**os.environ, **settings},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        # Safe here: this process has no other threads.
        preexec_fn=_end_with_parent(os.getpid()) if sys.platform == "linux" else None,  # noqa: PLW1509
    )
    try:
        yield server
    finally:
        _end_group(server)


def _end_with_parent(parent: int) -> Callable[[], None]:
    """What the child does before it becomes MLflow: ask the kernel for SIGTERM when `parent` dies, even by SIGKILL.

    MLflow's launcher passes that signal on to the server that it starts.
    """
    # Loaded here: between fork and exec there should be as little work as possible.
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return ask


def _end_group(server: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        # The launcher may be gone while the server that it started is not: ask the group.
        with suppress(OSError):
            os.killpg(server.pid, number)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while time.monotonic() < deadline:
            server.poll()
            if not _group_alive(server.pid):
                return
            time.sleep(0.05)


def _group_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except OSError:
        return False
    return True


def wait_until_healthy(server: subprocess.Popen[bytes], address: str, log: IO[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy knows nothing of this machine
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RunError(f"MLflow did not start: {_last_line(log)}")
        with suppress(OSError), opener.open(f"{address}/health", timeout=2):
            return
        time.sleep(0.1)
    raise RunError(f"MLflow did not answer within {START_TIMEOUT_S:.0f} s: {_last_line(log)}")


def _runs_page(file: Path | None) -> str:
    """Path of the page that lists the newest run's experiment: MLflow's first page shows none of that."""
    if file is None:
        return ""
    with suppress(sqlite3.Error), closing(sqlite3.connect(file)) as store:
        newest = store.execute("SELECT experiment_id FROM runs ORDER BY start_time DESC LIMIT 1").fetchone()
        if newest:
            return f"/#/experiments/{newest[0]}/runs?{TRAINING_VIEW}&{VIEW_QUERY}"
    return ""


def _choose_port(host: str, port: int | None) -> int:
    if port is None:
        return DEFAULT_PORT if _bindable(host, DEFAULT_PORT) else _free_port(host)
    if not _bindable(host, port):
        raise UserError(f"--port {port}: cannot listen there on {host}; leave it out to get a free one")
    return port


def _bindable(host: str, port: int) -> bool:
    with closing(socket.socket()) as probe:
        # As servers do: connections of an earlier one that are still closing are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError):
            return False
    return True


def _free_port(host: str) -> int:
    with closing(socket.socket()) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _reachable(host: str) -> str:
    return "127.0.0.1" if host in ("", "0.0.0.0") else host


def _last_line(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
