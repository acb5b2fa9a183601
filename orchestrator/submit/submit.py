"""A job sent to a Ray cluster that is there already: what travels, the submission, and how it ends.

Ray can pack a folder itself, but as of 2.60 it looks at files named .gitignore alone: what git ignores for another
reason, such as secrets named in .git/info/exclude, would travel.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from golf_core.errors import RunError, UserError
from orchestrator.folder.provenance import provenance
from orchestrator.folder.redaction import Redactor
from orchestrator.job.load import Job
from orchestrator.submit.entry import module_program, run_words, shell_line
from orchestrator.submit.follow import ANSWER_S, JobEnd, bounded, wait_for_end

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

UPLOAD_S = 600.0
STOP_S = 60.0
INTERRUPTED = 130
NO_UPLOAD = "none"
Say = Callable[[str], None]
LIMIT_BYTES = 100 * 1024**2
"""Bytes of the zip file: Ray's dashboard takes no larger request."""
LEFT_BEHIND = frozenset({".git", ".venv", "venv", "__pycache__"})
FIXED_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Plan:
    """What is submitted."""

    entrypoint: str
    """A line for the shell of the head."""
    upload: Path | None
    """The folder that travels; None: the cluster has the project."""
    names: tuple[str, ...]
    """The files of `upload` that travel, relative to it."""


# --- what is submitted ----------------------------------------------------------------------------


def job_metadata(job: Job) -> dict[str, str]:
    """What tells afterwards which job this was, and of which code; all plain text."""
    origin = provenance(Redactor.from_environment(os.environ).redact)
    return {
        "job_name": job.name,
        "job_sha256": job.digest,
        "git_commit": origin["git_commit"],
        "git_dirty": origin["git_dirty"],
    }


def plan(
    job: Job,
    path: Path,
    changes: Sequence[str],
    head: Path | None,
    working_dir: str | None = None,
    python: str | None = None,
) -> Plan:
    """How `job`, read from `path` with `changes`, is run on the cluster.

    `head` is the folder where the cluster's head was started if it runs on this machine, else None. Nothing
    travels where that is the current folder, or with `working_dir` 'none'. Raises `UserError` where the job
    could not run there, or its results would be lost.
    """
    interpreter = python or (sys.executable if head else "python")
    upload = _folder_to_upload(head, working_dir)
    if upload is None:
        place = path if head is None else path.absolute()
        return Plan(shell_line(run_words(place, changes, module_program(interpreter))), None, ())
    place = path.absolute().resolve()
    if not place.is_relative_to(upload):
        raise UserError(f"{path}: lies outside of {upload}, the folder that travels; copy it there, or --working-dir")
    place = place.relative_to(upload)
    names = tuple(files_to_upload(upload))
    if str(place) not in names:
        raise UserError(f"{path}: .gitignore names it, so it does not travel; move it, or take it out of .gitignore")
    _refuse_losses(job, frozenset(names))
    return Plan(shell_line(run_words(place, changes, module_program(interpreter))), upload, names)


def _folder_to_upload(head: Path | None, working_dir: str | None) -> Path | None:
    here = Path.cwd()
    if working_dir == NO_UPLOAD or (working_dir is None and head is not None and head == here.resolve()):
        return None
    if working_dir is not None:
        folder = Path(working_dir).resolve()
        if not folder.is_dir():
            raise UserError(f"--working-dir {working_dir}: no such folder; give the project's, or '{NO_UPLOAD}'")
        return folder
    if not (here / "orchestrator" / "__main__.py").is_file():
        raise UserError(
            f"{here}: not the project's folder, which has to travel; run this there, give --working-dir FOLDER, "
            f"or --working-dir {NO_UPLOAD} where the cluster has the project"
        )
    return here.resolve()


def _refuse_losses(job: Job, names: frozenset[str]) -> None:
    if not Path(job.output).is_absolute():
        raise UserError(
            f"output: {job.output!r} would lie in the uploaded folder, which Ray deletes; "
            "give --set output=FOLDER, an absolute path of the cluster"
        )
    if job.data == "sample" or job.data.fetch is not None:  # nodes get it themselves
        return
    for field, value in (("data.path", job.data.path), ("data.tokenizer", job.data.tokenizer)):
        inside = os.path.normpath(value)
        if not Path(value).is_absolute() and not any(n == inside or n.startswith(f"{inside}/") for n in names):
            raise UserError(
                f"{field}: {value!r} does not travel with the project; give --set {field}=…, an absolute path of "
                "the cluster"
            )


