"""Jobs that run in seconds, and the command `golf` as a user types it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

REPO = Path(__file__).resolve().parents[2]

OVERRIDES = {
    "model.model_dim": 64,
    "model.rope_dims": 8,
    "train.iterations": 3,
    "train.warmup_steps": 0,
    "train.batch_tokens": 1024,
    "train.seq_len": 128,
    "train.log_every": 1,
    "evaluate.seq_len": 128,
    "evaluate.chunk_tokens": 1024,
    "evaluate.max_tokens": 4096,
    "evaluate.hedge_min_tokens": 2000,
}


def write_job(folder: Path, **changes: Any) -> Path:
    """A job file of three seeds that takes seconds, with fields replaced; returns its path."""
    job = {
        "name": "tiny",
        "preset": "small",
        "overrides": OVERRIDES,
        "seeds": [42, 1337, 2024],
        "data": "sample",
        "audit": {"positions": 0},
        "baseline": {"name": "made up", "mean": 3.0, "bytes_per_token": 1.85},
        "output": str(folder / "runs"),
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(job | changes))
    return path


def golf(
    *arguments: str, cwd: Path = REPO, timeout: float = 550, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `golf` in a process of its own, apart from any cluster of this machine."""
    env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {"PYTHONPATH": str(REPO)} | environment
    command = [sys.executable, "-m", "orchestrator", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=env, cwd=cwd, check=False)


def only_run(folder: Path) -> Path:
    """The folder of the one run under `folder`/runs."""
    (run,) = [path for path in (folder / "runs").iterdir() if path.is_dir() and (path / "job.json").exists()]
    return run
