"""A job as a KubeRay manifest: one RayJob with a head that computes nothing and one worker pod a node of each gang."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from golf_core.errors import UserError
from orchestrator.job.load import Job
from orchestrator.submit.entry import is_plain, module_program, run_words, shell_line, worst_case_seconds

SubmissionMode = Literal["K8sJobMode", "HTTPMode", "SidecarMode"]
MAX_NAME = 41
"""Characters of a RayJob's name: KubeRay appends to it what makes the names of the cluster and its services."""
PROVISION_S = 3600
"""For nodes to be had and images to be pulled, before the job begins."""
MAX_SECONDS = 2**31 - 1
GKE_LABEL = "cloud.google.com/gke-accelerator"
GKE_ACCELERATORS: Mapping[str, str] = {
    "A100": "nvidia-tesla-a100",
    "A100-80G": "nvidia-a100-80gb",
    "B200": "nvidia-b200",
    "H100": "nvidia-h100-80gb",
    "H200": "nvidia-h200-141gb",
    "L4": "nvidia-l4",
    "P100": "nvidia-tesla-p100",
    "T4": "nvidia-tesla-t4",
    "V100": "nvidia-tesla-v100",
}
"""Ray's name of an accelerator and the value of GKE's label for its nodes."""
_SECRET_LIKE = re.compile(r"(?i)token|secret|passw|credential|api_?key|access_?key|private_?key")
_DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_DNS_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_LABEL_KEY = re.compile(r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?([KMGTP]i?)?")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/+-]*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+[A-Za-z0-9.+-]*")


@dataclass(frozen=True)
class RayJobOptions:
    """What the job file does not say."""

    image: str
    """With this project, its requirements, and the Ray of `ray_version`."""
    ray_version: str
    project: str = "/workspace/golf"
    """The project's folder in the image: where the job runs."""
    python: str = "python"
    namespace: str | None = None
    parallel: int = 1
    """Gangs side by side."""
    claim: str | None = None
    """A PersistentVolumeClaim for data and runs that head and workers mount at `mount`."""
    mount: str = "/mnt/golf"
    secret: str | None = None
    """A Secret, all of whose keys become environment variables of head and workers."""
    env: Mapping[str, str] = field(default_factory=dict)
    node_selector: Mapping[str, str] = field(default_factory=dict)
    """Labels of the nodes that the workers are to run on."""
    submission_mode: SubmissionMode | None = None
    """None: K8sJobMode where its two shells leave the command as it is, else HTTPMode."""
    token: bool = False
    """Let KubeRay (1.6 or newer) close the cluster with a token of its own."""
    memory: str | None = None
    """Of each worker pod; None: by its ranks."""
    shm: str | None = None
    """Of each worker pod's /dev/shm, a part of its memory; None: by its ranks."""
    head_cpus: str = "4"
    head_memory: str = "16Gi"
    ttl_seconds: int = 600
    """For how long the pods stay after the end."""


def rayjob_manifest(
    job: Job, path: str | Path, changes: Sequence[str], metadata: Mapping[str, str], options: RayJobOptions
) -> dict[str, Any]:
    """The manifest (apiVersion ray.io/v1) that runs `job`, read from `path` with `changes`, as plain values.

    `metadata` goes with the submission. Raises `UserError` naming the option that cannot work.
    """
    _check(job, options)
    words = run_words(path, changes, module_program(options.python))
    name = kubernetes_name(job.name)
    labels = {"app.kubernetes.io/name": "golf", "app.kubernetes.io/instance": name}
    pods = job.resources.nodes * options.parallel
    cluster: dict[str, Any] = {
        "rayVersion": options.ray_version,
        "headGroupSpec": {
            # Ranks run on workers: the head has room for none, and no GPU.
            "rayStartParams": {"dashboard-host": "0.0.0.0", "num-cpus": "0", "num-gpus": "0"},
            "template": _head_pod(options, labels),
        },
        "workerGroupSpecs": [
            {
                "groupName": "gang",
                "replicas": pods,
                "minReplicas": pods,
                "maxReplicas": pods,
                "rayStartParams": {},
                "template": _worker_pod(job, options, labels),
            }
        ],
    }
    if options.token:
        cluster["authOptions"] = {"mode": "token"}
    place = {"namespace": options.namespace} if options.namespace else {}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": name, **place, "labels": labels},
        "spec": {
            "entrypoint": shell_line(words),
            "submissionMode": _submission_mode(words, options.submission_mode),
            "metadata": dict(metadata),
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": options.ttl_seconds,
            "activeDeadlineSeconds": min(worst_case_seconds(job, options.parallel) + PROVISION_S, MAX_SECONDS),
            "backoffLimit": 0,
            "rayClusterSpec": cluster,
        },
    }


def manifest_text(manifest: Mapping[str, Any]) -> str:
    """The manifest as YAML that reads back as the same values."""
    import yaml

    return yaml.safe_dump(dict(manifest), sort_keys=False, allow_unicode=False, width=120)


