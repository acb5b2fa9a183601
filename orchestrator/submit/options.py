"""What a job file does not say of the place where the job runs: one dataclass for each kind of place, and a way to give
its fields on a command line. Nothing heavy is imported here."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import typer

Parallel = Annotated[int, typer.Option(help="Seeds that run side by side.")]


def with_options(kind: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a typer command have the fields of the dataclass `kind` as options; it gets them together, as `options`."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**given: Any) -> None:
            options = kind(**{field.name: given.pop(field.name) for field in fields(kind)})
            command(**given, options=options)

        own = inspect.signature(command, eval_str=True).parameters.values()
        offered = inspect.signature(kind, eval_str=True).parameters.values()
        parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in (*own, *offered) if p.name != "options"]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # what typer reads
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


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
