"""A board in a thread, and what asks it."""

from __future__ import annotations

import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def board(output: Path, port: int = 0) -> Iterator[str]:
    """The address of a board in a thread of this process; on a free port unless one is given."""
    import uvicorn

    from dashboards.board import create_app

    config = uvicorn.Config(create_app(output), log_level="error", timeout_graceful_shutdown=1, lifespan="off")
    server = uvicorn.Server(config)
    with closing(socket.create_server(("127.0.0.1", port))) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)
            assert not thread.is_alive()


@contextmanager
def watched(page: Any, output: Path) -> Iterator[str]:
    """A board that `page` leaves before it ends: a page that asks an ended board complains in its console."""
    with board(output) as address:
        yield address
        page.goto("about:blank")


def get(url: str, **headers: str) -> tuple[int, str, Any]:
    request = urllib.request.Request(url, headers={name.replace("_", "-"): value for name, value in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), error.headers


def wait_for(page: Any, selector: str, text: str, seconds: float = 2.0) -> None:
    """Two seconds, and as many more for a machine that is busy with other tests; the first are what is promised."""
    began = time.monotonic()
    page.wait_for_function(
        "([selector, text]) => (document.querySelector(selector)?.textContent || '').trim().startsWith(text)",
        arg=[selector, text],
        timeout=3 * seconds * 1000,
        polling=50,
    )
    took = time.monotonic() - began
    assert took < 3 * seconds, took
