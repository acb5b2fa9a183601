"""Following a submitted job: each line of its log once, until it has ended, and never without end.

Ray's client waits for ever for a head that does not answer, and its log begins anew with every connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from golf_core.errors import GolfError, RunError

T = TypeVar("T")
ENDED = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
POLL_S = 1.0


class JobClient(Protocol):
    """What is used of Ray's JobSubmissionClient."""

    def submit_job(
        self, *, entrypoint: str, submission_id: str, runtime_env: dict[str, Any], metadata: dict[str, str]
    ) -> str: ...

    def get_job_info(self, job_id: str) -> Any: ...

    def get_job_logs(self, job_id: str) -> str: ...

    def tail_job_logs(self, job_id: str) -> AsyncIterator[str]: ...

    def stop_job(self, job_id: str) -> bool: ...


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
    """Without a line, before the job's state is asked for."""
    connection: float = 300.0
    """Without a line, before the log is asked for anew: a connection can be dead without a sign."""
    lost: float = 300.0
    """Without any answer, before the head is given up."""
    closed: float = 300.0
    """For which the log of a job that is said to run may end as soon as it begins."""
    retry: float = 2.0
    """Between two connections."""


async def answered(call: Callable[[], T], seconds: float) -> T:
    """The result of `call`, in a thread of its own. Raises `TimeoutError` after `seconds`, and leaves it behind."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(value: Any, error: Exception | None) -> None:
        if not future.done():
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)

    def work() -> None:
        value, failure = None, None
        try:
            value = call()
        except Exception as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # nobody waits any more
            loop.call_soon_threadsafe(settle, value, failure)

    # A daemon: the program ends although the call does not.
    threading.Thread(target=work, daemon=True).start()
    return await asyncio.wait_for(future, seconds)


def is_refusal(error: Exception) -> bool:
    """Whether the cluster wanted a token, or another one."""
    return type(error).__name__ == "AuthenticationError" or "status code 401" in str(error)


class Follower:
    """Follows one job; `write` gets the text of its log, in pieces."""

    def __init__(
        self,
        client: JobClient,
        job_id: str,
        address: str,
        write: Callable[[str], None],
        patience: Patience | None = None,
    ) -> None:
        self._client, self._id, self._address, self._write = client, job_id, address, write
        self._patience = patience or Patience()
        self._printed = 0  # characters of the log
        self._answered = time.monotonic()
        self._barren: float | None = None  # since when connections have ended without a line

    async def run(self) -> JobEnd:
        """Return when the job has ended and its log is printed.

        Raises `RunError` where it cannot be known how it goes on: the head does not answer, has forgotten the
        job, or says that the job runs although nothing of it is left.
        """
        while True:
            closed = await self._tail()
            end = await self._look()
            if end is not None:
                await self._rest()
                return end
            self._give_up_in_time(closed)
            await asyncio.sleep(self._patience.retry)

    async def _tail(self) -> bool:
        """Print what one connection brings; whether it ended by itself, without a new line."""
        seen, brought, since = 0, False, time.monotonic()
        stream = self._client.tail_job_logs(self._id)
        piece: asyncio.Future[str] | None = None
        try:
            while True:
                piece = piece or asyncio.ensure_future(anext(stream))
                done, _ = await asyncio.wait({piece}, timeout=self._patience.quiet)
                if not done:
                    answered_before = self._answered
                    if await self._look() is not None or self._answered == answered_before:
                        return False
                    self._barren = None  # it is open, and the head is there
                    if time.monotonic() - since > self._patience.connection:
                        return False
                    continue
                try:
                    text = piece.result()
                except StopAsyncIteration:
                    return not brought
                piece = None
                new = text[max(0, self._printed - seen) :]
                seen += len(text)
                if new:
                    self._print(new)
                    brought, since, self._barren = True, time.monotonic(), None
        except GolfError:
            raise
        except Exception:  # whatever the connection's end looks like: the job's state decides
            return not brought
        finally:
            await _close(stream, piece)

    async def _look(self) -> JobEnd | None:
        """How the job ended, None while it runs or nobody answers."""
        try:
            info = await answered(lambda: self._client.get_job_info(self._id), self._patience.answer)
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

    def _give_up_in_time(self, closed: bool) -> None:
        now = time.monotonic()
        if now - self._answered > self._patience.lost:
            raise RunError(
                f"{self._id}: no answer from {self._address} for {self._patience.lost:g} s; the job may still run: "
                f"ray job status --address {self._address} {self._id}"
            )
        if not closed:
            self._barren = None
        elif self._barren is None:
            self._barren = now
        elif now - self._barren > self._patience.closed and now - self._answered < self._patience.lost:
            raise RunError(
                f"{self._id}: is said to run, but for {self._patience.closed:g} s its log has been closed: its driver "
                f"or the old head is dead; look at {self._address}, then golf run --resume its folder"
            )

    async def _rest(self) -> None:
        """The last lines, which a connection may have missed."""
        with contextlib.suppress(Exception):
            text = await answered(lambda: self._client.get_job_logs(self._id), self._patience.answer)
            self._print(text[self._printed :])

    def _print(self, text: str) -> None:
        self._printed += len(text)
        if text:
            self._write(text)


async def wait_for_end(client: JobClient, job_id: str, seconds: float) -> JobEnd | None:
    """How the job ended, None if it has not within `seconds`."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        with contextlib.suppress(Exception):
            end = _end(await answered(lambda: client.get_job_info(job_id), left))
            if end is not None:
                return end
        await asyncio.sleep(min(POLL_S, left))
    return None


def _end(info: Any) -> JobEnd | None:
    status = str(getattr(info.status, "value", info.status))
    if status not in ENDED:
        return None
    # Of a failure Ray repeats the end of the log, which is printed already.
    message = (str(info.message or "").partition(", last available logs")[0].strip().splitlines() or [""])[0]
    return JobEnd(status, message, getattr(info, "driver_exit_code", None))


async def _close(stream: AsyncIterator[str], piece: asyncio.Future[str] | None) -> None:
    if piece is not None:
        piece.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await piece  # what it may still have brought comes again with the next connection
    with contextlib.suppress(Exception):
        await stream.aclose()  # type: ignore[attr-defined]
