"""The readers of binary files under inputs that coverage leads to; see `coverage_fuzz`, which also runs for longer."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")


SOME = {"shard": 200, "artifact": 400, "packed": 400, "snapshot": 5_000}
MANY = {"shard": 1_000, "artifact": 2_000, "packed": 2_000, "snapshot": 30_000}


@pytest.mark.parametrize(
    ("name", "runs"), [*SOME.items(), *(pytest.param(*item, marks=pytest.mark.slow) for item in MANY.items())]
)
def test_no_input_is_answered_with_anything_but_a_sentence(name: str, runs: int, tmp_path: Path) -> None:
    command = [sys.executable, str(HERE / "coverage_fuzz.py"), name, f"-runs={runs}", f"-artifact_prefix={tmp_path}/"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=HERE.parents[1], timeout=300)
    left = [f"{path.name}: {path.read_bytes().hex()}" for path in tmp_path.iterdir()]
    assert done.returncode == 0 and not left, "\n".join([*left, done.stderr[-2000:], done.stdout[-2000:]])
    assert f"Done {runs} runs" in done.stderr
