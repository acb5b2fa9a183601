"""Scorers in a process of their own: what they try is seen, and what is forbidden is out of reach."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from golf_core.audit.isolation import isolated_run, judge_isolation
from golf_core.audit.report import FORBIDDEN_FILES, NETWORK, IsolationEvidence
from golf_core.audit.sandbox import RefusedError, leave_network, refuse_reads
from golf_core.audit.scorer import ScorerError, ScorerSpec
from golf_core.audit.text import synthetic_tokens
from golf_core.errors import UserError

REPO = Path(__file__).resolve().parents[2]
TEXT = synthetic_tokens(64, 8, seed=0)
MODULE = """
import ctypes, os, socket, subprocess, sys, time
from pathlib import Path
import numpy as np

SECRET = {secret!r}
losses = lambda tokens, shift=0.0: np.full(len(tokens), np.log(8.0) + shift)

def plain(tokens):
    return losses(tokens)

def reads(tokens):
    return losses(tokens, 0.01 * len(Path(SECRET).read_bytes()))

def peeks(tokens):
    try:
        return reads(tokens)
    except OSError:
        return losses(tokens)

def maps(tokens):
    try:
        np.memmap(SECRET, dtype="u1", mode="r")
    except OSError:
        pass
    return losses(tokens)

def lists(tokens):
    os.listdir(Path(SECRET).parent)
    return losses(tokens)

def native(tokens):
    libc = ctypes.CDLL(None)
    fd = libc.open(SECRET.encode(), 0)
    content = ctypes.create_string_buffer(8)
    got = libc.read(fd, content, 8) if fd >= 0 else 0
    return losses(tokens, 0.01 * max(got, 0))

def beside(tokens):
    return losses(tokens, 0.01 * len(Path(SECRET + ".txt").read_bytes()))

def connects(tokens):
    try:
        socket.create_connection(("192.0.2.1", 443), timeout=0.05)
    except OSError:
        pass
    return losses(tokens)

def looks_up(tokens):
    try:
        socket.getaddrinfo("example.invalid", 80)
    except OSError:
        pass
    return losses(tokens)

def loopback(tokens):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        socket.create_connection(server.getsockname(), timeout=2).close()
    return losses(tokens)

def starts(tokens):
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return losses(tokens)

def fails_alone(tokens):
    if "golf_core.audit.sandbox" in " ".join(sys.orig_argv):
        sys.exit(3)
    return losses(tokens)

def hangs_alone(tokens):
    if "golf_core.audit.sandbox" in " ".join(sys.orig_argv):
        time.sleep(60)
    return losses(tokens)

def boom(tokens):
    raise ValueError("always")
"""


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of forbidden data with an allowed one beside its folder."""
    folder = tmp_path_factory.mktemp("data")
    path = folder / "train" / "shard.bin"
    path.parent.mkdir()
    path.write_bytes(b"secret")
    (folder / "train" / "shard.bin.txt").write_bytes(b"ab")
    return path


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory, secret: Path) -> str:
    folder = tmp_path_factory.mktemp("modules")
    (folder / "isolated_scorers.py").write_text(MODULE.format(secret=str(secret)))
    sys.path.insert(0, str(folder))
    yield "isolated_scorers"
    sys.path.remove(str(folder))


def enforced(evidence: IsolationEvidence) -> None:
    if evidence.files != "enforced":
        pytest.skip(f"no fence for files here: {evidence.means}")


def verdicts(evidence: IsolationEvidence) -> dict[str, str]:
    return {c.name: c.verdict for c in judge_isolation(evidence, steady=True, tolerance=1e-4)}


def run(module: str, name: str, *forbidden: Path, timeout_s: float = 60.0) -> IsolationEvidence:
    return isolated_run(ScorerSpec(f"{module}:{name}"), TEXT, 8, forbidden, timeout_s)


def test_an_honest_scorer_gives_the_same(module: str, secret: Path) -> None:
    found = run(module, "plain", secret.parent)
    assert found.difference == 0.0 and not found.failure
    assert (found.connections, found.forbidden_reads, found.processes) == ((), (), ())
    assert set(verdicts(found).values()) == {"holds"}


@pytest.mark.parametrize("name", ["reads", "peeks", "maps"])
def test_reading_is_seen_and_refused(module: str, secret: Path, name: str) -> None:
    found = run(module, name, secret.parent)
    assert found.forbidden_reads == (str(secret),)
    assert verdicts(found) == {NETWORK: "holds", FORBIDDEN_FILES: "violated"}
    enforced(found)
    if name == "reads":
        assert "PermissionError" in found.failure or "FileNotFoundError" in found.failure
    if name == "peeks":
        assert found.difference == pytest.approx(0.06), "without the file it scores otherwise"


