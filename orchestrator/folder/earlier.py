"""An earlier run as the start of a new one: its job, and its seeds' artifacts."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from golf_core import records
from golf_core.errors import ConfigError
from golf_core.files import read_bytes
from golf_core.records import nearest
from orchestrator.folder.layout import ARTIFACT, RESULT
from orchestrator.folder.results import SeedResult
from orchestrator.job.document import MAX_FILE_BYTES, all_of, printable, shown, size_fault, unplain
from orchestrator.job.load import Job

if TYPE_CHECKING:
    pass
from dataclasses import dataclass

from golf_core.results import ExportResult, TrainResult
from orchestrator.folder.layout import JOB


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
        raise ConfigError(f"{path}: not a JSON file ({printable(str(error))})") from None
    return changed_job(values, changes, where=str(path))


def changed_job(values: Mapping[str, Any], changes: Mapping[str, Any], where: str) -> Job:
    """The job that `Job.to_dict` wrote as `values`, with fields replaced as in `job_of_run`."""
    _check_plain(values, where)
    values = copy.deepcopy(dict(values))
    for name, value in changes.items():
        node: Any = values
        parents = name.split(".")
        for parent in parents[:-1]:
            node = node.get(parent) if isinstance(node, dict) else None
        if not isinstance(node, dict) or parents[-1] not in node:
            raise ConfigError(f"--set {name}: the job has no such field{nearest(name, values)}")
        node[parents[-1]] = value
    try:
        return Job.from_dict(values, where=where)
    except ConfigError as error:  # names in it are the file's: a line break or a control code is shown, not obeyed
        lines = [line if changes or line.startswith(where) else f"{where}: {line}" for line in str(error).split("\n")]
        raise ConfigError("\n".join(map(printable, lines))) from None
    except (ArithmeticError, ValueError) as error:
        raise ConfigError(f"{where}: holds a value that cannot be ({printable(str(error))})") from None


def _check_plain(values: Any, where: str) -> None:
    """Raise `ConfigError` for what no job can hold, before anything is made of it."""
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: expected a mapping of fields, got {printable(shown(values))}")
    if fault := size_fault(values):
        raise ConfigError(f"{where}: {fault}")
    if mistakes := list(unplain(values)):
        raise all_of((where, *mistake) for mistake in mistakes)


def earlier_seed(folder: Path, seed: int) -> EarlierSeed:
    """What a seed's `folder` holds. Raises a `UserError` when there is no artifact, or none that can be read."""
    from golf_core.artifact.codec import decode, read_artifact

    path = folder / ARTIFACT
    if not path.exists():
        raise ConfigError(f"{path}: missing; seed {seed} of that run left no artifact to evaluate")
    artifact = read_artifact(path)
    decode(artifact, str(path))  # refuse a damaged one before any rank is started
    result = records.load(SeedResult, path.with_name(RESULT))
    return EarlierSeed(folder.resolve().parent.name, artifact, result.train, result.export)


@dataclass(frozen=True)
class EarlierSeed:
    """What the run called `run_id` left of a seed, for a new evaluation: its artifact and figures."""

    run_id: str
    artifact: bytes
    train: TrainResult | None
    export: ExportResult | None
