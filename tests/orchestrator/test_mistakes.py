"""The user's mistakes: one clear sentence, exit code 2, nothing written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import REPO, golf, write_job

from orchestrator.job.load import load_job


def refused(folder: Path, job: Path, *sentences: str) -> None:
    done = golf("run", str(job), "--address", "local")
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    for sentence in sentences:
        assert sentence in lines[0]
    assert not (folder / "runs").exists()


@pytest.fixture
def data(sample_folder: Path, tmp_path: Path) -> Path:
    """A copy of the sample corpus, to damage; without its manifest, whose checksums would find everything."""
    folder = tmp_path / "data"
    shutil.copytree(sample_folder, folder)
    (folder / "manifest.json").unlink()
    return folder


def files(folder: Path) -> dict[str, str]:
    return {"path": str(folder), "tokenizer": str(folder / "tokenizer.model")}


def test_missing_data_folder(tmp_path: Path) -> None:
    job = write_job(tmp_path, data=files(tmp_path / "nowhere"))
    refused(tmp_path, job, str(tmp_path / "nowhere"), "golf data")


def test_truncated_shard(tmp_path: Path, data: Path) -> None:
    shard = data / "fineweb_val_000000.bin"
    shard.write_bytes(shard.read_bytes()[:-100])
    refused(tmp_path, write_job(tmp_path, data=files(data)), str(shard))


def test_wrong_magic(tmp_path: Path, data: Path) -> None:
    shard = data / "fineweb_train_000000.bin"
    shard.write_bytes(b"\0\0\0\0" + shard.read_bytes()[4:])
    refused(tmp_path, write_job(tmp_path, data=files(data)), str(shard), "magic")


def test_tokenizer_of_another_size(tmp_path: Path, data: Path) -> None:
    job = write_job(tmp_path, data=files(data), overrides={"model.vocab_size": 2048})
    refused(tmp_path, job, "tokenizer.model", "1024", "2048")


def test_duplicate_seeds(tmp_path: Path) -> None:
    refused(tmp_path, write_job(tmp_path, seeds=[42, 7, 42]), "seeds", "42")


def test_unknown_field(tmp_path: Path) -> None:
    refused(tmp_path, write_job(tmp_path, sedes=[42]), "tiny.yaml", "sedes", "did you mean 'seeds'?")


def test_baseline_without_its_ratio(tmp_path: Path) -> None:
    job = write_job(tmp_path, baseline={"name": "x", "mean": 1.1})
    refused(tmp_path, job, "baseline.bytes_per_token", "0.005 nats")


def test_more_cpus_than_there_are(tmp_path: Path) -> None:
    job = write_job(tmp_path, resources={"cpus_per_rank": 512})
    refused(tmp_path, job, "needs 512 CPUs on one node")


def test_an_artifact_that_is_not_one(tmp_path: Path) -> None:
    """A run whose artifact was damaged since: the evaluation refuses it."""
    run = tmp_path / "earlier"
    (run / "seed-42").mkdir(parents=True)
    job = load_job(write_job(tmp_path, seeds=[42]))
    (run / "job.json").write_text(json.dumps(job.to_dict()))
    (run / "seed-42" / "model.golf").write_bytes(b"not an artifact")
    done = golf("evaluate", str(run), "--address", "local")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "model.golf" in done.stderr and "not an artifact" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    for command in ("show", "evaluate"):
        done = golf(command, str(tmp_path))
        assert done.returncode == 2
        assert str(tmp_path) in done.stderr and "Traceback" not in done.stderr


def test_help_imports_nothing_heavy() -> None:
    """`golf --help` is instant because what takes seconds to import is not imported."""
    done = golf("--help")
    assert done.returncode == 0
    for command in ("run", "evaluate", "show", "ui", "data"):
        assert command in done.stdout
    probe = "import sys, orchestrator.cli; print([m for m in ('torch', 'ray', 'mlflow', 'scipy') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, cwd=REPO, check=True)
    assert found.stdout.strip() == "[]"
