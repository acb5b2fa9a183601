"""The board and its server: pages rendered here, kept up to date by a few lines of script that fetch them again."""

from __future__ import annotations

import hashlib
import json
import signal
import socket
import sys
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dashboards.board.mlflow_look import MlflowLook
from dashboards.board.view import FILTERS, as_json, run_page
from dashboards.commands import REPORT
from dashboards.live import Damaged, Registry, RunState
from dashboards.pages import base_css, templates_of
from golf_core.errors import UserError
from golf_core.files import MAX_RECORD_BYTES, read_bytes
from golf_core.strict_json import printable
from orchestrator.signals import interruptible

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
REPORT_POLICY = "sandbox allow-scripts allow-downloads"
"""A report's scripts run as if they came from nowhere: they cannot read the board."""
DEFAULT_PORT = 8080
TRIES = 20
LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1", "[::1]")


def serve(output: Path, host: str, port: int | None) -> None:
    """Show the runs in `output` on `host`:`port` until Ctrl-C or SIGTERM; prints the address in one line.

    Without a port: 8080, or the next free one. Raises `UserError` for a port that is taken or a host that is not of
    this machine. Whoever binds it beyond loopback lets everybody there read logs and figures. Call it from the main
    thread: it handles signals.
    """
    import uvicorn

    listening = _listen(host, port)
    loopback = host in ("localhost", "::1") or host.startswith("127.")
    app = create_app(output, (*LOOPBACK_NAMES, host) if loopback else ("*",))
    config = uvicorn.Config(app, log_level="error", access_log=False, timeout_graceful_shutdown=2, lifespan="off")
    sys.stdout.write(f"board: http://{_reachable(host)}:{listening.getsockname()[1]}   (Ctrl-C ends it)\n")
    sys.stdout.flush()
    with closing(listening), interruptible(signal.SIGTERM, signal.SIGHUP), suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])


def create_app(output: Path, hosts: tuple[str, ...] = LOOPBACK_NAMES) -> Starlette:
    """The board of the runs in `output`. Requests for other host names than `hosts` are refused.

    A page elsewhere that lets its name point here (DNS rebinding) thus reads nothing.
    """
    board = _Board(output)
    routes = [
        Route("/", board.index),
        Route("/runs/{run_id}", board.run),
        Route("/runs/{run_id}/report", board.report),
        Route("/api/runs", board.api_runs),
        Route("/api/runs/{run_id}", board.api_run),
        Route("/healthz", board.health),
        Route("/static/base.css", board.style),
        Mount("/static", StaticFiles(packages=[("dashboards.board", "static")])),
    ]
    allowed = Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    return Starlette(routes=routes, middleware=[Middleware(_Guarded), allowed])


class _Guarded:
    """Every answer carries `HEADERS`, but for those that it has set itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, guarded)


class _Board:
    def __init__(self, output: Path) -> None:
        self._registry, self._mlflow = Registry(output), MlflowLook()
        self._templates = templates_of("dashboards.board")
        self._templates.filters |= FILTERS
        self._templates.tests["damaged"] = lambda run: isinstance(run, Damaged)

    # Not coroutines: Starlette runs them in threads, and reading files holds up nobody else.

    def index(self, request: Request) -> Response:
        runs = self._registry.all()
        running = sum(isinstance(run, RunState) and run.status == "running" for run in runs)
        title = f"{running} running - golf board" if running else "golf board"
        output = printable(str(self._registry.output))
        return self._page(request, "index.html.j2", title, runs=runs, running=running, output=output)

    def run(self, request: Request) -> Response:
        run_id = request.path_params["run_id"]
        run = self._registry.one(run_id)
        if run is None:
            return self._page(request, "missing.html.j2", "no such run", status=404, page=printable(run_id))
        if isinstance(run, Damaged):
            return self._page(request, "damaged.html.j2", f"damaged - {printable(run.run_id)}", run=run)
        return self._page(request, "run.html.j2", **run_page(run, self._mlflow))

    def report(self, request: Request) -> Response:
        """The run's report, which brings its own policy."""
        run_id, content = request.path_params["run_id"], b""
        with suppress(OSError):
            if self._registry.one(run_id) is not None:
                content = read_bytes(self._registry.output / run_id / REPORT, MAX_RECORD_BYTES)
        if not content:
            return PlainTextResponse("This run has no report yet.", 404)
        return HTMLResponse(content, headers={"Content-Security-Policy": REPORT_POLICY})

    def api_runs(self, request: Request) -> Response:
        return _json([as_json(run, series=False) for run in self._registry.all()])

    def api_run(self, request: Request) -> Response:
        run = self._registry.one(request.path_params["run_id"])
        return _json({"error": "no such run"}, 404) if run is None else _json(as_json(run, series=True))

    def health(self, request: Request) -> Response:
        return PlainTextResponse("ok")

    def style(self, request: Request) -> Response:
        return Response(base_css(), media_type="text/css")

    def _page(self, request: Request, template: str, title: str, status: int = 200, **values: Any) -> Response:
        """A whole page; for the page's own script only its content, and nothing where that is the same as before."""
        render = self._templates.get_template(template).render
        if "content" not in request.query_params:
            now = time.strftime("%H:%M:%S")
            return HTMLResponse(_encoded(render(title=title, whole=True, now=now, **values)), status)
        content = _encoded(render(title=title, whole=False, now="", **values))
        tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"ETag": tag})
        return HTMLResponse(content, status, headers={"ETag": tag})


def _encoded(text: str) -> bytes:
    # Half a surrogate pair, which JSON may name and files may be called, is no character.
    return text.encode("utf-8", "backslashreplace")


def _json(value: Any, status: int = 200) -> Response:
    return Response(json.dumps(value, allow_nan=False), status, media_type="application/json")


def _listen(host: str, port: int | None) -> socket.socket:
    """A socket that listens; it is bound before anything is printed."""
    wanted = [port] if port is not None else [*range(DEFAULT_PORT, DEFAULT_PORT + TRIES), 0]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in wanted:
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, candidate))
            listening.listen(128)
            return listening
        except (OSError, OverflowError) as error:
            listening.close()
            reason = getattr(error, "strerror", None) or str(error)
    if port is None:
        raise UserError(f"--host {host}: cannot listen there ({reason}); choose an address of this machine")
    raise UserError(f"--host {host} --port {port}: cannot listen there ({reason}); choose another port or host")


def _reachable(host: str) -> str:
    if host in ("", "0.0.0.0", "::"):
        return "127.0.0.1" if host != "::" else "[::1]"
    return f"[{host}]" if ":" in host else host
