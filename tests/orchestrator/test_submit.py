"""Submitting a job: what is sent, how its log is followed, and how every failure is told."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import AsyncIterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_cluster import end_group, free_ports, fresh_home, wait_for_dashboard
from tiny import REPO, write_job

from golf_core.errors import GolfError, RunError, UserError
from orchestrator.job.load import load_job
from orchestrator.preflight.machine import ClusterError
from orchestrator.submit import submit as module
from orchestrator.submit.follow import (
    Follower,
    JobEnd,
    Patience,
    bounded,
    check_version,
    dashboard_address,
    open_client,
    own_head,
    wait_for_end,
)
from orchestrator.submit.submit import (
    after_interrupt,
    exit_code,
    files_to_upload,
    job_metadata,
    plan,
    submit,
    write_package,
)

ADDRESS = "http://127.0.0.1:8265"
HASTY = Patience(answer=0.2, quiet=0.02, lost=0.3, closed=0.3, retry=0.01)
HOW_TO = ("logs --follow --address", "stop --address")
LOG = "".join(f"line {i}\n" for i in range(20))


AUTHENTICATION = type("AuthenticationError", (Exception,), {})("Authentication required: …\n\n…")
"""What Ray raises where a token is missing or wrong."""


def info(status: str, message: str = "", code: int | None = None) -> Any:
    return SimpleNamespace(status=SimpleNamespace(value=status), message=message, driver_exit_code=code)


class FakeClient:
    """A cluster whose answers are written down: `states` one after another, the last for ever."""

    def __init__(self, states: Sequence[Any] = (), streams: Sequence[Any] = ([],)) -> None:
        self.states, self.streams = list(states), list(streams)
        self.submitted: dict[str, Any] = {}
        self.get_job_logs = Mock(return_value=LOG)
        self.stop_job = Mock()

    def submit_job(self, **what: Any) -> None:
        working_dir = what["runtime_env"].get("working_dir")
        names = zipfile.ZipFile(working_dir).namelist() if working_dir else None
        self.submitted = {**what, "names": names}

    def get_job_info(self, job_id: str) -> Any:
        state = first_of(self.states)
        if isinstance(state, Exception):
            raise state
        return state() if callable(state) else state

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        for piece in first_of(self.streams):
            if isinstance(piece, Exception):
                raise piece
            if isinstance(piece, float):
                await asyncio.sleep(piece)
            else:
                yield piece


def first_of(left: list[Any]) -> Any:
    return left.pop(0) if len(left) > 1 else left[0]


def followed(client: FakeClient, patience: Patience = HASTY) -> tuple[JobEnd, list[str]]:
    pieces: list[str] = []
    return Follower(client, "job-1", ADDRESS, pieces.append, patience).run(), pieces


class TestFollowing:
    @given(st.lists(st.integers(0, len(LOG)), max_size=6), st.integers(1, 50), st.booleans())
    def test_each_line_once_however_often_the_connection_breaks(
        self, breaks: list[int], size: int, raises: bool
    ) -> None:
        """Every connection begins with the first line and breaks anywhere."""

        def stream(until: int) -> list[Any]:
            pieces: list[Any] = [LOG[i : min(i + size, until)] for i in range(0, until, size)]
            return [*pieces, RuntimeError("closed with code 1006")] if raises else pieces

        streams = [stream(until) for until in breaks] + [stream(len(LOG))]
        states = [info("RUNNING")] * len(breaks) + [info("FAILED", "why, last available logs (truncated):\nline 19", 2)]
        client = FakeClient(states, streams)
        quick = Patience(answer=1, quiet=1, lost=60, closed=60, retry=0)
        end, pieces = followed(client, quick)
        assert "".join(pieces) == LOG and "" not in pieces
        assert end == JobEnd("FAILED", "why", 2)

    @pytest.mark.parametrize(
        ("states", "streams"),
        [
            ([info("SUCCEEDED")], [[LOG[:100]]]),  # lines that a connection missed are fetched
            *(([info(quiet)] * 30 + [info("SUCCEEDED")], [[60.0]]) for quiet in ("PENDING", "RUNNING")),
            # Nothing comes for long: the log is asked for anew, and goes on where it was.
            ([info("RUNNING")] * 8 + [info("SUCCEEDED")], [[LOG[:70], 60.0], [LOG]]),
            ([info("RUNNING"), info("STOPPED")], [[LOG[:70], 60.0]]),  # the job has ended, its log stays open
            *(
                ([error, error, info("SUCCEEDED")], [[ConnectionError("refused")]])  # a head that answers again
                for error in (ConnectionError("refused"), OSError("reset"), RuntimeError("status code 500"))
            ),
        ],
    )
    def test_the_log_is_whole_whatever_its_connection_does(self, states: list[Any], streams: list[Any]) -> None:
        end, pieces = followed(FakeClient(states, streams))
        assert end.status == states[-1].status.value and "".join(pieces) == LOG


@pytest.mark.parametrize(
    ("states", "stream", "sentence"),
    [
        (
            [ConnectionError("refused")],
            [ConnectionError("refused")],
            "no answer from http://127.0.0.1:8265 for 0.3 s; the job may still run",
        ),
        ([lambda: threading.Event().wait(5)], [60.0], "no answer from"),
        (
            [info("RUNNING"), RuntimeError("Request failed with status code 404: Job job-1 does not exist.")],
            [LOG[:7]],
            "does not know this job any more",
        ),
        # The head died: the log ends as soon as it begins, again and again, with nothing new in it.
        ([info("RUNNING")], [LOG[:7]], "is said to run, but for 0.3 s its log has been closed"),
        ([AUTHENTICATION], [LOG[:7]], "no longer takes this token"),
    ],
)
def test_what_cannot_be_known(states: list[Any], stream: list[Any], sentence: str) -> None:
    with pytest.raises(RunError) as error:
        followed(FakeClient(states, [stream]))
    assert sentence in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        *(("SUCCEEDED", 0, 0), ("FAILED", 1, 1), ("FAILED", 2, 2), ("FAILED", 137, 1), ("FAILED", None, 1)),
        ("STOPPED", 143, 130),
    ],
)
def test_exit_code_of_a_job(status: str, code: int | None, expected: int) -> None:
    assert exit_code(JobEnd(status, "", code)) == expected


@pytest.mark.parametrize(
    ("told", "answer", "stopped"),
    [(False, None, False), (False, True, True), (False, False, False), (True, None, True)],
    ids=["nobody to ask", "a person says yes", "a person says no", "told before"],
)
def test_an_interrupt(told: bool, answer: bool | None, stopped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job is left alone, and it is said how to go on, unless somebody wants it stopped."""
    asked, said = Mock(return_value=answer), list[str]()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: answer is not None))
    monkeypatch.setattr(module.typer, "confirm", asked)
    client = FakeClient([info("RUNNING"), info("STOPPED")])
    assert after_interrupt(client, "job-1", ADDRESS, told, said.append) == 130
    assert asked.call_count == (answer is not None) and client.stop_job.called is stopped
    ways = ["job-1: stopped"] if stopped else [f"ray job {how} {ADDRESS} job-1" for how in HOW_TO]
    assert all(way in "\n".join(said) for way in ways)


