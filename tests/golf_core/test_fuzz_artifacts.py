"""Hostile artifacts and checkpoints: a sentence or a success, no code, and bounded memory."""

from __future__ import annotations

import io
import json
import lzma
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile import EXTREME, answer, damage, fuzz, odd_json
from hypothesis import given
from hypothesis import strategies as st

from golf_core.artifact.codec import MAGIC, encode, load_artifact
from golf_core.artifact.export import load_checkpoint
from golf_core.artifact.packed import PACKED_MAGIC, encode_packed
from golf_core.artifact.quantize import quantize_all
from golf_core.config import ArtifactConfig, ModelConfig
from golf_core.model.gpt import GPT

Change = Callable[[bytes], bytes]
TINY = ModelConfig(
    vocab_size=32, num_layers=2, model_dim=16, num_heads=2, num_kv_heads=1, mlp_mult=2, bigram_vocab_size=16,
    bigram_dim=8, xsa_last_n=1, rope_dims=4, ve_dim=8, ve_layers=(1,),
)  # fmt: skip
FILES = Path(__file__).parents[2]


class Payload:
    """A pickle that leaves a mark where it is loaded as one."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {name: value.detach() for name, value in GPT(TINY).state_dict().items()}


@pytest.fixture(scope="module")
def first(state: dict[str, torch.Tensor]) -> bytes:
    return encode(TINY, quantize_all(state, ArtifactConfig(float16_max_elements=100)), 6)


@pytest.fixture(scope="module")
def packed(state: dict[str, torch.Tensor]) -> bytes:
    return encode_packed(TINY, quantize_all(state, ArtifactConfig(float16_max_elements=100)))


@pytest.fixture(scope="module")
def checkpoint(state: dict[str, torch.Tensor]) -> bytes:
    return saved(state)


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    """No reader of these small files takes more than the tables that it decodes with."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200 * 1024 * 1024


