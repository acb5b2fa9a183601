"""Servers of HTTP that do not do what they are for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@contextmanager
def server(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """A server of HTTP that does what `answer` does, whatever it is asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.daemon_threads = True
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://me:secret@127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def fails(handler: BaseHTTPRequestHandler) -> None:
    handler.send_error(500, "no")


def refuses(handler: BaseHTTPRequestHandler) -> None:
    handler.send_error(403, "not for you")


def hangs(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(60)


def talks_nonsense(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(b"<html>hello")
