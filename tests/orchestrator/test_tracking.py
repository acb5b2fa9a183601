"""MLflow as a copy of a run's folder: whatever MLflow does, nothing is lost, sent twice, or slowed down."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from broken_servers import fails, hangs, refuses, server, talks_nonsense
from claim_builders import CANDIDATE, job
from drawing import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow_tools import EXPERIMENT, PLAIN, Seen, add_data, breaking, copied
from run_builders import (
    T0,
    add_events,
    begin_run,
    begin_seed,
    chunks,
    fail_seed,
    finish_run,
    finish_seed,
    steps,
    whole_run,
)

from golf_core.errors import RunError
from orchestrator.folder.redaction import Redactor
from orchestrator.tracking.store import MAX_PARAM_CHARS, Store, default_uri, flatten, sqlite_path
from orchestrator.tracking.sync import Mirror, OutageError, Tracker, sole_writer, sync

HARDWARE = "8 x NVIDIA H100 80GB HBM3"
CLOSE_S = 200.0  # MLflow's first seconds are slow on a busy machine


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Seen]:
    """A whole run and its copy. The folder's name is an awkward one."""
    folder = tmp_path_factory.mktemp("out") / "100% #1, mine" / "run-1"
    whole_run(folder, train=300)
    add_data(folder, folder.parent / "tokenizer.model", (42, 1337, 2024))
    assert copied(folder) == []
    return folder, Seen(folder.parent)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Seen]:
    folder = tmp_path_factory.mktemp("small") / "run-1"
    whole_run(folder, (42,), train=4, evaluate=1)
    add_data(folder, folder.parent / "tokenizer.model")
    assert copied(folder) == []
    return folder, Seen(folder.parent)


def test_parent(whole: tuple[Path, Seen]) -> None:
    folder, seen = whole
    parent = seen.runs["run-1"]
    assert set(seen.runs) == {"run-1", "seed 42", "seed 1337", "seed 2024"}
    assert parent.info.status == "FINISHED"
    assert parent.data.params["config.train.batch_tokens"] == "786432"
    assert parent.data.metrics["claim/bpb_mixture_mean"] == pytest.approx(sum(CANDIDATE) / 3)
    expected = {"kind": "run", "verdict": "claim", "seeds": "42, 1337, 2024", "seeds_finished": "3 of 3"}
    expected |= {"job": job().name, "git_commit": "c0ffee", "hardware": HARDWARE, "run_folder": str(folder)}
    assert expected.items() <= parent.data.tags.items()
    assert parent.data.tags["mlflow.note.content"].startswith("**Claim")
    assert seen.files("run-1") == {"result.json", "job.json"}
    assert not Path("mlruns").exists() and not Path("mlartifacts").exists()


def test_child(whole: tuple[Path, Seen]) -> None:
    _, seen = whole
    child, parent = seen.runs["seed 1337"], seen.runs["run-1"]
    assert child.info.status == "FINISHED"
    expected = {"kind": "seed", "seed": "1337", "attempt": "1", "status": "finished", "job": job().name}
    expected |= {"hardware": HARDWARE, "mlflow.parentRunId": parent.info.run_id}
    assert expected.items() <= child.data.tags.items()
    assert child.data.metrics["bpb/mixture"] == CANDIDATE[1]
    assert seen.files("seed 1337") == {
        *("log.jsonl", "model.golf", "model", "train_gpt.py", "result.json", "audit.json", "data.json")
    }
    assert "mlflow-artifacts" in child.info.artifact_uri


def test_series(whole: tuple[Path, Seen]) -> None:
    _, seen = whole
    loss = seen.client.get_metric_history(seen.runs["seed 42"].info.run_id, "train/loss")
    assert [(p.step, p.value) for p in loss] == [(step, 7.0 - step / 300) for step in range(1, 301)]
    assert loss[4].timestamp == (T0 + 5) * 1000
    assert seen.points("seed 42", "eval/bpb_mixture") == [(1, 1.25), (2, 1.25), (3, 1.25)]
    assert seen.points("seed 42", "eval/weight_neural") == [(1, 0.9), (2, 0.9), (3, 0.9)]
    assert seen.points("seed 42", "time/train_seconds") == [(0, 12.5)]


