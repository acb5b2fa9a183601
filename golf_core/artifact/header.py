"""What all versions of the artifact's file share: a JSON header that describes model and tensors, and raw arrays."""

from __future__ import annotations

import json
import lzma
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from golf_core.artifact.quantize import Kind, Quantized
from golf_core.config import ModelConfig
from golf_core.errors import ArtifactError, ConfigError
from golf_core.strict_json import from_dict, parse, printable, to_dict

MAX_HEADER = 4 * 1024 * 1024
DECODER_MEMORY = 256 * 1024 * 1024
MAX_LAYERS = 256
MAX_WIDTH = 1 << 20
MAX_TENSORS = 16_384
MAX_VALUES = 1 << 60
"""Of an empty tensor with its zeros left out, so that its bytes are a 64-bit number."""


@dataclass(frozen=True)
class Entry:
    """One tensor as the header describes it."""

    name: str
    kind: Kind
    shape: tuple[int, ...]


def header_bytes(model: ModelConfig, tensors: Mapping[str, Quantized]) -> bytes:
    """The header's length (uint32, little-endian) and the header."""
    header = {
        "model": to_dict(model),
        "tensors": [
            {"name": name, "kind": tensor.kind, "shape": list(tensor.values.shape)} for name, tensor in tensors.items()
        ],
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<I", len(text)) + text


def read_header(raw: bytes, offset: int, kinds: tuple[Kind, ...], where: str) -> tuple[ModelConfig, list[Entry], int]:
    """Model, tensors and the end of the header that begins at `offset`. Raises `ArtifactError`, naming `where`."""
    start = offset + 4
    if len(raw) < start:
        raise ArtifactError(f"{where}: is cut short inside its header")
    (length,) = struct.unpack("<I", raw[offset:start])
    if length > min(MAX_HEADER, len(raw) - start):
        raise ArtifactError(f"{where}: claims a header of {length} bytes, more than it holds")
    try:
        header = parse(raw[start : start + length])
        model = from_dict(ModelConfig, header["model"], "model")
        check_sizes(model)
        entries = [Entry(printable(t["name"], 200), t["kind"], tuple(t["shape"])) for t in header["tensors"]]
    except (LookupError, TypeError, ValueError, ArithmeticError, ConfigError) as error:
        raise ArtifactError(f"{where}: its header does not describe a model ({printable(error, 200)})") from None
    if len({entry.name for entry in entries}) != len(entries) or len(entries) > MAX_TENSORS:
        raise ArtifactError(f"{where}: its tensors do not fill it (one is named twice, or too many); export it again")
    for entry in entries:
        if entry.kind not in kinds or not _is_shape(entry.shape):
            raise ArtifactError(f"{where}: tensor '{entry.name}' has an unknown kind or shape")
        if entry.kind != "float16" and len(entry.shape) != 2:
            raise ArtifactError(f"{where}: tensor '{entry.name}' is {entry.kind} but not a matrix")
    return model, entries, start + length


def check_sizes(model: ModelConfig) -> None:
    """Raise `ConfigError` for sizes that no model has: building its outline alone would not end."""
    for name, value in to_dict(model).items():
        most = MAX_LAYERS if name in ("num_layers", "mlp_mult", "xsa_last_n") else MAX_WIDTH
        if isinstance(value, int) and not (0 if name == "xsa_last_n" else 1) <= value <= most:
            raise ConfigError(f"model.{name}: {value} is not in 1..{most}")
        if value is None or (isinstance(value, list) and len(set(value)) != len(value)):
            raise ConfigError(f"model.{name}: not finite, or names a block twice")


def _is_shape(shape: tuple[object, ...]) -> bool:
    sizes = [n for n in shape if isinstance(n, int) and not isinstance(n, bool) and n >= 0]
    # A size of zero hides the others from a product, but not from numpy.
    fits = 0 not in sizes or math.prod(max(n, 1) for n in sizes) <= MAX_VALUES
    return fits and len(sizes) == len(shape) <= 4


def read_array(raw: bytes, offset: int, dtype: str, shape: tuple[int, ...], where: str) -> tuple[torch.Tensor, int]:
    """The array of numpy type `dtype` that begins at `offset`, and where it ends."""
    count = math.prod(shape)
    end = offset + count * np.dtype(dtype).itemsize
    if end > len(raw):
        raise ArtifactError(f"{where} reaches past the end of the file")
    array: np.ndarray[Any, Any] = np.frombuffer(raw, dtype, count, offset).reshape(shape).copy()
    return torch.from_numpy(array), end


def decompress(data: bytes, most: int, where: str) -> bytes:
    """The content of one whole xz stream, at most `most` bytes."""
    decoder = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=DECODER_MEMORY)
    try:
        raw = decoder.decompress(data, max_length=most)
    except (lzma.LZMAError, EOFError) as error:
        raise ArtifactError(f"{where}: not an artifact, or damaged ({error})") from None
    if not decoder.eof:
        reason = "unpacks to more than an artifact may" if len(raw) >= most else "is cut short"
        raise ArtifactError(f"{where}: not an artifact, or damaged (it {reason}); copy or export it again")
    if decoder.unused_data:
        raise ArtifactError(f"{where}: {len(decoder.unused_data)} bytes follow the compressed data")
    return raw
