"""Snapshots of a training on disk: written now and then, off the clock, so that an experiment survives its machine.

A training for a claim has none. `snapshot.bin` is the latest, `snapshot.previous.bin` the one before. All state is
the same on all ranks, so that rank 0 alone writes, and reads for all.

The file: a magic line; the length of the header (8 bytes, little-endian); the header, JSON padded with spaces; the
tensors' bytes in the header's order, each padded to 8 bytes; the SHA-256 of all that.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from golf_core.config import GolfConfig
from golf_core.data.shards import TokenStream
from golf_core.distributed import Ranks
from golf_core.errors import ConfigError, DataError
from golf_core.files import atomic_writer
from golf_core.model.gpt import expected_shapes
from golf_core.strict_json import from_dict, to_dict
from golf_core.train.state import Progress, TrainState

SNAPSHOT_NAME, PREVIOUS_NAME = "snapshot.bin", "snapshot.previous.bin"
MAGIC = b"golf snapshot 1\n"
LENGTH_BYTES, DIGEST_BYTES, ALIGNMENT = 8, 32, 8
MAX_HEADER_BYTES = 1 << 20
BYTES_PER_PARAMETER = 16
"""At the most: the weight, its average and two moments, in float32."""
NEXT_TOKENS = 4096
READ_BYTES = 1 << 22
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "uint8": torch.uint8}
REMEDY = "remove it, and resume from the one before or train from the beginning"


@dataclass(frozen=True)
class Stored:
    """A tensor in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes without padding."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class Header:
    """What a snapshot says of itself."""

    seed: int
    world_size: int
    device: str
    config: GolfConfig
    next_tokens_sha256: str
    """SHA-256 of the tokens that training goes on with: other data would go unnoticed."""
    progress: Progress
    tensors: tuple[Stored, ...]


class Snapshots:
    """The snapshots of one training, in `folder`; a `Keeper`. Every rank has one.

    They are written about every `train.snapshot_seconds`, if set. `resume` is the file to begin from; rank 0's alone
    counts, and is read.
    """

    def __init__(self, folder: Path, config: GolfConfig, ranks: Ranks, seed: int, resume: Path | None = None) -> None:
        self._folder, self._config, self._ranks, self._seed = folder, config, ranks, seed
        self._resume = resume
        self._last: float | None = None

    def due(self) -> bool:
        """Whether the last snapshot, or the first call, is long enough ago."""
        every = self._config.train.snapshot_seconds
        if self._last is None:
            self._last = time.monotonic()
        return every is not None and time.monotonic() - self._last >= every

    def keep(self, state: TrainState, stream: TokenStream) -> str:
        """Write a snapshot on rank 0, while the others wait. A disk that does not take it is no reason to stop."""
        progress = state.progress
        said = f"snapshot at step {progress.step}, {progress.elapsed_s:.1f} s on the clock"
        try:
            if self._ranks.is_first:
                self._write(state, _next_tokens(stream, stream.position))
        except OSError as error:
            said = f"no snapshot at step {progress.step}: {error.filename or self._folder}: {error.strerror}"
        self._ranks.barrier()
        self._last = time.monotonic()
        return said

    def kept(self, stream: TokenStream) -> TrainState | None:
        """The state in the snapshot to resume from, the same on all ranks; None where there is none to resume from.

        Raises `DataError` for a damaged file and `ConfigError` for that of another training.
        """
        content = self._read_for_all()
        if content is None:
            return None
        where = str(self._resume or SNAPSHOT_NAME)
        header, tensors = parse(content, where)
        self._check(header, where)
        if _next_tokens(stream, header.progress.stream_position) != header.next_tokens_sha256:
            raise ConfigError(
                f"{where}: was made with other training data; resume with the same data, or train from the beginning"
            )
        return TrainState(header.progress, tensors)

    def _write(self, state: TrainState, next_tokens: str) -> None:
        tensors = {name: tensor.detach() for name, tensor in state.tensors.items()}
        stored = tuple(Stored(n, str(t.dtype).removeprefix("torch."), tuple(t.shape)) for n, t in tensors.items())
        device = self._ranks.device.type
        header = Header(self._seed, self._ranks.world_size, device, self._config, next_tokens, state.progress, stored)
        new, path = self._folder / f"new.{SNAPSHOT_NAME}", self._folder / SNAPSHOT_NAME
        digest = hashlib.sha256()
        with atomic_writer(new) as file:
            for piece in _pieces(header, tensors):
                digest.update(piece)
                file.write(piece)
            file.write(digest.digest())
        # The new one is whole before the old one gives way: whenever this is cut short, one of them is there.
        if path.exists():
            path.replace(self._folder / PREVIOUS_NAME)
        new.replace(path)

    def _read_for_all(self) -> Tensor | None:
        """The bytes [n] of rank 0's file, on every rank."""
        content, failure = torch.empty(0, dtype=torch.uint8), None
        if self._ranks.is_first and self._resume is not None:
            try:
                content = _read(self._resume, _most_bytes(self._config))
            except DataError as error:
                failure = error
        own = [float(self._resume is not None), float(failure is not None), float(len(content))]
        given, failed, size = self._ranks.agree(own)
        if failed:
            raise failure or DataError("rank 0 cannot read the snapshot")
        if not given:
            return None
        if self._ranks.world_size > 1:
            content = content if self._ranks.is_first else torch.empty(int(size), dtype=torch.uint8)
            dist.broadcast(content, src=0)
        return content

    def _check(self, header: Header, where: str) -> None:
        """Only the same training may go on: the same figures would mean something else."""
        here = {"seed": self._seed, "world_size": self._ranks.world_size, "device": self._ranks.device.type}
        pairs = [(name, getattr(header, name), value) for name, value in here.items()]
        before, now = _decisive(header.config), _decisive(self._config)
        pairs += [(name, before[name], value) for name, value in now.items()]
        for name, found, expected in pairs:
            if found != expected:
                raise ConfigError(
                    f"{where}: was made with {name} {found}, where this training has {expected}; "
                    "resume with the same, or train from the beginning"
                )


