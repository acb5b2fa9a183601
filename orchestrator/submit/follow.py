"""A cluster's dashboard, and a job followed through it: each line of its log once, and never without end.

Ray's client waits for ever for a head that does not answer, and its log begins anew with every connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from golf_core.errors import GolfError, RunError, UserError
from orchestrator.preflight.machine import ClusterError
from orchestrator.signals import within
from orchestrator.submit.command import DEFAULT_ADDRESS

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

CONNECT_S = 5.0
ANSWER_S = 30.0
ENDED = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
POLL_S = 1.0


@dataclass(frozen=True)
class JobEnd:
    """How a job ended."""

    status: str
    """SUCCEEDED, FAILED or STOPPED."""
    message: str
    exit_code: int | None


@dataclass(frozen=True)
class Patience:
    """Seconds."""

    answer: float = ANSWER_S
    """For a single question."""
    quiet: float = 20.0
    """Without a line, before state and log are asked for anew: a connection can be dead without a sign."""
    lost: float = 300.0
    """Without any answer, before the head is given up."""
    closed: float = 300.0
    """For which the log of a job that is said to run may end as soon as it begins."""
    retry: float = 2.0
    """Between two connections."""


def is_refusal(error: Exception) -> bool:
    """Whether the cluster wanted a token, or another one."""
    return type(error).__name__ == "AuthenticationError" or "status code 401" in str(error)


class Follower:
    """Follows one job; `write` gets the text of its log, in pieces."""

    def __init__(
        self,
        client: JobSubmissionClient,
        job_id: str,
        address: str,
        write: Callable[[str], None],
        patience: Patience | None = None,
    ) -> None:
        self._client, self._id, self._address, self._write = client, job_id, address, write
        self._patience = patience or Patience()
        self._printed = 0  # characters of the log
        self._answered = time.monotonic()

    def run(self) -> JobEnd:
        """Return when the job has ended and its log is printed.

        Raises `RunError` where it cannot be known how it goes on: the head does not answer, has forgotten the
        job, or says that the job runs although nothing of it is left.
        """
        barren: float | None = None  # since when connections have ended without a line
        while True:
            closed = asyncio.run(self._tail())
            end = self._look()
            if end is not None:
                with contextlib.suppress(Exception):  # the last lines, which a connection may have missed
                    log = within(self._patience.answer, lambda: self._client.get_job_logs(self._id))
                    self._print(log[self._printed :])
                return end
            now = time.monotonic()
            if now - self._answered > self._patience.lost:
                raise RunError(
                    f"{self._id}: no answer from {self._address} for {self._patience.lost:g} s; the job may still run: "
                    f"ray job status --address {self._address} {self._id}"
                )
            barren = (barren or now) if closed else None
            if barren is not None and now - barren > self._patience.closed:
                raise RunError(
                    f"{self._id}: is said to run, but for {self._patience.closed:g} s its log has been closed: its "
                    f"driver or the old head is dead; look at {self._address}, then golf run --resume its folder"
                )
            time.sleep(self._patience.retry)

    async def _tail(self) -> bool:
        """Print what one connection brings; whether it ended by itself, without a new line."""
        seen, before = 0, self._printed
        stream = self._client.tail_job_logs(self._id)
        try:
            while True:
                async with asyncio.timeout(self._patience.quiet):
                    text = await anext(stream)
                self._print(text[max(0, self._printed - seen) :])
                seen += len(text)
        except TimeoutError:
            return False
        except Exception:  # whatever the connection's end looks like: the job's state decides
            return self._printed == before

    def _look(self) -> JobEnd | None:
        """How the job ended, None while it runs or nobody answers."""
        try:
            info = within(self._patience.answer, lambda: self._client.get_job_info(self._id))
        except Exception as error:
            if is_refusal(error):
                raise RunError(f"{self._id}: the cluster no longer takes this token; its head was restarted") from None
            if "does not exist" in str(error) or "status code 404" in str(error):
                raise RunError(
                    f"{self._id}: the cluster does not know this job any more: its head was restarted, and the job "
                    "ended with the old one; golf run --resume goes on with what lies in its output folder"
                ) from None
            return None
        self._answered = time.monotonic()
        return _end(info)

    def _print(self, text: str) -> None:
        self._printed += len(text)
        if text:
            self._write(text)


def wait_for_end(client: JobSubmissionClient, job_id: str, seconds: float) -> JobEnd | None:
    """How the job ended, None if it has not within `seconds`."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        with contextlib.suppress(Exception):
            end = _end(within(left, lambda: client.get_job_info(job_id)))
            if end is not None:
                return end
        time.sleep(min(POLL_S, left))
    return None


