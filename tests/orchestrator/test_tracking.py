from __future__ import annotations

import math
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from golf_core.events import Event
from orchestrator import tracking
from orchestrator.mlflow_store import MAX_PARAM_CHARS, Store, default_uri, flatten, series, sqlite_path
from orchestrator.tracking import Tracker

EXPERIMENT = "golf"
CLOSE_S = 200.0  # MLflow's first seconds are slow on a busy machine


def train_step(step: int, at: float = 1_700_000_000.0) -> Event:
    fields = {"step": step, "total": 9, "loss": 7.0 - step, "lr_factor": 1.0, "ms_per_step": 5.5, "tokens_per_s": 1e4}
    return Event("train_step", {**fields, "elapsed_s": 1.0, "eta_s": 2.0}, time=at)


def chunk(number: int, **changes: Any) -> Event:
    weights = {"neural": 0.9, "unigram": 0.1}
    fields = {"chunk": number, "total": 3, "bpb_neural": 1.5, "bpb_mixture": 1.25, "bpb_published": 1.0}
    return Event("chunk", {**fields, "weights": weights, **changes})


def tracked(output: Path, steps: Callable[[Tracker], None]) -> tuple[Tracker, list[str], int]:
    """A run of one seed around `steps`; the tracker, its warnings and the number of items not written."""
    warnings: list[str] = []
    tracker = Tracker(default_uri(output), EXPERIMENT, warnings.append)
    tracker.start("run-1", {"train.iterations": 9}, {"verdict": "running"}, "three seeds")
    tracker.seed_started(42, {"seed": 42}, {"seed": "42"})
    steps(tracker)
    tracker.finish({"bpb_mixture_mean": 1.125}, {"verdict": "no claim"}, [], "**no claim**", ok=True)
    return tracker, warnings, tracker.close(CLOSE_S)


