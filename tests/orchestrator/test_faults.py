"""Faults made on purpose: after each, the run ends with the figures of an undisturbed one, and nothing is lost."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from test_cluster import end_group, free_ports
from tiny import OVERRIDES, REPO, golf, only_run, write_job

from golf_core.records import load
from orchestrator.claim import RunResult
from orchestrator.ledger import Entry, read_ledger

pytestmark = pytest.mark.ray

# Long enough that each stage can be met in the middle of its work.
SLOWER = OVERRIDES | {"train.iterations": 25, "evaluate.max_tokens": 12_288}
LIMITS = {"stall_seconds": 8, "retries": 1}


class Service:
    """`golf run` in a process of its own, watched from outside."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.folder = folder
        (folder / "tmp").mkdir(exist_ok=True)
        self.output = (folder / f"output-{len(list(folder.glob('output-*')))}.txt").open("w+")
        env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        env |= {"TMPDIR": str(folder / "tmp"), "RAY_TMPDIR": "/tmp", "OMP_NUM_THREADS": "1"} | environment
        self.process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator", "run", *arguments],
            stdout=self.output,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=REPO,
        )

    @property
    def text(self) -> str:
        self.output.seek(0)
        return self.output.read()

    @property
    def run(self) -> Path:
        return only_run(self.folder)

    def entries(self) -> list[Entry]:
        with contextlib.suppress(ValueError, FileNotFoundError):
            return read_ledger(self.run)
        return []

    def events(self, seed: int = 42) -> list[dict[str, Any]]:
        with contextlib.suppress(ValueError, FileNotFoundError):
            return [json.loads(line) for line in (self.run / f"seed-{seed}" / "log.jsonl").read_text().splitlines()]
        return []

    def wait_for(self, what: Callable[[Service], Any], seconds: float = 120) -> Any:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = what(self)
            if found:
                return found
            assert self.process.poll() is None, self.text
            time.sleep(0.02)
        raise AssertionError(f"did not come: {self.text}")

    def ranks(self) -> list[int]:
        """Pids of the ranks of the newest gang."""
        gangs = [entry for entry in self.entries() if entry.kind == "gang_started"]
        return [rank["pid"] for rank in gangs[-1].fields["ranks"]] if gangs else []

    def ends(self, seconds: float = 200) -> int:
        return self.process.wait(timeout=seconds)


def in_stage(stage: str) -> Callable[[Service], bool]:
    """The seed's ranks are in the middle of `stage`."""
    kind = {"train": "train_step", "evaluate": "chunk"}.get(stage, "phase_started")
    return lambda service: any(
        event["kind"] == kind and event.get("phase", stage) == stage for event in service.events()
    )


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    assert no_orphans(tmp_path), "processes are left"


