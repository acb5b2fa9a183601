"""An earlier run as the start of a new one: its job, and its seeds' artifacts."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from golf_core import records
from golf_core.errors import ConfigError
from golf_core.records import nearest
from orchestrator.claim import RunResult, SeedResult, judge
from orchestrator.mlflow_run import seed_metrics
from orchestrator.seed_run import ARTIFACT, RESULT, EarlierSeed
from orchestrator.spec import Job

if TYPE_CHECKING:
    import pandas

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
    return changed_job(values, changes, where=str(path))


def changed_job(values: Mapping[str, Any], changes: Mapping[str, Any], where: str) -> Job:
    """The job that `Job.to_dict` wrote as `values`, with fields replaced as in `job_of_run`."""
    values = copy.deepcopy(dict(values))
    for name, value in changes.items():
        node: Any = values
        parents = name.split(".")
        for parent in parents[:-1]:
            node = node.get(parent) if isinstance(node, dict) else None
        if not isinstance(node, dict) or parents[-1] not in node:
            raise ConfigError(f"--set {name}: the job has no such field{nearest(name, values)}")
        node[parents[-1]] = value
    return Job.from_dict(values, where=where)


def judged_anew(folder: Path) -> RunResult:
    """The result of a finished run, with the claim computed again from its job and its seeds' results."""
    result = records.load(RunResult, folder / RESULT)
    return replace(result, claim=judge(Job.from_dict(result.job, where=str(folder / RESULT)), result.seeds))


def seed_frame(result: RunResult) -> pandas.DataFrame:
    """One row a seed: seed, status, error, and its final figures under their MLflow names."""
    import pandas

    rows = [{"seed": s.seed, "status": s.status, "error": s.error, **seed_metrics(s)} for s in result.seeds]
    return pandas.DataFrame(rows)


def earlier_seed(folder: Path, seed: int) -> EarlierSeed:
    """What a seed's `folder` holds. Raises a `UserError` when there is no artifact, or none that can be read."""
    from golf_core.artifact.codec import decode

    path = folder / ARTIFACT
    try:
        artifact = path.read_bytes()
    except OSError:
        raise ConfigError(f"{path}: missing; seed {seed} of that run left no artifact to evaluate") from None
    decode(artifact, str(path))  # refuse a damaged one before any rank is started
    result = records.load(SeedResult, path.with_name(RESULT))
    return EarlierSeed(folder.resolve().parent.name, artifact, result.train, result.export)
