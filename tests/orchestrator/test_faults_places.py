"""Faults of files, disks, nodes and heads: the run ends with the figures of an undisturbed one; nothing is lost."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from fault_tools import (  # noqa: F401
    LIMITS,
    SLOWER,
    Service,
    Tell,
    check_whole,
    figures,
    in_stage,
    job,
    no_orphans,
    place,
    tell,
    undisturbed,
)
from test_cluster import end_group, free_ports
from tiny import REPO, only_run

from golf_core.strict_json import load
from orchestrator.folder.results import RunResult

pytestmark = pytest.mark.ray


@pytest.mark.parametrize("name", ["model.golf", "checkpoint.pt", "result.json", "ledger.jsonl"])
def test_damaged_files_are_noticed_and_made_anew(
    name: str, place: Path, sample_folder: Path, undisturbed: dict[int, float], finished: Path, tell: Tell
) -> None:
    """A finished run, one of whose files is cut short: what depends on it is done again, the rest is kept."""
    (place / "runs").mkdir()
    run = place / "runs" / finished.name
    shutil.copytree(finished, run)
    path = run / name if name == "ledger.jsonl" else run / "seed-42" / name
    path.write_bytes(path.read_bytes()[:-40])
    resumed = Service(place, "--resume", str(run), "--address", "local")
    assert resumed.ends() == 0, resumed.text
    if name == "ledger.jsonl":  # the torn line stays, and is not read
        assert figures(run) == pytest.approx({42: undisturbed[42]}, abs=1e-6)
    else:
        check_whole(run, undisturbed)
    again = {"model.golf": "export is done again", "result.json": "its figures are taken from the ledger"}.get(name)
    assert again is None or again in resumed.text
    assert again is not None or "finished before" in resumed.text
    tell(f"{name} is cut short", resumed, "again" if name == "model.golf" else "seed 42", "`--resume`: same figures")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, sample_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    service = Service(folder, job(folder), "--address", "local")
    assert service.ends() == 0, service.text
    return service.run


def test_the_disk_is_full(place: Path, undisturbed: dict[int, float], tell: Tell) -> None:
    """While the seed trains, something else takes all the room where the run's folder lies."""
    disk = place / "runs"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk can be mounted by root alone")
    try:
        service = Service(
            place, job(place, mlflow={"tracking_uri": f"sqlite:///{place}/mlflow.db"}), "--address", "local"
        )
        service.wait_for(in_stage("train"))
        run = service.run
        filler = disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(1 << 16)):
                pass
        assert service.ends() == 1, service.text
        assert "No space left on device" in service.text and "Traceback" not in service.text
        filler.unlink()
        resumed = Service(place, "--resume", str(run), "--address", "local")
        assert resumed.ends() == 0, resumed.text
        check_whole(run, undisturbed)
        tell("the disk is full", service, "No space left", "after room was made, `--resume`: same figures")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@contextlib.contextmanager
def ray_head(folder: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """A head of its own, on free ports; (address, a function that kills all its processes at once)."""
    ports = free_ports(3)
    temporary = Path(f"/tmp/golf-faults-{os.getpid()}-{ports[0]}")
    options = ["--head", "--block", "--num-cpus=2", f"--port={ports[0]}", "--include-dashboard=false"]
    options += [f"--ray-client-server-port={ports[1]}", f"--dashboard-agent-listen-port={ports[2]}"]
    options += [f"--temp-dir={temporary}", "--node-ip-address=127.0.0.1"]
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"HOME": str(folder)}
    env |= {"XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))}
    ray = str(Path(sys.executable).with_name("ray"))
    process = subprocess.Popen(
        [ray, "start", *options], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield f"127.0.0.1:{ports[0]}", lambda: kill_family(process)
    finally:
        end_group(process)
        shutil.rmtree(temporary, ignore_errors=True)


def test_the_head_is_killed(place: Path, undisturbed: dict[int, float], tell: Tell) -> None:
    """The run ends within the time that Ray gives a lost head; a new head goes on with it."""
    patience = {"RAY_gcs_rpc_server_reconnect_timeout_s": "5"}
    with ray_head(place) as (address, kill):
        wait_for_port(address)
        service = Service(place, job(place), "--address", address, HOME=str(place), **patience)
        service.wait_for(in_stage("evaluate"))
        kill()
        assert service.ends() != 0
    with ray_head(place) as (address, _):
        wait_for_port(address)
        resumed = Service(place, "--resume", str(service.run), "--address", address, HOME=str(place))
        assert resumed.ends() == 0, resumed.text
    check_whole(service.run, undisturbed)
    starts = [entry.fields["kept"] for entry in service.entries() if entry.kind == "seed_started"]
    assert starts[-1] == ["train", "export"]
    tell("the head is killed in evaluate", resumed, "seed 42: finished", "on a new head, `--resume`: same figures")


def kill_family(process: subprocess.Popen[bytes]) -> None:
    parent = psutil.Process(process.pid)
    for member in (parent, *parent.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            member.kill()
    process.wait()


def wait_for_port(address: str) -> None:
    import socket

    host, _, port = address.partition(":")
    for _ in range(300):
        with contextlib.suppress(OSError):
            socket.create_connection((host, int(port)), timeout=1).close()
            time.sleep(3)
            return
        time.sleep(0.2)
    raise AssertionError("the head did not come")


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


def test_a_node_is_lost(tmp_path: Path, undisturbed: dict[int, float], record_property: Callable[..., None]) -> None:
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
