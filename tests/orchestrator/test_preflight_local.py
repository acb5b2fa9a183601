"""Checks without a cluster, and the two commands."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import typer
from tiny import write_job
from typer.testing import CliRunner

from golf_core import strict_json
from orchestrator.cli import check
from orchestrator.job.load import Job, load_job
from orchestrator.preflight.command import plan_command, preflight
from orchestrator.preflight.findings import Finding, Preflight, PreflightError, error, sentence
from orchestrator.preflight.local import check_commit, check_here, check_mlflow, check_versions
from orchestrator.preflight.machine import Node, check_disk, check_shm, need_of, parameters

REPO = Path(__file__).resolve().parents[2]
CLEAN = {"git_commit": "0" * 40, "git_dirty": "false"}
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return load_job(write_job(tmp_path))


def record(**changes: Any) -> Job:
    return load_job(REPO / "jobs/three_seed.yaml", changes)


def errors(findings: list[Finding]) -> list[str]:
    return [sentence(finding) for finding in findings if finding.level == "error"]


# --- commit -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "allow", "expected"),
    [
        (CLEAN, False, ("ok", "ok")),
        (CLEAN | {"git_dirty": "true"}, False, ("error", "warning")),
        (CLEAN | {"git_dirty": "true"}, True, ("warning", "warning")),
        (CLEAN | {"git_dirty": "unknown"}, False, ("error", "warning")),
        ({"git_commit": "unknown", "git_dirty": "unknown"}, False, ("error", "warning")),
    ],
)
def test_only_a_record_run_needs_a_clean_tree(
    job: Job, origin: dict[str, str], allow: bool, expected: tuple[str, str]
) -> None:
    found = tuple(check_commit(which, origin, allow) for which in (record(), job))
    assert tuple(finding.level for finding in found) == expected
    if expected[0] == "error":
        assert "--allow-dirty" in found[0].remedy
    for change in ({"baseline": None}, {"resources.accelerator": None}):  # then it is none
        assert check_commit(record(**change), origin, allow).level == expected[1]


# --- versions ---------------------------------------------------------------------------------------


def versions(wanted: list[str], there: dict[str, str], python: str = ">=3.11") -> list[Finding]:
    def version_of(name: str) -> str:
        try:
            return there[name]
        except KeyError:
            raise metadata.PackageNotFoundError(name) from None

    return check_versions("golf", version_of, lambda _: wanted, python)


def test_each_wrong_version_is_named_with_the_remedy() -> None:
    findings = versions(["torch<2.14,>=2.9", "ray>=2.53", "mlflow>=3.5"], {"torch": "2.8.0", "ray": "2.60.0"}, ">=3.99")
    assert errors(findings) == [
        f"python: Python {sys.version.split()[0]} is not >=3.99; use a Python >=3.99",
        "torch: version 2.8.0 is not <2.14,>=2.9; pip install 'torch<2.14,>=2.9'",
        "mlflow: is not installed; pip install 'mlflow>=3.5'",
    ]


TRITON = ["torch>=2.9", "triton>=3.5; sys_platform == 'linux'"]
"""Which triton goes with torch is for torch to say."""


@pytest.mark.parametrize(
    ("wanted", "there", "level"),
    [
        (["torch>=2.9,<2.14", "ray[default]>=2.53"], {"torch": "2.13.0+cu130", "ray": "2.60.0"}, "ok"),
        (["ray>=3; sys_platform == 'sunos'", "pytest>=8; extra == 'test'"], {}, "ok"),
        *((TRITON, {"torch": "2.9.0", **triton}, "ok") for triton in ({}, {"triton": "3.3.1"}, {"triton": "3.9.0"})),
        # Newer than tested: a warning.
        (["torch>=2.9"], {"torch": "2.14.9+cu130"}, "ok"),
        (["torch>=2.9"], {"torch": "2.15.0"}, "warning"),
        (["torch>=2.9"], {"torch": "3.0.0.dev1"}, "warning"),
    ],
)
def test_versions_within_their_ranges_are_one_line(wanted: list[str], there: dict[str, str], level: str) -> None:
    (finding,) = versions(wanted, there)
    assert finding.level == level and there.get("torch", "") in finding.what


def test_this_installation_meets_its_own_requirements() -> None:
    assert errors(check_versions()) == []
    (finding,) = check_versions("no-such-distribution")
    assert finding.level == "warning"


# --- room -------------------------------------------------------------------------------------------


def test_the_need_is_that_of_the_model(job: Job) -> None:
    from golf_core.model.gpt import GPT

    count = sum(value.numel() for value in GPT(job.config.model).state_dict().values())
    assert parameters(job) == count
    need = need_of(job)
    assert need.run > 3 * (4 * count + 16_000_000)
    assert need_of(record()).shm > 8 * 64 * 2**20 > need.shm


def test_a_full_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, 50 * 2**20))
    assert check_disk(str(tmp_path / "not" / "yet"), 10 * 2**20, "output").level == "ok"
    found = check_disk(str(tmp_path / "not" / "yet"), 100 * 2**20, "output")
    assert found.level == "error" and f"50 MiB free in {tmp_path}, 100 MiB needed" in found.what
    assert check_shm(100 * 2**20, "here", strict=True, shm=tmp_path).level == "error"
    assert check_shm(100 * 2**20, "here", strict=False, shm=tmp_path).level == "warning"
    assert check_shm(10 * 2**20, "here", strict=True, shm=tmp_path).level == "ok"
    (tmp_path / "runs").write_text("")  # a file in the way of the output
    assert check_disk(str(tmp_path / "runs"), 1, "output").level == "error"


# --- MLflow -----------------------------------------------------------------------------------------


class Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(int(self.path.split("/")[1]))
        self.end_headers()

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    http = HTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.mark.parametrize(("status", "level"), [(200, "ok"), (401, "ok"), (404, "ok"), (500, "warning")])
def test_an_mlflow_server_is_asked_and_its_login_not_shown(server: str, status: int, level: str) -> None:
    for address in (server, server.replace("//", "//user:secret@")):
        finding = check_mlflow(f"{address}/{status}", "runs")
        assert finding.level == level and "secret" not in sentence(finding)
        assert level == "ok" or "HTTP 500" in finding.what


def test_a_silent_server_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        finding = check_mlflow(address, "runs", limit_s=0.2)
    assert finding.level == "warning" and "no answer" in finding.what
    finding = check_mlflow(address, "runs")
    assert finding.level == "warning" and finding.remedy


def test_sqlite_needs_a_place_that_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert check_mlflow(None, str(tmp_path / "runs")).level == "ok"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@there.example")
    finding = check_mlflow(None, str(tmp_path / "runs"))
    assert finding.level == "warning" and "MLFLOW_TRACKING_URI" in finding.what and "secret" not in finding.what
    assert str(tmp_path / "runs" / "mlflow.db") in finding.what and "mlflow.tracking_uri" in finding.remedy
    assert check_mlflow(f"sqlite:///{tmp_path}/a/b.db", "runs").level == "ok"
    monkeypatch.setattr("os.access", lambda *_: False)
    assert check_mlflow(f"sqlite:///{tmp_path}/a/b.db", "runs").level == "warning"
    assert not (tmp_path / "a").exists()


# --- all of it --------------------------------------------------------------------------------------


def test_a_machine_without_gpus_lists_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Node("this machine", {"CPU": 64.0, "GPU": 0.0})
    monkeypatch.setattr("orchestrator.preflight.local.this_machine", lambda: machine)
    job = record(output=str(tmp_path), **{"data.path": str(tmp_path / "none")})
    found = errors(check_here(job, allow_dirty=True))
    assert any("needs 8 GPUs on one node; the largest node has 0" in line for line in found)
    assert any("no such data folder" in line for line in found)
    # For a cluster this machine needs neither.
    assert errors(check_here(job, allow_dirty=True, will_run_here=False)) == []


def test_the_gang_is_asked_only_where_nothing_forbids_the_run(job: Job) -> None:
    asked: list[str] = []

    def on_gang(job: Job, address: str) -> Preflight:
        asked.append(address)
        return Preflight((error("GPU 3 is in use", "node", "end it"),))

    assert preflight(job, "local", max_cost=1.0, on_gang=on_gang).exit_code == 2  # no price
    assert asked == []
    result = preflight(job, "local", on_gang=on_gang)
    assert asked == ["local"] and [finding.where for finding in result.errors] == ["node"]
    assert any(finding.where == "output" for finding in result.findings)
    with pytest.raises(PreflightError, match="node: GPU 3 is in use; end it"):
        result.refuse_errors()


app = typer.Typer()
app.command(name="check")(check)
app.command(name="plan")(plan_command)


def test_check_prints_one_line_for_each_finding(tmp_path: Path, job: Job) -> None:
    done = CliRunner().invoke(app, ["check", str(tmp_path / "tiny.yaml"), "--json", str(tmp_path / "check.json")])
    assert done.exit_code == 0, done.output
    result = strict_json.load(Preflight, tmp_path / "check.json")
    lines = done.output.splitlines()
    for finding in result.findings:
        assert sum(line.endswith(sentence(finding)) for line in lines) == 1
    assert lines[-1].startswith("Ready to run: 0 errors")
    command = ["check", str(tmp_path / "tiny.yaml"), "--set", "cost.per_node_hour=25", "--max-cost", "0.01"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2
    assert "✗ error" in done.output and "--max-cost is 0.01" in done.output and "Not ready to run" in done.output


def test_plan_says_what_it_takes(tmp_path: Path) -> None:
    job = str(REPO / "jobs/three_seed.yaml")
    command = ["plan", job, "--gain", "0.005", "--set", "cost.per_node_hour=25", "--json", str(tmp_path / "plan.json")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "needs 4 seeds for a chance of 80%" in done.output and "8 x H100" in done.output
    assert json.loads((tmp_path / "plan.json").read_text())["power"]["seeds_needed"] == 4
    assert CliRunner().invoke(app, [*command[:2], "--max-cost", "1"]).exit_code == 2


def test_plan_needs_neither_torch_nor_ray() -> None:
    script = (
        "import sys; from pathlib import Path; from orchestrator.preflight import command, findings, plan;"
        "from orchestrator.job.load import load_job; plan.plan(load_job(Path('jobs/three_seed.yaml')));"
        "print(sorted({'torch', 'ray', 'mlflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPO, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def test_data_that_will_be_fetched_may_be_missing(tmp_path: Path) -> None:
    place = {"path": str(tmp_path / "none"), "tokenizer": str(tmp_path / "none.model")}
    fetched = load_job(write_job(tmp_path, data={**place, "fetch": {"variant": "sp1024"}}))
    found = check_here(fetched)
    assert not [sentence(f) for f in found if f.level == "error" and "none" in sentence(f)]
    (said,) = [sentence(f) for f in found if "fetched when the run begins" in f.what]
    assert "golf data fetch" in said
    assert any("none" in text for text in errors(check_here(load_job(write_job(tmp_path, data=place)))))
