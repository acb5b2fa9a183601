"""A gang: all ranks of one seed, placed together or not at all. The one module that creates Ray actors."""

from __future__ import annotations

import contextlib
import re
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from golf_core.errors import GolfError, LostError, RunError
from golf_core.events import Event
from orchestrator.folder.results import Stage
from orchestrator.job.load import Resources
from orchestrator.preflight.machine import ACCELERATOR_PREFIX, ClusterError
from orchestrator.run.failures import Heartbeat, LimitError, StallWatch, of_rank
from orchestrator.run.rank import Rank

if TYPE_CHECKING:
    import psutil


POLL_S = 0.5
GROUP_POLL_S = 0.3
OTHERS_S = 3.0
"""When one rank fails, its fellows may know better why: so long they are heard."""
REMOTE_END_S = 30.0
Listener = Callable[[Event], None]
T = TypeVar("T")


class Placement:
    """A request for a gang's room, on one node or evenly on two; waits in Ray's queue until there is room."""

    def __init__(self, resources: Resources) -> None:
        from ray.util.placement_group import placement_group

        per_bundle = 1 if resources.nodes == 1 else resources.ranks // resources.nodes
        bundle: dict[str, float] = {"CPU": resources.cpus_per_rank * per_bundle}
        if resources.accelerator is not None:
            # A pinch of the accelerator's own resource binds the bundle to nodes with that kind.
            bundle |= {"GPU": float(per_bundle), f"{ACCELERATOR_PREFIX}{resources.accelerator}": 0.001}
        self.resources, self.per_bundle = resources, per_bundle
        bundles = [dict(bundle) for _ in range(resources.ranks // per_bundle)]
        self.group = placement_group(bundles, strategy="STRICT_PACK" if resources.nodes == 1 else "STRICT_SPREAD")

    def wait(self, stopped: threading.Event, meanwhile: Callable[[], None] | None = None) -> bool:
        """Wait until the room is ours; False if `stopped` is set first. `meanwhile` is called several times a second.

        Raises `ClusterError` when Ray finds that no node can hold the gang.
        """
        from ray.util.placement_group import placement_group_table

        # Not PlacementGroup.wait: it cuts its time-out to whole seconds, and 0 of them make a busy loop.
        while not stopped.wait(timeout=GROUP_POLL_S):
            state = placement_group_table(self.group).get("state")
            if state == "CREATED":
                return True
            if state == "INFEASIBLE":
                raise ClusterError("resources: no node of the cluster can hold one seed's gang any more")
            if meanwhile is not None:
                meanwhile()
        return False

    def remove(self) -> None:
        """Give the room back."""
        from ray.util.placement_group import remove_placement_group

        remove_placement_group(self.group)


class Gang:
    """Actors for all ranks of a seed, in a granted placement."""

    def __init__(self, placement: Placement, stall_seconds: float) -> None:
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        resources = placement.resources
        gpu = resources.accelerator is not None
        # "io" and "files" answer while a stage runs in the actor's own thread.
        actor = ray.remote(concurrency_groups={"io": 1, "files": 1})(_as_actor(Rank))
        self._placement, self._stall_seconds = placement, stall_seconds
        self._processes: list[RankProcess] = []
        self._closing = threading.Lock()
        self._closed = False
        self._actors = [
            actor.options(
                num_cpus=resources.cpus_per_rank,
                num_gpus=1 if gpu else 0,
                scheduling_strategy=PlacementGroupSchedulingStrategy(placement.group, index // placement.per_bundle),
            ).remote(index, resources.ranks, resources.cpus_per_rank, gpu)
            for index in range(resources.ranks)
        ]

    def call(self, method: str, *arguments: Any, limit_s: float, on_event: Listener | None = None) -> list[Any]:
        """Run `method` on all ranks at once; returns their results in rank order.

        While they work, rank 0's events go to `on_event`; without it they are kept for the next call. The first failure
        of any rank ends the call, as does a rank without a sign of life (`LostError`) and the end of `limit_s`
        (`LimitError`).
        """
        return self._call(self._actors, method, arguments, limit_s, on_event)

    def call_first(self, method: str, *arguments: Any, limit_s: float, on_event: Listener | None = None) -> Any:
        """The same on rank 0 alone; returns its result."""
        return self._call(self._actors[:1], method, arguments, limit_s, on_event)[0]

    def work_on(self, stage: Stage, seed: int, positions: int, limit_s: float, on_event: Listener) -> Any:
        """Run a stage; returns its result as plain values. Events, failures and limits as in `call`."""
        actors = self._actors[:1] if stage.alone else self._actors
        return self._call(actors, "work_on", (stage.name, seed, positions), limit_s, on_event, stage.name)[0]

    def read_now(self, name: str, limit_s: float) -> bytes | None:
        """A file of rank 0's folder while a stage runs; None where it is not to be had within `limit_s`."""
        import ray
        from ray.exceptions import GetTimeoutError, RayError

        try:
            content: bytes | None = ray.get(self._actors[0].read_now.remote(name), timeout=limit_s)
        except (GetTimeoutError, RayError):  # a lost rank is noticed by the stage's own call
            return None
        return content

    def start(self, limit_s: float) -> list[dict[str, Any]]:
        """Let the ranks find each other; returns what each of them runs on."""
        from golf_core.distributed import LOOPBACK

        places = self.call("describe", limit_s=limit_s)
        self._processes = [RankProcess(p["node_id"], p["pid"], p["created"], p["folder"]) for p in places]
        host = LOOPBACK if self._placement.resources.nodes == 1 else places[0]["address"]
        port = self.call_first("serve", host, limit_s=limit_s) if len(self._actors) > 1 else 0
        joined = self.call("join", host, port, limit_s=limit_s)
        beside = [
            r["gpu"] for p, r in zip(places, joined, strict=True) if p["node"] == places[0]["node"] and "gpu" in r
        ]
        self.call_first("watch", beside, limit_s=limit_s)
        return [{"node": p["node"], "pid": p["pid"], **rank} for p, rank in zip(places, joined, strict=True)]

    def close(self) -> None:
        """End all ranks, whatever they are doing, see that they are gone, and give their room back.

        Raises `RunError` where a process cannot be ended: its GPU is not free for the next gang.
        """
        import ray

        with self._closing:
            if self._closed:
                return
            self._closed = True
        families = self._on_nodes(family_of, self._processes)
        for actor in self._actors:
            ray.kill(actor, no_restart=True)
        # What Ray ends is gone at once, but for what is frozen, and for what a rank has started itself.
        left = self._on_nodes(end_processes, families + self._processes)
        self._placement.remove()
        if left:
            raise RunError(f"processes {', '.join(map(str, left))} of a gang could not be ended; end them by hand")

    def _on_nodes(self, function: Callable[[list[RankProcess]], list[T]], processes: Sequence[RankProcess]) -> list[T]:
        """What `function` finds of these processes, called on the node of each. A node that is gone has none."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        by_node: dict[str, list[RankProcess]] = {}
        for process in processes:
            by_node.setdefault(process.node_id, []).append(process)
        found = function(by_node.pop(ray.get_runtime_context().get_node_id(), []))
        remote = ray.remote(num_cpus=0, max_retries=0)(function)
        calls = [
            remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(there)
            for node, there in by_node.items()
        ]
        done, _ = ray.wait(calls, num_returns=len(calls), timeout=REMOTE_END_S) if calls else ([], [])
        for call in done:
            with contextlib.suppress(ray.exceptions.RayError):
                found = found + ray.get(call)
        return found

    def _call(
        self,
        actors: Sequence[Any],
        method: str,
        arguments: Sequence[Any],
        limit_s: float,
        on_event: Listener | None,
        what: str = "",
    ) -> list[Any]:
        import ray

        # Large arguments (an artifact) are stored once, not once a rank.
        shared = [ray.put(a) if isinstance(a, bytes) else a for a in arguments]
        calls = [getattr(actor, method).remote(*shared) for actor in actors]
        waiting, began = calls, time.monotonic()
        heartbeat = Heartbeat(
            len(self._actors), lambda rank: self._actors[rank].heartbeat.remote(), _answered, self._stall_seconds
        )
        stalls = StallWatch(self._stall_seconds)

        def drain() -> None:
            if on_event is None:
                return  # they wait for the next call to which somebody listens
            for event in self._take_events():
                stalls.saw(event)
                on_event(event)

        while waiting:
            done, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=POLL_S)
            failures = [error for finished in done if (error := _failure(finished)) is not None]
            if failures:
                raise _root(failures, waiting)
            drain()
            heartbeat.check()
            if waiting:
                stalls.check()
            if waiting and time.monotonic() - began > limit_s:
                raise LimitError(f"'{what or method}' did not end within {limit_s:g} s (limits); see the seed's log")
        drain()
        return [ray.get(call) for call in calls]

    def _take_events(self) -> list[Event]:
        import ray
        from ray.exceptions import GetTimeoutError, RayError

        try:
            events: list[Event] = ray.get(self._actors[0].events.remote(), timeout=self._stall_seconds)
        except GetTimeoutError:
            raise LostError(f"rank 0 shows no sign of life for {self._stall_seconds:g} s") from None
        except RayError as error:
            raise _explained(error) from None
        return events


def _answered(calls: list[Any]) -> list[Any]:
    import ray

    return list(ray.wait(calls, num_returns=len(calls), timeout=0, fetch_local=False)[0])


def _as_actor(cls: type) -> type:
    import ray

    class RankActor(cls):
        def describe(self) -> dict[str, Any]:
            node = {"node_id": ray.get_runtime_context().get_node_id(), "address": ray.util.get_node_ip_address()}
            return super().describe() | node

        events = ray.method(concurrency_group="io")(cls.events)  # type: ignore[attr-defined]
        heartbeat = ray.method(concurrency_group="io")(cls.heartbeat)  # type: ignore[attr-defined]
        # On its own: a large file must not keep the heartbeat waiting.
        read_now = ray.method(concurrency_group="files")(cls.read_now)  # type: ignore[attr-defined]

    return RankActor


def _failure(reference: Any) -> GolfError | None:
    """What is wrong with a call that has ended, if anything is."""
    import ray
    from ray.exceptions import RayError

    try:
        ray.get(reference)
    except RayError as error:
        return _explained(error)
    return None


def _explained(error: Exception) -> GolfError:
    """A failure of Ray's as one of ours."""
    from ray.exceptions import OutOfMemoryError, RayTaskError

    if isinstance(error, RayTaskError):
        return of_rank(error.cause)
    if isinstance(error, OutOfMemoryError):
        return of_rank(MemoryError("Ray ended it, as the node's memory was used up"))
    text = " ".join(str(error).split())
    if "node" in text and "died" in text and "worker process has died" not in text:
        return LostError("a rank's node was lost")
    detail = re.search(r"Worker exit detail: ([^.]{1,200})", text)
    return LostError(f"a rank's process was lost ({detail[1] if detail else text[:200]})")


def _root(failures: list[GolfError], waiting: Sequence[Any]) -> GolfError:
    """The failure that explains the others: one that no fellow can cause comes before a broken connection.

    When a rank dies of an exception, the others may notice first that they lost it.
    """
    import ray

    if all(isinstance(failure, LostError) for failure in failures) and waiting:
        done, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=OTHERS_S)
        failures = failures + [error for finished in done if (error := _failure(finished)) is not None]
    own = [failure for failure in failures if not isinstance(failure, LostError)]
    processes = [failure for failure in failures if "process was lost" in str(failure)]
    return (own or processes or failures)[0]


def start_gang(placement: Placement, limit_s: float, stall_seconds: float) -> tuple[Gang, list[dict[str, Any]]]:
    """Start the actors of a granted placement and let them join; returns what each rank runs on."""
    gang = Gang(placement, stall_seconds)
    try:
        return gang, gang.start(limit_s)
    except BaseException:
        gang.close()
        raise


# --- making sure that a gang's processes are gone, on the node where they ran ---

GRACE_S = 1.0
PATIENCE_S = 10.0
SAME_S = 1.0


@dataclass(frozen=True)
class RankProcess:
    """A rank's process. Its pid may be given to another after its death: the time of its birth tells them apart."""

    node_id: str
    pid: int
    created: float
    """Seconds since the epoch."""
    folder: str


def family_of(processes: Sequence[RankProcess]) -> list[RankProcess]:
    """Those of `processes` of this machine that still live, and all that they started."""
    import psutil

    family: dict[int, RankProcess] = {}
    for process in processes:
        with contextlib.suppress(psutil.Error):
            rank = psutil.Process(process.pid)
            if _same(rank, process):
                for member in (rank, *rank.children(recursive=True)):
                    family[member.pid] = RankProcess(process.node_id, member.pid, member.create_time(), process.folder)
    return list(family.values())


def end_processes(processes: Sequence[RankProcess], patience_s: float = PATIENCE_S) -> list[int]:
    """Kill `processes` of this machine, frozen ones too, and remove their folders.

    Those that Ray is ending have a moment to tell it: of a rank that just vanishes Ray warns on the terminal. Returns
    the pids that are still there after `patience_s`.
    """
    import psutil

    doomed: list[psutil.Process] = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            found = psutil.Process(process.pid)
            if _same(found, process):
                doomed.append(found)
    _, doomed = psutil.wait_procs(doomed, timeout=GRACE_S)
    for found in doomed:
        with contextlib.suppress(psutil.Error):
            found.kill()
    _, alive = psutil.wait_procs(doomed, timeout=patience_s)
    for folder in {process.folder for process in processes}:
        shutil.rmtree(Path(folder), ignore_errors=True)
    return [member.pid for member in alive]


def _same(found: psutil.Process, known: RankProcess) -> bool:
    return abs(found.create_time() - known.created) < SAME_S