def _end(info: Any) -> JobEnd | None:
    status = str(getattr(info.status, "value", info.status))
    if status not in ENDED:
        return None
    # Of a failure Ray repeats the end of the log, which is printed already.
    message = (str(info.message or "").partition(", last available logs")[0].strip().splitlines() or [""])[0]
    return JobEnd(status, message, getattr(info, "driver_exit_code", None))


def dashboard_address(given: str | None, environment: Mapping[str, str]) -> str:
    """The URL of the dashboard: as given, else as the environment says, else this machine's usual one.

    Raises `UserError` for an address of something else.
    """
    address, source = given, "--address"
    if address is None:
        # RAY_ADDRESS is more often a cluster's own address, which takes no submissions.
        ray_address = environment.get("RAY_ADDRESS", "")
        address = environment.get("RAY_API_SERVER_ADDRESS") or (ray_address if "http" in ray_address else None)
        source = "RAY_API_SERVER_ADDRESS" if environment.get("RAY_API_SERVER_ADDRESS") else "RAY_ADDRESS"
    address = address or DEFAULT_ADDRESS
    if "://" not in address:
        address = f"http://{address}"
    wrong = UserError(f"{source} {address}: not the address of a Ray dashboard; give one such as {DEFAULT_ADDRESS}")
    try:
        url = urlsplit(address)
        _ = url.port
    except ValueError:
        raise wrong from None
    if url.scheme not in ("http", "https") or not url.hostname:
        raise wrong
    return address.rstrip("/")


def open_client(address: str) -> JobSubmissionClient:
    """Ray's client of the dashboard at `address`. Raises `ClusterError`, one sentence, where that cannot be."""
    url = urlsplit(address)
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        socket.create_connection((str(url.hostname), port), timeout=CONNECT_S).close()
    except OSError as error:
        raise ClusterError(
            f"--address {address}: no Ray dashboard answers there ({error}); start one with ray start --head, "
            "or give the address of another"
        ) from None
    # Ray lets the environment win over the address that it is given.
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    return bounded(lambda: _ray_client(address), ANSWER_S, f"--address {address}")


def _ray_client(address: str) -> JobSubmissionClient:
    from ray.job_submission import JobSubmissionClient

    for name in ("ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk"):
        logging.getLogger(name).setLevel(logging.ERROR)  # it tells of every connection that closes
    return JobSubmissionClient(address)


def bounded(call: Callable[[], Any], seconds: float, what: str) -> Any:
    """The result of `call`, which Ray may let wait without end; its failures as `ClusterError`, one sentence each.

    `what` begins the sentence.
    """
    try:
        return within(seconds, call)
    except (GolfError, KeyboardInterrupt):
        raise
    except TimeoutError:
        raise ClusterError(
            f"{what}: no answer within {seconds:g} s, although something listens; is it a Ray dashboard?"
        ) from None
    except Exception as error:
        if is_refusal(error):
            raise ClusterError(f"{what}: {token_remedy()}") from None
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        if isinstance(error, ConnectionError):
            raise ClusterError(f"{what}: the connection failed ({first}); is this a Ray dashboard?") from None
        raise ClusterError(f"{what}: {first.rstrip('.')}; is this the dashboard of a Ray of this version?") from None


def token_remedy() -> str:
    """What to do about a token that is missing or wrong."""
    if os.environ.get("RAY_AUTH_MODE") != "token":
        return "asks for a token; export RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or keep it in ~/.ray/auth_token)"
    return "refuses the token; export RAY_AUTH_TOKEN as the one that the head was started with"


def check_version(server: str | None, client: str, own_interpreter: bool) -> str | None:
    """What to say where cluster and client differ in Ray's version, None where they do not.

    Raises `ClusterError` where the job would run on this interpreter, whose Ray cannot join the cluster's.
    """
    if server is None or server == client:
        return None
    if own_interpreter:
        raise ClusterError(
            f"the cluster runs Ray {server}, {sys.executable} has Ray {client}, and they must be the same; "
            "give --python, an interpreter with the cluster's Ray, or restart the head from this environment"
        )
    return f"note: the cluster runs Ray {server}, this is Ray {client}; the job runs on the cluster's"


def own_head(address: str) -> Path | None:
    """The folder where the head behind `address` was started, if it is a process of this machine that we may see.

    A tunnel to another machine's dashboard is none.
    """
    import psutil

    url = urlsplit(address)
    try:
        wanted = {info[4][0] for info in socket.getaddrinfo(url.hostname, url.port or 80, type=socket.SOCK_STREAM)}
        local = {entry.address for entries in psutil.net_if_addrs().values() for entry in entries}
        if not wanted & local:
            return None
        listeners = [
            connection.pid
            for connection in psutil.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN and connection.pid
            if connection.laddr and connection.laddr.port == url.port
        ]
        for pid in listeners:
            process = psutil.Process(pid)
            if any("dashboard" in word for word in process.cmdline()):
                return Path(process.cwd()).resolve()
    except (psutil.Error, OSError):
        return None
    return None
