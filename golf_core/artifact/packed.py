"""The artifact's second format: the integers of all matrices in one range-coded stream.

The file: PACKED_MAGIC, the CRC-32 of all that follows, then three parts, the first two with their length in front
(all uint32, little-endian).
1. An xz stream of the header, then each tensor's float16 values, float16 row scales, or float32 unit.
2. A range-coded blob of small integers: a class for every row and column of every matrix and, for the kind "grid",
   the exponents of its steps.
3. A range-coded blob of all matrices' integers. The context of an integer is the class of its row plus the class of
   its column: logarithms of how far the integers there spread, so that a value costs what it should among its likes.
"""

from __future__ import annotations

import json
import lzma
import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from golf_core.artifact import rans
from golf_core.artifact.quantize import Kind, Quantized
from golf_core.config import ModelConfig
from golf_core.errors import ArtifactError, ConfigError
from golf_core.strict_json import from_dict, parse, printable, to_dict

PACKED_MAGIC = b"GOLFART2"
# Bounds against files made to exhaust memory.
MAX_CODED_VALUES = 64 * 1024 * 1024
MAX_UNPACKED = 64 * 1024 * 1024

CLASSES_PER_OCTAVE = 4
MIDDLE = 24
"""The context of integers whose standard deviation is 1."""
LEAST_POWER = 1e-3
"""Added to squared integers, so that rows of zeros have a logarithm."""

Bytes = NDArray[np.int8]


def encode_packed(model: ModelConfig, tensors: Mapping[str, Quantized]) -> bytes:
    """The second format's bytes. Deterministic for the same tensors, liblzma and order of float additions."""
    head = [header_bytes(model, tensors)]
    for tensor in tensors.values():
        kept = tensor.values if tensor.scale is None else tensor.scale
        head.append(kept.contiguous().numpy().tobytes())
    coded = [tensor for tensor in tensors.values() if tensor.scale is not None]
    classes = [spread_classes(tensor.values.numpy()) for tensor in coded]
    exponents = [_exponents(tensor) for tensor in coded]
    columns = [[rows for rows, _ in classes], [cols for _, cols in classes]]
    columns += [[rows for rows, _ in exponents], [cols for _, cols in exponents]]
    side = [np.concatenate([np.zeros(0, np.int8), *column]) for column in columns]
    blobs = [
        lzma.compress(b"".join(head)),
        rans.encode(np.concatenate(side).astype(np.int16), _side_contexts([column.size for column in side])),
        rans.encode(
            _joined([tensor.values.numpy().reshape(-1) for tensor in coded], np.int16),
            _joined([contexts(rows, cols).reshape(-1) for rows, cols in classes], np.uint8),
        ),
    ]
    first, second = (struct.pack("<I", len(blob)) + blob for blob in blobs[:2])
    body = first + second + blobs[2]
    return PACKED_MAGIC + struct.pack("<I", zlib.crc32(body)) + body


def decode_packed(data: bytes, where: str) -> tuple[ModelConfig, dict[str, Quantized]]:
    """Read what `encode_packed` made. Raises `ArtifactError`, naming `where`, for anything else."""
    start = len(PACKED_MAGIC) + 4
    if len(data) < start or zlib.crc32(data[start:]) != struct.unpack("<I", data[len(PACKED_MAGIC) : start])[0]:
        raise ArtifactError(f"{where}: damaged (its checksum differs); copy or export it again")
    packed_head, offset = _part(data, start, where)
    packed_side, offset = _part(data, offset, where)
    raw = decompress(packed_head, MAX_UNPACKED, where)
    model, entries, end = read_header(raw, 0, ("int6", "int8", "float16", "grid"), where)
    coded = [entry for entry in entries if entry.kind != "float16"]
    if sum(math.prod(entry.shape) + sum(entry.shape) for entry in coded) > MAX_CODED_VALUES:
        raise ArtifactError(f"{where}: claims to hold more values than an artifact may")
    kept: dict[str, torch.Tensor] = {}
    for entry in entries:
        dtype, shape = _kept(entry)
        kept[entry.name], end = read_array(raw, end, dtype, shape, f"{where}: tensor '{entry.name}'")
    if end != len(raw) or len(kept) != len(entries):
        raise ArtifactError(f"{where}: its tensors do not fill its first part; the file is damaged")
    try:
        found = _coded_tensors(coded, kept, packed_side, data[offset:])
    except rans.DamagedError as error:
        raise ArtifactError(f"{where}: not an artifact, or damaged ({error}); copy or export it again") from None
    return model, {e.name: found.get(e.name) or Quantized("float16", kept[e.name]) for e in entries}


def contexts(rows: Bytes, cols: Bytes) -> rans.Contexts:
    """The context of every integer of a matrix [rows, cols], from the classes of its rows and its columns."""
    total = rows.astype(np.int16)[:, None] + cols.astype(np.int16)[None, :] + MIDDLE
    return np.clip(total, 0, rans.MAX_CONTEXTS - 1).astype(np.uint8)


def spread_classes(values: NDArray[Any]) -> tuple[Bytes, Bytes]:
    """A class for each row and each column of integers [rows, cols].

    Value (i, j) is taken for a Gaussian with standard deviation r_i · c_j. Of four models (both, rows alone, columns
    alone, neither) the one with the least code length is kept, its classes included.
    """
    if values.size == 0:
        return np.zeros(values.shape[0], np.int8), np.zeros(values.shape[1], np.int8)
    power = np.square(values.astype(np.float32)) + np.float32(LEAST_POWER)
    flat = np.full(1, power.mean(), np.float64)
    candidates = [
        (np.repeat(flat, values.shape[0]), np.ones(values.shape[1])),
        (power.mean(1).astype(np.float64), np.ones(values.shape[1])),
        (np.repeat(flat, values.shape[0]), power.mean(0) / flat),
        variances(power),
    ]
    classes = [(_class_of(rows), _class_of(cols)) for rows, cols in candidates]
    return min(classes, key=lambda pair: _gaussian_bits(power, *pair))