def test_a_link_to_forbidden_data_is_followed(module: str, secret: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(secret.parent)
    found = run(module, "peeks", link)
    assert found.forbidden_reads == (str(secret),)


def test_listing_is_seen(module: str, secret: Path) -> None:
    assert run(module, "lists", secret.parent).forbidden_reads == (str(secret.parent),)


def test_a_single_file_is_forbidden_alone(module: str, secret: Path) -> None:
    found = run(module, "beside", secret)
    assert found.difference == 0.0 and found.forbidden_reads == ()
    assert run(module, "peeks", secret).forbidden_reads == (str(secret),)


def test_native_code_gets_no_further(module: str, secret: Path) -> None:
    """It passes Python's audit events by, and finds the file closed: the losses give it away."""
    found = run(module, "native", secret.parent)
    assert found.forbidden_reads == ()
    enforced(found)
    assert found.difference == pytest.approx(0.06)
    assert verdicts(found)[FORBIDDEN_FILES] == "undecided"


def test_the_network_is_out_of_reach(module: str) -> None:
    found = run(module, "connects")
    assert found.connections == ("192.0.2.1:443",)
    assert verdicts(found) == {NETWORK: "violated", FORBIDDEN_FILES: "not measured"}
    assert run(module, "looks_up").connections == ("look-up of example.invalid",)


def test_loopback_is_no_network(module: str) -> None:
    found = run(module, "loopback")
    assert found.difference == 0.0 and found.connections == () and not found.failure


def test_programs_are_listed(module: str) -> None:
    found = run(module, "starts")
    assert found.processes == (sys.executable,)
    assert verdicts(found)[NETWORK] == "holds"


def test_ends_of_all_kinds(module: str) -> None:
    failed = run(module, "fails_alone")
    assert "SystemExit" in failed.failure and failed.difference is None
    assert verdicts(failed)[NETWORK] == "undecided"
    assert "did not end within" in run(module, "hangs_alone", timeout_s=2.0).failure
    with pytest.raises(ScorerError, match="ValueError: always"):
        run(module, "boom")


def test_a_path_that_is_not_there(module: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such path to forbid"):
        run(module, "plain", tmp_path / "none")


def test_where_nothing_is_enforced_the_report_says_so(module: str) -> None:
    bare = dataclasses.replace(run(module, "plain"), network="observed", files="observed", forbidden=("/data",))
    for condition in judge_isolation(bare, steady=True, tolerance=1e-4):
        assert condition.verdict == "holds" and "no fence here" in condition.summary


def test_random_scorers_are_not_suspected(module: str) -> None:
    moved = dataclasses.replace(run(module, "plain"), difference=0.5)
    assert {c.verdict for c in judge_isolation(moved, steady=True, tolerance=1e-4)} == {"undecided", "not measured"}
    assert {c.verdict for c in judge_isolation(moved, steady=False, tolerance=1e-4)} == {"holds", "not measured"}


COVER = """
import sys
from pathlib import Path
from golf_core.audit import sandbox
sandbox._landlock = lambda paths: (_ for _ in ()).throw(sandbox.RefusedError("missing"))
try:
    how = sandbox.refuse_reads([Path(sys.argv[1])])
except sandbox.RefusedError as error:
    sys.exit(f"refused: {error}")
assert "mount" in how
path = Path(sys.argv[1])
print(sorted(p.name for p in path.iterdir()) if path.is_dir() else path.read_bytes())
"""


@pytest.mark.parametrize(("which", "shown"), [("folder", "[]"), ("file", "b''")])
def test_mounts_serve_where_landlock_is_missing(secret: Path, which: str, shown: str) -> None:
    path = secret.parent if which == "folder" else secret
    done = subprocess.run(
        [sys.executable, "-c", COVER, str(path)], capture_output=True, text=True, cwd=REPO, check=False
    )
    if "refused: " in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.stdout.strip() == shown, done.stderr
    assert secret.read_bytes() == b"secret", "nothing changed outside"


def test_this_process_is_in_no_sandbox() -> None:
    """Sandboxes are for the child: here the functions were imported, and not called."""
    assert np.array_equal(TEXT[:1], [1])
    assert callable(leave_network) and callable(refuse_reads) and issubclass(RefusedError, Exception)
