"""A finished run as the folder that the challenge asks for: checked first, then written whole or not at all."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from golf_core import files, strict_json
from golf_core.artifact.program import ProgramError, is_made_from
from golf_core.errors import ConfigError
from golf_core.results import DataRecord
from orchestrator.claim.rebuild import judged_anew
from orchestrator.folder.event_log import read_events
from orchestrator.folder.redaction import Redactor, redacted
from orchestrator.folder.results import ARTIFACT, DATA, LOG, PROGRAM, READABLE, RESULT, RunResult, SeedResult
from orchestrator.folder.seed_log import plain_log
from orchestrator.job.load import Job
from orchestrator.package.submission import (
    README,
    RECORD,
    REQUIREMENTS,
    SUBMISSION,
    Author,
    PackagedFile,
    readme,
    submission,
    weights_name,
)

FORMAT = 1
_ABSOLUTE_PATH = re.compile(r"(?<![\w.:/~-])~?(?:/[\w.+@-]+){2,}/?")
OLD_PROGRAM = "train_gpt.pyz"
REQUIRED = ("torch", "numpy", "sentencepiece")
"""What the program imports from outside the standard library."""


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


def package(
    folder: Path,
    out: Path | None = None,
    weights: bool = True,
    author: Author | None = None,
    redactor: Redactor | None = None,
) -> Path:
    """Write the package of the run in `folder` to `out` (default: `folder`/package); returns where it is.

    `out` must not exist or be empty; it appears whole. Its texts are redacted; without a `redactor`, only of tokens
    of well-known shapes. Raises `ConfigError` for a run that is not finished, has no program, whose files are not
    those that its records describe, or whose program or weights, which stay byte for byte, hold a secret.
    """
    result = _checked(folder)
    out = (out or folder / "package").absolute()
    redactor = redactor or Redactor.from_environment({})
    with _new_folder(out) as place:
        _write(place, folder, result, weights, author or Author(), redactor)
        _refuse_secrets(place, folder, redactor)
    return out


# --- checks -----------------------------------------------------------------------------------------


def _checked(folder: Path) -> RunResult:
    """The result of the run in `folder`, whose files are what its records say."""
    if not (folder / RESULT).is_file():
        raise ConfigError(f"{folder / RESULT}: no such file; name the folder of a finished run, such as runs/smoke-…")
    result = judged_anew(folder)
    missing = [seed for seed in result.job.seeds if seed not in [s.seed for s in result.seeds]]
    if missing:
        raise ConfigError(f"{folder}: seed {missing[0]} is not reported; only a finished run can be packaged")
    for seed in result.seeds:
        _check_seed(folder / f"seed-{seed.seed}", seed)
    first = folder / f"seed-{result.seeds[0].seed}"
    program = (first / PROGRAM).read_bytes()
    for seed in result.seeds[1:]:
        other = folder / f"seed-{seed.seed}" / PROGRAM
        if other.read_bytes() != program:
            raise ConfigError(f"{other}: not the program of the other seeds; a record is made by one program")
    _check_readable(first, program)
    return result


def _check_seed(folder: Path, seed: SeedResult) -> None:
    if seed.status != "finished" or not (seed.train and seed.export and seed.evaluate):
        reason = f" ({seed.error})" if seed.error else ""
        raise ConfigError(f"{folder}: seed {seed.seed} did not finish{reason}; only a finished run can be packaged")
    if (folder / OLD_PROGRAM).exists():
        raise ConfigError(
            f"{folder / OLD_PROGRAM}: the run was recorded before programs were single files; run the job again"
        )
    for name in (PROGRAM, READABLE):
        if not (folder / name).is_file():
            raise ConfigError(
                f"{folder / name}: missing; package the run that trained the weights (a run of `golf evaluate` has "
                "no program of its own)"
            )
    if not (folder / ARTIFACT).is_file() or files.sha256(folder / ARTIFACT) != seed.export.sha256:
        raise ConfigError(f"{folder / ARTIFACT}: not the artifact that was exported (its SHA-256 differs)")
    if (size := (folder / PROGRAM).stat().st_size) != seed.export.code_bytes:
        raise ConfigError(
            f"{folder / PROGRAM}: {size:,} bytes where the run counted {seed.export.code_bytes:,}; it was changed since"
        )
    # As JSON, in which a figure that is not a number equals itself.
    if strict_json.to_dict(strict_json.load(SeedResult, folder / RESULT)) != strict_json.to_dict(seed):
        raise ConfigError(f"{folder / RESULT}: does not agree with the run's own {RESULT}; one of them was changed")


def _check_readable(folder: Path, program: bytes) -> None:
    """Whether the form to read is the program that was counted: minified, it must be what is packed."""
    try:
        same = is_made_from(program, (folder / READABLE).read_text(encoding="utf-8"))
    except (ProgramError, SyntaxError, UnicodeDecodeError) as error:
        raise ConfigError(f"{folder}: {PROGRAM} and {READABLE} cannot be compared ({error})") from None
    if not same:
        raise ConfigError(f"{folder / READABLE}: not the program that is packed in {PROGRAM}; one of them was changed")


# --- files ------------------------------------------------------------------------------------------


def _write(place: Path, folder: Path, run: RunResult, weights: bool, author: Author, redactor: Redactor) -> None:
    # Before they are worked into texts: a secret in a table may be written in a way of its own.
    result = redacted(portable(run), redactor, folder / RESULT)
    data = {}
    for seed in run.seeds:
        path = folder / f"seed-{seed.seed}" / DATA
        data[str(seed.seed)] = redacted(portable_data(strict_json.load(DataRecord, path)), redactor, path)

    def write(name: str, text: str) -> None:
        files.write_text(place / name, redactor.redact(text))

    first = folder / f"seed-{result.seeds[0].seed}"
    for name in (PROGRAM, READABLE):
        files.write_bytes(place / name, (first / name).read_bytes())
    for seed in run.seeds:
        own = folder / f"seed-{seed.seed}"
        lines = plain_log(result.job, result.provenance, seed, data[str(seed.seed)], read_events(own / LOG))
        write(f"train_seed{seed.seed}.log", without_paths(redactor.redact("\n".join(lines) + "\n")))
        if weights:
            files.write_bytes(place / weights_name(seed.seed), (own / ARTIFACT).read_bytes())
    described = redactor.redact_value(submission(result, author))
    files.write_text(place / SUBMISSION, json.dumps(described, indent=2, ensure_ascii=False) + "\n")
    write(REQUIREMENTS, requirements(result.provenance))
    listed = [file_entry(path) for path in sorted(place.iterdir())]
    write(README, readme(result, data, listed))
    entries = tuple(file_entry(path) for path in sorted(place.iterdir()))
    strict_json.save(Record(FORMAT, result, data, entries), place / RECORD)


def _refuse_secrets(place: Path, folder: Path, redactor: Redactor) -> None:
    """Raise `ConfigError` where a secret is left: in what may not be changed, or in the names of a record's fields."""
    for path in sorted(place.iterdir()):
        variable = redactor.variable_in(path.read_bytes())
        if variable is not None:
            raise ConfigError(
                f"{folder}: {path.name} of its package would hold the value of the environment variable {variable}; "
                "take the value out and run the job again, or unset the variable where it is no secret"
            )


def requirements(provenance: Mapping[str, str]) -> str:
    """requirements.txt: the versions that the run used, as far as they were recorded."""
    lines = [f"# Python {provenance['python']}"] if provenance.get("python") else []
    for name in REQUIRED:
        version = provenance.get(name, "absent")
        if version in ("absent", "unknown"):
            lines.append(f"{name}  # the version was not recorded")
            continue
        public, _, local = version.partition("+")
        # A local version (+cpu, +cu128) says which build it was; the index of packages knows the public one.
        lines.append(f"{name}=={public}" + (f"  # the run used {version}" if local else ""))
    return "\n".join(lines) + "\n"


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that becomes `out` on success and vanishes on failure."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: exists and is not an empty folder; choose another with --out, or remove it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    except OSError as error:
        raise ConfigError(f"{out}: cannot be made ({error.strerror}); choose another folder with --out") from None
    try:
        yield place
        place.chmod(0o755)  # mkdtemp's folders are private
        place.rename(out)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise


# --- record.json: what each file is, and every figure that a reproduction is compared with ---


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
