"""The queue of jobs, alone and on a cluster with room for one gang."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from fault_tools import check_ledger, figures
from tiny import REPO, only_run, write_job

from golf_core.strict_json import load
from orchestrator.folder.results import RunResult
from orchestrator.run.cluster import GONE_S, JobQueue


class TestTurnstile:
    def test_first_come_first_served(self) -> None:
        queue = JobQueue()
        assert [queue.ahead(t) for t in "abcab"] == [0, 1, 2, 0, 1]
        assert queue.leave("a") == 2
        assert [queue.ahead(t) for t in "bca"] == [0, 1, 2]

    def test_the_dead_make_way(self) -> None:
        now = [0.0]
        queue = JobQueue(lambda: now[0])
        queue.ahead("dead")
        for _ in range(5):
            assert queue.ahead("b") == 1
            now[0] += GONE_S / 5
        assert queue.ahead("b") == 0
        assert queue.leave("b") == 0

    def test_leaving_twice(self) -> None:
        queue = JobQueue()
        queue.ahead("a")
        assert queue.leave("b") == 1 and queue.leave("a") == 0 and queue.leave("a") == 0


TWO_JOBS = """
import subprocess, sys, time
import ray
from ray.cluster_utils import Cluster
from ray.util import placement_group, remove_placement_group
from orchestrator.run.cluster import GONE_S

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
cluster.add_node(num_cpus=2)
cluster.wait_for_nodes()
try:
    ray.init(cluster.address, namespace="golf", logging_level="ERROR")
    occupied = placement_group([{"CPU": 2}])
    ray.get(occupied.ready())
    command = [sys.executable, "-m", "orchestrator", "run", "--address", cluster.address]
    jobs = [subprocess.Popen([*command, job]) for job in sys.argv[1:]]

    def waiting():
        try:
            queue = ray.get_actor("golf-queue-cpu")
        except ValueError:
            return 0
        before = ray.get(queue.ahead.remote("probe"))
        ray.get(queue.leave.remote("probe"))
        return before

    while waiting() < 2 and all(job.poll() is None for job in jobs):
        time.sleep(1)
    time.sleep(GONE_S + 5)
    print("waiting", waiting(), flush=True)
    remove_placement_group(occupied)
    codes = [job.wait() for job in jobs]
    print("codes", codes, "queues", ray.util.list_named_actors(all_namespaces=True), flush=True)
finally:
    cluster.shutdown()
"""


@pytest.mark.ray
def test_two_jobs_on_a_cluster_with_room_for_one_gang(
    tmp_path: Path, sample_folder: Path, record_property: Callable[[str, object], None]
) -> None:
    """Neither waits for ever, no two gangs overlap, from when both wait they take turns, and their figures agree."""
    folders = [tmp_path / "a", tmp_path / "b"]
    jobs = []
    for folder in folders:
        folder.mkdir()
        jobs.append(str(write_job(folder, seeds=[42, 1337], resources={"cpus_per_rank": 2})))
    done = subprocess.run(
        [sys.executable, "-c", TWO_JOBS, *jobs], capture_output=True, text=True, timeout=500, cwd=REPO, check=False
    )
    assert "codes [0, 0] queues []" in done.stdout, done.stdout + done.stderr
    assert "waiting 2" in done.stdout  # neither loses its place, however long room is in coming
    seeds = [
        (seed.started, seed.finished, folder.name)
        for folder in folders
        for seed in load(RunResult, only_run(folder) / "result.json").seeds
    ]
    seeds.sort()
    assert len(seeds) == 4
    assert all(before[1] <= after[0] + 0.5 for before, after in pairwise(seeds))
    assert [name for _, _, name in seeds] in (["a", "b"] * 2, ["b", "a"] * 2)
    one, other = (figures(only_run(folder)) for folder in folders)
    assert len(one) == 2 and one == pytest.approx(other, abs=1e-6)
    for folder in folders:
        check_ledger(only_run(folder), tuple(one))
    record_property("fault", "two jobs of two seeds at once, room for one gang")
    record_property("said", "nothing: each waits for its turn")
    record_property("after", "both end, no gang beside another; same figures")
