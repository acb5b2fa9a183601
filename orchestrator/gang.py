"""A gang: all ranks of one seed, placed on one node or not at all. The one module that creates Ray actors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from golf_core.errors import GolfError, RunError
from golf_core.events import Event
from orchestrator.cluster import ACCELERATOR_PREFIX, ClusterError
from orchestrator.spec import Resources
from orchestrator.worker import Rank

POLL_S = 0.5
GROUP_POLL_S = 0.3
DISPOSE_S = 2.0


class Placement:
    """A request for one node's room for a gang; waits in Ray's queue until there is room."""

    def __init__(self, resources: Resources) -> None:
        from ray.util.placement_group import placement_group

        bundle: dict[str, float] = {"CPU": resources.cpus_per_rank}
        if resources.accelerator is not None:
            # A pinch of the accelerator's own resource binds the bundle to nodes with that kind.
            bundle |= {"GPU": 1.0, f"{ACCELERATOR_PREFIX}{resources.accelerator}": 0.001}
        self.resources = resources
        self.group = placement_group([dict(bundle) for _ in range(resources.ranks)], strategy="STRICT_PACK")

    def wait(self, stopped: threading.Event) -> bool:
        """Wait until the room is ours; False if `stopped` is set first.

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
        return False

    def remove(self) -> None:
        """Give the room back."""
        from ray.util.placement_group import remove_placement_group

        remove_placement_group(self.group)


class Gang:
    """Actors for all ranks of a seed, in a granted placement."""

    def __init__(self, placement: Placement) -> None:
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        resources = placement.resources
        gpu = resources.accelerator is not None
        # "io" answers while a stage runs in the actor's own thread.
        actor = ray.remote(concurrency_groups={"io": 1})(_with_io_methods(Rank))
        self._placement = placement
        self._actors = [
            actor.options(
                num_cpus=resources.cpus_per_rank,
                num_gpus=1 if gpu else 0,
                scheduling_strategy=PlacementGroupSchedulingStrategy(placement.group, index),
            ).remote(index, resources.ranks, resources.cpus_per_rank, gpu)
            for index in range(resources.ranks)
        ]

    def call(self, method: str, *arguments: Any, on_event: Callable[[Event], None] | None = None) -> list[Any]:
        """Run `method` on all ranks at once; returns their results in rank order.

        While they work, rank 0's events go to `on_event`. The first failure of any rank ends the call.
        """
        return self._call(self._actors, method, arguments, on_event)

    def call_first(self, method: str, *arguments: Any, on_event: Callable[[Event], None] | None = None) -> Any:
        """The same on rank 0 alone; returns its result."""
        return self._call(self._actors[:1], method, arguments, on_event)[0]

    def _call(
        self,
        actors: Sequence[Any],
        method: str,
        arguments: Sequence[Any],
        on_event: Callable[[Event], None] | None,
    ) -> list[Any]:
        import ray

        # Large arguments (an artifact) are stored once, not once a rank.
        shared = [ray.put(a) if isinstance(a, bytes) else a for a in arguments]
        calls = [getattr(actor, method).remote(*shared) for actor in actors]
        waiting = calls
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=POLL_S)
            for finished in done:
                _get(finished)
            if on_event is not None:
                self._drain(on_event)
        if on_event is not None:
            self._drain(on_event)
        return [_get(call) for call in calls]

    def first(self, method: str, *arguments: Any) -> Any:
        """Run `method` on rank 0 alone."""
        return _get(getattr(self._actors[0], method).remote(*arguments))

    def close(self) -> None:
        """End all ranks and give their room back, whatever they are doing."""
        import ray

        # A moment to remove their files; a stage in the middle of its work is not waited for.
        ray.wait([actor.dispose.remote() for actor in self._actors], num_returns=len(self._actors), timeout=DISPOSE_S)
        for actor in self._actors:
            ray.kill(actor, no_restart=True)
        self._placement.remove()

    def _drain(self, on_event: Callable[[Event], None]) -> None:
        for event in _get(self._actors[0].events.remote()):
            on_event(event)


def _with_io_methods(cls: type) -> type:
    import ray

    class RankActor(cls):
        events = ray.method(concurrency_group="io")(cls.events)  # type: ignore[attr-defined]
        dispose = ray.method(concurrency_group="io")(cls.dispose)  # type: ignore[attr-defined]

    return RankActor


def _get(reference: Any) -> Any:
    """`ray.get` whose failures are ours: a `GolfError` as it was raised, anything else a `RunError`."""
    import ray
    from ray.exceptions import RayActorError, RayTaskError

    try:
        return ray.get(reference)
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, GolfError):
            raise cause from None
        raise RunError(f"a rank failed: {type(cause).__name__}: {cause}") from error
    except RayActorError as error:
        reason = str(error).strip().splitlines()
        raise RunError(f"a rank's process was lost ({reason[-1].strip() if reason else 'no reason given'})") from None


def start_gang(placement: Placement) -> tuple[Gang, list[dict[str, str]]]:
    """Start the actors of a granted placement and let them join; returns what each rank runs on."""
    gang = Gang(placement)
    try:
        port = gang.first("serve") if placement.resources.ranks > 1 else 0
        return gang, gang.call("join", port)
    except BaseException:
        gang.close()
        raise


def describe_hardware(ranks: Sequence[dict[str, str]]) -> str:
    """The ranks' devices in words, such as '8 x NVIDIA H100 80GB HBM3'."""
    devices = sorted({rank["device"] for rank in ranks})
    return f"{len(ranks)} x {', '.join(devices)}"
