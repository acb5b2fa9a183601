"""The user's mistakes: one clear sentence, exit code 2, nothing written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import golf, write_job
from typer.testing import CliRunner

from golf_core.errors import UserError
from orchestrator.cli import app
from orchestrator.job.load import load_job


def _shorten(folder: Path) -> None:
    shard = folder / "fineweb_val_000000.bin"
    shard.write_bytes(shard.read_bytes()[:-100])


def _spoil(folder: Path) -> None:
    shard = folder / "fineweb_train_000000.bin"
    shard.write_bytes(b"\0\0\0\0" + shard.read_bytes()[4:])


@pytest.mark.parametrize(
    ("damage", "fields", "words"),
    [
        (shutil.rmtree, {}, ("no such data folder", "golf data")),
        (_shorten, {}, ("fineweb_val_000000.bin",)),
        (_spoil, {}, ("fineweb_train_000000.bin", "magic")),
        (None, {"overrides": {"model.vocab_size": 2048}}, ("tokenizer.model", "1024", "2048")),
        (None, {"resources": {"cpus_per_rank": 512}}, ("needs 512 CPUs on one node",)),
        (None, {"sedes": [42]}, ("tiny.yaml", "sedes", "did you mean 'seeds'?")),
    ],
)
def test_a_run_is_refused_in_a_sentence(
    sample_folder: Path,
    tmp_path: Path,
    damage: Callable[[Path], None] | None,
    fields: dict[str, object],
    words: tuple[str, ...],
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(sample_folder, folder)
    (folder / "manifest.json").unlink()  # its checksums would find everything
    if damage is not None:
        damage(folder)
    data = {"path": str(folder), "tokenizer": str(folder / "tokenizer.model")}
    sentence = refused("run", str(write_job(tmp_path, data=data, **fields)), "--address", "local")
    assert "\n" not in sentence and all(word in sentence for word in words), sentence
    assert not (tmp_path / "runs").exists()


def refused(*arguments: str) -> str:
    """The sentence with which `golf` ends in this process."""
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, UserError), done.output
    return str(done.exception)


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
