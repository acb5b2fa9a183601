"""Nodes, and whether they can hold the gang of a seed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from golf_core.errors import UserError
from orchestrator.job.load import Resources

ACCELERATOR_PREFIX = "accelerator_type:"


class ClusterError(UserError):
    """No cluster, or one that can never run the job."""


@dataclass(frozen=True)
class Node:
    """What one node of the cluster offers in all, used or not."""

    name: str
    resources: Mapping[str, float]

    @property
    def cpus(self) -> float:
        """CPU cores, as Ray counts them."""
        return self.resources.get("CPU", 0.0)

    @property
    def gpus(self) -> float:
        """GPUs of any kind."""
        return self.resources.get("GPU", 0.0)

    def has(self, accelerator: str) -> bool:
        """Whether its GPUs are of this kind."""
        return f"{ACCELERATOR_PREFIX}{accelerator}" in self.resources


def this_machine() -> Node:
    """What a local Ray would find here, without starting one."""
    gpus = len([path for path in Path("/dev").glob("nvidia[0-9]*") if path.name[6:].isdigit()])
    return Node("this machine", {"CPU": float(os.cpu_count() or 1), "GPU": float(gpus)})


def misfit(resources: Resources, nodes: Sequence[Node]) -> str | None:
    """Why no node can ever hold one seed's gang, as a sentence; None where one can.

    Where a gang is shared out between two nodes, two must hold a half each.
    """
    ranks = resources.ranks // resources.nodes
    place = "on one node" if resources.nodes == 1 else f"on each of {resources.nodes} nodes"
    if resources.accelerator is not None:
        most = int(max((node.gpus for node in nodes), default=0))
        if most < ranks:
            return f"needs {_count(ranks, 'GPU')} {place}; the largest node has {most}"
        # A machine that was only looked at does not tell the kind of its GPUs; Ray does.
        told = [node for node in nodes if any(name.startswith(ACCELERATOR_PREFIX) for name in node.resources)]
        if told and not any(node.has(resources.accelerator) and node.gpus >= ranks for node in told):
            kinds = sorted(
                name.removeprefix(ACCELERATOR_PREFIX)
                for node in told
                for name in node.resources
                if name.startswith(ACCELERATOR_PREFIX)
            )
            return f"needs {ranks} GPUs of type {resources.accelerator} {place}; the cluster has {', '.join(kinds)}"
    cpus = ranks * resources.cpus_per_rank
    fitting = [node for node in nodes if resources.accelerator is None or node.gpus >= ranks]
    most_cpus = max((node.cpus for node in fitting), default=0.0)
    if most_cpus < cpus:
        return f"needs {cpus:g} CPUs {place}; the largest node has {most_cpus:g}"
    enough = sum(node.cpus >= cpus for node in fitting)
    if enough < resources.nodes:
        return f"needs {resources.nodes} nodes with {_count(ranks, 'rank')} each; the cluster has {enough} such"
    return None


def refuse_misfit(resources: Resources, nodes: Sequence[Node]) -> None:
    """Raise `ClusterError` with the sentence of `misfit`, and the remedy, if there is one."""
    sentence = misfit(resources, nodes)
    if sentence is not None:
        raise ClusterError(
            f"resources: each seed {sentence}; use a larger node, or lower resources.ranks (fewer ranks take "
            "fewer steps in the same time)"
        )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