def saved(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def artifact(path: Path, content: bytes) -> str | None:
    path.write_bytes(content)
    return answer(lambda: load_artifact(path), path)


def as_checkpoint(path: Path, content: bytes) -> str | None:
    path.write_bytes(content)
    return answer(lambda: load_checkpoint(path, TINY), path)


def test_valid_files_load(tmp_path: Path, first: bytes, packed: bytes, checkpoint: bytes) -> None:
    assert artifact(tmp_path / "m.golf", first) is None
    assert artifact(tmp_path / "m.golf", packed) is None
    assert as_checkpoint(tmp_path / "c.pt", checkpoint) is None


@fuzz(40)
@given(change=damage())
def test_damaged_artifacts(tmp_path: Path, first: bytes, packed: bytes, change: Change) -> None:
    for valid in (first, packed):
        assert change(valid) == valid or artifact(tmp_path / "m.golf", change(valid)) is not None


@fuzz(60)
@given(change=damage())
def test_first_format_behind_its_checksum(tmp_path: Path, first: bytes, change: Change) -> None:
    artifact(tmp_path / "m.golf", lzma.compress(change(lzma.decompress(first)), preset=0))


@fuzz(100)
@given(data=st.data())
def test_first_format_with_another_header(tmp_path: Path, first: bytes, data: st.DataObject) -> None:
    raw = lzma.decompress(first)
    length = struct.unpack_from("<I", raw, 8)[0]
    header = json.dumps(data.draw(odd_json(json.loads(raw[12 : 12 + length])))).encode()
    artifact(tmp_path / "m.golf", lzma.compress(MAGIC + with_length(header) + raw[12 + length :], preset=0))


@fuzz(60)
@given(change=damage(), part=st.integers(0, 6), data=st.data())
def test_second_format_behind_its_checksum(
    tmp_path: Path, packed: bytes, change: Change, part: int, data: st.DataObject
) -> None:
    """Each part by itself, what is in the xz streams too, with every length and checksum right again."""
    parts = split(packed)
    if part < 3:
        parts[part] = change(parts[part])
    elif part == 3:
        parts[0] = lzma.compress(change(lzma.decompress(parts[0])))
    elif part == 4:
        raw = lzma.decompress(parts[0])
        length = struct.unpack_from("<I", raw)[0]
        header = json.dumps(data.draw(odd_json(json.loads(raw[4 : 4 + length])))).encode()
        parts[0] = lzma.compress(with_length(header) + raw[4 + length :])
    else:  # the tables of one of the range-coded blobs
        blob = parts[part - 4]
        length = struct.unpack_from("<I", blob)[0]
        tables = lzma.compress(change(lzma.decompress(blob[4 : 4 + length])))
        parts[part - 4] = with_length(tables) + blob[4 + length :]
    artifact(tmp_path / "m.golf", joined(parts))


def test_one_context_in_thousands_of_tables(tmp_path: Path, packed: bytes) -> None:
    parts = split(packed)
    length = struct.unpack_from("<I", parts[2])[0]
    tables = lzma.compress(struct.pack("<BHHB", 0, 0, 1, 9) * 80_000)
    parts[2] = with_length(tables) + parts[2][4 + length :]
    assert "a table is not one" in str(artifact(tmp_path / "m.golf", joined(parts)))


@pytest.mark.parametrize("field", ["num_layers", "vocab_size", "model_dim", "num_heads", "num_kv_heads", "ve_dim"])
def test_extreme_models(tmp_path: Path, first: bytes, field: str) -> None:
    raw = lzma.decompress(first)
    length = struct.unpack_from("<I", raw, 8)[0]
    header = json.loads(raw[12 : 12 + length])
    for value in (*EXTREME, -1, -(2**40)):
        changed = json.dumps(header | {"model": header["model"] | {field: value}}).encode()
        if value != header["model"][field]:
            content = lzma.compress(MAGIC + with_length(changed) + raw[12 + length :], preset=0)
            # 1 is a number of heads that can be; the tensors then differ, or their meaning does.
            assert artifact(tmp_path / "m.golf", content) is not None or value in (1, 2)


def test_a_tensor_twice(tmp_path: Path, first: bytes) -> None:
    raw = lzma.decompress(first)
    length = struct.unpack_from("<I", raw, 8)[0]
    header = json.loads(raw[12 : 12 + length])
    header["tensors"].append(header["tensors"][0])
    content = lzma.compress(MAGIC + with_length(json.dumps(header).encode()) + raw[12 + length :])
    assert "twice" in str(artifact(tmp_path / "m.golf", content))


@fuzz(40)
@given(change=damage())
def test_damaged_checkpoints(tmp_path: Path, checkpoint: bytes, change: Change) -> None:
    as_checkpoint(tmp_path / "c.pt", change(checkpoint))


@fuzz(60)
@given(change=damage(), member=st.sampled_from(["data.pkl", "data/0", "byteorder", "version", ".format_version"]))
def test_checkpoint_members(tmp_path: Path, checkpoint: bytes, change: Change, member: str) -> None:
    """The parts of the archive, with their checksums right again: torch's own reader is reached."""
    as_checkpoint(tmp_path / "c.pt", rezipped(checkpoint, member, change))


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {1: torch.zeros(1)},
        {"x\ny": torch.zeros(1)},
        {"tok_emb.weight": 3},
        {"tok_emb.weight": torch.zeros(32, 16).to_sparse()},
        {"tok_emb.weight": torch.zeros(1).expand(1 << 40)},
        torch.zeros(3),
    ],
    ids=str,
)
def test_strange_checkpoints(tmp_path: Path, value: object) -> None:
    assert as_checkpoint(tmp_path / "c.pt", saved(value)) is not None


