"""Faults of files, disks, nodes and heads: the run ends with the figures of an undisturbed one; nothing is lost."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_tools import Figures, Service, Start, Tell, check_whole, figures, in_stage, job
from heads import ray_head
from tiny import REPO, only_run

from golf_core.strict_json import load
from orchestrator.folder.results import RunResult

pytestmark = pytest.mark.ray


def slow(name: str) -> Any:
    """The same damage to another file."""
    return pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.parametrize("name", ["model.golf", slow("checkpoint.pt"), slow("result.json"), slow("ledger.jsonl")])
def test_damaged_files_are_noticed_and_made_anew(
    name: str, place: Path, start: Start, undisturbed: Figures, finished: Path, tell: Tell
) -> None:
    """A finished run, one of whose files is cut short: what depends on it is done again, the rest is kept."""
    (place / "runs").mkdir()
    run = place / "runs" / finished.name
    shutil.copytree(finished, run)
    path = run / name if name == "ledger.jsonl" else run / "seed-42" / name
    path.write_bytes(path.read_bytes()[:-40])
    resumed = start("--resume", str(run))
    assert resumed.ends() == 0, resumed.text
    if name == "ledger.jsonl":  # the torn line stays, and is not read
        assert figures(run) == pytest.approx(undisturbed, abs=1e-6)
    else:
        check_whole(run, undisturbed, (42, 1337))
    again = {"model.golf": "export is done again", "result.json": "its figures are taken from the ledger"}.get(name)
    assert again is None or again in resumed.text
    assert again is not None or "finished before" in resumed.text
    tell(f"{name} is cut short", resumed, "again" if name == "model.golf" else "seed 42", "`--resume`: same figures")


def test_the_disk_is_full(place: Path, start: Start, undisturbed: Figures, tell: Tell) -> None:
    """While the seed trains, something else takes all the room where the run's folder lies."""
    disk = place / "runs"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk can be mounted by root alone")
    try:
        service = start(job(place, mlflow={"tracking_uri": f"sqlite:///{place}/mlflow.db"}))
        service.wait_for(in_stage("train"))
        run = service.run
        filler = disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(1 << 16)):
                pass
        assert service.ends() == 1, service.text
        assert "No space left on device" in service.text and "Traceback" not in service.text
        filler.unlink()
        resumed = start("--resume", str(run))
        assert resumed.ends() == 0, resumed.text
        check_whole(run, undisturbed)
        tell("the disk is full", service, "No space left", "after room was made, `--resume`: same figures")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_the_head_is_killed(place: Path, start: Start, undisturbed: Figures, tell: Tell) -> None:
    """The run ends within the time that Ray gives a lost head; another head goes on with it."""
    patience = {"RAY_gcs_rpc_server_reconnect_timeout_s": "5"}
    with ray_head(place) as head:
        service = Service(place, job(place), "--address", head.address, **(head.environment | patience))
        service.wait_for(in_stage("evaluate"))
        head.kill()
        assert service.ends() != 0
    resumed = start("--resume", str(service.run))
    assert resumed.ends() == 0, resumed.text
    check_whole(service.run, undisturbed)
    starts = [entry.fields["kept"] for entry in service.entries() if entry.kind == "seed_started"]
    assert starts[-1] == ["train", "export"]
    tell("the head is killed in evaluate", resumed, "seed 42: finished", "on a new head, `--resume`: same figures")


LOSE_A_NODE = """
import subprocess, sys, time
from pathlib import Path
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
first = cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
try:
    command = [sys.executable, "-m", "orchestrator", "run", "--address", cluster.address, sys.argv[1]]
    job = subprocess.Popen(command)
    runs = Path(sys.argv[2])
    while not any('"chunk"' in log.read_text() for log in runs.glob("*/seed-42/log.jsonl")):
        time.sleep(0.1)
        assert job.poll() is None
    cluster.remove_node(first, allow_graceful=False)
    cluster.add_node(num_cpus=1)
    sys.exit(job.wait())
finally:
    cluster.shutdown()
"""


def test_a_node_is_lost(tmp_path: Path, undisturbed: Figures, record_property: Callable[..., None]) -> None:
    """Another node takes the seed over, with what it had finished."""
    command = [sys.executable, "-c", LOSE_A_NODE, job(tmp_path), str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, cwd=REPO, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    run = only_run(tmp_path)
    check_whole(run, undisturbed)
    (seed,) = load(RunResult, run / "result.json").seeds
    assert [(a.stage, a.kind) for a in seed.attempts] == [("evaluate", "infrastructure")]
    said = next(line for line in done.stdout.splitlines() if "seed 42: failed" in line)
    record_property("fault", "the gang's node is lost in evaluate")
    record_property("said", said)
    record_property("after", "another node takes over; same figures")
