"""Hostile shards, manifests, tokenizers, records and special files: a sentence or a success, and nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from hostile import answer, damage, fuzz, odd_json
from hypothesis import given
from hypothesis import strategies as st

from golf_core import strict_json
from golf_core.config import GolfConfig, ModelConfig
from golf_core.data.manifest import MANIFEST, Manifest, ShardRecord, load_manifest
from golf_core.data.shards import HEADER_BYTES, read_shard, write_shard
from golf_core.data.tokenizer import byte_table, load_tokenizer
from golf_core.errors import ConfigError, DataError

Change = Callable[[bytes], bytes]
SHARD = ShardRecord("fineweb_train_000000.bin", 10, 1, 30, "0" * 64)
FOLDER = Manifest("sample", "here", "tokenizer.model", "0" * 64, 64, (SHARD,), (SHARD,), "3.11", "0.2")


@pytest.fixture(scope="module")
def tokenizer_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "text").write_text("the cat sat on the mat and the dog ran to the cat\n" * 20)
    sentencepiece.SentencePieceTrainer.Train(
        input=str(folder / "text"), model_prefix=str(folder / "t"), vocab_size=290, model_type="bpe",
        byte_fallback=True, minloglevel=2, hard_vocab_limit=False, num_threads=1,
    )  # fmt: skip
    return (folder / "t.model").read_bytes()


def read_all(path: Path) -> None:
    tokens = read_shard(path)
    assert 2 * len(tokens) + HEADER_BYTES == path.stat().st_size
    int(tokens.max())


@fuzz(120)
@given(change=damage())
def test_shard(tmp_path: Path, change: Change) -> None:
    path = tmp_path / "fineweb_train_000000.bin"
    write_shard(path, np.arange(300, dtype=np.uint16))
    path.write_bytes(change(path.read_bytes()))
    answer(lambda: read_all(path), path)


@fuzz(150)
@given(change=damage())
def test_manifest_bytes(tmp_path: Path, change: Change) -> None:
    strict_json.save(FOLDER, tmp_path / MANIFEST)
    (tmp_path / MANIFEST).write_bytes(change((tmp_path / MANIFEST).read_bytes()))
    answer(lambda: load_manifest(tmp_path), tmp_path / MANIFEST)


@fuzz(200)
@given(values=odd_json(strict_json.to_dict(FOLDER)))
def test_manifest_values(tmp_path: Path, values: Any) -> None:
    (tmp_path / MANIFEST).write_text(json.dumps(values))
    answer(lambda: load_manifest(tmp_path), tmp_path / MANIFEST)


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "..", "", "a\0b", "a/b", "a\nb"])
def test_manifest_names_stay_in_the_folder(tmp_path: Path, name: str) -> None:
    values = strict_json.to_dict(FOLDER)
    for changed in (values | {"tokenizer": name}, values | {"val": [values["val"][0] | {"file": name}]}):
        (tmp_path / MANIFEST).write_text(json.dumps(changed))
        assert "not the name of a file" in str(answer(lambda: load_manifest(tmp_path), tmp_path / MANIFEST))


@fuzz(200)
@given(values=odd_json(strict_json.to_dict(GolfConfig())))
def test_record_values(tmp_path: Path, values: Any) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(values))
    # Whether the configuration's own checks name the file is its business, not the reader's.
    try:
        strict_json.load(GolfConfig, path)
    except ConfigError as error:
        assert str(error).isprintable() and len(str(error)) < 3000


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"vocab_size": ' + b"9" * 10_000 + b"}",
        b'{"vocab_size": ' + b"9" * 4000 + b"}",
        b'{"rope_base": ' + b"9" * 4000 + b"}",
        b'{"rope_base": NaN}',
        b'{"rope_base": -Infinity}',
        b'{"vocab_size": ' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"' + b"q" * 1_000_000 + b'": 1}',
        b'{"line\\nbreak": 1}',
        b"\xff\xfe",
        b'"\\ud800"',
    ],
)
def test_strange_json(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "x.json").write_bytes(text)
    assert answer(lambda: strict_json.load(ModelConfig, tmp_path / "x.json"), tmp_path / "x.json") is not None


def test_large_json_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "x.json").open("wb") as file:
        file.truncate(1 << 40)
    assert "larger than" in str(answer(lambda: strict_json.load(ModelConfig, tmp_path / "x.json"), tmp_path / "x.json"))


@fuzz(150)
@given(change=damage())
def test_tokenizer(tmp_path: Path, tokenizer_bytes: bytes, change: Change) -> None:
    path = tmp_path / "t.model"
    path.write_bytes(change(tokenizer_bytes))
    answer(lambda: byte_table(load_tokenizer(path)), path)


@fuzz(60)
@given(content=st.binary(max_size=300))
def test_any_bytes_as_a_tokenizer(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.model").write_bytes(content)
    answer(lambda: byte_table(load_tokenizer(tmp_path / "t.model")), tmp_path / "t.model")


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "loop", "dangling", "zero byte"])
def test_what_is_no_plain_file(tmp_path: Path, kind: str) -> None:
    """Opening a pipe would wait for ever, reading a device would never end."""
    path = tmp_path / ("x\0.json" if kind == "zero byte" else "x.json")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind in ("device", "loop", "dangling"):
        path.symlink_to({"device": "/dev/zero", "loop": path, "dangling": tmp_path / "none"}[kind])
    for read in (read_shard, load_tokenizer):
        with pytest.raises(DataError, match=r"x.?\.json"):
            read(path)
    with pytest.raises(ConfigError, match=r"x.?\.json"):
        strict_json.load(ModelConfig, path)
