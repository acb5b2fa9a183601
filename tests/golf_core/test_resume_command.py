"""`python -m golf_core train --resume FILE`: goes on with the same bits, or says in one sentence why it cannot."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from golf_core.__main__ import main
from golf_core.artifact.export import CHECKPOINT_NAME
from golf_core.results import TrainResult
from golf_core.stages import TRAIN_RECORD
from golf_core.strict_json import load
from golf_core.train.snapshot import PREVIOUS_NAME, SNAPSHOT_NAME, is_whole

STEPS = 12
FIELDS = {
    "model.model_dim": 64,
    "model.rope_dims": 8,
    "train.iterations": STEPS,
    "train.warmup_steps": 0,
    "train.batch_tokens": 1024,
    "train.seq_len": 128,
    "train.log_every": 1,
    "train.val_every": 0,
    "evaluate.seq_len": 128,
    "evaluate.chunk_tokens": 1024,
    "evaluate.max_tokens": 1024,
}
EVERY_STEP = 1e-6


def words(out: Path, *options: str, seed: int = 42, **changes: float) -> list[str]:
    """The command's arguments; `changes` are fields of `train`."""
    fields = FIELDS | {f"train.{name}": value for name, value in changes.items()}
    pairs = [word for name, value in fields.items() for word in ("--set", f"{name}={value}")]
    return ["train", "--preset", "small", "--seed", str(seed), "--out", str(out), "--threads", "1", *pairs, *options]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(folder / CHECKPOINT_NAME, weights_only=True)
    return found


def notes(folder: Path) -> list[str]:
    events = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [event["message"] for event in events if event["kind"] == "note"]


def assert_same(found: Path, expected: Path) -> None:
    one, other = tensors(found), tensors(expected)
    assert one.keys() == other.keys()
    for name, value in other.items():
        assert torch.equal(one[name], value), name


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, sample_folder: Path) -> Path:
    """The folder of a training in one go, without snapshots."""
    out = tmp_path_factory.mktemp("straight")
    assert main(words(out)) == 0
    assert not (out / SNAPSHOT_NAME).exists() and load(TrainResult, out / TRAIN_RECORD).resumed_at_steps == ()
    return out


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, sample_folder: Path) -> Path:
    """The folder of a training whose process was killed after at least two of its snapshots."""
    out = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-m", "golf_core", *words(out, snapshot_seconds=EVERY_STEP)]
    with (out / "output.txt").open("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            end = time.monotonic() + 120
            while not (out / PREVIOUS_NAME).exists():
                assert process.poll() is None and time.monotonic() < end, (out / "output.txt").read_text()
                time.sleep(0.002)
            # Held first, so that it does not come to its end while this process waits for the processor.
            process.send_signal(signal.SIGSTOP)
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
    assert not (out / CHECKPOINT_NAME).exists(), "it came to its end before it was killed"
    return out


@pytest.mark.parametrize("name", [SNAPSHOT_NAME, PREVIOUS_NAME])
def test_a_killed_training_goes_on_in_another_folder(name: str, killed: Path, straight: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in killed.iterdir()}
    if not is_whole(killed / name):  # killed between the two renames
        name = PREVIOUS_NAME
    assert main(words(tmp_path / "out", "--resume", str(killed / name))) == 0
    assert_same(tmp_path / "out", straight)
    (step,) = load(TrainResult, tmp_path / "out" / TRAIN_RECORD).resumed_at_steps
    assert 1 <= step < STEPS
    assert any(note.startswith(f"resumed at step {step}, ") for note in notes(tmp_path / "out"))
    assert {path.name: path.read_bytes() for path in killed.iterdir()} == before, "the first folder was written to"


def test_it_goes_on_in_its_own_folder_and_again(straight: Path, tmp_path: Path) -> None:
    """From the snapshot before the last, and from the one that is then written over the last."""
    assert main(words(tmp_path, snapshot_seconds=EVERY_STEP)) == 0
    assert_same(tmp_path, straight)
    for name, steps in ((PREVIOUS_NAME, (STEPS - 2,)), (SNAPSHOT_NAME, (STEPS - 2, STEPS - 1))):
        (tmp_path / CHECKPOINT_NAME).unlink()
        assert main(words(tmp_path, "--resume", str(tmp_path / name), snapshot_seconds=EVERY_STEP)) == 0
        assert_same(tmp_path, straight)
        assert load(TrainResult, tmp_path / TRAIN_RECORD).resumed_at_steps == steps


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence that the command ends with; nothing was trained."""
    capsys.readouterr()
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and len(error.splitlines()) == 1 and "Traceback" not in error
    assert not (Path(arguments[arguments.index("--out") + 1]) / CHECKPOINT_NAME).exists()
    return error


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read"),
        (b"", "not a snapshot of a training"),
        (b"golf snapshot 2\n" + bytes(100), "not a snapshot of a training"),
        (b"{}", "not a snapshot of a training"),
    ],
)
def test_a_wrong_file_is_refused(
    content: bytes | None, reason: str, sample_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "some.bin"
    if content is not None:
        path.write_bytes(content)
    error = refused(words(tmp_path / "out", "--resume", str(path)), capsys)
    assert str(path) in error and reason in error


@pytest.mark.parametrize("damage", ["cut", "flipped", "longer"])
def test_a_damaged_snapshot_is_refused(
    damage: str, killed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = bytearray((killed / PREVIOUS_NAME).read_bytes())
    if damage == "cut":
        del content[len(content) // 2 :]
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
    else:
        content += b"\0"
    path = tmp_path / SNAPSHOT_NAME
    path.write_bytes(content)
    error = refused(words(tmp_path / "out", "--resume", str(path)), capsys)
    assert str(path) in error and "is damaged" in error and "train from the beginning" in error


def test_a_folder_is_refused(sample_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(words(tmp_path / "out", "--resume", str(tmp_path)), capsys)
    assert str(tmp_path) in error and "cannot be read" in error


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"muon_lr": 0.01}, "train.muon_lr"),
        ({"iterations": STEPS + 1}, "train.iterations"),
        ({"seed": 43}, "seed"),
    ],
)
def test_a_snapshot_of_another_training_is_refused(
    changes: dict[str, float], field: str, killed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    snapshot = killed / PREVIOUS_NAME
    error = refused(words(tmp_path / "out", "--resume", str(snapshot), **changes), capsys)  # type: ignore[arg-type]
    assert f"{snapshot}: was made with {field} " in error and "train from the beginning" in error


def test_a_snapshot_of_another_model_is_refused(
    killed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    snapshot = killed / PREVIOUS_NAME
    arguments = words(tmp_path / "out", "--resume", str(snapshot), "--set", "model.model_dim=128")
    error = refused(arguments, capsys)
    assert f"{snapshot}: was made with model.model_dim 64, where this training has 128" in error
