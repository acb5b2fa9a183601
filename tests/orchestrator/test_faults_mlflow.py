"""Faults of MLflow, made on purpose: the run ends as ever, and MLflow gets everything when it is back."""

from __future__ import annotations

import signal
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from broken_servers import fails, hangs, server
from fault_tools import SLOWER, Figures, Start, Tell, check_whole, in_stage, job
from tiny import golf

from orchestrator.tracking.store import default_uri
from orchestrator.tracking.ui import server_process, wait_until_healthy

pytestmark = pytest.mark.ray
OUTSIDE = "MLflow has not got everything"


def check_store(file: Path, run: Path) -> None:
    """The run and its seed have ended there, with a point of the training's loss for each step."""
    counted = (
        "select name, status, (select count(*) from metrics m where m.run_uuid = r.run_uuid and key = 'train/loss') "
        "from runs r"
    )
    with sqlite3.connect(file) as store:
        found = {name: (status, count) for name, status, count in store.execute(counted)}
    assert found == {run.name: ("FINISHED", 0), "seed 42": ("FINISHED", SLOWER["train.iterations"])}


@pytest.mark.parametrize(
    ("answer", "how"),
    [
        pytest.param(fails, "answers 500", marks=pytest.mark.slow),
        pytest.param(hangs, "hangs", marks=pytest.mark.slow),
        pytest.param(None, "is not there", marks=pytest.mark.slow),
    ],
)
def test_mlflow_does_not_work(
    answer: Callable[..., None] | None, how: str, place: Path, start: Start, undisturbed: Figures, tell: Tell
) -> None:
    with server(answer or fails) as uri:
        address = uri if answer else "http://127.0.0.1:9"
        place_free = {"mlflow": {"tracking_uri": address.replace("me:secret@", ""), "experiment": "parameter-golf"}}
        service = start(job(place, **place_free))
        assert service.ends() == 0, service.text
    check_whole(service.run, undisturbed)
    assert OUTSIDE in service.text and f"golf sync {service.run}" in service.text
    again = golf("sync", str(service.run), "--uri", default_uri(place))
    assert again.returncode == 0, again.stdout + again.stderr
    check_store(place / "mlflow.db", service.run)
    tell(f"MLflow {how}, at every call", service, OUTSIDE, "the run ends as ever; `golf sync` sends everything")


def test_no_patience_with_mlflow(place: Path, start: Start, undisturbed: Figures, tell: Tell) -> None:
    with server(hangs) as uri:
        mlflow = {"tracking_uri": uri.replace("me:secret@", ""), "experiment": "parameter-golf"}
        service = start(job(place, mlflow=mlflow))
        service.wait_for(lambda s: (s.run / "report.html").exists() if s.events() else False)
        service.process.send_signal(signal.SIGINT)
        assert service.ends(20) == 1 and f"golf rebuild {service.run}" in service.text, service.text
    check_whole(service.run, undisturbed)
    tell("Ctrl-C while the run's end is sent to MLflow", service, "interrupted", "the figures are written")


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[None]:
    uri = default_uri(folder)
    with (folder / "server.txt").open("w+b") as log, server_process(uri, "127.0.0.1", port, log) as process:
        wait_until_healthy(process, f"http://127.0.0.1:{port}", log)
        yield


def test_mlflow_comes_back(place: Path, start: Start, undisturbed: Figures, tell: Tell) -> None:
    """It is away when the run begins, and there before the run ends: then it has everything at once."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mlflow = {"tracking_uri": f"http://127.0.0.1:{port}", "experiment": "parameter-golf"}
    service = start(job(place, mlflow=mlflow))
    service.wait_for(lambda s: "does not answer" in s.text)
    with mlflow_server(place, port):
        service.wait_for(in_stage("train"))
        assert service.ends() == 0, service.text
    check_whole(service.run, undisturbed)
    assert OUTSIDE not in service.text
    check_store(place / "mlflow.db", service.run)
    tell("MLflow is away, and comes back", service, "does not answer", "it has everything when the run ends")


@pytest.mark.slow
def test_its_store_is_damaged(place: Path, start: Start, undisturbed: Figures, tell: Tell) -> None:
    (place / "store").mkdir()
    store = place / "store" / "mlflow.db"
    store.write_bytes(bytes(range(256)) * 64)
    mlflow = {"tracking_uri": f"sqlite:///{store}", "experiment": "parameter-golf"}
    service = start(job(place, mlflow=mlflow))
    assert service.ends() == 0, service.text
    check_whole(service.run, undisturbed)
    assert OUTSIDE in service.text and "Traceback" not in service.text
    assert store.read_bytes() == bytes(range(256)) * 64
    tell("MLflow's store is damaged", service, OUTSIDE, "the run ends as ever")
