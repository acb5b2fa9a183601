"""`golf check --address`: one gang is started on a cluster, looks at its nodes, rehearses, and is ended."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from golf_core import strict_json
from golf_core.errors import RunError
from golf_core.events import Event, ignore
from orchestrator.job.load import Job, phase_limits
from orchestrator.preflight.findings import Preflight
from orchestrator.preflight.machine import refuse_misfit
from orchestrator.preflight.on_rank import DRY_STEPS, judge_ranks, request_of
from orchestrator.run.cluster import connected, ray_nodes
from orchestrator.run.gang import Gang, Placement, start_gang


def check_on_gang(job: Job, address: str) -> Preflight:
    """Start one gang of `job` on the cluster, look at its nodes, rehearse, and end it. Nothing is kept."""
    with connected(address, before_local=lambda: None):
        refuse_misfit(job.resources, ray_nodes())
        limits = phase_limits(job)
        placement = _room_within(job, limits.start)
        gang, _ = start_gang(placement, limits.start, job.limits.stall_seconds)
        try:
            data = None if job.data == "sample" else job.data.model_dump()
            gang.call("open", strict_json.to_dict(job.config), data, limit_s=limits.start)
            return check_gang(gang, job, data, DRY_STEPS, limits.train, ignore)
        finally:
            gang.close()


def _room_within(job: Job, seconds: float) -> Placement:
    placement, late = Placement(job.resources), threading.Event()
    timer = threading.Timer(seconds, late.set)
    timer.daemon = True
    timer.start()
    granted = False
    try:
        granted = placement.wait(late)
    finally:
        timer.cancel()
        if not granted:
            placement.remove()
    if not granted:
        raise RunError(f"no room for one seed's gang within {seconds:g} s (limits.start_seconds): other jobs have it")
    return placement


def check_gang(
    gang: Gang, job: Job, data: dict[str, Any] | None, steps: int, limit_s: float, on_event: Callable[[Event], None]
) -> Preflight:
    """What the ranks find on their nodes, and what a rehearsal of `steps` steps projects. The data are open."""
    request = strict_json.to_dict(request_of(job, steps))
    return judge_ranks(job, gang.call("check", data, request, limit_s=limit_s, on_event=on_event))
