"""`golf export`: its commands and their options. Nothing heavy is imported before one runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from golf_core.errors import UserError
from orchestrator.submit.options import RayJobOptions, SlurmOptions, with_options

if TYPE_CHECKING:
    from orchestrator.job.load import Job

export_app = typer.Typer(help="Write a job down for another scheduler.", no_args_is_help=True)

JobFile = Annotated[Path, typer.Argument(help="A job file, such as jobs/three_seed.yaml.", show_default=False)]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Replace a field of the job, e.g. data.path=/data."),
]
Out = Annotated[Path | None, typer.Option(help="File to write. Default: standard output.")]


@export_app.command()
@with_options(RayJobOptions)
def rayjob(job: JobFile, options: RayJobOptions, set_: Changes = None, out: Out = None) -> None:
    """A KubeRay RayJob, for kubectl apply."""
    from orchestrator.submit.rayjob import rayjob_manifest
    from orchestrator.submit.submit import job_metadata

    output = [f"output={options.mount.rstrip('/')}/runs"] if options.claim else []
    changes = [*output, *(set_ or [])]
    loaded = _load(job, changes)
    _write(rayjob_manifest(loaded, job, changes, job_metadata(loaded), options), out)
    if options.claim is None:
        _note("without --claim the results are lost with the pods; name a PersistentVolumeClaim")


@export_app.command()
@with_options(SlurmOptions)
def slurm(job: JobFile, options: SlurmOptions, set_: Changes = None, out: Out = None) -> None:
    """A Slurm batch script, for sbatch."""
    from orchestrator.submit.slurm import slurm_script

    changes = set_ or []
    loaded = _load(job, changes)
    folder = (options.project or Path.cwd()).absolute()
    environment = options.environment or (None if options.container else Path(sys.prefix))
    options = replace(options, project=folder, environment=environment and environment.absolute())
    place = job.absolute()
    path = place.relative_to(folder) if place.is_relative_to(folder) else place
    _write(slurm_script(loaded, path, changes, options), out)


def _load(job: Path, changes: Sequence[str]) -> Job:
    from orchestrator.job.load import load_job, parse_changes

    return load_job(job, parse_changes(changes))


def _write(text: str, out: Path | None) -> None:
    from golf_core.files import write_text

    if out is None:
        typer.echo(text, nl=False)
        return
    try:
        write_text(out, text)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror})") from None
    _note(f"written: {out}")


def _note(text: str) -> None:
    typer.echo(text, err=True)