def test_the_end_of_a_job_is_not_waited_for_for_ever() -> None:
    assert wait_for_end(FakeClient([info("RUNNING")]), "job-1", 0.1) is None


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a project with a job, some code, and data that git ignores."""
    folder = tmp_path / "my project"
    (folder / "orchestrator").mkdir(parents=True)
    (folder / "orchestrator" / "__main__.py").write_text("")
    (folder / "data").mkdir()
    (folder / "data" / "big.bin").write_bytes(b"x")
    (folder / ".gitignore").write_text("/data/\nsecret.yaml\n")
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    write_job(folder, output="/mnt/runs")
    monkeypatch.chdir(folder)
    return folder


class TestPlan:
    def planned(self, path: str | Path = "tiny.yaml", *changes: str, **how: Any) -> Any:
        return plan(load_job(Path(path)), Path(path), changes, **{"head": None, **how})

    def words(self, path: str | Path = "tiny.yaml", *changes: str, **how: Any) -> list[str]:
        return shlex.split(self.planned(path, *changes, **how).entrypoint)

    def test_nothing_travels_to_a_head_that_runs_here(self, project: Path) -> None:
        found = self.planned("tiny.yaml", "seeds=[1, 2]", head=project.resolve())
        assert found.upload is None
        expected = [sys.executable, "-m", "orchestrator", "run", str(project / "tiny.yaml"), "--set", "seeds=[1, 2]"]
        assert shlex.split(found.entrypoint) == expected

    def test_the_project_travels_to_a_head_elsewhere(self, project: Path, tmp_path: Path) -> None:
        for head, python in ((None, "python"), (tmp_path, sys.executable)):
            found = self.planned(head=head)
            assert found.upload == project.resolve()
            assert shlex.split(found.entrypoint) == [python, "-m", "orchestrator", "run", "tiny.yaml"]
            assert set(found.names) == {".gitignore", "orchestrator/__main__.py", "tiny.yaml"}

    def test_where_told_to(self, project: Path, tmp_path: Path) -> None:
        assert self.words(working_dir="none", python="/opt/python") == [
            "/opt/python", "-m", "orchestrator", "run", "tiny.yaml",
        ]  # fmt: skip
        other = tmp_path / "other"
        (other / "jobs").mkdir(parents=True)
        path = write_job(other / "jobs", output="/mnt/runs")
        found = self.planned(path, working_dir=str(other))
        assert found.upload == other.resolve() and found.names == ("jobs/tiny.yaml",)
        assert shlex.split(found.entrypoint)[-1] == "jobs/tiny.yaml"

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"output": "runs"}, r"^output: 'runs' would lie in the uploaded folder.*--set output="),
            ({"data": {"path": "data", "tokenizer": "/t.model"}}, r"^data.path: 'data' does not travel"),
            ({"data": {"path": "./orchestrator", "tokenizer": "t.model"}}, r"^data.tokenizer: 't.model' does not"),
        ],
    )
    def test_results_and_data_that_do_not_travel(self, changes: dict[str, Any], sentence: str, project: Path) -> None:
        write_job(project, **{"output": "/runs", **changes})
        with pytest.raises(UserError, match=sentence):
            self.words()
        self.words(head=project.resolve())  # where nothing is uploaded, nothing is lost
        data = {"path": "data", "tokenizer": "t.model", "fetch": {"variant": "sp1024"}}
        write_job(project, output="/runs", data=data)
        self.words()  # the nodes get the data themselves

    def test_places_that_cannot_travel(self, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for working_dir in ("no/such/folder", "tiny.yaml"):
            with pytest.raises(UserError, match=f"^--working-dir {working_dir}: no such folder"):
                self.words(working_dir=working_dir)
        outside = write_job(tmp_path, output="/runs")
        with pytest.raises(UserError, match="lies outside of"):
            self.planned(outside)
        (project / "tiny.yaml").rename(project / "secret.yaml")
        with pytest.raises(UserError, match=r"^secret.yaml: .gitignore names it"):
            self.planned("secret.yaml")
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UserError, match="not the project's folder, which has to travel"):
            self.words()


class TestSubmission:
    def test_what_is_sent(self, project: Path) -> None:
        job, client = load_job(Path("tiny.yaml")), FakeClient()
        what = plan(job, Path("tiny.yaml"), (), None)
        job_id = submit(client, what, job, ADDRESS)
        sent = client.submitted
        assert sent["submission_id"] == job_id and job_id.startswith("golf-tiny-")
        assert sent["entrypoint"] == "python -m orchestrator run tiny.yaml"
        assert sent["names"] == [".gitignore", "orchestrator/__main__.py", "tiny.yaml"]
        found = sent["metadata"]
        assert found == job_metadata(job) and found["job_sha256"] == job.digest and found["job_name"] == "tiny"
        assert set(found) == {"job_name", "job_sha256", "git_commit", "git_dirty"}
        assert all(isinstance(value, str) and value for value in found.values())
        assert not Path(sent["runtime_env"]["working_dir"]).exists()
        assert submit(client, what, job, ADDRESS) != job_id
        submit(client, plan(job, Path("tiny.yaml"), (), None, "none"), job, ADDRESS)
        assert client.submitted["runtime_env"] == {}

    def test_equal_folders_make_equal_packages(self, project: Path, tmp_path: Path) -> None:
        """Ray keeps uploads by their bytes: nothing is sent twice."""
        names = files_to_upload(project)
        first = write_package(project, names, tmp_path / "1.zip").read_bytes()
        os.utime(project / "tiny.yaml", (1, 1))
        assert write_package(project, names, tmp_path / "2.zip").read_bytes() == first

    def test_a_package_that_is_too_large(self, project: Path, tmp_path: Path) -> None:
        (project / "weights.bin").write_bytes(os.urandom(3 << 20))
        with pytest.raises(UserError, match=r"more than the 1 MiB that Ray takes.*weights.bin \(3 MiB\)") as error:
            write_package(project, files_to_upload(project), tmp_path / "p.zip", limit=1 << 20)
        assert "--working-dir none" in str(error.value)
        # What counts is the size of the package.
        (project / "weights.bin").write_bytes(bytes(3 << 20))
        write_package(project, files_to_upload(project), tmp_path / "p.zip", limit=1 << 20)

    def test_a_folder_without_git(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
        for name in ("a.py", ".venv/b.py", "c/__pycache__/c.pyc", "c/d.py"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text("")
        assert files_to_upload(tmp_path) == ["a.py", "c/d.py"]


NO_DASHBOARD = "not the address of a Ray dashboard; give one such as http"


@pytest.mark.parametrize(
    ("given_address", "environment", "expected"),
    [
        (None, {}, "http://127.0.0.1:8265"),
        ("head:8265", {}, "http://head:8265"),
        ("https://head/", {"RAY_API_SERVER_ADDRESS": "http://other:1"}, "https://head"),
        (None, {"RAY_API_SERVER_ADDRESS": "http://other:1"}, "http://other:1"),
        (None, {"RAY_ADDRESS": "http://other:1"}, "http://other:1"),
        (None, {"RAY_ADDRESS": "10.0.0.1:6379"}, "http://127.0.0.1:8265"),
        *((wrong, {}, None) for wrong in ("ray://head:10001", "http://", "http://head:port", "auto:x", "http://[::1")),
    ],
)
def test_which_dashboard(given_address: str | None, environment: dict[str, str], expected: str | None) -> None:
    with pytest.raises(UserError, match=NO_DASHBOARD) if expected is None else nullcontext():
        assert dashboard_address(given_address, environment) == expected


class TestClusterSentences:
    @pytest.mark.parametrize(
        ("error", "mode", "sentence"),
        [
            (ConnectionError("Failed to connect"), "", "the connection failed (Failed to connect)"),
            (RuntimeError("Version check returned 404. Jobs API"), "", "returned 404. Jobs API; is this the"),
            (KeyError("ray_version"), "", "is this the dashboard of a Ray"),
            (RuntimeError("first\n  Traceback: x"), "", ": first; "),
            (AUTHENTICATION, "", "asks for a token; export"),
            (AUTHENTICATION, "token", "refuses the token"),
        ],
    )
    def test_failures(self, error: Exception, mode: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
        with pytest.raises(ClusterError) as told:
            bounded(Mock(side_effect=error), 5, "--address A")
        assert str(told.value).startswith("--address A: ") and sentence in str(told.value)
        assert "\n" not in str(told.value)

    def test_nobody_listens_no_answer_and_an_error_of_ours(self) -> None:
        with pytest.raises(ClusterError, match=r"^--address http://127.0.0.1:9: no Ray dashboard answers there"):
            open_client("http://127.0.0.1:9")
        with pytest.raises(ClusterError, match=r"no answer within 0.1 s"):
            bounded(lambda: threading.Event().wait(3), 0.1, "--address A")
        with pytest.raises(GolfError, match=r"^as it is$"):
            bounded(Mock(side_effect=UserError("as it is")), 5, "--address A")

    def test_versions(self) -> None:
        assert check_version("2.60.0", "2.60.0", own_interpreter=True) is None
        assert check_version(None, "2.60.0", own_interpreter=True) is None
        assert "runs Ray 2.55.0" in (check_version("2.55.0", "2.60.0", own_interpreter=False) or "")
        with pytest.raises(ClusterError, match=r"cluster runs Ray 2.55.0.*has Ray 2.60.0.*--python"):
            check_version("2.55.0", "2.60.0", own_interpreter=True)

    def test_a_tunnel_is_no_head_of_this_machine(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            assert own_head(f"http://127.0.0.1:{listener.getsockname()[1]}") is None
        assert own_head("http://192.0.2.1:8265") is None


@pytest.mark.ray
def test_a_real_cluster(tmp_path: Path, sample_folder: Path) -> None:
    """A head of its own, with a token, started in the project's folder: nothing travels, and the log comes once."""
    temporary = Path("/tmp") / f"golf-submit-{os.getpid()}"
    ports = free_ports(4)
    env = fresh_home(tmp_path) | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64, "PYTHONPATH": str(REPO)}
    options = ["--head", "--block", "--num-cpus=2", f"--port={ports[0]}", f"--dashboard-port={ports[1]}"]
    options += [f"--ray-client-server-port={ports[2]}", f"--dashboard-agent-listen-port={ports[3]}"]
    options += [f"--temp-dir={temporary}", "--node-ip-address=127.0.0.1"]
    head = subprocess.Popen(
        [str(Path(sys.executable).with_name("ray")), "start", *options],
        cwd=tmp_path, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        address = wait_for_dashboard(ports[1], head)
        assert own_head(address) == tmp_path.resolve()
        impossible = {"ranks": 8, "accelerator": "H100"}
        path = write_job(tmp_path, resources=impossible, output="runs")
        command = [sys.executable, "-m", "orchestrator", "submit", str(path), "--address", address]

        def submitted(**changes: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                command, capture_output=True, text=True, cwd=tmp_path, env=env | changes, timeout=100, check=False
            )

        done = submitted()
        output = done.stdout + done.stderr
        assert done.returncode == 2, output  # the job's own: its input was at fault
        assert done.stdout.count("needs 8 GPUs on one node; the largest node has 0") == 1, output
        assert "Traceback" not in output
        for changes, sentence in (
            ({"RAY_AUTH_MODE": "", "RAY_AUTH_TOKEN": ""}, "asks for a token"),
            ({"RAY_AUTH_TOKEN": "b" * 64}, "refuses the token"),
        ):
            stranger = submitted(**changes)
            assert stranger.returncode == 2 and sentence in stranger.stderr, stranger.stderr
    finally:
        end_group(head)
        shutil.rmtree(temporary, ignore_errors=True)
