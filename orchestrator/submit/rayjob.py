"""A job as a KubeRay manifest: one RayJob with a head that computes nothing and one worker pod a node of each gang."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from importlib import metadata as installed
from pathlib import Path

from golf_core.errors import UserError
from orchestrator.job.load import Job
from orchestrator.submit.command import RayJobOptions
from orchestrator.submit.entry import (
    check_forms,
    check_parallel,
    is_plain,
    module_program,
    run_words,
    shell_line,
    template,
    worst_case_seconds,
)

MODES = ("K8sJobMode", "HTTPMode", "SidecarMode")
HEAD = {"cpu": "4", "memory": "16Gi"}
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


def rayjob_manifest(
    job: Job, path: str | Path, changes: Sequence[str], metadata: Mapping[str, str], options: RayJobOptions
) -> str:
    """The manifest (apiVersion ray.io/v1), as YAML, that runs `job`, read from `path` with `changes`.

    `metadata` goes with the submission. Raises `UserError` naming the option that cannot work.
    """
    from jinja2 import Environment, StrictUndefined

    env = _pairs("--env", options.env)
    selector = (_gke_selector(job) if options.gke else {}) | _pairs("--node-selector", options.node_selector)
    ray_version = options.ray_version or installed.version("ray")
    _check(job, options, env, selector, ray_version)
    words = run_words(path, changes, module_program(options.python))
    name = kubernetes_name(job.name)
    ranks = job.resources.ranks // job.resources.nodes
    gpus = ranks * job.resources.gpus_per_rank
    worker = {
        "cpu": str(math.ceil(ranks * job.resources.cpus_per_rank)),
        "memory": options.memory or f"{ranks * (24 if gpus else 4)}Gi",
    }
    given = vars(options) | {
        "name": name,
        "labels": {"app.kubernetes.io/name": "golf", "app.kubernetes.io/instance": name},
        "env": env,
        "node_selector": selector,
        "ray_version": ray_version,
        "metadata": dict(metadata),
        "entrypoint": shell_line(words),
        "submission_mode": _submission_mode(words, options.submission_mode),
        "deadline_seconds": min(worst_case_seconds(job, options.parallel) + PROVISION_S, MAX_SECONDS),
        "pods": job.resources.nodes * options.parallel,
        "head_resources": HEAD,
        "worker_resources": worker | ({"nvidia.com/gpu": str(gpus)} if gpus else {}),
        "shm": options.shm or f"{ranks * (4 if gpus else 1)}Gi",
    }
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, autoescape=False)
    environment.filters["quoted"] = _quoted
    return environment.from_string(template("rayjob.yaml.j2")).render(given) + "\n"


def _quoted(value: str | Mapping[str, str]) -> str:
    """A text, or a mapping of texts, on one line of YAML that holds nothing but it, whatever its characters."""
    import yaml

    plain = value if isinstance(value, str) else dict(value)
    return yaml.safe_dump(
        plain, default_style='"', default_flow_style=True, allow_unicode=False, sort_keys=False, width=math.inf
    ).strip()


def kubernetes_name(name: str) -> str:
    """A DNS label of at most `MAX_NAME` characters that begins with a letter, as like `name` as may be."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not plain or not plain[0].isalpha():
        plain = f"golf-{plain}"
    return plain[:MAX_NAME].rstrip("-")


def _check(
    job: Job, options: RayJobOptions, env: Mapping[str, str], selector: Mapping[str, str], ray_version: str
) -> None:
    """Raise `UserError` for a value that Kubernetes would refuse, or that would never run."""
    check_parallel(job, options.parallel)
    if options.submission_mode not in (None, *MODES):
        raise UserError(f"--submission-mode {options.submission_mode}: give K8sJobMode, HTTPMode or SidecarMode")
    check_forms(
        "Kubernetes",
        ("--image", options.image, _IMAGE, "give an image such as registry.example/golf:1"),
        ("--ray-version", ray_version, _VERSION, "give the image's version of Ray, such as 2.60.0"),
        ("--namespace", options.namespace, _DNS_LABEL, "give lower-case letters, digits and '-'"),
        ("--claim", options.claim, _DNS_NAME, "give the name of a PersistentVolumeClaim"),
        ("--secret", options.secret, _DNS_NAME, "give the name of a Secret"),
        ("--memory", options.memory, _QUANTITY, "give a quantity such as 200Gi"),
        ("--shm", options.shm, _QUANTITY, "give a quantity such as 16Gi"),
    )
    for option, value in (("--project", options.project), ("--mount", options.mount)):
        if not value.startswith("/") or ":" in value or "\0" in value:
            raise UserError(f"{option} {value!r}: not a folder of the image; give an absolute path without ':'")
    for variable in env:
        if not _VARIABLE.fullmatch(variable):
            raise UserError(f"--env {variable!r}: not the name of a variable; give NAME=VALUE")
        if _SECRET_LIKE.search(variable):
            raise UserError(f"--env {variable}: a manifest is no place for secrets; put it into a Secret, and --secret")
    for label, value in selector.items():
        if not _LABEL_KEY.fullmatch(label) or not _LABEL_VALUE.fullmatch(value):
            raise UserError(f"--node-selector {f'{label}={value}'!r}: not a label of a node; give KEY=VALUE")


def _submission_mode(words: Sequence[str], wanted: str | None) -> str:
    if wanted == "HTTPMode" or is_plain(words):
        return wanted or "K8sJobMode"
    if wanted is None:
        return "HTTPMode"
    odd = next(word for word in words if not is_plain([word]))
    raise UserError(
        f"--submission-mode {wanted}: hands the command through two shells, which would not leave {odd!r} as it is; "
        "use HTTPMode, or a word of letters, digits and '_@%+=:,./-'"
    )


def _pairs(option: str, texts: Sequence[str] | None) -> dict[str, str]:
    pairs = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UserError(f"{option} {text}: not of the form NAME=VALUE")
        pairs[name] = value
    return pairs


def _gke_selector(job: Job) -> dict[str, str]:
    accelerator = job.resources.accelerator or "null"
    if accelerator not in GKE_ACCELERATORS:
        known = ", ".join(GKE_ACCELERATORS)
        raise UserError(
            f"--gke: resources.accelerator is {accelerator}, known are {known}; give --node-selector {GKE_LABEL}=VALUE"
        )
    return {GKE_LABEL: GKE_ACCELERATORS[accelerator]}
