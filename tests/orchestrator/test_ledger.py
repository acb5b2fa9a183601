"""The ledger: what is on the disk when `append` returns, and what is read of a damaged one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from drawing import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from golf_core.errors import ConfigError
from orchestrator.folder.ledger import Ledger, read_ledger
from orchestrator.folder.results import LEDGER


def test_entries_are_read_as_they_were_written(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append("seed_started", seed=42, kept=("train",))
    ledger.append("run_finished", verdict="claim")
    first, second = read_ledger(tmp_path)
    assert (first.kind, first.fields) == ("seed_started", {"seed": 42, "kept": ["train"]})
    assert (second.kind, second.fields) == ("run_finished", {"verdict": "claim"})
    assert first.time <= second.time
    assert read_ledger(tmp_path / "elsewhere") == []


def test_the_dead_hold_nothing(tmp_path: Path) -> None:
    """A process that is killed while it holds the ledger leaves it free, and what it wrote whole."""
    code = f"""
import os, signal
from pathlib import Path
from orchestrator.folder.ledger import Ledger
ledger = Ledger(Path({str(tmp_path)!r}))
ledger.append("note", n=1)
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[2])
    Ledger(tmp_path).append("note", n=2)
    assert [entry.fields["n"] for entry in read_ledger(tmp_path)] == [1, 2]


def test_a_torn_line_stays_alone(tmp_path: Path) -> None:
    (tmp_path / LEDGER).write_bytes(b'{"time": 1, "kind": "note", "n": 1}\n{"time": 2, "ki')
    Ledger(tmp_path).append("note", n=3)
    assert [entry.fields["n"] for entry in read_ledger(tmp_path)] == [1, 3]


def test_threads_do_not_mix_lines(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    threads = [threading.Thread(target=lambda n=n: [ledger.append("note", n=n, pad="x" * 5000) for _ in range(20)])
               for n in range(8)]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(e.fields["n"] for e in read_ledger(tmp_path)) == sorted(list(range(8)) * 20)


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    code = f"""
import resource, signal
from pathlib import Path
from golf_core.errors import RunError
from orchestrator.folder.ledger import Ledger
ledger = Ledger(Path({str(tmp_path)!r}))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
ledger.append("note", n=1)
try:
    ledger.append("note", n=2, pad="x" * 200)
except RunError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert "ledger cannot be written" in done.stdout and "resume" in done.stdout
    assert [entry.fields["n"] for entry in read_ledger(tmp_path)] == [1]


def test_what_is_no_ledger(tmp_path: Path) -> None:
    (tmp_path / LEDGER).write_bytes(os.urandom(4000))
    with pytest.raises(ConfigError, match=r"holds no entry of a ledger"):
        read_ledger(tmp_path)


@settings(max_examples=examples(60))
@given(st.binary(max_size=200), st.integers(0, 3))
def test_any_line_may_be_damaged(noise: bytes, place: int) -> None:
    import tempfile

    lines = [json.dumps({"time": n, "kind": "note", "n": n}).encode() for n in range(3)]
    lines.insert(place, noise.replace(b"\n", b"").replace(b"\r", b""))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / LEDGER).write_bytes(b"\n".join(lines))
        assert [entry.fields.get("n") for entry in read_ledger(Path(folder)) if "n" in entry.fields][-3:] == [0, 1, 2]