def client_of(output: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(default_uri(output))


def child_of(client: Any, tracker: Tracker) -> Any:
    parent = client.get_run(tracker.parent_run_id)
    children = client.search_runs([parent.info.experiment_id], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    assert len(children) == 1
    return children[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any]:
    """A whole run, and what MLflow then has: client, parent and child. The folder's name is an awkward one."""
    output = tmp_path_factory.mktemp("out") / "100% #1, mine"
    output.mkdir()
    log = output / "events.jsonl"
    log.write_text("{}\n")
    many = {f"config.field_{i}": i for i in range(250)} | {"long": "x" * 9000, "odd=name": "kept"}

    def steps(tracker: Tracker) -> None:
        tracker.seed_started(7, many, {"seed": "7"})
        for step in range(1, 1501):
            tracker.seed_event(7, train_step(step, at=1_700_000_000.0 + step))
        tracker.seed_event(7, Event("validation", {"step": 9, "val_loss": 2.5, "val_bpb": 1.5}))
        tracker.seed_event(7, chunk(1, bpb_published=math.inf))
        tracker.seed_event(7, chunk(2))
        tracker.seed_event(7, Event("phase_finished", {"phase": "train", "seconds": 12.5}))
        tracker.seed_event(7, Event("note", {"message": "nothing to plot"}))
        metrics = {"bpb_mixture": 1.125, "mean_log_z": math.nan}
        tracker.seed_finished(7, metrics, {"status": "finished"}, [log], ok=False)

    tracker, warnings, unwritten = tracked(output, steps)
    assert (warnings, unwritten) == ([], 0)
    client = client_of(output)
    parent = client.get_run(tracker.parent_run_id)
    filter_ = f"tags.mlflow.parentRunId = '{parent.info.run_id}' and tags.seed = '7'"
    (child,) = client.search_runs([parent.info.experiment_id], filter_)
    return client, parent, child


def test_parent(run: tuple[Any, Any, Any]) -> None:
    client, parent, _ = run
    assert (parent.info.run_name, parent.info.status) == ("run-1", "FINISHED")
    assert client.get_experiment(parent.info.experiment_id).name == EXPERIMENT
    assert parent.data.params == {"train.iterations": "9"}
    assert parent.data.metrics == {"bpb_mixture_mean": 1.125}
    assert parent.data.tags["verdict"] == "no claim"
    assert parent.data.tags["mlflow.note.content"] == "**no claim**"


def test_child(run: tuple[Any, Any, Any]) -> None:
    client, _, child = run
    assert (child.info.run_name, child.info.status) == ("seed 7", "FAILED")
    assert len(child.data.params) == 252
    assert child.data.params["config.field_249"] == "249"
    assert child.data.params["long"] == "x" * MAX_PARAM_CHARS
    assert child.data.params["odd_name"] == "kept"
    assert (child.data.tags["seed"], child.data.tags["status"]) == ("7", "finished")
    assert child.data.metrics["bpb_mixture"] == 1.125
    assert "mean_log_z" not in child.data.metrics
    (file,) = client.list_artifacts(child.info.run_id)
    assert file.path == "events.jsonl"


def test_series(run: tuple[Any, Any, Any]) -> None:
    client, _, child = run

    def points(name: str) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in client.get_metric_history(child.info.run_id, name)]

    loss = client.get_metric_history(child.info.run_id, "train/loss")
    assert [(p.step, p.value) for p in loss] == [(step, 7.0 - step) for step in range(1, 1501)]
    assert loss[4].timestamp == 1_700_000_005_000
    assert points("train/ms_per_step")[0] == (1, 5.5)
    assert points("val/bpb") == [(9, 1.5)]
    assert points("eval/bpb_mixture") == [(1, 1.25), (2, 1.25)]
    assert points("eval/bpb_published") == [(2, 1.0)]
    assert points("eval/weight_neural") == [(1, 0.9), (2, 0.9)]
    assert points("time/train_seconds") == [(0, 12.5)]


def test_artifacts_lie_beside_the_store(run: tuple[Any, Any, Any]) -> None:
    _, parent, child = run
    assert "mlflow-artifacts" in child.info.artifact_uri
    assert not Path("mlruns").exists() and not Path("mlartifacts").exists()
    assert parent.info.experiment_id == child.info.experiment_id


def test_seed_left_open_is_ended(run: tuple[Any, Any, Any]) -> None:
    client, parent, _ = run
    (child,) = client.search_runs([parent.info.experiment_id], "tags.seed = '42'")
    assert child.info.status == "KILLED"


def test_two_processes_on_a_new_store(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib\n"
        "from orchestrator.mlflow_store import default_uri; from orchestrator.tracking import Tracker\n"
        f"t = Tracker(default_uri(pathlib.Path(sys.argv[1])), {EXPERIMENT!r}, print)\n"
        "t.start('run', {'a': 1}, {}, ''); t.finish({'m': 1.0}, {}, [], '', True); sys.exit(t.close(200))"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    client = client_of(tmp_path)
    runs = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    assert [run.data.metrics for run in runs] == [{"m": 1.0}] * 2


def test_server_that_refuses() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    warnings: list[str] = []
    tracker = Tracker(f"http://me:secret@127.0.0.1:{port}", EXPERIMENT, warnings.append)
    tracker.start("run", {}, {}, "")
    tracker.seed_started(42, {}, {})
    began = time.perf_counter()
    for step in range(1000):
        tracker.seed_event(42, train_step(step))
    assert (time.perf_counter() - began) / 1000 < 200e-6
    tracker.finish({}, {}, [], "", ok=True)
    began = time.perf_counter()
    assert tracker.close(20) == 1003
    assert time.perf_counter() - began < 21
    assert len(warnings) == 1
    assert f"http://127.0.0.1:{port} does not answer" in warnings[0]
    assert "secret" not in warnings[0]
    assert tracker.parent_run_id is None and tracker.url_hint is None


def test_one_call_fails_and_the_rest_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    def broken(self: Any, run_id: str, path: str) -> None:
        raise ValueError("disk is full\nat line 3")

    monkeypatch.setattr(MlflowClient, "log_artifact", broken)

    def steps(tracker: Tracker) -> None:
        tracker.seed_event(42, train_step(1))
        tracker.seed_finished(42, {"bpb_mixture": 1.0}, {"status": "finished"}, [Path("a"), Path("b")], ok=True)

    tracker, warnings, unwritten = tracked(tmp_path, steps)
    assert warnings == ["MLflow failed on the file a (disk is full); the run goes on"]
    assert unwritten == 1
    child = child_of(client_of(tmp_path), tracker)
    assert child.info.status == "FINISHED"
    assert child.data.metrics["train/loss"] == 6.0 and child.data.metrics["bpb_mixture"] == 1.0


def test_figure_that_is_no_number(tmp_path: Path) -> None:
    def steps(tracker: Tracker) -> None:
        tracker.seed_finished(42, {"bpb_mixture": "much"}, {}, [], ok=True)  # type: ignore[dict-item]

    tracker, warnings, unwritten = tracked(tmp_path, steps)
    assert unwritten == 1 and len(warnings) == 1
    assert client_of(tmp_path).get_run(tracker.parent_run_id).info.status == "FINISHED"


def test_outage_is_sat_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    real, tries = MlflowClient.log_batch, []

    def flaky(self: Any, *args: Any, **given: Any) -> Any:
        tries.append(1)
        if len(tries) == 2:
            raise MlflowException("bad gateway")
        return real(self, *args, **given)

    monkeypatch.setattr(MlflowClient, "log_batch", flaky)
    _, warnings, unwritten = tracked(tmp_path, lambda tracker: tracker.seed_event(42, train_step(1)))
    assert unwritten == 0
    assert len(warnings) == 1 and "bad gateway" in warnings[0]


def test_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    calls = []

    def broken(self: Any, *args: Any, **given: Any) -> None:
        calls.append(1)
        raise ValueError("no")

    monkeypatch.setattr(MlflowClient, "log_batch", broken)
    files = [Path("absent")] * 100
    _, warnings, unwritten = tracked(tmp_path, lambda t: t.seed_finished(42, {}, {}, files, ok=True))
    assert unwritten == 4
    assert len(warnings) == 2 and warnings[1].startswith("MLflow: given up")


def test_hanging_server_does_not_hold_up_the_end() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        tracker = Tracker(f"http://127.0.0.1:{silent.getsockname()[1]}", EXPERIMENT, lambda _: None)
        tracker.start("run", {}, {}, "")
        began = time.perf_counter()
        assert tracker.close(0.5) == 1
        assert time.perf_counter() - began < 2


def test_full_queue_loses_points_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "MAX_WAITING", 5)
    go = threading.Event()
    real = Store.connect
    monkeypatch.setattr(Store, "connect", lambda self: (go.wait(CLOSE_S), real(self))[1])

    def steps(tracker: Tracker) -> None:
        for step in range(10):
            tracker.seed_event(42, train_step(step))
        tracker.seed_finished(42, {"bpb_mixture": 1.0}, {}, [], ok=True)
        go.set()

    tracker, _, unwritten = tracked(tmp_path, steps)
    assert unwritten == 7  # two of the five places were taken by the starts
    assert child_of(client_of(tmp_path), tracker).info.status == "FINISHED"


def test_close_without_start() -> None:
    assert Tracker("sqlite:////nowhere/mlflow.db", EXPERIMENT, print).close(1) == 0


def test_flatten() -> None:
    record = {"a": {"b": {"c": 1}, "d": True}, "e": None, "f": [1, 2], "g": "text", "h": {}, "i": 0.5, 42: "seed"}
    expected = {"a.b.c": 1, "a.d": "true", "e": "null", "f": "[1, 2]", "g": "text", "h": "{}", "i": 0.5, "42": "seed"}
    assert flatten(record) == expected


def test_chunk_without_the_mixer() -> None:
    event = Event("chunk", {"chunk": 3, "total": 4, "bpb_neural": 1.5, "weights": {}, "elapsed_s": 1.0, "eta_s": 0.0})
    assert series(event) == (3, {"eval/bpb_neural": 1.5})


@pytest.mark.parametrize("name", ["plain", "two words", "50%25", "a?b", "a#b"])
def test_addresses(name: str, tmp_path: Path) -> None:
    assert sqlite_path(default_uri(tmp_path / name)) == tmp_path / name / "mlflow.db"


@pytest.mark.parametrize("uri", ["http://host:5000", "https://host", "postgresql://me@host/db", "sqlite://", ""])
def test_addresses_without_a_file(uri: str) -> None:
    assert sqlite_path(uri) is None


def test_import_is_light() -> None:
    program = "import sys, orchestrator.tracking, orchestrator.ui; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
