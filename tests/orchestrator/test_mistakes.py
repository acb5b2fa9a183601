"""The user's mistakes: one clear sentence, exit code 2, nothing written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import golf, write_job
from typer.testing import CliRunner

from golf_core.errors import UserError
from orchestrator.cli import app
from orchestrator.job.load import load_job


def refused(*arguments: str) -> str:
    """The sentence with which `golf` ends in this process."""
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, UserError), done.output
    return str(done.exception)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"data": {"path": "/no/data", "tokenizer": "/no/t.model"}}, ("no such data folder", "golf data")),
        ({"overrides": {"model.vocab_size": 2048}}, ("tokenizer.model", "1024", "2048")),
        ({"sedes": [42]}, ("tiny.yaml", "sedes", "did you mean 'seeds'?")),
    ],
)
def test_a_run_is_refused_in_a_sentence(
    fields: dict[str, Any], words: tuple[str, ...], sample_folder: Path, tmp_path: Path
) -> None:
    data = {"path": str(sample_folder), "tokenizer": str(sample_folder / "tokenizer.model")}
    sentence = refused("run", str(write_job(tmp_path, **{"data": data, **fields})), "--address", "local")
    assert "\n" not in sentence and all(word in sentence for word in words), sentence
    assert not (tmp_path / "runs").exists()


def test_a_process_ends_with_the_sentence_and_code_2(tmp_path: Path) -> None:
    """A run whose artifact was damaged since: the evaluation refuses it."""
    run = tmp_path / "earlier"
    (run / "seed-42").mkdir(parents=True)
    job = load_job(write_job(tmp_path, seeds=[42]))
    (run / "job.json").write_text(json.dumps(job.to_dict()))
    (run / "seed-42" / "model.golf").write_bytes(b"not an artifact")
    done = golf("evaluate", str(run), "--address", "local")
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ") and "model.golf" in line and "not an artifact" in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("command", ["show", "evaluate"])
def test_a_folder_that_is_no_run(command: str, tmp_path: Path) -> None:
    assert str(tmp_path) in refused(command, str(tmp_path))


def test_help_imports_nothing_heavy() -> None:
    """`golf --help` is instant because what takes seconds to import is not imported."""
    assert CliRunner().invoke(app, ["--help"]).exit_code == 0
    heavy = ("torch", "ray", "mlflow", "scipy", "numpy", "huggingface_hub")
    probe = f"import sys, orchestrator.cli; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