def kubernetes_name(name: str) -> str:
    """A DNS label of at most `MAX_NAME` characters that begins with a letter, as like `name` as may be."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not plain or not plain[0].isalpha():
        plain = f"golf-{plain}"
    return plain[:MAX_NAME].rstrip("-")


def _check(job: Job, options: RayJobOptions) -> None:
    """Raise `UserError` for a value that Kubernetes would refuse, or that would never run."""
    if not 1 <= options.parallel <= len(job.seeds):
        raise UserError(
            f"--parallel {options.parallel}: the job has {len(job.seeds)} seeds; give a number from 1 to as many"
        )
    for option, value, pattern, remedy in (
        ("--image", options.image, _IMAGE, "give an image such as registry.example/golf:1"),
        ("--ray-version", options.ray_version, _VERSION, "give the image's version of Ray, such as 2.60.0"),
        ("--namespace", options.namespace, _DNS_LABEL, "give lower-case letters, digits and '-'"),
        ("--claim", options.claim, _DNS_NAME, "give the name of a PersistentVolumeClaim"),
        ("--secret", options.secret, _DNS_NAME, "give the name of a Secret"),
        ("--memory", options.memory, _QUANTITY, "give a quantity such as 200Gi"),
        ("--shm", options.shm, _QUANTITY, "give a quantity such as 16Gi"),
        ("--head-memory", options.head_memory, _QUANTITY, "give a quantity such as 16Gi"),
        ("--head-cpus", options.head_cpus, re.compile(r"[0-9]+(\.[0-9]+)?"), "give a number such as 4"),
    ):
        if value is not None and not pattern.fullmatch(value):
            raise UserError(f"{option} {value!r}: not of the form that Kubernetes takes; {remedy}")
    for option, value in (("--project", options.project), ("--mount", options.mount)):
        if not value.startswith("/") or ":" in value or "\0" in value:
            raise UserError(f"{option} {value!r}: not a folder of the image; give an absolute path without ':'")
    for variable in options.env:
        if not _VARIABLE.fullmatch(variable):
            raise UserError(f"--env {variable!r}: not the name of a variable; give NAME=VALUE")
        if _SECRET_LIKE.search(variable):
            raise UserError(f"--env {variable}: a manifest is no place for secrets; put it into a Secret, and --secret")
    for label, value in options.node_selector.items():
        if not _LABEL_KEY.fullmatch(label) or not _LABEL_VALUE.fullmatch(value):
            raise UserError(f"--node-selector {f'{label}={value}'!r}: not a label of a node; give KEY=VALUE")


def _submission_mode(words: Sequence[str], wanted: SubmissionMode | None) -> SubmissionMode:
    if wanted == "HTTPMode" or is_plain(words):
        return wanted or "K8sJobMode"
    if wanted is None:
        return "HTTPMode"
    odd = next(word for word in words if not is_plain([word]))
    raise UserError(
        f"--submission-mode {wanted}: hands the command through two shells, which would not leave {odd!r} as it is; "
        "use HTTPMode, or a word of letters, digits and '_@%+=:,./-'"
    )


# --- pods -----------------------------------------------------------------------------------------


def _head_pod(options: RayJobOptions, labels: Mapping[str, str]) -> dict[str, Any]:
    ports = [
        {"name": "gcs-server", "containerPort": 6379},
        {"name": "dashboard", "containerPort": 8265},
        {"name": "client", "containerPort": 10001},
    ]
    container = {
        **_container("ray-head", options),
        "ports": ports,
        "resources": _exactly({"cpu": options.head_cpus, "memory": options.head_memory}),
        "volumeMounts": _mounts(options),
    }
    return _pod(container, _volumes(options), labels)


def _worker_pod(job: Job, options: RayJobOptions, labels: Mapping[str, str]) -> dict[str, Any]:
    ranks = job.resources.ranks // job.resources.nodes
    gpus = ranks * job.resources.gpus_per_rank
    amounts: dict[str, str] = {
        "cpu": str(math.ceil(ranks * job.resources.cpus_per_rank)),
        "memory": options.memory or f"{ranks * (24 if gpus else 4)}Gi",
    }
    if gpus:
        amounts["nvidia.com/gpu"] = str(gpus)
    container = {
        **_container("ray-worker", options),
        "resources": _exactly(amounts),
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}, *_mounts(options)],
    }
    memory_file_system = {"medium": "Memory", "sizeLimit": options.shm or f"{ranks * (4 if gpus else 1)}Gi"}
    pod = _pod(container, [{"name": "shm", "emptyDir": memory_file_system}, *_volumes(options)], labels)
    if options.node_selector:
        pod["spec"]["nodeSelector"] = dict(options.node_selector)
    if gpus:
        pod["spec"]["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    return pod


def _container(name: str, options: RayJobOptions) -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": name,
        "image": options.image,
        # Ray runs the command in the folder where it was itself started.
        "workingDir": options.project,
        "env": [
            {"name": "PYTHONUNBUFFERED", "value": "1"},
            *({"name": variable, "value": _unexpanded(value)} for variable, value in options.env.items()),
        ],
        "securityContext": {"allowPrivilegeEscalation": False},
    }
    if options.secret:
        container["envFrom"] = [{"secretRef": {"name": options.secret}}]
    return container


def _unexpanded(value: str) -> str:
    # Kubernetes replaces $(NAME) in values, and reads $$ as $.
    return value.replace("$", "$$")


def _pod(container: dict[str, Any], volumes: list[dict[str, Any]], labels: Mapping[str, str]) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "containers": [container],
    }
    if volumes:
        spec["volumes"] = volumes
    return {"metadata": {"labels": dict(labels)}, "spec": spec}


def _exactly(amounts: Mapping[str, str]) -> dict[str, Any]:
    return {"requests": dict(amounts), "limits": dict(amounts)}


def _mounts(options: RayJobOptions) -> list[dict[str, Any]]:
    return [{"name": "golf", "mountPath": options.mount}] if options.claim else []


def _volumes(options: RayJobOptions) -> list[dict[str, Any]]:
    return [{"name": "golf", "persistentVolumeClaim": {"claimName": options.claim}}] if options.claim else []