def latest_snapshot(folder: Path) -> Path | None:
    """The newest snapshot in `folder` that is whole by its digest; None where there is none."""
    for name in (SNAPSHOT_NAME, PREVIOUS_NAME):
        if is_whole(folder / name):
            return folder / name
    return None


def is_whole(path: Path) -> bool:
    """Whether `path` is a file that was written to its end and has not changed since."""
    try:
        left = path.stat().st_size - DIGEST_BYTES
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while left > 0 and (piece := file.read(min(left, READ_BYTES))):
                digest.update(piece)
                left -= len(piece)
            return left == 0 and file.read() == digest.digest()
    except OSError:
        return False


def parse(content: Tensor, where: str) -> tuple[Header, dict[str, Tensor]]:
    """Header and tensors (views into `content`, uint8 [n]) of a snapshot's bytes. Raises `DataError`.

    Nothing in them is executed, and what they claim is held against their number before it is used.
    """
    data = content.numpy().data
    start = len(MAGIC) + LENGTH_BYTES
    if len(data) < start + DIGEST_BYTES or bytes(data[: len(MAGIC)]) != MAGIC:
        raise DataError(f"{where}: not a snapshot of a training; {REMEDY}")
    if hashlib.sha256(data[:-DIGEST_BYTES]).digest() != bytes(data[-DIGEST_BYTES:]):
        raise DataError(f"{where}: is damaged, its digest is not that of its content; {REMEDY}")
    length = int.from_bytes(data[len(MAGIC) : start], "little")
    if length > min(MAX_HEADER_BYTES, len(data) - start - DIGEST_BYTES):
        raise DataError(f"{where}: is damaged, its header is longer than it can be; {REMEDY}")
    header = _header(bytes(data[start : start + length]), where)
    sizes = [_padded(stored.nbytes) for stored in header.tensors]
    if start + length + sum(sizes) + DIGEST_BYTES != len(data):
        raise DataError(f"{where}: is damaged, its length is not that of its tensors; {REMEDY}")
    tensors, offset = {}, start + length
    for stored, size in zip(header.tensors, sizes, strict=True):
        flat = content[offset : offset + stored.nbytes].view(DTYPES[stored.dtype])
        tensors[stored.name] = flat.reshape(stored.shape)
        offset += size
    return header, tensors


def _header(text: bytes, where: str) -> Header:
    try:
        header = from_dict(Header, json.loads(text))
    except (ValueError, RecursionError, ConfigError) as error:
        raise DataError(
            f"{where}: its header cannot be read ({error}); use the software that made it, or train from the beginning"
        ) from None
    progress = header.progress
    figures = (progress.elapsed_s, progress.loss, progress.validation_s, *progress.step_seconds)
    sound = (
        progress.step >= 1
        and progress.stream_position >= 0
        and all(math.isfinite(figure) and figure >= 0 for figure in figures)
        and all(t.dtype in DTYPES and all(size >= 0 for size in t.shape) for t in header.tensors)
        and len(text) % ALIGNMENT == 0
    )
    if not sound:
        raise DataError(f"{where}: its header holds figures that no training has; {REMEDY}")
    return header


def _pieces(header: Header, tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The file's bytes without the digest."""
    text = json.dumps(to_dict(header)).encode("ascii")
    text = text.ljust(_padded(len(text)))
    yield MAGIC + len(text).to_bytes(LENGTH_BYTES, "little") + text
    for tensor in tensors.values():
        flat = tensor.cpu().contiguous().reshape(-1).view(torch.uint8)
        yield flat.numpy().data
        yield bytes(_padded(len(flat)) - len(flat))


def _read(path: Path, most: int) -> Tensor:
    """The bytes of a file, uint8 [n]."""
    try:
        size = path.stat().st_size
        if size > most:
            raise DataError(f"{path}: {size:,} bytes, but a snapshot of this model has at most {most:,}; {REMEDY}")
        content = bytearray(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None
    return torch.frombuffer(content, dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)


def _most_bytes(config: GolfConfig) -> int:
    parameters = sum(math.prod(shape) for shape in expected_shapes(config.model).values())
    return BYTES_PER_PARAMETER * parameters + 2 * MAX_HEADER_BYTES


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _next_tokens(stream: TokenStream, position: int) -> str:
    """SHA-256 of the tokens that follow `position`; `stream` stays where it is."""
    ahead = copy.copy(stream)
    ahead.skip(position - ahead.position)
    return hashlib.sha256(ahead.take(NEXT_TOKENS).astype("<u2").tobytes()).hexdigest()


def _decisive(config: GolfConfig) -> dict[str, Any]:
    """All fields that training depends on, by their paths. How often snapshots are written may change."""
    values = to_dict(config)
    found = {f"{group}.{name}": value for group in ("model", "train") for name, value in values[group].items()}
    del found["train.snapshot_seconds"]
    return found | {"compile": config.compile}
