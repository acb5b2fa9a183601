"""The manifest of a record package: what each file is, and every figure that a reproduction is compared with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from golf_core import files, strict_json
from golf_core.errors import ConfigError
from golf_core.results import DataRecord
from orchestrator.folder.results import PROGRAM, READABLE, RunResult, SeedResult
from orchestrator.job.load import Job

RECORD = "record.json"
README, SUBMISSION, REQUIREMENTS = "README.md", "submission.json", "requirements.txt"
FORMAT = 1
_ABSOLUTE_PATH = re.compile(r"(?<![\w.:/~-])~?(?:/[\w.+@-]+){2,}/?")


@dataclass(frozen=True)
class PackagedFile:
    """One file of a package."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Record:
    """The content of record.json: the run's result without what only its machine knows, and the files beside it."""

    format: int
    run: RunResult
    """Without absolute paths and addresses, and without the evaluations' chunks, which the logs have."""
    data: Mapping[str, DataRecord]
    """What each seed saw, by the seed as text; folders without their place."""
    files: tuple[PackagedFile, ...]
    """All files but record.json itself."""

    def has(self, name: str) -> bool:
        """Whether the package holds a file of this name."""
        return any(file.name == name for file in self.files)


def weights_name(seed: int) -> str:
    """The name of a seed's weights in a package."""
    return f"model_seed{seed}.golf"


def log_name(seed: int) -> str:
    """The name of a seed's log in a package."""
    return f"train_seed{seed}.log"


def file_entry(path: Path) -> PackagedFile:
    """The manifest's line for the file at `path`."""
    return PackagedFile(path.name, path.stat().st_size, files.sha256(path))


def load_record(folder: Path) -> Record:
    """The manifest of the package in `folder`, after every file was compared with it.

    Raises `ConfigError` naming the file for a folder that is no package, or one whose files were changed.
    """
    path = folder / RECORD
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; name the folder of a package, as `golf package` makes it")
    record = strict_json.load(Record, path, files.MAX_RECORD_BYTES)
    if record.format != FORMAT:
        raise ConfigError(f"{path}: format {record.format} is unknown to this version, which reads {FORMAT}")
    for file in record.files:
        found = folder / file.name
        if PurePosixPath(file.name).name != file.name or not found.is_file():
            raise ConfigError(f"{found}: missing, though {RECORD} lists it; copy the package again")
        if file_entry(found) != file:
            raise ConfigError(f"{found}: not the file that {RECORD} lists (its SHA-256 differs); copy it again")
    for name in (PROGRAM, READABLE):
        if not record.has(name):
            raise ConfigError(f"{path}: lists no {name}; package the run again")
    return record


def portable(result: RunResult) -> RunResult:
    """A run's result without absolute paths, host names and addresses, and without the evaluations' chunks."""
    return replace(
        result,
        job=_portable_job(result.job),
        provenance={name: without_paths(value) for name, value in result.provenance.items()},
        seeds=tuple(_portable_seed(seed) for seed in result.seeds),
    )


def portable_data(data: DataRecord) -> DataRecord:
    """A seed's data record with file names in place of paths."""
    return replace(data, path=_name(data.path), tokenizer=_name(data.tokenizer))


def without_paths(text: str) -> str:
    """`text` with every absolute path cut to its last part."""
    return _ABSOLUTE_PATH.sub(lambda found: _name(found.group()), text)


def _portable_job(job: Job) -> Job:
    data = job.data
    if data != "sample":  # where they can be fetched from is nobody's own
        data = data.model_copy(update={"path": _relative(data.path), "tokenizer": _relative(data.tokenizer)})
    # Where results and tracking went is no part of the experiment, and an address may hold a password.
    mlflow = job.mlflow.model_copy(update={"tracking_uri": None})
    return job.model_copy(update={"data": data, "output": "runs", "mlflow": mlflow})


def _portable_seed(seed: SeedResult) -> SeedResult:
    evaluated = None if seed.evaluate is None else replace(seed.evaluate, history=())
    return replace(seed, evaluate=evaluated, node="", error=without_paths(seed.error) if seed.error else None)


def _relative(place: str) -> str:
    inside = not PurePosixPath(place).is_absolute() and not place.startswith(("~", ".."))
    return place if inside else _name(place)


def _name(place: str) -> str:
    return PurePosixPath(place).name or "data"