def no_orphans(folder: Path, patience: float = 15) -> bool:
    """No process that was started for this folder is left."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if not [p for p in psutil.process_iter() if str(folder / "tmp") in _temporary_folder(p)]:
            return True
        time.sleep(0.2)
    return False


def _temporary_folder(process: psutil.Process) -> str:
    try:
        return process.environ().get("TMPDIR", "")
    except psutil.Error:
        return ""


Tell = Callable[..., None]


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Tell:
    """Leaves a row for the table of faults: `pytest --faults-markdown docs/faults.md`."""

    def leave(fault: str, service: Service, sign: str, after: str) -> None:
        said = next(line for line in service.text.splitlines() if sign in line)
        record_property("fault", fault)
        record_property("said", re.sub(r"/\S*/runs/\S*", "RUN", said)[:260])
        record_property("after", after)

    return leave


def job(folder: Path, seeds: tuple[int, ...] = (42,), **changes: Any) -> str:
    fields = {"seeds": list(seeds), "overrides": SLOWER, "limits": LIMITS}
    return str(write_job(folder, **(fields | changes)))


def figures(run: Path) -> dict[int, float]:
    result = load(RunResult, run / "result.json")
    return {s.seed: s.evaluate.mixture.bpb for s in result.seeds if s.evaluate and s.evaluate.mixture}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, sample_folder: Path) -> dict[int, float]:
    folder = tmp_path_factory.mktemp("undisturbed")
    service = Service(folder, job(folder, (42, 1337)), "--address", "local")
    assert service.ends() == 0, service.text
    return figures(service.run)


def check_whole(run: Path, undisturbed: dict[int, float], seeds: tuple[int, ...] = (42,)) -> None:
    """The figures are those of an undisturbed run, and every line of the ledger can be read."""
    assert figures(run) == pytest.approx({seed: undisturbed[seed] for seed in seeds}, abs=1e-6)
    entries = read_ledger(run)
    assert len(entries) == len((run / "ledger.jsonl").read_text().splitlines())
    assert entries[0].kind == "run_started" and entries[-1].kind == "run_finished"
    result = load(RunResult, run / "result.json")
    assert all(seed.status == "finished" for seed in result.seeds)


@pytest.mark.parametrize("stage", ["train", "export", "evaluate"])
def test_a_rank_is_killed(stage: str, place: Path, undisturbed: dict[int, float], tell: Tell) -> None:
    """It is tried again by itself; stages that were finished are kept."""
    service = Service(place, job(place), "--address", "local")
    service.wait_for(in_stage(stage))
    os.kill(service.ranks()[0], signal.SIGKILL)
    assert service.ends() == 0, service.text
    assert "a rank's process was lost" in service.text and "is tried again" in service.text
    check_whole(service.run, undisturbed)
    (seed,) = load(RunResult, service.run / "result.json").seeds
    assert [(attempt.stage, attempt.kind) for attempt in seed.attempts] == [(stage, "infrastructure")]
    starts = [entry.fields["kept"] for entry in service.entries() if entry.kind == "seed_started"]
    assert starts == [[], {"train": [], "export": ["train"], "evaluate": ["train", "export"]}[stage]]
    tell(f"a rank is killed in {stage}", service, "failed", "tried again by itself; same figures")


def test_a_rank_is_frozen(place: Path, undisturbed: dict[int, float], tell: Tell) -> None:
    service = Service(place, job(place), "--address", "local")
    service.wait_for(in_stage("train"))
    frozen = service.ranks()[0]
    os.kill(frozen, signal.SIGSTOP)
    assert service.ends() == 0, service.text
    assert "no sign of life" in service.text and not psutil.pid_exists(frozen)
    check_whole(service.run, undisturbed)
    tell("a rank is frozen (SIGSTOP)", service, "failed", "ended, tried again; same figures")


def test_one_of_two_ranks_is_killed(place: Path, undisturbed: dict[int, float], tell: Tell) -> None:
    """Its fellow notices a broken connection; the sentence names what was behind it."""
    service = Service(place, job(place, resources={"ranks": 2}), "--address", "local")
    service.wait_for(in_stage("train"))
    os.kill(service.ranks()[1], signal.SIGKILL)
    assert service.ends() == 0, service.text
    assert "a rank's process was lost" in service.text
    result = load(RunResult, service.run / "result.json")
    assert result.seeds[0].status == "finished" and result.seeds[0].attempts[0].kind == "infrastructure"
    tell("one of two ranks is killed", service, "failed", "tried again by itself")


@pytest.mark.parametrize("stage", ["train", "evaluate"])
def test_the_driver_is_killed(stage: str, place: Path, undisturbed: dict[int, float], tell: Tell) -> None:
    service = Service(place, job(place), "--address", "local")
    service.wait_for(in_stage(stage))
    service.process.kill()
    service.ends()
    assert no_orphans(place)
    resumed = Service(place, "--resume", str(service.run), "--address", "local")
    assert resumed.ends() == 0, resumed.text
    check_whole(service.run, undisturbed)
    (seed,) = load(RunResult, service.run / "result.json").seeds
    assert [(attempt.stage, attempt.error) for attempt in seed.attempts] == [(stage, "the driver ended without a word")]
    tell(f"the driver is killed in {stage}", resumed, "seed 42: finished", "`--resume`: same figures")


def test_stopping_writes_the_state_in_time(place: Path, undisturbed: dict[int, float], tell: Tell) -> None:
    """SIGTERM, and SIGKILL three seconds later, as Ray does; a second process may go on at once."""
    service = Service(place, job(place, (42, 1337)), "--address", "local")
    service.wait_for(in_stage("train"))
    service.process.send_signal(signal.SIGTERM)
    try:
        service.process.wait(timeout=3)
    except subprocess.TimeoutExpired:
        service.process.kill()
        service.process.wait()
    kinds = [entry.kind for entry in service.entries()]
    assert "run_stopped" in kinds
    assert load(RunResult, service.run / "result.json").claim.verdict == "no claim"
    resumed = Service(place, "--resume", str(service.run), "--address", "local")
    assert resumed.ends() == 0, resumed.text
    check_whole(service.run, undisturbed, (42, 1337))
    tell("SIGTERM, and SIGKILL 3 s later", service, "stopping", "state written in time; `--resume`: same figures")


def test_a_run_is_resumed_by_one_process_at_a_time(place: Path, tell: Tell) -> None:
    service = Service(place, job(place), "--address", "local")
    service.wait_for(in_stage("train"))
    second = golf("run", "--resume", str(service.run), "--address", "local")
    assert second.returncode == 1 and "another process is at work on this run" in second.stderr
    service.process.send_signal(signal.SIGINT)
    assert service.ends() == 1 and "golf run --resume" in service.text
    tell("Ctrl-C, while a second process resumes the run", service, "error:", "the second is refused, the first stops")


def test_numerics_are_not_tried_again(place: Path, tell: Tell) -> None:
    diverging = SLOWER | {"train.muon_lr": 1e30, "train.scalar_lr": 1e30, "train.table_lr": 1e30}
    service = Service(place, job(place, overrides=diverging), "--address", "local")
    assert service.ends() == 1
    (seed,) = load(RunResult, service.run / "result.json").seeds
    assert [attempt.kind for attempt in seed.attempts] == ["numerics"], service.text
    assert "lower the learning rates" in (seed.error or "")
    tell("training diverges", service, "failed:", "not tried again")


def test_an_early_end_is_said(place: Path, tell: Tell) -> None:
    """The first seed does not beat the baseline by far: the second is ended, or not begun."""
    made_up = {"name": "out of reach", "mean": 1.0, "bytes_per_token": 1.85}
    written = job(place, (42, 1337), baseline=made_up, cost={"stop_when_hopeless": True}, min_seeds_for_claim=2)
    service = Service(place, written, "--address", "local", "--set", "resources.cpus_per_rank=2")
    assert service.ends() == 1
    assert "a claim is out of reach: whatever the remaining seeds bring" in service.text
    result = load(RunResult, service.run / "result.json")
    assert [seed.status for seed in result.seeds] == ["finished", "failed"]
    assert {"out_of_reach", "run_stopped"} <= {entry.kind for entry in service.entries()}
    tell("the first seed rules a claim out", service, "out of reach", "the rest is not run")


def test_a_phase_beyond_its_limit_is_ended(place: Path, tell: Tell) -> None:
    limits = LIMITS | {"train_seconds": 1.0}
    slow = SLOWER | {"train.iterations": 10_000}
    service = Service(place, job(place, limits=limits, overrides=slow), "--address", "local")
    assert service.ends() == 1
    (seed,) = load(RunResult, service.run / "result.json").seeds
    assert [attempt.kind for attempt in seed.attempts] == ["limit"] and "within 1 s (limits)" in (seed.error or "")
    tell("a phase takes too long", service, "failed:", "ended, not tried again")


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
    again = {"model.golf": "export is done again", "result.json": "begins anew"}.get(name)
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
    """The run's folder lies on a disk that has room for the checkpoint, and for no more."""
    disk = place / "runs"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1200k", "none", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk can be mounted by root alone")
    try:
        service = Service(
            place, job(place, mlflow={"tracking_uri": f"sqlite:///{place}/mlflow.db"}), "--address", "local"
        )
        assert service.ends() == 1, service.text
        assert "No space left on device" in service.text and "Traceback" not in service.text
        (run,) = disk.iterdir()
        subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
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
