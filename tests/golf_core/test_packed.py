"""The artifact's second format: the same values back, and nothing else is accepted."""

from __future__ import annotations

import json
import lzma
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from drawing import examples
from golden_case import small_case
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from golf_core.artifact import rans
from golf_core.artifact.codec import decode, encode
from golf_core.artifact.packed import MAX_CODED_VALUES, PACKED_MAGIC, encode_packed, spread_classes
from golf_core.artifact.quantize import Quantized, quantize_all
from golf_core.config import ArtifactConfig
from golf_core.errors import ArtifactError

MODEL = small_case().model_config


def quantized() -> dict[str, Quantized]:
    return quantize_all(small_case().model("trained").state_dict(), ArtifactConfig(float16_max_elements=500))


def grid(rows: int, cols: int, seed: int = 0, widest: int = rans.MAX_SYMBOL) -> Quantized:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-widest, widest + 1, (rows, cols), generator=generator).to(torch.int16)
    exponents = [torch.randint(-128, 128, (n,), generator=generator).to(torch.int8) for n in (rows, cols)]
    return Quantized("grid", values, torch.tensor(0.37), *exponents)


def assert_same(found: dict[str, Quantized], expected: dict[str, Quantized]) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].kind == tensor.kind and found[name].values.dtype == tensor.values.dtype
        assert torch.equal(found[name].values, tensor.values), name
        assert torch.equal(found[name].dequantize(), tensor.dequantize()), name


@pytest.fixture(scope="module")
def packed() -> bytes:
    return encode_packed(MODEL, quantized() | {"grid": grid(40, 30, widest=9)})


def test_every_kind_is_read_back(packed: bytes) -> None:
    tensors = quantized() | {"grid": grid(40, 30, widest=9)}
    assert {tensor.kind for tensor in tensors.values()} == {"int6", "int8", "float16", "grid"}
    config, found = decode(packed, "x")
    assert config == MODEL
    assert_same(found, tensors)


def test_same_tensors_same_bytes(packed: bytes) -> None:
    assert encode_packed(MODEL, quantized() | {"grid": grid(40, 30, widest=9)}) == packed


@settings(max_examples=examples(40))
@given(data=st.data())
def test_any_shape(data: st.DataObject) -> None:
    """Empty matrices, rows of zeros, single values, and matrices of one value throughout."""
    tensors: dict[str, Quantized] = {}
    for i in range(data.draw(st.integers(0, 4))):
        rows, cols = data.draw(st.integers(0, 9)), data.draw(st.integers(0, 9))
        tensor = grid(rows, cols, data.draw(st.integers(0, 99)), data.draw(st.sampled_from([0, 1, 127])))
        if data.draw(st.booleans()):
            scale = torch.linspace(0.1, 1, rows).half()
            tensor = Quantized(data.draw(st.sampled_from(["int6", "int8"])), tensor.values.to(torch.int8), scale)
        elif data.draw(st.booleans()):
            tensor = Quantized("float16", torch.randn(data.draw(st.sampled_from([(), (3,), (0, 2), (2, 1, 2)]))).half())
        tensors[f"t{i}"] = tensor
    assert_same(decode(encode_packed(MODEL, tensors), "x")[1], tensors)


def test_rows_and_columns_of_different_spread_are_told_apart() -> None:
    """Values whose spread differs by row and by column cost less than one table would make them cost."""
    generator = torch.Generator().manual_seed(0)
    rows, cols = (torch.exp2(0.7 * torch.randn(n, generator=generator)) for n in (400, 900))
    spread = 8 * rows[:, None] * cols
    values = (spread * torch.randn(400, 900, generator=generator)).round().clamp(-127, 127).to(torch.int8)
    tensors = {"w": Quantized("int8", values, torch.ones(400).half())}
    entropy = values.numel() * float((spread.log2() + 2.05).mean()) / 8  # of Gaussians, in bytes
    packed = len(encode_packed(MODEL, tensors))
    assert packed < 1.03 * entropy and packed < 0.95 * len(encode(MODEL, tensors, 9))
    alike = np.random.default_rng(0).integers(-9, 10, (64, 64))
    assert all(np.ptp(classes) == 0 for classes in spread_classes(alike))  # nothing to tell apart: no side information


