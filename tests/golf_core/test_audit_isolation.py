"""Scorers in a process of their own: what they try is seen, and what is forbidden is out of reach."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from golf_core.audit.isolation import isolated_run, judge_isolation
from golf_core.audit.report import FORBIDDEN_FILES, NETWORK, IsolationEvidence
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

def quietly(try_it):
    try:
        return try_it()
    except OSError:
        return 0.0

def plain(tokens):
    return losses(tokens)

def reads(tokens):
    return losses(tokens, 0.01 * len(Path(SECRET).read_bytes()))

def peeks(tokens):
    return losses(tokens, quietly(lambda: 0.01 * len(Path(SECRET).read_bytes())))

def maps(tokens):
    quietly(lambda: np.memmap(SECRET, dtype="u1", mode="r"))
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
    quietly(lambda: socket.create_connection(("192.0.2.1", 443), timeout=0.05))
    return losses(tokens)

def looks_up(tokens):
    quietly(lambda: socket.getaddrinfo("example.invalid", 80))
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
    (folder / "link").symlink_to(path.parent)
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


@pytest.mark.parametrize(
    ("name", "forbid", "kind", "tried"),
    [
        ("plain", "train", "", ""),
        ("reads", "train", "forbidden_reads", "train/shard.bin"),
        ("peeks", "train", "forbidden_reads", "train/shard.bin"),
        ("maps", "train", "forbidden_reads", "train/shard.bin"),
        ("peeks", "link", "forbidden_reads", "train/shard.bin"),
        ("lists", "train", "forbidden_reads", "train"),
        ("peeks", "train/shard.bin", "forbidden_reads", "train/shard.bin"),
        ("beside", "train/shard.bin", "", ""),
        ("connects", "", "connections", "192.0.2.1:443"),
        ("looks_up", "", "connections", "look-up of example.invalid"),
        ("loopback", "", "", ""),
        ("starts", "", "processes", sys.executable),
    ],
)
def test_what_is_tried_is_seen_and_refused(
    module: str, secret: Path, name: str, forbid: str, kind: str, tried: str
) -> None:
    data = secret.parents[1]
    found = run(module, name, *([data / forbid] if forbid else []))
    tried = str(data / tried) if kind == "forbidden_reads" else tried
    for each in ("connections", "forbidden_reads", "processes"):
        assert getattr(found, each) == ((tried,) if each == kind else ())
    files = "violated" if kind == "forbidden_reads" else "holds"
    network = "violated" if kind == "connections" else "holds"
    assert verdicts(found) == {NETWORK: network, FORBIDDEN_FILES: files if forbid else "not measured"}
    if kind != "forbidden_reads":
        assert found.difference == 0.0 and not found.failure
        return
    enforced(found)
    if name == "reads":
        assert "PermissionError" in found.failure or "FileNotFoundError" in found.failure
    if name == "peeks":
        assert found.difference == pytest.approx(0.06), "without the file it scores otherwise"


def test_native_code_gets_no_further(module: str, secret: Path) -> None:
    """It passes Python's audit events by, and finds the file closed: the losses give it away."""
    found = run(module, "native", secret.parent)
    assert found.forbidden_reads == ()
    enforced(found)
    assert found.difference == pytest.approx(0.06)
    assert verdicts(found)[FORBIDDEN_FILES] == "undecided"


def test_ends_of_all_kinds(module: str) -> None:
    failed = run(module, "fails_alone")
    assert "SystemExit" in failed.failure and failed.difference is None
    assert verdicts(failed)[NETWORK] == "undecided"
    assert "did not end within" in run(module, "hangs_alone", timeout_s=2.0).failure
    with pytest.raises(ScorerError, match="ValueError: always"):
        run(module, "boom")
    with pytest.raises(UserError, match="no such path to forbid"):
        run(module, "plain", Path("none"))


def test_other_evidence_is_judged(module: str) -> None:
    """No fence at all is said to be none; losses that differ are no suspicion where the scorer is random anyway."""
    found = run(module, "plain")
    bare = dataclasses.replace(found, network="observed", files="observed", forbidden=("/data",))
    for condition in judge_isolation(bare, steady=True, tolerance=1e-4):
        assert condition.verdict == "holds" and "no fence here" in condition.summary
    moved = dataclasses.replace(found, difference=0.5)
    for steady, verdict in ((True, "undecided"), (False, "holds")):
        network, files = judge_isolation(moved, steady, tolerance=1e-4)
        assert (network.verdict, files.verdict) == (verdict, "not measured")


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
