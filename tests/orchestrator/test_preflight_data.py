"""Data on a machine: shards, tokenizer, and validation text among the training shards."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from drawing import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from golf_core.data.shards import read_shard, write_shard
from orchestrator.preflight.data import BLOCK, WINDOW, Overlap, check_data_folder, judge_overlap, overlap
from orchestrator.preflight.findings import Finding


def tokens(n: int, seed: int = 0, vocab: int = 1024) -> np.ndarray:
    return np.random.default_rng(seed).integers(2, vocab, n).astype(np.uint16)


def shard(folder: Path, name: str, content: np.ndarray) -> Path:
    path = folder / f"fineweb_{name}_000000.bin"
    write_shard(path, content)
    return path


def check(folder: Path, **options: int) -> list[Finding]:
    data = {"path": str(folder), "tokenizer": str(folder / "tokenizer.model")}
    return check_data_folder(data, 1024, 256, **options)  # type: ignore[arg-type]


def errors(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.level == "error"]


@pytest.fixture
def folder(sample_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sample_folder, tmp_path / "data"))


def test_the_sample_is_sound(folder: Path) -> None:
    findings = check(folder)
    assert [finding.level for finding in findings] == ["ok"] * 3
    assert "all read" in findings[0].what and "manifest" in findings[0].what
    assert "100% of all" in findings[2].what
    findings = check(folder, whole_bytes=0)  # large data are sampled
    assert not errors(findings) and "not hashed here" in findings[0].what


@pytest.mark.parametrize("whole", [2**40, 0])
def test_validation_that_is_trained_on_is_refused(folder: Path, whole: int) -> None:
    (folder / "manifest.json").unlink()
    (val,) = folder.glob("fineweb_val_*")
    shutil.copy(val, folder / "fineweb_train_999999.bin")
    (error,) = errors(check(folder, whole_bytes=whole))
    assert f"fineweb_train_999999.bin = {val.name}" in error.what


def test_validation_text_inside_a_training_shard_is_refused(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    (val,), (train,) = folder.glob("fineweb_val_*"), folder.glob("fineweb_train_*")
    write_shard(train, np.concatenate([read_shard(train)[:500_001], read_shard(val)]).astype(np.uint16))
    (error,) = errors(check(folder))
    assert "1024 of 1024" in error.what


def test_the_wrong_tokenizer_is_refused(folder: Path) -> None:
    """One with as many pieces, in another order."""
    from golf_core.data.tokenizer import BOS

    (folder / "manifest.json").unlink()
    for path in folder.glob("*.bin"):
        content = np.asarray(read_shard(path)).copy()
        moved = content >= 300
        content[moved] = 300 + (content[moved] - 300 + 100) % 724
        assert (content == BOS).any()
        write_shard(path, content)
    (error,) = errors(check(folder))
    assert "0 of 20 validation documents" in error.what and error.where.endswith("tokenizer.model")


@pytest.mark.parametrize("whole", [2**40, 0])
@pytest.mark.parametrize("damage", ["cut", "missing", "large id", "other tokenizer"])
def test_damage_is_one_error_with_a_remedy(folder: Path, damage: str, whole: int) -> None:
    (train,) = folder.glob("fineweb_train_*")
    if damage == "cut":
        train.write_bytes(train.read_bytes()[:-2])
    elif damage == "missing":
        train.unlink()
    elif damage == "large id":
        (folder / "manifest.json").unlink()
        write_shard(train, np.full(1000, 2000, dtype=np.uint16))
    else:
        model = folder / "tokenizer.model"
        model.write_bytes(model.read_bytes()[:-100])
    (error,) = check(folder, whole_bytes=whole)
    assert error.level == "error" and error.remedy and str(folder) in error.where


def test_no_sample_yet_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (finding,) = check_data_folder(None, 1024, 256)
    assert finding.level == "ok" and "first use" in finding.what
    assert list(tmp_path.iterdir()) == []


# --- the search -------------------------------------------------------------------------------------


@settings(max_examples=examples(25))
@given(
    st.integers(0, 2**32 - 1), st.integers(2, 2000), st.integers(500, 5000), st.integers(64, 3000), st.integers(0, 5)
)
def test_windows_are_found_wherever_they_are(
    tmp_path_factory: pytest.TempPathFactory, seed: int, vocab: int, train: int, val: int, planted: int
) -> None:
    """Against a plain search of the bytes."""
    folder = tmp_path_factory.mktemp("search")
    random = np.random.default_rng(seed)
    text, other = random.integers(0, vocab, train).astype(np.uint16), random.integers(0, vocab, val).astype(np.uint16)
    for _ in range(planted):
        start, at = random.integers(0, val - WINDOW + 1), random.integers(0, train - WINDOW + 1)
        text[at : at + WINDOW] = other[start : start + WINDOW]
    paths = shard(folder, "train", text), shard(folder, "val", other)
    found = overlap(paths[:1], paths[1:], windows=16)
    starts = np.linspace(0, val - WINDOW, found.windows).astype(int)
    rows = {row.tobytes() for row in np.lib.stride_tricks.sliding_window_view(text, WINDOW)}
    assert found.found == sum(other[start : start + WINDOW].tobytes() in rows for start in starts)
    assert found.train_tokens_searched == found.train_tokens == train


def test_windows_across_block_ends_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.preflight.data.BLOCK", 1000)
    val = tokens(WINDOW, seed=1)
    text = tokens(5000)
    text[1000 - 30 : 1000 - 30 + WINDOW] = val
    found = overlap([shard(tmp_path, "train", text)], [shard(tmp_path, "val", val)])
    assert (found.windows, found.found) == (1, 1)
    assert BLOCK > 1000


def test_a_part_is_searched_where_all_is_too_much(tmp_path: Path) -> None:
    train, val = tokens(100_000), tokens(20_000, seed=1)
    train[:20_000] = val
    paths = shard(tmp_path, "train", train), shard(tmp_path, "val", val)
    found = overlap(paths[:1], paths[1:], windows=100, train_tokens=10_000)
    assert found.train_tokens_searched == 10_000 and found.searched == pytest.approx(0.1)
    # The block that was searched lies in the leaked part: half of the windows are in it.
    assert found.found == pytest.approx(50, abs=2) and found.share == 1.0


@pytest.mark.parametrize(
    ("found", "searched", "level"),
    [(0, 1000, "ok"), (30, 1000, "ok"), (80, 1000, "warning"), (400, 1000, "error"), (2, 10, "ok"), (3, 10, "warning")],
)
def test_verdicts(found: int, searched: int, level: str) -> None:
    finding = judge_overlap(Overlap(1000, found, 1000, searched, ()), "here")
    assert finding.level == level
    assert f"{found} of 1000" in finding.what and f"{searched:,} training tokens searched" in finding.what
