"""An earlier run as the start of a new one: its job, and its seeds' artifacts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from golf_core import records
from golf_core.errors import ConfigError
from golf_core.records import nearest
from orchestrator.claim import SeedResult
from orchestrator.seed_run import ARTIFACT, RESULT, EarlierSeed
from orchestrator.spec import Job

JOB = "job.json"


def job_of_run(folder: Path, changes: Mapping[str, Any]) -> Job:
    """The job that made `folder`, with fields replaced.

    `changes` maps dotted names of the resolved job to values ({"resources.ranks": 2,
    "config.evaluate.stride": 32}). Raises `ConfigError`.
    """
    path = folder / JOB
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise ConfigError(f"{path}: no such file; name the folder of a run, such as runs/smoke-…") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not a JSON file ({error})") from None
    for name, value in changes.items():
        node, parents = values, name.split(".")
        for parent in parents[:-1]:
            node = node.get(parent) if isinstance(node, dict) else None
        if not isinstance(node, dict) or parents[-1] not in node:
            raise ConfigError(f"--set {name}: the job has no such field{nearest(name, values)}")
        node[parents[-1]] = value
    return Job.from_dict(values, where=str(path))


def earlier_seed(folder: Path, seed: int) -> EarlierSeed:
    """What `folder` holds of `seed`. Raises `ConfigError` when there is no artifact."""
    path = folder / f"seed-{seed}" / ARTIFACT
    try:
        artifact = path.read_bytes()
    except OSError:
        raise ConfigError(f"{path}: missing; seed {seed} of that run left no artifact to evaluate") from None
    result = records.load(SeedResult, path.with_name(RESULT))
    return EarlierSeed(artifact, result.train, result.export)