def test_types_that_are_not_floats(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    for dtype in (torch.int8, torch.complex64, torch.int64):
        changed = dict(state) | {"tok_emb.weight": torch.zeros(32, 16, dtype=dtype)}
        assert as_checkpoint(tmp_path / "c.pt", saved(changed)) is not None


def test_no_code_runs(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    mark = tmp_path / "mark"
    dirty = dict(state) | {"tok_emb.weight": Payload(mark)}
    legacy = io.BytesIO()
    torch.save(dirty, legacy, _use_new_zipfile_serialization=False)
    numpy_file = io.BytesIO()
    np.save(numpy_file, np.array([Payload(mark)], dtype=object), allow_pickle=True)
    contents = [saved(dirty), pickle.dumps(dirty), legacy.getvalue(), numpy_file.getvalue()]
    for content in contents:
        assert as_checkpoint(tmp_path / "c.pt", content) is not None
        for packer in (bytes, lzma.compress, zlib.compress):
            assert artifact(tmp_path / "m.golf", packer(content)) is not None
    assert not mark.exists()
    pickle.loads(contents[1])
    assert mark.exists()  # else the test shows nothing


def test_calls_that_take_memory(tmp_path: Path) -> None:
    """`weights_only` alone lets a pickle ask for a bytearray of any size."""
    pickled = b"\x80\x02cbuiltins\nbytearray\n\x8a\x06" + (1 << 44).to_bytes(6, "little") + b"\x85R."
    content = rezipped(saved({}), "data.pkl", lambda _: pickled)
    assert "asks to run" in str(as_checkpoint(tmp_path / "c.pt", content))


def test_compressed_and_doubled_members(tmp_path: Path, checkpoint: bytes) -> None:
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    assert "compressed" in str(as_checkpoint(tmp_path / "c.pt", bomb.getvalue()))
    twice = io.BytesIO(checkpoint)
    with warnings.catch_warnings(), zipfile.ZipFile(twice, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr(archive.namelist()[0], b"x")
    assert "there twice" in str(as_checkpoint(tmp_path / "c.pt", twice.getvalue()))


BOMBS = """
import json, lzma, resource, struct, sys, zlib
from pathlib import Path
import numpy as np, torch
from golf_core import strict_json
from golf_core.artifact.codec import load_artifact
from golf_core.artifact.export import load_checkpoint
from golf_core.config import ModelConfig
from golf_core.data.shards import read_shard, validation_tokens
from golf_core.errors import GolfError
folder, model = Path(sys.argv[1]), ModelConfig()
load_artifact(folder / "valid.golf")  # imports what it needs
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1500 << 20),) * 2)
for path in sorted(folder.glob("bomb*")):
    try:
        if path.suffix == ".json":
            strict_json.load(ModelConfig, path)
        elif path.suffix == ".bin":
            read_shard(path)
        elif path.suffix == ".pt":
            load_checkpoint(path, model)
        else:
            load_artifact(path)
        print("LOADED", path.name)
    except GolfError as error:
        print("ok" if path.name in str(error) and "\\n" not in str(error) else "BAD", path.name, error)
"""


def test_bombs(tmp_path: Path, packed: bytes, first: bytes) -> None:
    """In a process that may take 1.5 GB more than it begins with."""
    (tmp_path / "valid.golf").write_bytes(first)
    huge = json.dumps({"model": {}, "tensors": [{"name": "a", "kind": "float16", "shape": [2**60]}]}).encode()
    parts = split(packed)
    grids = {"model": {}, "tensors": [{"name": f"t{i}", "kind": "int8", "shape": [2**20, 2**20]} for i in range(9)]}
    bombs = {
        "bomb1.golf": repeated_xz(4 << 30),
        "bomb2.ptz": repeated_zlib(4 << 30),
        "bomb3.golf": lzma.compress(MAGIC + with_length(huge)),
        "bomb4.golf": joined([repeated_xz(1 << 30), *parts[1:]]),
        "bomb5.golf": joined([lzma.compress(with_length(json.dumps(grids).encode())), *parts[1:]]),
        "bomb6.json": b"[" * 100_000,
        "bomb7.json": b"[" + b"[]," * 5_000_000 + b"[]]",
        "bomb8.bin": struct.pack("<3i", 20240520, 1, 2**31 - 1) + bytes(1012) + b"ab",
        "bomb9.ptz": repeated_xz(4 << 30, b"PK\x03\x04"),
        "bomb10.golf": lzma.compress(MAGIC + with_length(b"[" * 100_000)),
    }
    for name, content in bombs.items():
        (tmp_path / name).write_bytes(content)
    for name in ("bomb11.pt", "bomb12.golf", "bomb13.json"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(1 << 42)
    done = subprocess.run(
        [sys.executable, "-c", BOMBS, str(tmp_path)],
        cwd=FILES, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 13 and all(line.startswith("ok ") for line in lines), done.stdout


def repeated_xz(size: int, beginning: bytes = b"") -> bytes:
    packer = lzma.LZMACompressor(preset=0, check=lzma.CHECK_NONE)
    blob, zeros = [packer.compress(beginning)], bytes(1 << 20)
    # Enough to be over every limit; the rest of a stream that claims more is never reached.
    blob += [packer.compress(zeros) for _ in range(min(size >> 20, 300))]
    return b"".join([*blob, packer.flush()])


def repeated_zlib(size: int) -> bytes:
    packer = zlib.compressobj(1)
    zeros = bytes(1 << 20)
    return b"".join([*(packer.compress(zeros) for _ in range(min(size >> 20, 300))), packer.flush()])


def with_length(content: bytes) -> bytes:
    return struct.pack("<I", len(content)) + content


def split(packed: bytes) -> list[bytes]:
    parts, at = [], len(PACKED_MAGIC) + 4
    for _ in range(2):
        end = at + 4 + struct.unpack_from("<I", packed, at)[0]
        parts.append(packed[at + 4 : end])
        at = end
    return [*parts, packed[at:]]


def joined(parts: list[bytes]) -> bytes:
    body = with_length(parts[0]) + with_length(parts[1]) + parts[2]
    return PACKED_MAGIC + struct.pack("<I", zlib.crc32(body)) + body


def rezipped(content: bytes, member: str, change: Callable[[bytes], Any]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            part = old.read(name)
            new.writestr(name, change(part) if name.endswith("/" + member) else part)
    return target.getvalue()
