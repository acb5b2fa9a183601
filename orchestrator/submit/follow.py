"""Following a submitted job: each line of its log once, until it has ended, and never without end.

Ray's client waits for ever for a head that does not answer, and its log begins anew with every connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from golf_core.errors import RunError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient
from orchestrator.signals import within

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

    answer: float = 30.0
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
