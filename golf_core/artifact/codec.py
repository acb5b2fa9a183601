"""The artifact's file format: an LZMA (xz) stream of a JSON header and raw tensors. No code in it, no pickle.

Inside the stream: MAGIC, the header's length (uint32, little-endian), the header, then each tensor's integers or
float16 values followed by its float16 row scales, in the header's order. xz carries a checksum over all of it.
"""

from __future__ import annotations

import json
import lzma
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch

from golf_core.artifact.quantize import Quantized
from golf_core.config import GolfConfig, ModelConfig
from golf_core.errors import ArtifactError, ConfigError
from golf_core.files import write_bytes
from golf_core.model.gpt import GPT, expected_shapes, model_from
from golf_core.records import from_dict, to_dict

MAGIC = b"GOLFART1"
# Bounds against files made to exhaust memory: a cap of 16 MB cannot hold more than this sensibly.
MAX_UNPACKED = 512 * 1024 * 1024
MAX_HEADER = 4 * 1024 * 1024
DECODER_MEMORY = 256 * 1024 * 1024


def encode(model: ModelConfig, tensors: dict[str, Quantized], preset: int) -> bytes:
    """The compressed file's bytes. Deterministic for the same tensors and liblzma."""
    header = {
        "model": to_dict(model),
        "tensors": [
            {"name": name, "kind": tensor.kind, "shape": list(tensor.values.shape)} for name, tensor in tensors.items()
        ],
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    parts = [MAGIC, struct.pack("<I", len(text)), text]
    for tensor in tensors.values():
        parts.append(tensor.values.contiguous().numpy().tobytes())
        if tensor.scale is not None:
            parts.append(tensor.scale.contiguous().numpy().tobytes())
    return lzma.compress(b"".join(parts), preset=preset)


def decode(data: bytes, where: str) -> tuple[ModelConfig, dict[str, Quantized]]:
    """Read what `encode` made. Raises `ArtifactError`, naming `where`, for anything else."""
    raw = _decompress(data, where)
    if raw[: len(MAGIC)] != MAGIC:
        raise ArtifactError(f"{where}: not an artifact of this software (its first bytes are not {MAGIC.decode()})")
    header, offset = _header(raw, where)
    try:
        model = from_dict(ModelConfig, header["model"], "model")
        entries = [(str(t["name"]), t["kind"], tuple(int(n) for n in t["shape"])) for t in header["tensors"]]
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise ArtifactError(f"{where}: its header does not describe a model ({error})") from None
    tensors: dict[str, Quantized] = {}
    for name, kind, shape in entries:
        tensors[name], offset = _read_tensor(raw, offset, kind, shape, f"{where}: tensor '{name}'")
    if offset != len(raw):
        raise ArtifactError(f"{where}: {len(raw) - offset} bytes follow the last tensor; the file is damaged")
    return model, tensors


def write_artifact(path: Path, config: GolfConfig, tensors: dict[str, Quantized]) -> int:
    """Write the artifact atomically; returns its size in bytes."""
    data = encode(config.model, tensors, config.artifact.lzma_preset)
    write_bytes(path, data)
    return len(data)


def load_artifact(path: Path) -> GPT:
    """The model that an artifact holds, in float32 on the CPU."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror}); name an artifact file (model.golf)") from None
    config, tensors = decode(data, str(path))
    expected = expected_shapes(config)
    found = {name: tuple(tensor.values.shape) for name, tensor in tensors.items()}
    if expected != found:
        differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise ArtifactError(f"{path}: its tensors do not fit its own model description (first: {differing[0]})")
    return model_from(config, {name: tensor.dequantize() for name, tensor in tensors.items()})


def _decompress(data: bytes, where: str) -> bytes:
    decoder = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=DECODER_MEMORY)
    try:
        raw = decoder.decompress(data, max_length=MAX_UNPACKED)
    except (lzma.LZMAError, EOFError) as error:
        raise ArtifactError(f"{where}: not an artifact, or damaged ({error})") from None
    if not decoder.eof:
        reason = "unpacks to more than an artifact may" if len(raw) >= MAX_UNPACKED else "is cut short"
        raise ArtifactError(f"{where}: not an artifact, or damaged (it {reason}); copy or export it again")
    if decoder.unused_data:
        raise ArtifactError(f"{where}: {len(decoder.unused_data)} bytes follow the compressed data")
    return raw


def _header(raw: bytes, where: str) -> tuple[dict[str, Any], int]:
    start = len(MAGIC) + 4
    if len(raw) < start:
        raise ArtifactError(f"{where}: is cut short inside its header")
    (length,) = struct.unpack("<I", raw[len(MAGIC) : start])
    if length > min(MAX_HEADER, len(raw) - start):
        raise ArtifactError(f"{where}: claims a header of {length} bytes, more than it holds")
    try:
        header = json.loads(raw[start : start + length])
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise ArtifactError(f"{where}: its header is not JSON") from None
    if not isinstance(header, dict):
        raise ArtifactError(f"{where}: its header is not a mapping")
    return header, start + length


def _read_tensor(raw: bytes, offset: int, kind: Any, shape: tuple[int, ...], where: str) -> tuple[Quantized, int]:
    if kind not in ("int6", "int8", "float16") or any(n < 0 for n in shape) or len(shape) > 4:
        raise ArtifactError(f"{where} has an unknown kind or shape")
    if kind != "float16" and len(shape) != 2:
        raise ArtifactError(f"{where} is {kind} but not a matrix")
    dtype = np.dtype("<f2" if kind == "float16" else "i1")
    values, offset = _read_array(raw, offset, dtype, shape, where)
    if kind == "float16":
        return Quantized("float16", values), offset
    scale, offset = _read_array(raw, offset, np.dtype("<f2"), shape[:1], where)
    return Quantized(kind, values, scale), offset


def _read_array(
    raw: bytes, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...], where: str
) -> tuple[torch.Tensor, int]:
    count = math.prod(shape)
    end = offset + count * dtype.itemsize
    if end > len(raw):
        raise ArtifactError(f"{where} reaches past the end of the file")
    array = np.frombuffer(raw, dtype, count, offset).reshape(shape).copy()
    return torch.from_numpy(array), end