@settings(max_examples=examples(80), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_an_artifact_error(packed: bytes, data: st.DataObject) -> None:
    damage = data.draw(st.sampled_from(["cut", "flip", "append"]))
    at = data.draw(st.integers(0, len(packed) - 1))
    if damage == "cut":
        bad = packed[:at]
    elif damage == "flip":
        bad = packed[:at] + bytes([packed[at] ^ data.draw(st.integers(1, 255))]) + packed[at + 1 :]
    else:
        bad = packed + data.draw(st.binary(min_size=1, max_size=40))
    with pytest.raises(ArtifactError, match="broken"):
        decode(bad, "broken.golf")


def sealed(body: bytes) -> bytes:
    """A file whose checksum is right, whatever is in it."""
    return PACKED_MAGIC + struct.pack("<I", zlib.crc32(body)) + body


def parts(head: bytes, side: bytes, values: bytes) -> bytes:
    return sealed(struct.pack("<I", len(head)) + head + struct.pack("<I", len(side)) + side + values)


def head(tensors: list[dict[str, object]], arrays: bytes = b"") -> bytes:
    text = json.dumps({"model": {}, "tensors": tensors}).encode()
    return lzma.compress(struct.pack("<I", len(text)) + text + arrays)


NONE = rans.encode(np.zeros(0, np.int16), np.zeros(0, np.uint8))
INT8 = {"name": "a", "kind": "int8", "shape": [2, 1]}


def coded(values: list[int]) -> tuple[bytes, bytes]:
    """Side information and values of a matrix [2, 1]."""
    side = rans.encode(np.zeros(3, np.int16), np.array([0, 0, 1], np.uint8))
    return side, rans.encode(np.array(values, np.int16), np.full(2, 24, np.uint8))


@settings(max_examples=examples(100), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_under_a_right_checksum(packed: bytes, data: st.DataObject) -> None:
    """What a forger writes: an artifact error, or some values, but never another exception."""
    body = bytearray(packed[12:])
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        _, found = decode(sealed(bytes(body)), "forged")
    except ArtifactError as error:
        assert "forged" in str(error)
    else:
        assert {name: t.values.shape for name, t in found.items()}.keys() == (quantized() | {"grid": grid(1, 1)}).keys()


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: PACKED_MAGIC, "checksum"),
    "no parts": (lambda: sealed(b""), "cut short"),
    "long part": (lambda: sealed(struct.pack("<I", 2**32 - 1)), "cut short"),
    "no header": (lambda: parts(lzma.compress(b""), NONE, NONE), "cut short inside its header"),
    "not xz": (lambda: parts(b"x" * 40, NONE, NONE), "not an artifact, or damaged"),
    "unknown kind": (lambda: parts(head([INT8 | {"kind": "int5"}]), NONE, NONE), "unknown kind"),
    "vector": (lambda: parts(head([INT8 | {"shape": [4]}]), NONE, NONE), "not a matrix"),
    "negative": (lambda: parts(head([INT8 | {"shape": [-1, 2]}]), NONE, NONE), "unknown kind or shape"),
    "infinite": (lambda: parts(head([INT8 | {"shape": [1e999, 2]}]), NONE, NONE), "does not describe a model"),
    "huge": (lambda: parts(head([INT8 | {"shape": [1 << 40, 1 << 40]}]), NONE, NONE), "more values"),
    "many rows": (lambda: parts(head([INT8 | {"shape": [MAX_CODED_VALUES + 1, 0]}]), NONE, NONE), "more values"),
    "huge float16": (
        lambda: parts(head([{"name": "a", "kind": "float16", "shape": [1 << 40]}]), NONE, NONE),
        "past the end",
    ),
    "twice": (lambda: parts(head([INT8, INT8], bytes(8)), *coded([1, 2])), "do not fill"),
    "more arrays": (lambda: parts(head([INT8], bytes(5)), *coded([1, 2])), "do not fill"),
    "nothing coded": (lambda: parts(head([INT8], bytes(4)), NONE, NONE), "damaged"),
    "no values": (lambda: parts(head([INT8], bytes(4)), coded([1, 2])[0], NONE), "damaged"),
    "int8 of 300": (lambda: parts(head([INT8], bytes(4)), *coded([1, 300])), "a value is out of range"),
    "bomb": (lambda: parts(lzma.compress(bytes(1 << 27)), NONE, NONE), "more than an artifact may"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_files(what: str) -> None:
    make, sentence = HOSTILE[what]
    with pytest.raises(ArtifactError, match=sentence):
        decode(make(), "x.golf")


def test_what_the_hostile_files_vary() -> None:
    """Right in all else, so that each of them is refused for its own reason."""
    _, found = decode(parts(head([INT8], bytes(4)), *coded([1, -2])), "x")
    assert found["a"].values.tolist() == [[1], [-2]]
