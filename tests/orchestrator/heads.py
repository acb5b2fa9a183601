"""Ray heads of the tests' own: started on free ports, with a home where nobody has used Ray, and ended."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Head:
    """A running head, and what a process needs to speak to it."""

    address: str
    environment: dict[str, str]
    process: subprocess.Popen[bytes]
    dashboard: str | None = None

    def kill(self) -> None:
        """Kill all its processes at once."""
        parent = psutil.Process(self.process.pid)
        for member in (parent, *parent.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                member.kill()
        self.process.wait()


@contextlib.contextmanager
def ray_head(project: Path, dashboard: bool = False) -> Iterator[Head]:
    """A head that was started in the folder `project`, which is its user's home as well."""
    ports = free_ports(4)
    temporary = Path(f"/tmp/golf-test-{os.getpid()}-{ports[0]}")  # Ray's socket paths must stay short
    env = fresh_home(project) | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    options = ["--head", "--block", "--num-cpus=2", f"--port={ports[0]}", f"--include-dashboard={dashboard}"]
    options += [f"--dashboard-port={ports[1]}", f"--ray-client-server-port={ports[2]}"]
    options += [f"--dashboard-agent-listen-port={ports[3]}", f"--temp-dir={temporary}", "--node-ip-address=127.0.0.1"]
    ray = str(Path(sys.executable).with_name("ray"))
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([ray, "start", *options], cwd=project, env=env, start_new_session=True, **quiet)
    try:
        shown = wait_for_dashboard(ports[1], process) if dashboard else None
        address = f"127.0.0.1:{ports[0]}"
        wait_for_node(address, process)
        yield Head(address, {name: env[name] for name in ("HOME", "XDG_CACHE_HOME")}, process, shown)
    finally:
        end_group(process)
        shutil.rmtree(temporary, ignore_errors=True)


def fresh_home(project: Path) -> dict[str, str]:
    """The environment of a user who has never used Ray: no token of an earlier cluster in the home folder."""
    cache = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | {"HOME": str(project), "XDG_CACHE_HOME": cache}


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def wait_for_node(address: str, process: subprocess.Popen[bytes]) -> None:
    """Until the head answers, and its own node has had the time to join it."""
    host, _, port = address.partition(":")
    for _ in range(300):
        assert process.poll() is None, "the head ended"
        with contextlib.suppress(OSError):
            socket.create_connection((host, int(port)), timeout=1).close()
            time.sleep(3)
            return
        time.sleep(0.2)
    raise AssertionError("the head did not come")


def wait_for_dashboard(port: int, process: subprocess.Popen[bytes]) -> str:
    address = f"http://127.0.0.1:{port}"
    for _ in range(120):
        assert process.poll() is None, "the head ended"
        try:
            urllib.request.urlopen(f"{address}/api/version", timeout=2).close()
            return address
        except urllib.error.HTTPError:
            return address  # it is up, and asks for the cluster's token, which Ray's own client has
        except OSError:
            time.sleep(0.5)
    raise AssertionError("the head's dashboard did not answer")


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a head, and kill what it leaves."""
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in children:
        if child.is_running():
            child.kill()