def variances(power: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Factors for the rows and the columns of squared values (none zero) whose products are their variances.

    The most likely ones for Gaussian values, found by turns.
    """
    rows = np.ones(power.shape[0])
    for _ in range(3):
        cols = (1 / rows).astype(np.float32) @ power / len(rows)
        cols = cols / np.exp(np.log(cols).mean())
        rows = (power @ (1 / cols).astype(np.float32)).astype(np.float64) / len(cols)
    return rows, cols


def _class_of(variance: NDArray[np.float64]) -> Bytes:
    return np.clip(np.rint(np.log2(variance) * (CLASSES_PER_OCTAVE / 2)), -64, 63).astype(np.int8)


def _gaussian_bits(power: NDArray[np.float32], rows: Bytes, cols: Bytes) -> float:
    """Code length of the values under their classes, but for a constant, and of the classes themselves."""
    per_class = 2.0 / CLASSES_PER_OCTAVE
    inverse_rows, inverse_cols = np.exp2(-per_class * rows), np.exp2(-per_class * cols)
    misfit = inverse_rows @ (power @ inverse_cols.astype(np.float32))
    spread = len(cols) * rows.sum(dtype=np.int64) + len(rows) * cols.sum(dtype=np.int64)
    side = sum(-np.log2(np.bincount(c + 64)[c + 64] / len(c)).sum() for c in (rows.astype(int), cols.astype(int)))
    return float(0.5 * misfit / math.log(2) + spread / CLASSES_PER_OCTAVE + side)


def _exponents(tensor: Quantized) -> tuple[Bytes, Bytes]:
    if tensor.rows is None or tensor.cols is None:
        return np.zeros(0, np.int8), np.zeros(0, np.int8)
    return tensor.rows.numpy(), tensor.cols.numpy()


def _joined(parts: list[NDArray[Any]], dtype: type) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype), *parts], dtype=dtype)


def _side_contexts(sizes: list[int]) -> rans.Contexts:
    return np.repeat(np.arange(len(sizes), dtype=np.uint8), sizes)


def _part(data: bytes, offset: int, where: str) -> tuple[bytes, int]:
    """The part of the file that begins at `offset` with its length, and its end."""
    if len(data) >= offset + 4:
        end = offset + 4 + int(struct.unpack_from("<I", data, offset)[0])
        if end <= len(data):
            return data[offset + 4 : end], end
    raise ArtifactError(f"{where}: not an artifact, or damaged (it is cut short); copy or export it again")


def _kept(entry: Entry) -> tuple[str, tuple[int, ...]]:
    """Type and shape of what the first part holds of a tensor."""
    if entry.kind == "grid":
        return "<f4", ()
    return "<f2", entry.shape if entry.kind == "float16" else entry.shape[:1]


def _coded_tensors(
    entries: list[Entry], kept: Mapping[str, torch.Tensor], side: bytes, values: bytes
) -> dict[str, Quantized]:
    grids = [entry.shape if entry.kind == "grid" else (0, 0) for entry in entries]
    shapes = [entry.shape for entry in entries]
    sizes = [[n for n, _ in shapes], [n for _, n in shapes], [n for n, _ in grids], [n for _, n in grids]]
    small = rans.decode(side, _side_contexts([sum(column) for column in sizes]))
    if small.size and (small.min() < -128 or small.max() > 127):
        raise rans.DamagedError("a class or exponent is out of range")
    pieces = _cut(small.astype(np.int8), [size for column in sizes for size in column])
    columns = [[next(pieces) for _ in column] for column in sizes]
    context = [contexts(rows, cols).reshape(-1) for rows, cols in zip(columns[0], columns[1], strict=True)]
    integers = _cut(rans.decode(values, _joined(context, np.uint8)), [math.prod(shape) for shape in shapes])
    found = {}
    for entry, flat, rows, cols in zip(entries, integers, columns[2], columns[3], strict=True):
        if entry.kind == "grid":
            found[entry.name] = Quantized(
                "grid",
                torch.from_numpy(flat.reshape(entry.shape).copy()),
                kept[entry.name],
                torch.from_numpy(rows.copy()),
                torch.from_numpy(cols.copy()),
            )
            continue
        if flat.size and (flat.min() < -127 or flat.max() > 127):
            raise rans.DamagedError("a value is out of range")
        matrix = torch.from_numpy(flat.astype(np.int8).reshape(entry.shape))
        found[entry.name] = Quantized(entry.kind, matrix, kept[entry.name])
    return found


def _cut(joined: NDArray[Any], sizes: list[int]) -> Iterator[NDArray[Any]]:
    ends = np.cumsum(sizes)
    return (joined[end - size : end] for end, size in zip(ends, sizes, strict=True))


# --- the header ---

MAX_HEADER = 4 * 1024 * 1024
DECODER_MEMORY = 256 * 1024 * 1024
MAX_LAYERS = 256
MAX_WIDTH = 1 << 20
MAX_TENSORS = 16_384
MAX_VALUES = 1 << 60
"""Most values of an empty tensor with its zeros left out, so that its bytes are a 64-bit number."""


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