# --- the project as a zip file --------------------------------------------------------------------


def files_to_upload(folder: Path) -> list[str]:
    """The files of `folder` that travel, relative to it, sorted: all but those that git ignores.

    Without git, all but caches and environments.
    """
    names = _known_to_git(folder)
    if names is None:
        names = list(_walk(folder))
    return sorted(name for name in names if (folder / name).is_file())


def write_package(folder: Path, names: Sequence[str], package: Path, limit: int = LIMIT_BYTES) -> Path:
    """Write the files `names` of `folder` to the zip file `package`; equal files make equal bytes.

    Raises `UserError` as soon as it is larger than `limit`.
    """
    with zipfile.ZipFile(package, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            source = folder / name
            entry = zipfile.ZipInfo(name, FIXED_DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (source.stat().st_mode & 0xFFFF) << 16
            with source.open("rb") as file, archive.open(entry, "w", force_zip64=True) as target:
                while block := file.read(1 << 20):
                    target.write(block)
                    _refuse_large(package, limit, folder, names)
    _refuse_large(package, limit, folder, names)
    return package


def _refuse_large(package: Path, limit: int, folder: Path, names: Sequence[str]) -> None:
    if package.stat().st_size <= limit:
        return
    largest = sorted(names, key=lambda name: -(folder / name).stat().st_size)[:3]
    shown = ", ".join(f"{name} ({(folder / name).stat().st_size / 1024**2:.0f} MiB)" for name in largest)
    raise UserError(
        f"{folder}: more than the {limit / 1024**2:g} MiB that Ray takes as an upload, the largest being {shown}; "
        "name them in .gitignore, or --working-dir none where the cluster has the project"
    )


def _known_to_git(folder: Path) -> list[str] | None:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return None
    return [os.fsdecode(name) for name in done.stdout.split(b"\0") if name]


def _walk(folder: Path) -> Iterator[str]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in LEFT_BEHIND]
        for name in files:
            yield os.path.relpath(os.path.join(parent, name), folder)  # noqa: PTH118


# --- the submission -------------------------------------------------------------------------------


def submit(client: JobSubmissionClient, what: Plan, job: Job, address: str) -> str:
    """Upload and submit; the id of the submission. Raises `UserError` where the upload is too large for Ray."""
    # Chosen here: should the answer be lost, the job can be found.
    submission_id = f"golf-{job.name}-{secrets.token_hex(4)}"
    with tempfile.TemporaryDirectory(prefix="golf-upload-") as folder:
        runtime_env: dict[str, Any] = {}
        if what.upload is not None:
            runtime_env["working_dir"] = str(write_package(what.upload, what.names, Path(folder) / "project.zip"))
        bounded(
            lambda: client.submit_job(
                entrypoint=what.entrypoint,
                submission_id=submission_id,
                runtime_env=runtime_env,
                metadata=job_metadata(job),
            ),
            UPLOAD_S,
            f"--address {address}",
        )
    return submission_id


def exit_code(end: JobEnd) -> int:
    """0 succeeded; the job's own 1 or 2 for failed (1 where it is not known); 130 stopped."""
    if end.status == "SUCCEEDED":
        return 0
    if end.status == "STOPPED":
        return INTERRUPTED
    return end.exit_code if end.exit_code in (1, 2) else 1


def after_interrupt(
    client: JobSubmissionClient, job_id: str, address: str, stop: bool, say: Callable[[str], None]
) -> int:
    """Ctrl-C ends the following; the job is stopped if `stop`, or if a person says so when asked, once."""
    if not stop and sys.stdin.isatty():
        with contextlib.suppress(typer.Abort):
            stop = typer.confirm("\nStop the job on the cluster too?", default=False)
    if not stop:
        say(f"\nthe job runs on\n{how_to(job_id, address)}")
        return INTERRUPTED
    bounded(lambda: client.stop_job(job_id), ANSWER_S, f"stopping {job_id}")
    end = wait_for_end(client, job_id, STOP_S)
    if end is None:
        raise RunError(f"{job_id}: was told to stop and has not ended within {STOP_S:g} s; look at {address}")
    say(f"\n{job_id}: {end.status.lower()}")
    return INTERRUPTED


def how_to(job_id: str, address: str) -> str:
    """How the job is followed and stopped from now on."""
    return (
        f"  follow it:  ray job logs --follow --address {address} {job_id}\n"
        f"  stop it:    ray job stop --address {address} {job_id}"
    )
