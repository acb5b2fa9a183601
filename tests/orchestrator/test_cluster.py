"""Placement on simulated clusters, and Ray's own job submission."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from heads import end_group, free_ports, fresh_home, ray_head, wait_for_dashboard  # noqa: F401 - test_submit's too
from tiny import REPO, only_run, write_job

from golf_core.strict_json import load
from orchestrator.folder.results import RunResult
from orchestrator.job.load import Resources
from orchestrator.preflight.machine import ClusterError, Node, misfit, refuse_misfit
from orchestrator.run.cluster import connected

H100 = Node("a", {"CPU": 128.0, "GPU": 8.0, "accelerator_type:H100": 1.0})
A100 = Node("b", {"CPU": 128.0, "GPU": 8.0, "accelerator_type:A100": 1.0})
PLAIN = Node("c", {"CPU": 2.0})
HALF = Node("d", {"CPU": 64.0, "GPU": 4.0, "accelerator_type:H100": 1.0})
FEW_CPUS = Node("e", {"CPU": 4.0, "GPU": 8.0, "accelerator_type:H100": 1.0})
FOUR, EIGHT = Resources(ranks=4), Resources(ranks=8, accelerator="H100")
SHARED = Resources(ranks=8, nodes=2, accelerator="H100")


def test_what_fits() -> None:
    assert misfit(EIGHT, [PLAIN, H100]) is None and misfit(Resources(ranks=2), [PLAIN]) is None
    assert misfit(SHARED, [HALF, HALF]) is None and misfit(SHARED, [H100, HALF]) is None


@pytest.mark.parametrize(
    ("resources", "nodes", "what", "remedy"),
    [
        (EIGHT, [PLAIN], "needs 8 GPUs on one node; the largest node has 0", "use a larger node"),
        (EIGHT, [HALF], "needs 8 GPUs on one node; the largest node has 4", "use a larger node"),
        # GPUs spread over nodes do not count, unless the job lets them.
        (EIGHT, [HALF, HALF], "needs 8 GPUs on one node; the largest node has 4", "set resources.nodes to 2"),
        (SHARED, [HALF], "needs 2 nodes with 4 ranks each; the cluster has 1 such", "add a node"),
        (SHARED, [PLAIN], "needs 4 GPUs on each of 2 nodes; the largest node has 0", "use a larger node"),
        (EIGHT, [A100], "needs 8 GPUs of type H100 on one node; the cluster has A100", "set resources.accelerator"),
        # The right kind is there, and too few of it beside enough of another.
        (EIGHT, [A100, HALF], "needs 8 GPUs of type H100 on one node; the cluster has A100, H100", "set resources.acc"),
        (FOUR, [PLAIN], "needs 4 CPUs on one node; the largest node has 2", "lower resources.cpus_per_rank to 0.5"),
        (EIGHT, [FEW_CPUS], "needs 8 CPUs on one node; the largest node has 4", "lower resources.cpus_per_rank to 0.5"),
        (
            Resources(ranks=8, accelerator="H100", cpus_per_rank=4),
            [Node("n", {"CPU": 16.0, "GPU": 8.0, "accelerator_type:H100": 1.0})],
            "needs 32 CPUs on one node; the largest node has 16",
            "lower resources.cpus_per_rank to 2",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_has_a_remedy_that_helps(
    resources: Resources, nodes: list[Node], what: str, remedy: str
) -> None:
    found = misfit(resources, nodes)
    assert found is not None and found.what == what and found.remedy.startswith(remedy)
    with pytest.raises(ClusterError) as refused:
        refuse_misfit(resources, nodes)
    assert str(refused.value) == f"resources: each seed {what}; {found.remedy}"


SIMULATE = """
import json, sys
from pathlib import Path
from ray.cluster_utils import Cluster
from orchestrator.run.driver import run_job
from orchestrator.job.load import load_job

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
for _ in range(int(sys.argv[2])):
    cluster.add_node(num_cpus=int(sys.argv[3]))
cluster.wait_for_nodes()
try:
    run_job(load_job(Path(sys.argv[1])), cluster.address, print)
finally:
    cluster.shutdown()
"""


@pytest.mark.ray
@pytest.mark.parametrize("nodes", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_seeds_run_side_by_side_where_there_is_room(nodes: int, tmp_path: Path, sample_folder: Path) -> None:
    """Six CPUs on three nodes hold three gangs of two CPUs at once; one node holds one after another."""
    job = write_job(tmp_path, resources={"ranks": 1, "cpus_per_rank": 2})
    command = [sys.executable, "-c", SIMULATE, str(job), str(nodes), "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, cwd=REPO, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    seeds = load(RunResult, only_run(tmp_path) / "result.json").seeds
    assert [seed.status for seed in seeds] == ["finished"] * 3
    if nodes == 3:
        assert max(seed.started for seed in seeds) < min(seed.finished for seed in seeds)
    else:
        for before, after in pairwise(seeds):
            assert before.finished <= after.started
            assert before.seed in (42, 1337)  # in the order of the job file


@pytest.mark.ray
@pytest.mark.slow
def test_one_seed_on_two_nodes(tmp_path: Path, sample_folder: Path) -> None:
    """No node has room for both ranks; together they reach the figures of one node."""
    figures = []
    for nodes, name in ((2, "two"), (1, "one")):
        folder = tmp_path / name
        folder.mkdir()
        job = write_job(folder, seeds=[42], resources={"ranks": 2, "nodes": nodes})
        command = [sys.executable, "-c", SIMULATE, str(job), str(nodes), str(2 // nodes)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=400, cwd=REPO, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        (seed,) = load(RunResult, only_run(folder) / "result.json").seeds
        assert seed.evaluate is not None and seed.evaluate.mixture is not None and seed.evaluate.world_size == 2
        figures.append(seed.evaluate.mixture.bpb)
    assert figures[0] == pytest.approx(figures[1], abs=1e-6)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A Ray head with a dashboard, started in a project folder; (dashboard's address, folder)."""
    project = tmp_path_factory.mktemp("project")
    shutil.copytree(REPO / "jobs", project / "jobs")
    with ray_head(project, dashboard=True) as started:
        assert started.dashboard is not None
        yield started.dashboard, project


