"""The challenge's shard format, and the two ways of reading it: a training stream and the validation text."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from golf_core.errors import DataError
from golf_core.files import atomic_writer, open_plain

MAGIC = 20240520
VERSION = 1
HEADER_BYTES = 256 * 4
TOKEN_BYTES = 2
MAX_VALIDATION_TOKENS = 1 << 30

Tokens = NDArray[np.uint16]


def write_shard(path: Path, tokens: Tokens) -> None:
    """Write one shard atomically.

    tokens: uint16 [n], n ≥ 1. The file is a header of 256 little-endian int32 (magic, version, n, zeros),
    then the tokens, little-endian. Raises `ValueError` for an array of another shape or dtype.
    """
    if tokens.dtype != np.uint16 or tokens.ndim != 1 or not len(tokens):
        raise ValueError(f"a shard takes uint16 [n] with n >= 1, not {tokens.dtype} {list(tokens.shape)}")
    header = np.zeros(HEADER_BYTES // 4, dtype="<i4")
    header[:3] = MAGIC, VERSION, len(tokens)
    with atomic_writer(path) as file:
        file.write(header.tobytes())
        file.write(np.ascontiguousarray(tokens, dtype="<u2").data)


def read_shard(path: Path) -> Tokens:
    """The tokens of a shard: read-only uint16 [n], memory-mapped, so that only what is used is read.

    Raises `DataError` when the file is missing, is not a shard, or its size is not what its header says.
    """
    try:
        with open_plain(path) as file:
            size = os.fstat(file.fileno()).st_size
            header = np.frombuffer(file.read(HEADER_BYTES), dtype=np.uint8)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None
    count = _token_count(path, header, size)
    try:
        return np.memmap(path, dtype="<u2", mode="r", offset=HEADER_BYTES, shape=(count,))
    except (OSError, ValueError):
        raise DataError(f"{path}: cannot be mapped into memory; free some, or export the shard again") from None


def train_shards(folder: Path) -> list[Path]:
    """The shards `fineweb_train_*.bin` of a folder in name order. Raises `DataError` if there are none."""
    return _shards(folder, "train")


def val_shards(folder: Path) -> list[Path]:
    """The shards `fineweb_val_*.bin` of a folder in name order. Raises `DataError` if there are none."""
    return _shards(folder, "val")


class TokenStream:
    """The shards as one endless stream: in the order given, and from the beginning again after the last."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Opens every shard. Raises `DataError` if one is damaged, `ValueError` for no shards at all."""
        if not paths:
            raise ValueError("a token stream needs at least one shard")
        self._shards = [read_shard(path) for path in paths]
        self._ends = list(accumulate(len(shard) for shard in self._shards))
        self._position = 0

    @property
    def position(self) -> int:
        """Tokens taken or skipped so far; grows past the end of the data as the stream wraps around."""
        return self._position

    def take(self, n: int) -> Tokens:
        """The next `n` tokens, uint16 [n], as a copy; `n` may exceed all the data."""
        if n < 0:
            raise ValueError(f"cannot take {n} tokens")
        taken = np.empty(n, dtype=np.uint16)
        filled = 0
        while filled < n:
            offset = self._position % self._ends[-1]
            index = bisect_right(self._ends, offset)
            start = len(self._shards[index]) - (self._ends[index] - offset)
            piece = self._shards[index][start : start + n - filled]
            taken[filled : filled + len(piece)] = piece
            filled += len(piece)
            self._position += len(piece)
        return taken

    def skip(self, n: int) -> None:
        """Go past `n` tokens without reading them."""
        if n < 0:
            raise ValueError(f"cannot skip {n} tokens")
        self._position += n


def validation_tokens(folder: Path, seq_len: int) -> Tokens:
    """All validation shards as one array, cut to whole rows and the target of the last token.

    Returns uint16 [k·seq_len + 1] with the largest possible k. Raises `DataError` if k would be 0.
    """
    shards = [read_shard(path) for path in val_shards(folder)]
    # Files with holes claim any number without taking a disk's space.
    if sum(map(len, shards)) > MAX_VALIDATION_TOKENS:
        raise DataError(
            f"{folder}: the validation shards hold more than {MAX_VALIDATION_TOKENS:,} tokens, which are not read "
            "into memory; move some away"
        )
    rows = (sum(map(len, shards)) - 1) // seq_len
    if rows < 1:
        raise DataError(
            f"{folder}: the validation shards hold {sum(map(len, shards))} tokens, less than one row of "
            f"seq_len + 1 = {seq_len + 1}; lower seq_len or export more text"
        )
    # A plain array, not a memory map: evaluation goes over it again and again.
    return np.asarray(np.concatenate(shards)[: rows * seq_len + 1], dtype=np.uint16)


def _token_count(path: Path, header: NDArray[np.uint8], size: int) -> int:
    if not size:
        raise DataError(f"{path}: the file is empty; export or download the shard again")
    magic, version, count = (int(v) for v in header[:12].view("<i4")) if len(header) >= 12 else (0, 0, 0)
    if magic != MAGIC:
        raise DataError(f"{path}: not a token shard (magic number {magic}, not {MAGIC}); remove it or export it again")
    if version != VERSION:
        raise DataError(
            f"{path}: shard version {version} is unknown, only {VERSION} can be read; export the shard again"
        )
    if count < 1:
        raise DataError(f"{path}: the header counts {count} tokens; remove the shard or export it again")
    expected = HEADER_BYTES + TOKEN_BYTES * count
    if size < expected:
        raise DataError(
            f"{path}: truncated, {size:,} bytes where {count:,} tokens take {expected:,}; "
            "export or download the shard again"
        )
    if size > expected:
        raise DataError(
            f"{path}: {size - expected:,} bytes too many after the {count:,} tokens that the header counts; "
            "export or download the shard again"
        )
    return count


def _shards(folder: Path, split: str) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such data folder; make one with `golf data sample` or `golf data export`")
    paths = sorted(folder.glob(f"fineweb_{split}_*.bin"))
    if not paths:
        raise DataError(
            f"{folder}: holds no shard fineweb_{split}_*.bin; make a data folder with `golf data sample` "
            "or `golf data export`"
        )
    return paths
