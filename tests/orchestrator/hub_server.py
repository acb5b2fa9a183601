"""A hub on this machine: as much of its protocol as the real client needs, and every way in which it can fail."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

COMMIT = "5eed" * 10
LARGE = 4096
"""From so many bytes on a file is a large one, with a SHA-256 and a redirect to where it lies."""


@dataclass
class HubServer:
    """What the server holds, how it is to fail, and what it was asked."""

    files: dict[str, bytes]
    repo: str = "someone/golf"
    commit: object = COMMIT
    revisions: tuple[str, ...] = ("main", COMMIT)
    drops: dict[str, list[int]] = field(default_factory=dict)
    """Path to the lengths after which its next answers end; an answer is whole once none are left."""
    corrupt: dict[str, int] = field(default_factory=dict)
    """Path to how many of its next answers hold a wrong byte."""
    statuses: dict[str, list[int]] = field(default_factory=dict)
    """Part of an address to the statuses of its next answers."""
    extra_entries: list[dict[str, object]] = field(default_factory=list)
    """Of the listing, whatever they say."""
    listed_sizes: dict[str, int] = field(default_factory=dict)
    seconds_per_answer: float = 0.0
    gate: threading.Event | None = None
    """Where set, bodies wait for it."""
    token: str | None = None
    error_code: str = ""
    """X-Error-Code of refusals."""
    address: str = ""
    served: Counter[str] = field(default_factory=Counter)
    """Bytes of each path's bodies."""
    requests: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next_status(self, address: str) -> int | None:
        with self.lock:
            for part, statuses in self.statuses.items():
                if part in address and statuses:
                    return statuses.pop(0)
        return None

    def entry(self, path: str) -> dict[str, object]:
        """What the listing says of a file."""
        content = self.files[path]
        size = self.listed_sizes.get(path, len(content))
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        entry: dict[str, object] = {"rfilename": path, "blobId": blob, "size": size}
        if len(content) >= LARGE:
            sha256 = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"sha256": sha256, "size": size, "pointerSize": 134}
        return entry


@contextmanager
def serving(hub: HubServer) -> Iterator[HubServer]:
    """Answer on a free port of 127.0.0.1 for the length of the block."""

    class Handler(_Handler):
        state = hub

    server = _Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        if hub.gate is not None:
            hub.gate.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away in the middle is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    state: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # a body after its head would wait for the client

    def log_message(self, format: str, *args: object) -> None:
        """Tests read `requests` instead."""

    def do_GET(self) -> None:
        hub = self.state
        path = unquote(urlsplit(self.path).path)
        with hub.lock:
            hub.requests.append(f"{self.command} {path}")
            hub.tokens.append(self.headers.get("Authorization"))
        time.sleep(hub.seconds_per_answer)
        status = hub.next_status(path)
        if status is not None:
            self._refuse(status)
        elif hub.token is not None and self.headers.get("Authorization") != f"Bearer {hub.token}":
            self._refuse(401, hub.error_code)
        elif path.startswith(f"/api/datasets/{hub.repo}/revision/"):
            self._revision(path.rpartition("/revision/")[2])
        elif path.startswith(f"/datasets/{hub.repo}/resolve/"):
            self._resolve(path.removeprefix(f"/datasets/{hub.repo}/resolve/").partition("/")[2])
        elif path.startswith("/large/"):
            self._body(path.removeprefix("/large/"))
        else:
            self._refuse(401 if path.startswith(("/api/", "/datasets/")) else 404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _revision(self, revision: str) -> None:
        if revision not in self.state.revisions:
            self._refuse(404, "RevisionNotFound")
        else:
            listed = [*map(self.state.entry, sorted(self.state.files)), *self.state.extra_entries]
            info = {"id": self.state.repo, "sha": self.state.commit, "tags": [], "siblings": listed}
            content = json.dumps(info).encode()
            self._head(200, len(content), {"Content-Type": "application/json"})
            self.wfile.write(content)

    def _resolve(self, path: str) -> None:
        content = self.state.files.get(path)
        if content is None:
            self._refuse(404, "EntryNotFound")
        elif len(content) >= LARGE:
            headers = {"Location": f"{self.state.address}/large/{path}", "X-Repo-Commit": COMMIT}
            linked = {"X-Linked-ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Linked-Size": str(len(content))}
            self._head(302, 0, headers | linked)
        else:
            self._body(path)

    def _body(self, path: str) -> None:
        hub, content, asked = self.state, self.state.files[path], self.headers.get("Range")
        etag, drop = f'"{hashlib.sha256(content).hexdigest()}"', None
        if self.command == "GET":
            with hub.lock:
                if hub.corrupt.get(path, 0) > 0:
                    hub.corrupt[path] -= 1
                    content = content[:-1] + bytes([content[-1] ^ 1])
                drop = hub.drops[path].pop(0) if hub.drops.get(path) else None
                if asked:
                    hub.ranges.append(f"{PurePosixPath(path).name} {asked}")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        headers = {"ETag": etag, "X-Repo-Commit": COMMIT}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._head(206 if start else 200, len(content) - start, headers)
        if self.command == "HEAD":
            return
        if hub.gate is not None:
            hub.gate.wait(20)
        body = content[start:] if drop is None else content[start : start + drop]
        with hub.lock:
            hub.served[path] += len(body)
        self.wfile.write(body)
        if drop is not None:
            self.close_connection = True

    def _refuse(self, status: int, code: str = "") -> None:
        self._head(status, 0, {"X-Error-Code": code} if code else {})

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