def test_a_second_copy_sends_nothing(whole: tuple[Path, Seen], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, seen = whole
    before = seen.summary()
    for name in ("send", "reopen", "complete", "begin_calls", "end_calls", "tag", "_send_folder"):
        monkeypatch.setattr(Store, name, lambda *_, name=name: pytest.fail(f"{name} was called"))
    assert copied(folder) == []
    assert Seen(folder.parent).summary() == before


def test_a_lost_store_is_made_anew(whole: tuple[Path, Seen], tmp_path: Path) -> None:
    folder, seen = whole
    said: list[str] = []
    sync(folder, default_uri(tmp_path), PLAIN, said.append)
    assert said and said[-1].startswith("MLflow has all of run-1")
    assert Seen(tmp_path).summary() == seen.summary()


def test_attempts_are_runs_of_their_own(folder: Path, tmp_path: Path) -> None:
    ledger = begin_run(folder)
    place = begin_seed(folder, ledger, 42)
    add_events(place, steps(3))
    copied(folder, alive=True)
    add_events(place, list(steps(6))[3:])
    fail_seed(ledger, 42, 1)
    begin_seed(folder, ledger, 42, attempt=2)
    add_events(place, steps(4))
    copied(folder, alive=True)
    seen = Seen(tmp_path)
    assert [point[0] for point in seen.points("seed 42", "train/loss")] == [1, 2, 3, 4, 5, 6]
    assert [point[0] for point in seen.points("seed 42, attempt 2", "train/loss")] == [1, 2, 3, 4]
    first, second = seen.runs["seed 42"], seen.runs["seed 42, attempt 2"]
    assert (first.info.status, second.info.status) == ("FAILED", "RUNNING")
    assert first.data.tags["error"] == "a rank's process was lost" and first.data.tags["failure"] == "infrastructure"
    result = finish_seed(folder, ledger, 42, 1.1, attempt=2)
    finish_run(folder, ledger, (result,))
    copied(folder)
    seen = Seen(tmp_path)
    assert seen.runs["seed 42, attempt 2"].data.metrics["bpb/mixture"] == 1.1
    assert "bpb/mixture" not in seen.runs["seed 42"].data.metrics
    assert seen.runs["run"].info.status == "FINISHED"


def test_a_run_that_is_gone_on_with(folder: Path, tmp_path: Path) -> None:
    """Killed, copied, resumed: the same parent goes on, and the attempt that was cut short is told as such."""
    ledger = begin_run(folder)
    add_events(begin_seed(folder, ledger, 42), steps(3))
    ledger.close()
    copied(folder)
    seen = Seen(tmp_path)
    assert (seen.runs["run"].info.status, seen.runs["seed 42"].info.status) == ("KILLED", "KILLED")
    assert seen.runs["run"].data.tags["verdict"] == "interrupted"
    parent = seen.runs["run"].info.run_id
    ledger = begin_run(folder)
    add_events(begin_seed(folder, ledger, 42, attempt=2), steps(5))
    copied(folder, alive=True)
    seen = Seen(tmp_path)
    assert (seen.runs["run"].info.run_id, seen.runs["run"].info.status) == (parent, "RUNNING")
    assert seen.runs["run"].data.tags["verdict"] == "running"
    assert (seen.runs["seed 42"].info.status, seen.runs["seed 42, attempt 2"].info.status) == ("KILLED", "RUNNING")
    finish_run(folder, ledger, (finish_seed(folder, ledger, 42, 1.1, attempt=2),))
    copied(folder)
    assert Seen(tmp_path).runs["run"].info.status == "FINISHED"


def test_secrets_stay_away(folder: Path, tmp_path: Path) -> None:
    ledger = begin_run(folder, baseline__name="from s3cr3t-value-1234")
    begin_seed(folder, ledger, 42)
    add_data(folder, tmp_path / "tokenizer.model", path="/data/s3cr3t-value-1234/x")
    fail_seed(ledger, 42, 1)
    ledger.close()
    copied(folder, redactor=Redactor.from_environment({"HUB_TOKEN": "s3cr3t-value-1234"}))
    runs = Seen(tmp_path).runs
    assert runs["run"].data.params["baseline.name"] == "from [redacted HUB_TOKEN]"
    assert runs["run"].inputs.dataset_inputs and runs["seed 42"].inputs.dataset_inputs
    assert b"s3cr3t" not in (tmp_path / "mlflow.db").read_bytes()
    sent = [path for path in (tmp_path / "mlflow-artifacts").rglob("*") if path.is_file()]
    # Files are sent as they lie in the folder, where a run writes them redacted; the record of data here is not.
    assert not [path for path in sent if b"s3cr3t" in path.read_bytes() and path.name != "data.json"]


@settings(max_examples=examples(12), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_cut_short_anywhere_it_ends_the_same(
    data: st.DataObject, small: tuple[Path, Seen], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """MLflow breaks at any call, before or after it took what it was given; the next copier ends the work."""
    folder, seen = small
    place = tmp_path_factory.mktemp("store")
    for broken in data.draw(st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=4)):
        with breaking(*broken), contextlib.suppress(OutageError):
            copied(folder, place)
    assert copied(folder, place) == []
    assert Seen(place).summary() == seen.summary()


def test_one_call_is_refused_and_the_rest_is_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    real = MlflowClient.log_artifact

    def broken(self: Any, run_id: str, path: str, *place: str) -> None:
        if path.endswith("audit.json"):
            raise ValueError("disk is full\nat line 3")
        real(self, run_id, path, *place)

    whole_run(folder, (42,))
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifact", broken)
        said: list[str] = []
        with pytest.raises(RunError, match="refused 1 of the run's items"):
            sync(folder, None, PLAIN, said.append)
        assert copied(folder) == ["MLflow failed on the file audit.json (disk is full)"]
    seen = Seen(tmp_path)
    assert seen.runs["seed 42"].info.status == "FINISHED" and "audit.json" not in seen.files("seed 42")
    assert copied(folder) == []
    assert "audit.json" in Seen(tmp_path).files("seed 42")


def test_damaged_lines_are_passed_over(folder: Path, tmp_path: Path) -> None:
    ledger = begin_run(folder)
    place = begin_seed(folder, ledger, 42)
    add_events(place, steps(2))
    with (place / "log.jsonl").open("ab") as log:
        log.write(
            b'\x00\xff{"kind"\n[]\n{"time": 1, "kind": "train_step", "step": "x"}\n{"time": 1e999, "kind": "note"}\n'
        )
    add_events(place, list(steps(3))[2:])
    with (place / "log.jsonl").open("ab") as log:
        log.write(b'{"time": 3, "kind": "trai')  # torn
    ledger.close()
    assert copied(folder) == []
    assert [point[0] for point in Seen(tmp_path).points("seed 42", "train/loss")] == [1, 2, 3]


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    whole_run(tmp_path / "run", (42,))
    with sole_writer(tmp_path / "run"), pytest.raises(RunError, match="another process is writing this run to MLflow"):
        sync(tmp_path / "run", None, PLAIN, lambda _: None)


def test_an_experiment_in_the_trash_is_named(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    for name in ("first", "second"):
        whole_run(tmp_path / name, (42,))
    sync(tmp_path / "first", None, PLAIN, lambda _: None)
    client = MlflowClient(default_uri(tmp_path))
    trashed = client.get_experiment_by_name(EXPERIMENT).experiment_id
    client.delete_experiment(trashed)
    with pytest.raises(RunError) as refused:
        sync(tmp_path / "second", None, PLAIN, lambda _: None)
    said = str(refused.value)
    assert f"'{EXPERIMENT}' is in its trash" in said and "set another mlflow.experiment" in said
    assert f"mlflow experiments restore -x {trashed}" in said
    client.restore_experiment(trashed)
    sync(tmp_path / "second", None, PLAIN, lambda _: None)
    assert {run.info.run_name for run in client.search_runs([trashed])} >= {"first", "second"}


# --- while a run goes on ----------------------------------------------------------------------------


def tracked(folder: Path, uri: str | None = None) -> tuple[Tracker, list[str]]:
    warnings: list[str] = []
    store = Store(uri or default_uri(folder.parent), EXPERIMENT)
    tracker = Tracker(folder, store, PLAIN, warnings.append)
    tracker.start()
    return tracker, warnings


def test_a_run_is_copied_while_it_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.tracking.sync.PASS_EVERY_S", 0.05)
    ledger = begin_run(folder)
    tracker, warnings = tracked(folder)
    add_events(begin_seed(folder, ledger, 42), steps(5))
    deadline = time.monotonic() + CLOSE_S
    while time.monotonic() < deadline:
        try:
            if len(Seen(tmp_path).points("seed 42", "train/loss")) == 5:
                break
        except (AttributeError, KeyError):  # not there yet
            time.sleep(0.2)
    assert Seen(tmp_path).runs["seed 42"].info.status == "RUNNING"
    add_events(folder / "seed-42", chunks(2))
    finish_run(folder, ledger, (finish_seed(folder, ledger, 42, 1.1),))
    assert tracker.close(CLOSE_S) is None and warnings == []
    seen = Seen(tmp_path)
    assert seen.points("seed 42", "eval/bpb_mixture") == [(1, 1.25), (2, 1.25)]
    assert {run.info.status for run in seen.runs.values()} == {"FINISHED"}


@pytest.mark.parametrize(
    "answer", [None, fails, hangs, *(pytest.param(how, marks=pytest.mark.slow) for how in (refuses, talks_nonsense))]
)
def test_a_server_that_does_not_work(answer: Callable[..., None] | None, folder: Path, tmp_path: Path) -> None:
    """The end is not held up; one sentence, without the password; and all is sent when MLflow is back."""
    ledger = begin_run(folder)
    with server(answer or fails) as uri:
        if answer is None:  # nobody listens there
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                uri = f"http://me:secret@127.0.0.1:{probe.getsockname()[1]}"
        tracker, warnings = tracked(folder, uri)
        add_events(begin_seed(folder, ledger, 42), steps(5))
        finish_run(folder, ledger, (finish_seed(folder, ledger, 42, 1.1),))
        if answer is not hangs:
            deadline = time.monotonic() + CLOSE_S
            while not warnings and time.monotonic() < deadline:
                time.sleep(0.05)
        began = time.monotonic()
        wanting = tracker.close(1.0 if answer is hangs else 30.0)
        assert time.monotonic() - began < 31
    assert wanting == f"MLflow has not got everything; the run's folder has, and sends it with: golf sync {folder}"
    assert len(warnings) <= 1 and "secret" not in "".join(warnings)
    if answer is not hangs:
        assert f"MLflow at {uri.replace('me:secret@', '')}" in warnings[0] and "the run goes on" in warnings[0]
        said: list[str] = []
        sync(folder, default_uri(tmp_path), PLAIN, said.append)
        seen = Seen(tmp_path)
        assert len(seen.points("seed 42", "train/loss")) == 5 and seen.runs["run"].info.status == "FINISHED"


def test_a_store_that_forgets_is_written_anew(folder: Path, tmp_path: Path) -> None:
    ledger = begin_run(folder)
    add_events(begin_seed(folder, ledger, 42), steps(5))
    copier = Mirror(folder, Store(default_uri(tmp_path), EXPERIMENT), PLAIN, pytest.fail)
    copier.run(alive=True)
    before = Seen(tmp_path)
    for run in before.runs.values():
        before.client._tracking_client.store._hard_delete_run(run.info.run_id)
    add_events(folder / "seed-42", chunks(1))
    for _ in range(3):
        try:
            copier.run(alive=True)
        except OutageError:
            continue
    seen = Seen(tmp_path)
    assert seen.runs["run"].info.run_id != before.runs["run"].info.run_id
    assert len(seen.points("seed 42", "train/loss")) == 5 and seen.points("seed 42", "eval/bpb_neural") == [(1, 1.5)]
    ledger.close()


def test_two_processes_on_a_new_store(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    program = (
        "import sys; from pathlib import Path; from orchestrator.tracking.sync import sync\n"
        "from orchestrator.folder.redaction import Redactor\n"
        "sync(Path(sys.argv[1]), None, Redactor.from_environment({}), print)"
    )
    folders = [tmp_path / "run-1", tmp_path / "run-2"]
    for folder in folders:
        whole_run(folder, (42,))
    command = [sys.executable, "-c", program]
    processes = [subprocess.Popen([*command, str(f)], stdout=subprocess.PIPE, text=True) for f in folders]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    from mlflow import MlflowClient

    client = MlflowClient(default_uri(tmp_path))
    runs = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    assert sorted(run.info.run_name for run in runs) == ["run-1", "run-2", "seed 42", "seed 42"]
    record_property("fault", "two first uses of a new MLflow store at once")
    record_property("said", "nothing: one makes the store, the other waits")
    record_property("after", "both runs are there, whole")


def test_batches_are_of_a_size_that_mlflow_takes(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole_run(folder, (42,), train=700)
    sizes: list[int] = []
    real = Store.send
    monkeypatch.setattr("orchestrator.folder.event_log.READ_BYTES", 20_000)
    monkeypatch.setattr(
        Store, "send", lambda self, run, points, sent: (sizes.append(len(points)), real(self, run, points, sent))
    )
    copied(folder)
    assert max(sizes) <= 900 and sum(sizes) == 700 * 4 + 1 + 3 * 5
    assert len(Seen(tmp_path).points("seed 42", "train/loss")) == 700


# --- names and addresses ----------------------------------------------------------------------------


def test_long_values(folder: Path, tmp_path: Path) -> None:
    begin_run(folder, overrides={}, baseline__name="x" * 150).close()
    assert copied(folder) == []
    params = Seen(tmp_path).runs["run"].data.params
    assert params["name"] == job().name and max(map(len, params.values())) <= MAX_PARAM_CHARS


def test_flatten() -> None:
    record = {"a": {"b": {"c": 1}, "d": True}, "e": None, "f": [1, 2], "g": "text", "h": {}, "i": 0.5, 42: "seed"}
    expected = {"a.b.c": 1, "a.d": "true", "e": "null", "f": "[1, 2]", "g": "text", "h": "{}", "i": 0.5, "42": "seed"}
    assert flatten(record) == expected


def test_addresses(tmp_path: Path) -> None:
    for name in ("plain", "two words", "50%25", "a?b", "a#b"):
        assert sqlite_path(default_uri(tmp_path / name)) == tmp_path / name / "mlflow.db"
    for uri in ("http://host:5000", "https://host", "postgresql://me@host/db", "sqlite://", ""):
        assert sqlite_path(uri) is None


def test_import_is_light() -> None:
    program = "import sys, orchestrator.tracking.sync, orchestrator.tracking.ui; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
