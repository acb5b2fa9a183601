"""The cap of the job file is a target for the exporter: met, or missed by a stated number of bytes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from heads import Head
from tiny import golf, only_run, write_job

from golf_core.strict_json import load
from orchestrator.folder.results import RunResult

pytestmark = pytest.mark.ray


@pytest.mark.slow
def test_a_tight_cap_is_met(cluster: Head, tmp_path: Path) -> None:
    cap = 85_000
    job = write_job(tmp_path, budgets={"artifact_bytes": cap}, seeds=[42])
    done = golf("run", str(job), "--address", cluster.address, **cluster.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = only_run(tmp_path)
    (seed,) = load(RunResult, folder / "result.json").seeds
    assert seed.export is not None and seed.evaluate is not None
    shipped = sum((folder / "seed-42" / name).stat().st_size for name in ("model.golf", "train_gpt.py"))
    assert 0.95 * cap < seed.export.total_bytes == shipped <= cap
    assert seed.export.method == "fitted" and seed.export.cap_bytes == cap


def test_a_cap_that_cannot_be_met_says_by_how_much(cluster: Head, tmp_path: Path) -> None:
    cap = 45_000
    job = write_job(tmp_path, budgets={"artifact_bytes": cap}, seeds=[42])
    done = golf("run", str(job), "--address", cluster.address, **cluster.environment)
    assert done.returncode in (1, 2)
    words = " ".join((done.stdout + done.stderr).split())
    found = re.search(
        r"smallest artifact is ([\d,]+) bytes, with the code's ([\d,]+) over the cap of 45,000 by ([\d,]+)", words
    )
    assert found is not None, words
    smallest, code, over = (int(text.replace(",", "")) for text in found.groups())
    assert smallest + code - cap == over > 0
    assert not (only_run(tmp_path) / "seed-42" / "model.golf").exists()
