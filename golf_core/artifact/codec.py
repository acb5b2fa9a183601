"""The artifact's file: no code in it, no pickle. Two formats, told apart by their first bytes; both are read.

The first is an xz stream; inside it are MAGIC, the header's length (uint32, little-endian), the header, then each
tensor's integers or float16 values followed by its float16 row scales, in the header's order. xz carries a checksum
over all of it. The second, which is smaller, is in `packed`.
"""

from __future__ import annotations

import lzma
from pathlib import Path

from golf_core.artifact.packed import (
    PACKED_MAGIC,
    Entry,
    decode_packed,
    decompress,
    header_bytes,
    read_array,
    read_header,
)
from golf_core.artifact.quantize import Quantized
from golf_core.config import ModelConfig
from golf_core.errors import ArtifactError
from golf_core.files import read_bytes
from golf_core.model.gpt import GPT, expected_shapes, model_from

MAGIC = b"GOLFART1"
# A bound against files made to exhaust memory: a cap of 16 MB cannot hold more than this sensibly.
MAX_UNPACKED = 256 * 1024 * 1024
MAX_FILE = 64 * 1024 * 1024


def encode(model: ModelConfig, tensors: dict[str, Quantized], preset: int) -> bytes:
    """The first format's bytes. Deterministic for the same tensors and liblzma."""
    parts = [MAGIC, header_bytes(model, tensors)]
    for tensor in tensors.values():
        parts.append(tensor.values.contiguous().numpy().tobytes())
        if tensor.scale is not None:
            parts.append(tensor.scale.contiguous().numpy().tobytes())
    return lzma.compress(b"".join(parts), preset=preset)


def decode(data: bytes, where: str) -> tuple[ModelConfig, dict[str, Quantized]]:
    """Read an artifact of either format. Raises `ArtifactError`, naming `where`, for anything else."""
    if data.startswith(PACKED_MAGIC):
        return decode_packed(data, where)
    raw = decompress(data, MAX_UNPACKED, where)
    if raw[: len(MAGIC)] != MAGIC:
        raise ArtifactError(f"{where}: not an artifact of this software (its first bytes are not {MAGIC.decode()})")
    model, entries, offset = read_header(raw, len(MAGIC), ("int6", "int8", "float16"), where)
    tensors: dict[str, Quantized] = {}
    for entry in entries:
        tensors[entry.name], offset = _read_tensor(raw, offset, entry, f"{where}: tensor '{entry.name}'")
    if offset != len(raw):
        raise ArtifactError(f"{where}: {len(raw) - offset} bytes follow the last tensor; the file is damaged")
    return model, tensors


def read_artifact(path: Path) -> bytes:
    """The bytes of an artifact's file. Raises `ArtifactError` where there is none of a size that one can have."""
    try:
        return read_bytes(path, MAX_FILE)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror}); name an artifact file (model.golf)") from None


def load_artifact(path: Path) -> GPT:
    """The model that an artifact holds, in float32 on the CPU. Raises `ArtifactError`."""
    config, tensors = decode(read_artifact(path), str(path))
    try:
        expected = expected_shapes(config)
    except (RuntimeError, ValueError, ArithmeticError):
        raise ArtifactError(f"{path}: its header describes no model that can be built; export it again") from None
    found = {name: tuple(tensor.values.shape) for name, tensor in tensors.items()}
    if expected != found:
        differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise ArtifactError(f"{path}: its tensors do not fit its own model description (first: {differing[0]})")
    return model_from(config, {name: tensor.dequantize() for name, tensor in tensors.items()})


def _read_tensor(raw: bytes, offset: int, entry: Entry, where: str) -> tuple[Quantized, int]:
    if entry.kind == "float16":
        values, offset = read_array(raw, offset, "<f2", entry.shape, where)
        return Quantized("float16", values), offset
    values, offset = read_array(raw, offset, "i1", entry.shape, where)
    scale, offset = read_array(raw, offset, "<f2", entry.shape[:1], where)
    return Quantized(entry.kind, values, scale), offset
