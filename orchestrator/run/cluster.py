"""The cluster: connect to it or start a local one, and say at once what can never run on it."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.preflight.machine import ClusterError, Node

PROBE_S = 5.0
TURN_S = 1.0
NAMESPACE = "golf"
NO_ANSWER = "give another address, or --address local, which starts a cluster here"


@contextmanager
def connected(address: str | None, before_local: Callable[[], None]) -> Iterator[bool]:
    """Inside, Ray is connected; yields whether it is a local one, started here and ended afterwards.

    `address` 'local' always starts one; None takes the cluster that RAY_ADDRESS names or that runs on this
    machine, and starts a local one where there is none. Starting takes seconds: `before_local` is called first
    and may refuse by raising.
    """
    source = _source(address)
    address = where(address)
    local = address == "local"
    if local:
        _refuse_folder()
        before_local()
        # Ray's servers listen on every interface: only this run's processes know its token. Ray would otherwise
        # leave one in the home folder, which changes how clusters started later behave.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    else:
        _refuse_silence(address, source)

    import ray

    options = {"logging_level": logging.ERROR, "log_to_driver": False}
    if local:
        try:
            ray.init(address="local", include_dashboard=False, _node_ip_address="127.0.0.1", **options)
        except OSError as error:  # a full disk, or a path that is too long for a socket
            raise ClusterError(
                f"a local Ray cannot be started ({error}); set RAY_TMPDIR to a short path with room, such as /tmp"
            ) from None
    else:
        try:
            ray.init(address=address, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ClusterError(f"{source}: no Ray cluster answers there ({error}); {NO_ANSWER}") from None
    try:
        yield local
    finally:
        ray.shutdown()


def where(address: str | None) -> str:
    """The cluster's address that `connected` takes: the given one, else RAY_ADDRESS's, a running one's, or 'local'."""
    return address or os.environ.get("RAY_ADDRESS") or _running_cluster() or "local"


def _running_cluster() -> str | None:
    """The address of the cluster that `ray start` left on this machine, if it is alive."""
    # Ray's own look-up waits for minutes for a cluster that was killed rather than stopped.
    note = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"
    try:
        address = note.read_text(encoding="utf-8").strip()
        return address if _listens(address) else None
    except (OSError, ValueError):
        return None


def _refuse_folder() -> None:
    """Raise where a local Ray, which puts its files in one of these folders, would fail in the middle of things."""
    variable = "RAY_TMPDIR" if os.environ.get("RAY_TMPDIR") else "TMPDIR"
    place = os.environ.get(variable, "")
    if not place.isascii():
        raise ClusterError(
            f"{variable}: Ray takes no folder outside ASCII ({place}); set RAY_TMPDIR to one, such as /tmp"
        )


def _source(address: str | None) -> str:
    """Who named the cluster, with what: the one to blame where it does not answer."""
    if address:
        return f"--address {address}"
    if found := os.environ.get("RAY_ADDRESS"):
        return f"RAY_ADDRESS={found} in the environment"
    return "the cluster that `ray start` left on this machine"


def _refuse_silence(address: str, source: str) -> None:
    """Raise at once where nobody listens; Ray would wait for minutes."""
    if address.startswith(("http://", "https://")):
        raise ClusterError(
            f"{source}: the address of a dashboard, which takes submissions (golf submit); a run needs the head's own, "
            f"such as 10.0.0.1:6379; {NO_ANSWER}"
        )
    if "//" in address or ":" not in address:
        return
    try:
        _listens(address)
    except (OSError, ValueError) as error:
        raise ClusterError(f"{source}: no Ray cluster answers there ({error}); {NO_ANSWER}") from None


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    socket.create_connection((host, int(port)), timeout=PROBE_S).close()
    return True


@contextmanager
def turn(kind: str, stopped: threading.Event) -> Iterator[Callable[[], None] | None]:
    """Inside, it is this job's turn among all jobs of the cluster that wait for machines of this kind.

    Yields what keeps the turn, to be called every few seconds; None where `stopped` was set first. The queue is an
    actor that all drivers share; it ends with the last.
    """
    import ray
    from ray.exceptions import RayActorError

    ticket = secrets.token_hex(8)
    queue = ray.remote(num_cpus=0)(JobQueue).options(
        name=f"golf-queue-{kind}", namespace=NAMESPACE, lifetime="detached", get_if_exists=True
    )

    def ask(method: str) -> int:
        while True:  # the last driver of a moment ago may have ended the queue: then a new one begins
            try:
                return int(ray.get(getattr(queue.remote(), method).remote(ticket)))
            except (RayActorError, ValueError):
                if stopped.wait(timeout=TURN_S):
                    return 1

    asked = 0.0

    def keep() -> None:
        # Who falls silent is taken for dead, and room may be long in coming.
        nonlocal asked
        if time.monotonic() - asked >= TURN_S:
            ask("ahead")
            asked = time.monotonic()

    try:
        mine = ask("ahead") == 0
        while not mine and not stopped.wait(timeout=TURN_S):
            mine = ask("ahead") == 0
        yield keep if mine else None
    finally:
        with suppress(RayActorError, ValueError):
            actor = ray.get_actor(f"golf-queue-{kind}", namespace=NAMESPACE)
            if ray.get(actor.leave.remote(ticket)) == 0:
                ray.kill(actor)


def ray_nodes() -> list[Node]:
    """The living nodes of the connected cluster."""
    import ray

    return [Node(node["NodeName"], node["Resources"]) for node in ray.nodes() if node["Alive"]]


# --- one queue for all jobs of a cluster that want one kind of machine: Ray serves waiting groups in no order ---

GONE_S = 15.0
"""A ticket that is not asked about for so long belongs to a driver that is gone."""


class JobQueue:
    """Tickets in the order of their arrival. A job draws one for each seed, so that jobs take turns."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._seen: dict[str, float] = {}

    def ahead(self, ticket: str) -> int:
        """How many are before `ticket`, which joins the queue if it is not in it. To be asked every few seconds."""
        now = self._now()
        self._seen = {t: seen for t, seen in self._seen.items() if now - seen < GONE_S or t == ticket}
        self._seen[ticket] = now  # a ticket that is seen again keeps its place
        return list(self._seen).index(ticket)

    def leave(self, ticket: str) -> int:
        """Give a ticket back; returns how many are left."""
        self._seen.pop(ticket, None)
        return len(self._seen)
