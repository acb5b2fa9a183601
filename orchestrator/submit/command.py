"""`golf export`: its commands and their options. Nothing heavy is imported before one runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from golf_core.errors import UserError

if TYPE_CHECKING:
    from orchestrator.job.load import Job

export_app = typer.Typer(help="Write a job down for another scheduler.", no_args_is_help=True)

JobFile = Annotated[Path, typer.Argument(help="A job file, such as jobs/three_seed.yaml.", show_default=False)]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Replace a field of the job, e.g. data.path=/data."),
]
Out = Annotated[Path | None, typer.Option(help="File to write. Default: standard output.")]
Parallel = Annotated[int, typer.Option(help="Seeds that run side by side.")]


@export_app.command()
def rayjob(
    job: JobFile,
    image: Annotated[str, typer.Option(help="Image with this project, its requirements and Ray.")],
    set_: Changes = None,
    out: Out = None,
    namespace: Annotated[str | None, typer.Option(help="Default: that of kubectl.")] = None,
    parallel: Parallel = 1,
    claim: Annotated[str | None, typer.Option(help="PersistentVolumeClaim for data and runs.")] = None,
    mount: Annotated[str, typer.Option(help="Where the claim is mounted; runs go to its folder 'runs'.")] = "/mnt/golf",
    project: Annotated[str, typer.Option(help="The project's folder in the image.")] = "/workspace/golf",
    python: Annotated[str, typer.Option(help="The image's interpreter.")] = "python",
    ray_version: Annotated[str | None, typer.Option(help="The image's. Default: the one installed here.")] = None,
    secret: Annotated[str | None, typer.Option(help="Secret whose keys become environment variables.")] = None,
    env: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Environment; no secrets.")] = None,
    node_selector: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Label of the nodes.")] = None,
    gke: Annotated[bool, typer.Option("--gke", help="Select nodes by GKE's label for the job's accelerator.")] = False,
    submission_mode: Annotated[
        str | None, typer.Option(help="K8sJobMode, HTTPMode or SidecarMode. Default: the first that serves.")
    ] = None,
    token: Annotated[bool, typer.Option("--token", help="Close the cluster with a token (KubeRay 1.6).")] = False,
    memory: Annotated[str | None, typer.Option(help="Of a worker pod, e.g. 200Gi. Default: by its ranks.")] = None,
    shm: Annotated[str | None, typer.Option(help="Of a worker's /dev/shm, a part of its memory.")] = None,
    ttl: Annotated[int, typer.Option(min=0, help="Seconds for which the pods stay after the end.")] = 600,
) -> None:
    """A KubeRay RayJob, for kubectl apply."""
    from orchestrator.submit.rayjob import RayJobOptions, SubmissionMode, rayjob_manifest
    from orchestrator.submit.submit import job_metadata

    changes = [*([f"output={mount.rstrip('/')}/runs"] if claim else []), *(set_ or [])]
    loaded = _load(job, changes)
    if submission_mode not in (None, "K8sJobMode", "HTTPMode", "SidecarMode"):
        raise UserError(f"--submission-mode {submission_mode}: give K8sJobMode, HTTPMode or SidecarMode")
    options = RayJobOptions(
        image=image,
        ray_version=ray_version or _installed_ray(),
        project=project,
        python=python,
        namespace=namespace,
        parallel=parallel,
        claim=claim,
        mount=mount,
        secret=secret,
        env=_pairs("--env", env),
        node_selector={**(_gke_selector(loaded) if gke else {}), **_pairs("--node-selector", node_selector)},
        submission_mode=cast("SubmissionMode | None", submission_mode),
        token=token,
        memory=memory,
        shm=shm,
        ttl_seconds=ttl,
    )
    _write(rayjob_manifest(loaded, job, changes, job_metadata(loaded), options), out)
    if claim is None:
        _note("without --claim the results are lost with the pods; name a PersistentVolumeClaim")


@export_app.command()
def slurm(
    job: JobFile,
    set_: Changes = None,
    out: Out = None,
    parallel: Parallel = 1,
    partition: Annotated[str | None, typer.Option(help="Default: the cluster's.")] = None,
    account: Annotated[str | None, typer.Option(help="Default: yours.")] = None,
    qos: Annotated[str | None, typer.Option(help="Default: the partition's.")] = None,
    constraint: Annotated[str | None, typer.Option(help="A feature that the nodes must have.")] = None,
    time: Annotated[str | None, typer.Option(help="Default: the job's limits, all of them used up.")] = None,
    memory: Annotated[str | None, typer.Option(help="Of a node, e.g. 200G. Default: the partition's.")] = None,
    gpu_type: Annotated[str | None, typer.Option(help="Slurm's name of it, e.g. h100. Default: any GPU.")] = None,
    project: Annotated[Path | None, typer.Option(help="Where the job runs. Default: the current folder.")] = None,
    environment: Annotated[Path | None, typer.Option(help="Python environment. Default: this one.")] = None,
    container: Annotated[str | None, typer.Option(help="Image for the Pyxis plugin.")] = None,
    mount: Annotated[list[str] | None, typer.Option(metavar="SOURCE:TARGET", help="Into the container.")] = None,
) -> None:
    """A Slurm batch script, for sbatch."""
    from orchestrator.submit.slurm import SlurmOptions, slurm_script

    changes = set_ or []
    loaded = _load(job, changes)
    here = None if container else Path(sys.prefix)
    folder = (project or Path.cwd()).absolute()
    options = SlurmOptions(
        project=folder,
        environment=environment.absolute() if environment else here,
        partition=partition,
        account=account,
        qos=qos,
        constraint=constraint,
        time=time,
        memory=memory,
        gpu_type=gpu_type,
        container=container,
        mounts=tuple(mount or []),
        parallel=parallel,
    )
    place = job.absolute()
    path = place.relative_to(folder) if place.is_relative_to(folder) else place
    _write(slurm_script(loaded, path, changes, options), out)


def _load(job: Path, changes: Sequence[str]) -> Job:
    from orchestrator.job.load import load_job, parse_changes

    return load_job(job, parse_changes(changes))


def _pairs(option: str, texts: Sequence[str] | None) -> dict[str, str]:
    pairs = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UserError(f"{option} {text}: not of the form NAME=VALUE")
        pairs[name] = value
    return pairs


def _gke_selector(job: Job) -> dict[str, str]:
    from orchestrator.submit.rayjob import GKE_ACCELERATORS, GKE_LABEL

    accelerator: Any = job.resources.accelerator
    if accelerator not in GKE_ACCELERATORS:
        known = ", ".join(GKE_ACCELERATORS)
        raise UserError(
            f"--gke: resources.accelerator is {accelerator or 'null'}, known are {known}; "
            f"give --node-selector {GKE_LABEL}=VALUE"
        )
    return {GKE_LABEL: GKE_ACCELERATORS[accelerator]}


def _installed_ray() -> str:
    from importlib import metadata

    return metadata.version("ray")


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
