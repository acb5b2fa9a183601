"""The shard format, byte for byte, and the stream and validation text read from it."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golf_core.data.shards import (
    TokenStream,
    read_shard,
    train_shards,
    val_shards,
    validation_tokens,
    write_shard,
)
from golf_core.errors import DataError

SHARED = Path(__file__).resolve().parents[2].parent / "shared"

token_lists = st.lists(st.integers(0, 65535), min_size=1, max_size=40)


def tokens(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.uint16)


def raw_shard(magic: int = 20240520, version: int = 1, count: int = 3, body: bytes = b"\1\0\2\0\3\0") -> bytes:
    return struct.pack("<256i", magic, version, count, *[0] * 253) + body


def test_file_is_the_challenges_format(tmp_path: Path) -> None:
    path = tmp_path / "s.bin"
    write_shard(path, tokens(1, 2, 513))
    assert path.read_bytes() == raw_shard(body=struct.pack("<3H", 1, 2, 513))


@given(values=token_lists)
def test_round_trip(values: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.bin"
        write_shard(path, tokens(*values))
        read = read_shard(path)
        assert read.dtype == np.uint16
        assert read.tolist() == values


def test_strided_array_is_written_in_order(tmp_path: Path) -> None:
    write_shard(tmp_path / "s.bin", np.arange(10, dtype=np.uint16)[::3])
    assert read_shard(tmp_path / "s.bin").tolist() == [0, 3, 6, 9]


def test_reading_maps_the_file_and_cannot_change_it(tmp_path: Path) -> None:
    write_shard(tmp_path / "s.bin", tokens(1, 2))
    read = read_shard(tmp_path / "s.bin")
    assert isinstance(read, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        read[0] = 7


@pytest.mark.parametrize("wrong", [np.zeros(3, np.int32), np.zeros((2, 2), np.uint16), np.zeros(0, np.uint16)], ids=str)
def test_writing_takes_only_tokens(tmp_path: Path, wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint16"):
        write_shard(tmp_path / "s.bin", wrong)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "the file is empty"),
        (b"\1\2\3", "not a token shard"),
        (raw_shard(magic=20240521), "not a token shard (magic number 20240521, not 20240520)"),
        (raw_shard(version=2), "shard version 2 is unknown"),
        (raw_shard(count=0, body=b""), "the header counts 0 tokens"),
        (raw_shard(count=-1), "the header counts -1 tokens"),
        (raw_shard(count=4), "truncated, 1,030 bytes where 4 tokens take 1,032"),
        (raw_shard()[:500], "truncated, 500 bytes"),
        (raw_shard(count=2), "2 bytes too many after the 2 tokens"),
    ],
)
def test_damage_is_named(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "s.bin"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        read_shard(path)
    assert str(error.value).startswith(f"{path}: ")
    assert sentence in str(error.value)
    assert "; " in str(error.value)  # the remedy


def test_missing_shard_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.bin: cannot be read \(No such file"):
        read_shard(tmp_path / "none.bin")


def test_shards_of_a_folder_are_sorted_and_apart(tmp_path: Path) -> None:
    for name in ("fineweb_train_000010", "fineweb_train_000002", "fineweb_val_000000", "other_train_000000"):
        write_shard(tmp_path / f"{name}.bin", tokens(1))
    assert [path.name for path in train_shards(tmp_path)] == [
        "fineweb_train_000002.bin",
        "fineweb_train_000010.bin",
    ]
    assert [path.name for path in val_shards(tmp_path)] == ["fineweb_val_000000.bin"]


@pytest.mark.parametrize("shards", [train_shards, val_shards])
def test_absent_data_says_how_to_get_some(tmp_path: Path, shards) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(DataError, match=r"golf data sample.*golf data export") as error:
            shards(folder)
        assert str(error.value).startswith(f"{folder}: ")


@given(
    contents=st.lists(token_lists, min_size=1, max_size=4),
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 300)), max_size=8),
)
def test_stream_is_the_shards_repeated(contents: list[list[int]], steps: list[tuple[bool, int]]) -> None:
    everything = np.concatenate([tokens(*values) for values in contents])
    consumed = sum(n for _, n in steps)
    endless = np.tile(everything, consumed // len(everything) + 1)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{i}.bin" for i in range(len(contents))]
        for path, values in zip(paths, contents, strict=True):
            write_shard(path, tokens(*values))
        stream = TokenStream(paths)
        position = 0
        for skip, n in steps:
            if skip:
                stream.skip(n)
            else:
                taken = stream.take(n)
                assert taken.dtype == np.uint16
                assert np.array_equal(taken, endless[position : position + n])
            position += n
            assert stream.position == position


def test_taken_tokens_may_be_changed(tmp_path: Path) -> None:
    write_shard(tmp_path / "s.bin", tokens(1, 2, 3))
    stream = TokenStream([tmp_path / "s.bin"])
    stream.take(3)[:] = 9
    assert stream.take(3).tolist() == [1, 2, 3]


def test_stream_refuses_nonsense(tmp_path: Path) -> None:
    write_shard(tmp_path / "s.bin", tokens(1, 2, 3))
    stream = TokenStream([tmp_path / "s.bin"])
    for call in (stream.take, stream.skip):
        with pytest.raises(ValueError, match="-1"):
            call(-1)
    with pytest.raises(ValueError, match="at least one shard"):
        TokenStream([])


@pytest.mark.parametrize(("count", "rows"), [(5, 1), (8, 1), (9, 2), (12, 2), (13, 3)])
def test_validation_is_cut_to_rows_plus_one(tmp_path: Path, count: int, rows: int) -> None:
    write_shard(tmp_path / "fineweb_val_000000.bin", np.arange(3, dtype=np.uint16))
    write_shard(tmp_path / "fineweb_val_000001.bin", np.arange(3, count, dtype=np.uint16))
    read = validation_tokens(tmp_path, seq_len=4)
    assert read.tolist() == list(range(rows * 4 + 1))
    assert read.dtype == np.uint16


def test_validation_needs_a_row(tmp_path: Path) -> None:
    write_shard(tmp_path / "fineweb_val_000000.bin", tokens(1, 2, 3, 4))
    with pytest.raises(DataError, match=r"hold 4 tokens, less than one row of seq_len \+ 1 = 5"):
        validation_tokens(tmp_path, seq_len=4)


def test_reads_the_challenges_own_shard() -> None:
    path = SHARED / "data" / "fineweb_val_000000.bin"
    if not path.exists():
        pytest.skip("the challenge's validation shard is not in ../shared")
    read = read_shard(path)
    assert len(read) == 1_040_298
    assert read[0] == 1
    assert read.max() < 1024
    assert len(validation_tokens(path.parent, 2048)) == 1_040_298 // 2048 * 2048 + 1
