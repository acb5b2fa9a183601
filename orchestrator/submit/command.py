"""`golf submit` and `golf export`: what they are told of the place where a job runs, which the job file does not say.

Nothing heavy is imported before one runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from golf_core.errors import UserError
from orchestrator.options import with_options
from orchestrator.preflight.command import Changes, JobFile

if TYPE_CHECKING:
    from orchestrator.job.load import Job

export_app = typer.Typer(help="Write a job down for another scheduler.", no_args_is_help=True)

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
Out = Annotated[Path | None, typer.Option(help="File to write. Default: standard output.")]
Parallel = Annotated[int, typer.Option(help="Seeds that run side by side.")]


@dataclass(frozen=True)
class RayJobOptions:
    """What a KubeRay manifest asks for."""

    image: Annotated[str, typer.Option(help="Image with this project, its requirements and Ray.")]
    namespace: Annotated[str | None, typer.Option(help="Default: that of kubectl.")] = None
    parallel: Parallel = 1
    claim: Annotated[str | None, typer.Option(help="PersistentVolumeClaim for data and runs.")] = None
    mount: Annotated[str, typer.Option(help="Where the claim is mounted; runs go to its folder 'runs'.")] = "/mnt/golf"
    project: Annotated[str, typer.Option(help="The project's folder in the image.")] = "/workspace/golf"
    python: Annotated[str, typer.Option(help="The image's interpreter.")] = "python"
    ray_version: Annotated[str | None, typer.Option(help="The image's. Default: the one installed here.")] = None
    secret: Annotated[str | None, typer.Option(help="Secret whose keys become environment variables.")] = None
    env: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Environment; no secrets.")] = None
    node_selector: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Label of the nodes.")] = None
    gke: Annotated[bool, typer.Option("--gke", help="Select nodes by GKE's label for the job's accelerator.")] = False
    submission_mode: Annotated[
        str | None, typer.Option(help="K8sJobMode, HTTPMode or SidecarMode. Default: the first that serves.")
    ] = None
    token: Annotated[bool, typer.Option("--token", help="Close the cluster with a token (KubeRay 1.6).")] = False
    memory: Annotated[str | None, typer.Option(help="Of a worker pod, e.g. 200Gi. Default: by its ranks.")] = None
    shm: Annotated[str | None, typer.Option(help="Of a worker's /dev/shm, a part of its memory.")] = None
    ttl: Annotated[int, typer.Option(min=0, help="Seconds for which the pods stay after the end.")] = 600


@dataclass(frozen=True)
class SlurmOptions:
    """What a Slurm batch script asks for."""

    parallel: Parallel = 1
    partition: Annotated[str | None, typer.Option(help="Default: the cluster's.")] = None
    account: Annotated[str | None, typer.Option(help="Default: yours.")] = None
    qos: Annotated[str | None, typer.Option(help="Default: the partition's.")] = None
    constraint: Annotated[str | None, typer.Option(help="A feature that the nodes must have.")] = None
    time: Annotated[str | None, typer.Option(help="Default: the job's limits, all of them used up.")] = None
    memory: Annotated[str | None, typer.Option(help="Of a node, e.g. 200G. Default: the partition's.")] = None
    gpu_type: Annotated[str | None, typer.Option(help="Slurm's name of it, e.g. h100. Default: any GPU.")] = None
    project: Annotated[Path | None, typer.Option(help="Where the job runs. Default: the current folder.")] = None
    environment: Annotated[Path | None, typer.Option(help="Python environment. Default: this one.")] = None
    container: Annotated[str | None, typer.Option(help="Image for the Pyxis plugin.")] = None
    mount: Annotated[list[str] | None, typer.Option(metavar="SOURCE:TARGET", help="Into the container.")] = None


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


def submit_command(
    job: JobFile,
    address: Annotated[
        str | None, typer.Option(help=f"The cluster's dashboard. Default: RAY_API_SERVER_ADDRESS or {DEFAULT_ADDRESS}.")
    ] = None,
    set_: Changes = None,
    working_dir: Annotated[
        str | None,
        typer.Option(help="Folder to upload, or 'none'. Default: this one, unless the cluster's head runs in it."),
    ] = None,
    python: Annotated[
        str | None, typer.Option(help="The cluster's interpreter. Default: this one for a head on this machine.")
    ] = None,
    follow: Annotated[bool, typer.Option(help="Print the job's log and end with its exit code.")] = True,
    stop_on_interrupt: Annotated[
        bool, typer.Option("--stop-on-interrupt", help="Ctrl-C stops the job as well, without asking.")
    ] = False,
) -> None:
    """Run a job on a Ray cluster through its dashboard. Exit code: the job's; 130 if it was stopped."""
    from importlib import metadata

    from orchestrator.submit.follow import Follower, check_version, dashboard_address, open_client, own_head
    from orchestrator.submit.submit import after_interrupt, exit_code, how_to, plan, submit

    changes = set_ or []
    loaded = _load(job, changes)
    url = dashboard_address(address, os.environ)
    client = open_client(url)
    head = own_head(url)
    what = plan(loaded, job, changes, head, working_dir, python)
    own_interpreter = head is not None and python is None
    note = check_version(getattr(client, "_server_ray_version", None), metadata.version("ray"), own_interpreter)
    if note:
        _note(note)
    job_id = submit(client, what, loaded, url)
    _note(f"submitted: {job_id}\n{how_to(job_id, url)}")
    if not follow:
        return
    try:
        end = Follower(client, job_id, url, _print).run()
    except KeyboardInterrupt:
        raise typer.Exit(after_interrupt(client, job_id, url, stop_on_interrupt, _note)) from None
    _note(f"{job_id}: {end.status.lower()}" + (f": {end.message}" if end.status == "FAILED" and end.message else ""))
    raise typer.Exit(exit_code(end))


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


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
