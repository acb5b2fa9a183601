"""What is made once for all tests of the service that a pytest process runs, or once for all processes."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fault_tools import Figures, Service, Start, Tell, figures, job, no_orphans
from heads import Head, ray_head
from tiny import only_run


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, sample_folder: Path) -> Iterator[Head]:
    """A Ray head that runs share: a driver that starts one of its own takes ten seconds longer."""
    with ray_head(tmp_path_factory.mktemp("cluster")) as head:
        yield head


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder for runs, of which no process is left afterwards."""
    yield tmp_path
    assert no_orphans(tmp_path), "processes are left"


@pytest.fixture
def start(place: Path, cluster: Head) -> Start:
    """Starts `golf run` with these arguments on the shared cluster."""
    at = ("--address", cluster.address)
    return lambda *arguments, **environment: Service(place, *arguments, *at, **(cluster.environment | environment))


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Tell:
    """Leaves a row for the table of faults: `pytest --faults-markdown docs/faults.md`."""

    def leave(fault: str, service: Service, sign: str, after: str) -> None:
        said = next(line for line in service.text.splitlines() if sign in line)
        record_property("fault", fault)
        record_property("said", re.sub(r"/\S*/runs/\S*", "RUN", said)[:260])
        record_property("after", after)

    return leave


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, sample_folder: Path) -> Path:
    """The folder of an undisturbed, audited run of two seeds, made once for all processes of pytest; not to change."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "undisturbed"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            service = Service(folder, job(folder, (42, 1337), audit={"positions": 1}), "--address", "local")
            assert service.ends() == 0, service.text
            (folder / "done").touch()
    return only_run(folder)


@pytest.fixture(scope="session")
def undisturbed(finished: Path) -> Figures:
    """The mixture's BPB of each seed of the undisturbed run."""
    return figures(finished)
