"""A folder of fetched data: what was fetched into it, whether a file is the right one, and whose turn it is."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from golf_core import files, strict_json
from golf_core.data.shards import read_shard
from golf_core.errors import ConfigError, DataError
from golf_core.files import MAX_RECORD_BYTES, read_bytes
from orchestrator.data.hub import RemoteFile, disk_error
from orchestrator.job.sections import Fetch

RECORD = "fetch.json"
INCOMING = ".incoming"
"""Folder in the data folder where files come in."""
SPARE_BYTES = 64 << 20
"""Left free on the disk, for logs and the manifest."""


@dataclass(frozen=True)
class FetchRecord:
    """What was fetched into a folder: written when the last file was in its place."""

    variant: str
    train_shards: int
    repo: str
    prefix: str
    revision: str
    commit: str
    tokenizer: str
    sizes: dict[str, int]
    """Bytes of each file by name."""

    def answers(self, spec: Fetch) -> bool:
        """Whether this is what `spec` asks for; from which mirror it came is no matter."""
        asked = spec.model_dump(exclude={"endpoint"})
        return all(getattr(self, name) == value for name, value in asked.items())


def default_folder(spec: Fetch) -> Path:
    """Where an export is cached: beside the sample, named by repo, variant, number of training shards and revision.

    A run reads every shard of its folder, so each number of training shards has a folder of its own.
    """
    from golf_core.data.sample import default_sample_folder

    revision = "" if spec.revision == "main" else f"-{spec.revision.replace('/', '-')}"
    name = f"{spec.variant}-{spec.train_shards}{revision}"
    return default_sample_folder().parent / "published" / spec.repo.replace("/", "--") / name


def record_of(folder: Path) -> FetchRecord | None:
    """The folder's record, or None where there is none that can be read."""
    path = folder / RECORD
    try:
        read_bytes(path, MAX_RECORD_BYTES)  # looked at first: a pipe would keep the reader for ever
        record = strict_json.load(FetchRecord, path)
    except (ConfigError, OSError, ValueError, ArithmeticError, RecursionError):
        return None
    # Names of files in this folder, and nothing that leads out of it.
    names = (record.tokenizer, *record.sizes)
    sound = all(Path(name).name == name and name not in ("", "..") and "\0" not in name for name in names)
    return record if sound else None


def shards_in(folder: Path) -> list[Path]:
    """All shards of both splits, in name order."""
    return [path for split in ("train", "val") for path in sorted(folder.glob(f"fineweb_{split}_*.bin"))]


def fault_of(path: Path, file: RemoteFile) -> str | None:
    """Why the file at `path` is not `file`, or None if it is, as far as the hub lets one know."""
    size = path.stat().st_size
    if size != file.size:
        return f"has {size:,} bytes, not {file.size:,}"
    if file.sha256 is not None:
        found = files.sha256(path)
        if found != file.sha256:
            return f"has the SHA-256 {found[:12]}…, not {file.sha256[:12]}…"
    elif file.git_hash is not None and len(file.git_hash) == 40:
        with path.open("rb") as content:
            blob = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
            found = hashlib.file_digest(content, lambda: blob).hexdigest()
        if found != file.git_hash:
            return f"has the git hash {found[:12]}…, not {file.git_hash[:12]}…"
    if file.name.endswith(".bin"):
        try:
            read_shard(path)
        except DataError as error:
            return str(error).removeprefix(f"{path}: ").partition(";")[0]
    return None


def check_disk(folder: Path, place: Path, needed: int) -> None:
    """Raise `DataError` naming `folder` unless `needed` bytes fit on the disk of `place`."""
    free = shutil.disk_usage(place).free
    if needed and needed + SPARE_BYTES > free:
        raise DataError(
            f"{folder}: {needed:,} bytes are still to be fetched and {free:,} are free; free some space, "
            "choose another disk with --out, or lower --train-shards"
        )


@contextmanager
def locked(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock file beside `folder`. The system lets go of it when the process dies, however it dies."""
    folder = folder.absolute()
    lock = FileLock(folder.parent / f".{folder.name}.fetch.lock")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"another process fetches into {folder}; waiting for it")
            lock.acquire()
    except OSError as error:
        raise disk_error(error, folder) from None
    try:
        yield
    finally:
        lock.release()


def size_of(path: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def sync(path: Path) -> None:
    """Have a file or folder written out: a rename is worth nothing when what it names is lost in a power cut."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
