"""The board's server."""

from __future__ import annotations

import signal
import socket
import sys
from contextlib import closing, suppress
from pathlib import Path

from golf_core.errors import UserError
from orchestrator.signals import interruptible

DEFAULT_PORT = 8080
TRIES = 20


def serve(output: Path, host: str, port: int | None) -> None:
    """Show the runs in `output` on `host`:`port` until Ctrl-C or SIGTERM; prints the address in one line.

    Without a port: 8080, or the next free one. Raises `UserError` for a port that is taken or a host that is not of
    this machine. Whoever binds it beyond loopback lets everybody there read logs and figures. Call it from the main
    thread: it handles signals.
    """
    import uvicorn

    from dashboards.board.app import LOOPBACK_NAMES, create_app

    listening = _listen(host, port)
    loopback = host in ("localhost", "::1") or host.startswith("127.")
    app = create_app(output, (*LOOPBACK_NAMES, host) if loopback else ("*",))
    config = uvicorn.Config(app, log_level="error", access_log=False, timeout_graceful_shutdown=2, lifespan="off")
    sys.stdout.write(f"board: http://{_reachable(host)}:{listening.getsockname()[1]}   (Ctrl-C ends it)\n")
    sys.stdout.flush()
    with closing(listening), interruptible(signal.SIGTERM, signal.SIGHUP), suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int | None) -> socket.socket:
    """A socket that listens; it is bound before anything is printed."""
    wanted = [port] if port is not None else [*range(DEFAULT_PORT, DEFAULT_PORT + TRIES), 0]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    reason = ""
    for candidate in wanted:
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, candidate))
            listening.listen(128)
        except (OSError, OverflowError) as error:
            listening.close()
            reason = getattr(error, "strerror", None) or str(error)
            continue
        return listening
    if port is None:
        raise UserError(f"--host {host}: cannot listen there ({reason}); choose an address of this machine")
    raise UserError(f"--host {host} --port {port}: cannot listen there ({reason}); choose another port or host")


def _reachable(host: str) -> str:
    if host in ("", "0.0.0.0", "::"):
        return "127.0.0.1" if host != "::" else "[::1]"
    return f"[{host}]" if ":" in host else host
