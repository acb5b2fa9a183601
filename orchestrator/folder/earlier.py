"""An earlier run as the start of a new one: its job, and its seeds' artifacts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from golf_core import strict_json
from golf_core.errors import ConfigError
from golf_core.files import read_bytes
from golf_core.results import ExportResult, TrainResult
from golf_core.strict_json import nearest, printable
from orchestrator.folder.results import ARTIFACT, JOB, RESULT, SeedResult
from orchestrator.job.document import MAX_FILE_BYTES
from orchestrator.job.load import Job


def job_of_run(folder: Path, changes: Mapping[str, Any]) -> Job:
    """The job that made `folder`, with fields replaced.

    `changes` maps dotted names of the resolved job to values ({"resources.ranks": 2,
    "config.evaluate.stride": 32}). Raises `ConfigError`.
    """
    path = folder / JOB
    try:
        values = json.loads(read_bytes(path, MAX_FILE_BYTES))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; name the folder of a run, such as runs/smoke-…") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); name the folder of a run") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not a JSON file ({printable(error)})") from None
    return changed_job(values, changes, where=str(path))


def changed_job(values: Any, changes: Mapping[str, Any], where: str) -> Job:
    """The job that `Job.to_dict` wrote as `values`, in which fields are replaced as in `job_of_run`."""
    for name, value in changes.items() if isinstance(values, dict) else ():
        node = values
        *parents, last = name.split(".")
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if not isinstance(node, dict) or last not in node:
            raise ConfigError(printable(f"--set {name}: the job has no such field{nearest(name, values)}"))
        node[last] = value
    try:
        return Job.from_dict(values, where=where)
    except ConfigError as error:
        lines = [line if changes or line.startswith(where) else f"{where}: {line}" for line in str(error).split("\n")]
        raise ConfigError("\n".join(map(printable, lines))) from None


def earlier_seed(folder: Path, seed: int) -> EarlierSeed:
    """What a seed's `folder` holds. Raises a `UserError` when there is no artifact, or none that can be read."""
    from golf_core.artifact.codec import decode, read_artifact

    path = folder / ARTIFACT
    if not path.exists():
        raise ConfigError(f"{path}: missing; seed {seed} of that run left no artifact to evaluate")
    artifact = read_artifact(path)
    decode(artifact, str(path))  # refuse a damaged one before any rank is started
    result = strict_json.load(SeedResult, path.with_name(RESULT))
    return EarlierSeed(folder.resolve().parent.name, artifact, result.train, result.export)


@dataclass(frozen=True)
class EarlierSeed:
    """What the run called `run_id` left of a seed, for a new evaluation: its artifact and figures."""

    run_id: str
    artifact: bytes
    train: TrainResult | None
    export: ExportResult | None
