"""Making sure that a gang's processes are gone, on the node where they ran."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

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
