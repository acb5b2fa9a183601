"""`golf check` on a gang: its nodes are looked at, a few steps are rehearsed, and nothing is left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from heads import Head
from tiny import golf, write_job

pytestmark = pytest.mark.ray


def test_a_gang_is_looked_at_and_ended(tmp_path: Path, cluster: Head) -> None:
    job = write_job(tmp_path, resources={"ranks": 2})
    report = tmp_path / "check.json"
    done = golf("check", str(job), "--address", cluster.address, "--json", str(report), **cluster.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all-reduce over 2 ranks" in done.stdout and "rehearsed evaluation" in done.stdout
    found = json.loads(report.read_text())
    assert found["projections"]["ms_per_step"] > 0 and found["projections"]["eval_seconds"] > 0
    assert not (tmp_path / "runs").exists()  # nothing was run


@pytest.mark.slow
def test_a_budget_out_of_reach_is_refused(tmp_path: Path, cluster: Head) -> None:
    job = write_job(tmp_path, budgets={"eval_seconds": 0.01, "artifact_bytes": 16_000_000})
    done = golf("check", str(job), "--address", cluster.address, **cluster.environment)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "budgets.eval_seconds is 0.01" in done.stdout and "Not ready to run" in done.stdout
