"""The batch script: what Slurm is asked for, and the script itself, run with a Slurm that starts everything here."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from drawing import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import write_job
from typer.testing import CliRunner

from golf_core.errors import RunError, UserError
from orchestrator.job.load import Job, load_job
from orchestrator.submit.command import SlurmOptions, export_app
from orchestrator.submit.entry import is_plain, run_words, shell_line, wait_for_nodes, worst_case_seconds
from orchestrator.submit.slurm import slurm_script, slurm_time

OPTIONS = SlurmOptions(project=Path("/project"), environment=Path("/project/.venv"))
HOSTILE = "a b'\"$(touch pwned)`touch pwned`\n;touch pwned #\\*~é&|<>@@RUN@@"

SRUN = r"""#!/bin/bash
# As many tasks as asked for, all on this machine; options are noted, signals handed on.
printf '%s\0' srun "$@" >"$RECORD/srun-$$"
tasks=1
while [[ ${1:-} == --* ]]; do
    [[ $1 == --ntasks=* ]] && tasks=${1#--ntasks=}
    shift
done
if ((tasks == 1)); then exec "$@"; fi
pids=()
for ((i = 0; i < tasks; i++)); do "$@" & pids+=($!); done
trap 'kill -TERM "${pids[@]}"' TERM
wait
wait
"""
STUB = """#!{python}
# Notes how it was called, then does as RECORD's plan says.
import json, os, signal, socket, sys, time
from pathlib import Path
record, name = Path(os.environ["RECORD"]), Path(sys.argv[0]).name
plan = json.loads((record / "plan.json").read_text()).get(name, {{}})
kind = "head" if "--head" in sys.argv else "worker" if name == "ray" else name
note = {{"kind": kind, "args": sys.argv[1:], "pid": os.getpid(), "cwd": os.getcwd(), "at": time.time(),
        "mode": os.environ.get("RAY_AUTH_MODE"), "token": os.environ.get("RAY_AUTH_TOKEN"),
        "ray_address": os.environ.get("RAY_ADDRESS")}}
def told(number, frame):
    (record / f"told-{{kind}}-{{os.getpid()}}").write_text("")
    if not plan.get("deaf"):
        sys.exit(plan.get("told", 1))
signal.signal(signal.SIGTERM, told)
if kind == "head" and not plan.get("exit"):
    (port,) = [a.split("=")[1] for a in sys.argv if a.startswith("--port=")]
    listener = socket.create_server(("127.0.0.1", int(port)))
(record / f"call-{{kind}}-{{os.getpid()}}.tmp").write_text(json.dumps(note))
(record / f"call-{{kind}}-{{os.getpid()}}.tmp").rename(record / f"call-{{kind}}-{{os.getpid()}}.json")
while len(list(record.glob("call-worker-*.json"))) < plan.get("workers", 0):
    time.sleep(0.02)
while name == "ray" and not plan.get("exit") or plan.get("wait"):
    time.sleep(0.05)
sys.exit(plan.get("exit", 0))
"""


@dataclass
class Slurm:
    """A Slurm of this machine alone."""

    folder: Path
    record: Path

    def start(
        self, script: str, nodes: int = 1, plan: dict[str, Any] | None = None, address: str = "127.0.0.1"
    ) -> subprocess.Popen[str]:
        self.record.mkdir()
        (self.record / "plan.json").write_text(json.dumps(plan or {}))
        names = "\\n".join(f"node{i}" for i in range(nodes))
        stub = STUB.format(python=sys.executable)
        for name, text in {
            "slurm/srun": SRUN,
            "slurm/scontrol": f"#!/bin/sh\nprintf '{names}\\n'\n",
            "slurm/getent": f"#!/bin/sh\necho '{address} STREAM'\n",
            **{f"env/bin/{name}": stub for name in ("ray", "golf", "python")},
        }.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o755)
        (self.folder / "job.sh").write_text(script)
        env = {
            "PATH": f"{self.folder / 'slurm'}:{os.environ['PATH']}",
            "RECORD": str(self.record),
            "SLURM_JOB_ID": str(os.getpid() % 1000),
            "SLURM_JOB_NODELIST": "node[0-9]",
            "RAY_ADDRESS": "somebody:6379",
        }
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(["bash", "job.sh"], env=env, cwd=self.folder, **pipes)

    def run(self, script: str, **how: Any) -> tuple[int, str]:
        process = self.start(script, **how)
        _, errors = process.communicate(timeout=60)
        return process.returncode, errors

    def calls(self, kind: str) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(self.record.glob(f"call-{kind}-*.json"))]

    def wait_for(self, pattern: str) -> None:
        deadline = time.monotonic() + 30
        while not list(self.record.glob(pattern)):
            assert time.monotonic() < deadline, pattern
            time.sleep(0.05)

    def sruns(self) -> list[list[str]]:
        return [path.read_text().split("\0")[1:-1] for path in self.record.glob("srun-*")]

    def living(self) -> list[int]:
        """Processes that noted a call and still run."""
        found = []
        for call in self.calls("*"):
            with contextlib.suppress(psutil.Error):
                if psutil.Process(call["pid"]).environ().get("RECORD") == str(self.record):
                    found.append(call["pid"])
        return found


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Slurm]:
    machine = Slurm(tmp_path, tmp_path / "record")
    yield machine
    for pid in machine.living():
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return load_job(write_job(tmp_path))


def script_of(job: Job, slurm: Slurm, path: str = "jobs/tiny.yaml", changes: tuple[str, ...] = (), **other: Any) -> str:
    own = {"project": slurm.folder, "environment": slurm.folder / "env"}
    return slurm_script(job, path, changes, SlurmOptions(**own | other))


class TestTheScriptRuns:
    def test_a_cluster_of_its_own_with_a_token_that_only_it_knows(self, job: Job, slurm: Slurm) -> None:
        code, errors = slurm.run(script_of(job, slurm, changes=("seeds=[1, 2]",)))
        assert (code, errors) == (0, "")
        (head,), (run,), (ready,) = slurm.calls("head"), slurm.calls("golf"), slurm.calls("python")
        assert run["args"][:4] == ["run", "jobs/tiny.yaml", "--set", "seeds=[1, 2]"]
        (port,) = ports_of(head)
        assert run["args"][4:] == ["--address", f"127.0.0.1:{port}"]
        assert ready["args"][:4] == ["-m", "orchestrator.submit.entry", f"127.0.0.1:{port}", "1"]
        assert head["at"] < ready["at"] < run["at"]
        assert {"--head", "--block", "--num-cpus=1", "--num-gpus=0"} <= set(head["args"])
        tokens = {call["token"] for call in (head, run, ready)}
        assert {call["mode"] for call in (head, run, ready)} == {"token"}
        (token,) = tokens
        assert len(token) == 64 and set(token) <= set("0123456789abcdef")
        assert not any(token in word for words in slurm.sruns() for word in words)
        assert all("--export=ALL" in words for words in slurm.sruns())  # without it the token would not travel
        assert run["ray_address"] is None and run["cwd"] == str(slurm.folder)
        assert slurm.living() == []
        (scratch,) = [a.removeprefix("--temp-dir=") for a in head["args"] if a.startswith("--temp-dir=")]
        assert [words[-4:] for words in slurm.sruns() if "rm" in words] == [["rm", "-rf", "--", scratch]]
        assert scratch.startswith("/tmp/golf-") and len(scratch) < 40  # sockets lie in it

    def test_every_other_node_joins(self, job: Job, slurm: Slurm) -> None:
        joined = {"python": {"workers": 2}}  # it waits for the nodes, as the real one does
        code, errors = slurm.run(script_of(job, slurm, parallel=3), nodes=3, plan=joined, address="0.0.0.0")
        assert (code, errors) == (0, "")
        workers = slurm.calls("worker")
        (head,) = slurm.calls("head")
        assert len(workers) == 2
        assert all(f"--address=0.0.0.0:{port}" in worker["args"] for worker in workers for port in ports_of(head))
        assert {worker["token"] for worker in workers} == {head["token"]}
        assert slurm.calls("python")[0]["args"][3] == "3"
        assert slurm.living() == []

    def test_a_head_that_others_cannot_reach_is_refused(self, job: Job, slurm: Slurm) -> None:
        code, errors = slurm.run(script_of(job, slurm, parallel=2), nodes=2, address="127.0.1.1")
        assert code == 2 and "no address that other nodes could reach" in errors
        assert not slurm.calls("*")

    @pytest.mark.parametrize(
        ("waiting", "code", "told"), [("golf", 7, 1), ("python", 143, 0)], ids=["the run", "the start"]
    )
    def test_a_signal_ends_what_goes_on(self, waiting: str, code: int, told: int, job: Job, slurm: Slurm) -> None:
        """One before the end of the time reaches the run, whose exit code it is; one during the start begins none."""
        process = slurm.start(script_of(job, slurm), plan={waiting: {"wait": True, "told": 7}})
        slurm.wait_for(f"call-{waiting}-*.json")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode == code
        assert len(slurm.calls("golf")) == len(list(slurm.record.glob("told-golf-*"))) == told
        assert slurm.living() == []

    @pytest.mark.parametrize(
        ("fails", "own", "code", "sentence"),
        [
            ("ray", 3, 1, "Ray's head ended on node0"),
            ("python", 1, 1, ""),  # too few nodes
            ("golf", 1, 1, ""),
            ("golf", 2, 2, ""),
        ],
    )
    def test_what_fails_gives_the_exit_code(
        self, fails: str, own: int, code: int, sentence: str, job: Job, slurm: Slurm
    ) -> None:
        found, errors = slurm.run(script_of(job, slurm), plan={fails: {"exit": own}})
        assert found == code and sentence in errors
        assert bool(slurm.calls("golf")) is (fails == "golf") and slurm.living() == []

    def test_a_port_in_use_is_passed_over(self, job: Job, slurm: Slurm) -> None:
        first = 20000 + os.getpid() % 1000 * 8
        with socket.create_server(("127.0.0.1", first)):
            assert slurm.run(script_of(job, slurm))[0] == 0
        assert ports_of(slurm.calls("head")[0]) == [str(first + 1)]

    def test_hostile_names_are_words_and_nothing_else(self, job: Job, slurm: Slurm) -> None:
        project = slurm.folder / HOSTILE.replace("/", "")
        project.mkdir()
        script = script_of(job, slurm, HOSTILE, (f"output={HOSTILE}",), project=project)
        assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
        assert slurm.run(script)[0] == 0
        (run,) = slurm.calls("golf")
        assert run["args"][:4] == ["run", HOSTILE, "--set", f"output={HOSTILE}"]
        assert run["cwd"] == str(project)
        assert not list(slurm.folder.rglob("pwned"))


def ports_of(head: dict[str, Any]) -> list[str]:
    return [a.removeprefix("--port=") for a in head["args"] if a.startswith("--port=")]


class TestWhatSlurmIsAskedFor:
    def directives(self, script: str) -> dict[str, str]:
        lines = [line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")]
        return {name: value for name, _, value in (line.partition("=") for line in lines)}

    def test_a_gang_on_two_nodes(self, tmp_path: Path) -> None:
        resources = {"ranks": 8, "nodes": 2, "cpus_per_rank": 1.5, "accelerator": "H100"}
        job = load_job(write_job(tmp_path, resources=resources))
        found = self.directives(slurm_script(job, "j.yaml", (), replace(OPTIONS, parallel=2, gpu_type="h100")))
        assert found["nodes"] == "4" and found["ntasks-per-node"] == "1"
        assert found["gpus-per-node"] == "h100:4" and found["cpus-per-task"] == "6"
        assert found["signal"] == "B:TERM@60" and "no-requeue" in found
        assert "partition" not in found and "mem" not in found

    def test_the_time_is_that_of_the_worst_case(self, job: Job) -> None:
        assert [slurm_time(s) for s in (1, 3600, 90061)] == ["0-00:01:00", "0-01:00:00", "1-01:02:00"]
        seconds = worst_case_seconds(job) + 660
        assert self.directives(slurm_script(job, "j", (), OPTIONS))["time"] == slurm_time(seconds)
        assert self.directives(slurm_script(job, "j", (), replace(OPTIONS, time="1:00:00")))["time"] == "1:00:00"

    @pytest.mark.parametrize(
        "change",
        [
            {"partition": "a b"},
            {"account": "x\nrm -rf ~"},
            {"qos": "$(id)"},
            {"constraint": "a'b"},
            {"gpu_type": "h100\n"},
            {"time": "tomorrow"},
            {"memory": "-1"},
            {"parallel": 4},
            {"mount": ["/a:/b"]},
            {"mount": ["data"], "container": "image"},
        ],
    )
    def test_what_cannot_work_is_refused(self, change: dict[str, Any], job: Job) -> None:
        with pytest.raises(UserError, match=f"^--{next(iter(change)).replace('_', '-')} ?") as error:
            slurm_script(job, "j", (), replace(OPTIONS, **change))
        assert "\n" not in str(error.value)

    def test_a_container_is_that_of_every_step_of_ray(self, job: Job) -> None:
        script = slurm_script(job, "j", (), replace(OPTIONS, container="reg#golf:1", mount=["/data:/data"]))
        assert "'--container-image=reg#golf:1'" in script
        assert "--container-mounts=/project:/project,/tmp:/tmp,/dev/shm:/dev/shm,/data:/data" in script
        assert script.count('"${in_container[@]}"') == 3

    @pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
    def test_shellcheck(self, job: Job) -> None:
        for options in (OPTIONS, replace(OPTIONS, environment=None), replace(OPTIONS, container="image")):
            # That quoted text is taken as it is, is what the odd name is there for.
            for path, excluded in (("jobs/a.yaml", "SC0000"), (HOSTILE, "SC2016")):
                command = ["shellcheck", f"--exclude={excluded}", "-"]
                script = slurm_script(job, path, ("a=b c",), options)
                done = subprocess.run(command, input=script, text=True, capture_output=True, check=False)
                assert done.returncode == 0, done.stdout

    def test_the_command(self, tmp_path: Path) -> None:
        out = tmp_path / "job.sh"
        path = write_job(tmp_path)
        done = CliRunner().invoke(export_app, ["slurm", str(path), "--set", "seeds=[1]", "--out", str(out)])
        assert done.exit_code == 0, done.output
        assert f"golf run {path} --set 'seeds=[1]' --address" in out.read_text()


texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)


@settings(max_examples=examples(60), deadline=None)
@given(job=texts.filter(bool), changes=st.lists(texts, max_size=3))
def test_no_shell_reads_more_into_a_command_than_its_words(job: str, changes: list[str]) -> None:
    words = run_words(job, changes)
    script = f"printf '%s\\0' {shell_line(words)}"
    for shell in ("bash", "sh"):
        done = subprocess.run([shell, "-c", script], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"})
        assert done.stdout == b"".join(os.fsencode(word) + b"\0" for word in words)
    assert not words[2].startswith("-")


@given(word=texts)
def test_plain_words_need_no_quoting(word: str) -> None:
    if is_plain([word]):
        assert shell_line([word]) == word
    with pytest.raises(UserError, match="zero byte"):
        shell_line([f"{word}\0"])


def test_waiting_for_nodes_until_all_are_there_and_not_for_ever() -> None:
    counts = iter([0, 1, 3])
    wait_for_nodes(3, 60, lambda: next(counts), clock=lambda: 0.0, sleep=lambda _: None)
    assert next(counts, None) is None
    times = iter(range(100))
    with pytest.raises(RunError, match=r"only 2 of 3 nodes joined the Ray cluster within 5 s"):
        wait_for_nodes(3, 5, lambda: 2, clock=lambda: float(next(times)), sleep=lambda _: None)


class TestWorstCase:
    def test_every_phase_of_every_attempt_of_every_seed(self, tmp_path: Path) -> None:
        limits = {"start_seconds": 1, "train_seconds": 10, "export_seconds": 100, "eval_seconds": 1000}
        limits |= {"audit_seconds": 10_000, "retries": 1}
        budgets = {"eval_seconds": 900}
        job = load_job(write_job(tmp_path, limits=limits, audit={"positions": 1}, budgets=budgets))
        attempt = 11_111 + 2 * 300 + 120
        assert worst_case_seconds(job) == 3 * 2 * attempt
        assert worst_case_seconds(job, 2) == 2 * 2 * attempt  # three seeds, two at a time
        assert worst_case_seconds(job, 3) == 2 * attempt

    def test_without_an_audit_and_with_defaults(self, tmp_path: Path) -> None:
        clock = {"overrides": {"train.wallclock_seconds": 60.0}, "seeds": [1], "limits": {"retries": 0}}
        job = load_job(write_job(tmp_path, audit={"positions": 0}, **clock))
        assert worst_case_seconds(job) == 600 + (60 + 900) + 1800 + 3 * 600 + 600 + 120
        without_a_clock = load_job(write_job(tmp_path, seeds=[1], limits={"retries": 0}))
        assert worst_case_seconds(without_a_clock) > 86_400  # a day
