"""Room on a machine's disk and in its shared memory, and what a run needs of both."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from golf_core.results import MIB
from orchestrator.job.load import Job
from orchestrator.preflight.findings import Finding, error, ok, warning

LOG_BYTES_PER_STEP, LOG_BYTES_PER_CHUNK = 300, 2000
"""Of the log and the result, measured and rounded up."""
SEED_OVERHEAD = 4 * MIB
"""Program, audit, results."""
RESERVE = 1.5
SHM_PER_RANK = 64 * MIB
"""NCCL's buffers between the ranks of one node."""
SHM = Path("/dev/shm")


@dataclass(frozen=True)
class Need:
    """Bytes that a job takes."""

    run: int
    """In the run's folder, all seeds together."""
    node: int
    """In the temporary folder of a rank's node, for one seed."""
    shm: int
    """In a node's shared memory, for one seed: NCCL, and files on their way through Ray."""


def need_of(job: Job) -> Need:
    """What `job` takes: a checkpoint in float32, the artifact and a log for each seed, with half as much again."""
    checkpoint, artifact = 4 * parameters(job), job.budgets.artifact_bytes
    train, evaluate = job.config.train, job.config.evaluate
    # The length of the text is not known here; the challenge's has 62 million tokens.
    targets = evaluate.max_tokens or 62_000_000
    log = train.iterations // train.log_every * LOG_BYTES_PER_STEP
    log += 2 * (targets // evaluate.chunk_tokens + 1) * LOG_BYTES_PER_CHUNK
    seed = checkpoint + artifact + log + SEED_OVERHEAD
    per_node = job.resources.ranks // job.resources.nodes
    shm = (per_node * SHM_PER_RANK if job.resources.accelerator else 0) + checkpoint + artifact
    return Need(int(RESERVE * seed * len(job.seeds)), int(RESERVE * 2 * seed), int(shm))


def parameters(job: Job) -> int:
    """Weights of the job's model."""
    import math

    from golf_core.model.gpt import expected_shapes

    return sum(math.prod(shape) for shape in expected_shapes(job.config.model).values())


def check_disk(folder: str, needed: int, where: str) -> Finding:
    """Whether `folder`, or what will hold it, can be written and has `needed` bytes."""
    place = existing(Path(folder))
    if not place.is_dir():
        return error(f"{place} is a file, where a folder is needed", where, "name another folder")
    if not os.access(place, os.W_OK | os.X_OK):
        return error(f"{place} cannot be written", where, "name another folder, or change its permissions")
    free = shutil.disk_usage(place).free
    if free < needed:
        return error(f"{_mib(free)} free in {place}, {_mib(needed)} needed", where, "make room, or name another folder")
    return ok(f"{_mib(free)} free in {place}, {_mib(needed)} needed", where)


def check_shm(needed: int, where: str, strict: bool, shm: Path = SHM) -> Finding:
    """Whether shared memory has `needed` bytes free; too little is an error where `strict`, as with NCCL."""
    if not shm.is_dir():
        return warning(f"there is no {shm}", where, "NCCL and Ray will use slower ways")
    free = shutil.disk_usage(shm).free
    if free >= needed:
        return ok(f"{_mib(free)} free in {shm}, {_mib(needed)} needed", where)
    remedy = "start the container with more, such as --shm-size=8g, or remount it larger"
    return (error if strict else warning)(f"{_mib(free)} free in {shm}, {_mib(needed)} needed", where, remedy)


def existing(path: Path) -> Path:
    """The path itself, or the nearest folder above it that is there."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _mib(count: float) -> str:
    return f"{count / MIB:,.0f} MiB" if count < 10_000 * MIB else f"{count / MIB / 1024:,.0f} GiB"