def submit(head: tuple[str, Path], *arguments: str) -> subprocess.CompletedProcess[str]:
    """`ray job submit …`, from another folder than the head's."""
    ray = str(Path(sys.executable).with_name("ray"))
    command = [ray, "job", "submit", "--address", head[0], *arguments]
    env = fresh_home(head[1])
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd="/", env=env, check=False)


@pytest.mark.ray
class TestJobSubmission:
    def test_the_job_file_is_the_entrypoint(self, head: tuple[str, Path], sample_folder: Path) -> None:
        _, project = head
        job = write_job(project, seeds=[42], output="runs")
        shebang = (REPO / "jobs" / "smoke.yaml").read_text().splitlines()[0]
        target = project / "jobs" / "tiny.yaml"
        target.write_text(f"{shebang}\n{job.read_text()}")
        target.chmod(0o755)
        done = submit(head, "--", "jobs/tiny.yaml")
        assert done.returncode == 0, done.stdout + done.stderr
        assert load(RunResult, only_run(project) / "result.json").seeds[0].status == "finished"

    def test_three_seed_without_gpus_fails_with_a_sentence(self, head: tuple[str, Path]) -> None:
        began = time.monotonic()
        done = submit(head, "--", "jobs/three_seed.yaml")
        assert time.monotonic() - began < 100  # it waits for no room; a busy machine takes its time
        assert done.returncode != 0
        assert "needs 8 GPUs on one node; the largest node has 0" in done.stdout
        assert "Traceback" not in done.stdout

    @pytest.mark.slow
    def test_uploaded_folder_and_module(self, head: tuple[str, Path], sample_folder: Path, tmp_path: Path) -> None:
        """The form that works on any cluster: the folder travels, nothing has to be executable."""
        upload = tmp_path / "upload"
        upload.mkdir()
        for name in ("golf_core", "orchestrator"):
            shutil.copytree(REPO / name, upload / name, ignore=shutil.ignore_patterns("__pycache__"))
        write_job(upload, seeds=[42], output=str(tmp_path / "runs"))
        metadata = json.dumps({"git_commit": "f" * 40, "git_dirty": "false"})
        options = ("--working-dir", str(upload), "--metadata-json", metadata)
        done = submit(head, *options, "--", sys.executable, "-m", "orchestrator", "run", "tiny.yaml")
        assert done.returncode == 0, done.stdout + done.stderr
        result = load(RunResult, only_run(tmp_path) / "result.json")
        assert result.seeds[0].status == "finished"
        assert result.provenance["git_commit"] == "f" * 40


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
def test_a_folder_that_ray_cannot_name_is_refused(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is started; the variable that names it is blamed."""
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    place = tmp_path / "ré 文"
    place.mkdir()
    monkeypatch.setenv(variable, str(place))
    with pytest.raises(ClusterError) as refused, connected("local", before_local=pytest.fail):
        pytest.fail("connected")
    assert str(refused.value).startswith(f"{variable}: ") and "RAY_TMPDIR to one" in str(refused.value)


@pytest.mark.parametrize(
    ("given", "environment", "named", "why"),
    [
        ("127.0.0.1:1", None, "--address 127.0.0.1:1: ", "no Ray cluster answers there"),
        (None, "127.0.0.1:1", "RAY_ADDRESS=127.0.0.1:1 in the environment: ", "no Ray cluster answers there"),
        ("127.0.0.1:1", "10.0.0.1:2", "--address 127.0.0.1:1: ", "no Ray cluster answers there"),
        (None, "http://127.0.0.1:8265", "RAY_ADDRESS=http://127.0.0.1:8265 in the environment: ", "golf submit"),
        ("https://ray.example", None, "--address https://ray.example: ", "golf submit"),
    ],
)
def test_an_address_that_is_no_clusters(
    given: str | None, environment: str | None, named: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever named it is told, and what helps."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if environment is not None:
        monkeypatch.setenv("RAY_ADDRESS", environment)
    with pytest.raises(ClusterError) as refused, connected(given, before_local=pytest.fail):
        pytest.fail("connected")
    assert str(refused.value).startswith(named) and why in str(refused.value)
    assert "--address local" in str(refused.value)
