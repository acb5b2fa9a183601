"""`python -m orchestrator.export.ready ADDRESS NODES SECONDS`: wait until a Ray cluster has so many nodes.

A job that is started earlier would be refused: no node could hold its ranks.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

from golf_core.errors import GolfError, RunError

POLL_S = 1.0


def wait_for_nodes(
    wanted: int,
    seconds: float,
    living: Callable[[], int],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Return when `living()` has reached `wanted`. Raises `RunError` after `seconds`, with what was there."""
    end = clock() + seconds
    while (found := living()) < wanted:
        if clock() >= end:
            raise RunError(f"only {found} of {wanted} nodes joined the Ray cluster within {seconds:g} s; see their log")
        sleep(POLL_S)


def main(arguments: Sequence[str]) -> int:
    """Exit code 0 when the nodes are there, 1 with a sentence when they are not."""
    from orchestrator.cluster import connected, ray_nodes

    address, nodes, seconds = arguments[0], int(arguments[1]), float(arguments[2])
    try:
        with connected(address, before_local=lambda: None):
            wait_for_nodes(nodes, seconds, lambda: len(ray_nodes()))
    except GolfError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
