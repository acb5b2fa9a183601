"""Where a run comes from: commit, versions, machine."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "ray", "mlflow", "triton", "numpy", "sentencepiece")


def provenance(redact: Callable[[str], str] = str) -> dict[str, str]:
    """Commit and cleanliness of the code, versions, platform; all text, 'unknown' where it cannot be told.

    Every text passes through `redact` (`Redactor.redact`): a job's metadata are whatever its submitter wrote.
    """
    found = {**_git(), "python": platform.python_version(), **_versions(), "platform": platform.platform()}
    return {name: redact(text) for name, text in found.items()}


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


def _git() -> dict[str, str]:
    """Commit hash and whether tracked files differ from it.

    A job's upload carries no .git: there the submitter's hash counts, from the job's metadata (`git_commit`).
    """
    root = Path(__file__).resolve().parents[2]
    commit = _run_git(root, "rev-parse", "HEAD")
    if commit:
        changes = _run_git(root, "status", "--porcelain", "--untracked-files=no")
        return {
            "git_commit": commit,
            "git_dirty": "unknown" if changes is None else str(bool(changes)).lower(),
        }
    job = _job_metadata()
    return {name: str(job.get(name, "unknown")) for name in ("git_commit", "git_dirty")}


def _job_metadata() -> dict[str, Any]:
    try:
        config = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    except (ValueError, RecursionError):
        return {}
    metadata = config.get("metadata") if isinstance(config, dict) else None
    return metadata if isinstance(metadata, dict) else {}


def _run_git(root: Path, *arguments: str) -> str | None:
    # A folder above that happens to be somebody else's repository must not lend its commit.
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def describe_hardware(ranks: Sequence[dict[str, Any]]) -> str:
    """The ranks' devices in words, such as '8 x NVIDIA H100 80GB HBM3'."""
    devices = sorted({rank["device"] for rank in ranks})
    return f"{len(ranks)} x {', '.join(devices)}"
