"""Which files of a published export make one data folder.

The listing and the manifest are other people's: a file is taken only if its name has the one form that it may
have, lies in the one folder that it may lie in, and its size is one that such a file can have.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from golf_core import files, strict_json
from golf_core.data.shards import HEADER_BYTES, TOKEN_BYTES, read_shard
from golf_core.errors import ConfigError, DataError
from orchestrator.data.hub import RemoteFile, disk_error
from orchestrator.job.sections import Fetch

PUBLISHED_MANIFEST = "published_manifest.json"
"""Under which name the export's own manifest.json is kept; manifest.json is ours."""
MANIFEST_BYTES = 16 << 20
TOKENIZER_BYTES = 64 << 20
SHARD_BYTES = HEADER_BYTES + TOKEN_BYTES * (2**31 - 1)
"""The most that a shard's header can count."""
SHARD = re.compile(r"fineweb_(train|val)_([0-9]{1,9})\.bin")
TOKENIZER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\.model")
FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class Shards:
    """The shards of one data folder, each split in order."""

    train: tuple[RemoteFile, ...]
    val: tuple[RemoteFile, ...]


def choose_folder(spec: Fetch, folders: Iterable[str]) -> str:
    """The export of the variant among the folders of `datasets/`. Raises `DataError` when it is not clear which."""
    sound = [name for name in folders if FOLDER.fullmatch(name)]
    if spec.variant in sound:
        return spec.variant
    matching = [name for name in sound if name.endswith(f"_{spec.variant}")]
    if len(matching) == 1:
        return matching[0]
    place = f"{spec.repo}/{spec.inside('datasets')}"
    if matching:
        raise DataError(
            f"{place}: {' and '.join(matching[:8])} are all exports of '{spec.variant}'; "
            "give the whole name as --variant"
        )
    there = ", ".join(name.rpartition("_")[2] for name in sound[:20]) or "none at all"
    raise DataError(f"{place}: no export '{spec.variant}'; give one of those that are there as --variant: {there}")


def choose_shards(spec: Fetch, folder: str, listing: Mapping[str, RemoteFile]) -> Shards:
    """The first training shards and all validation shards. Raises `DataError` when they are not all there."""
    place = f"{spec.repo}/{spec.inside(f'datasets/{folder}')}"
    splits: dict[str, dict[int, RemoteFile]] = {"train": {}, "val": {}}
    for name, file in listing.items():
        if named := SHARD.fullmatch(name):
            splits[named[1]][int(named[2])] = file
    for split, numbered in splits.items():
        if not numbered:
            raise DataError(f"{place}: holds no shard fineweb_{split}_*.bin; check --variant and --revision")
    train, val = splits["train"], splits["val"]
    if len(train) < spec.train_shards:
        raise DataError(f"{place}: has {len(train)} training shards, not {spec.train_shards}; lower --train-shards")
    first_train, first_val = min(train), min(val)  # some exports count both splits on from 0, some train from 1
    wanted = {"train": range(first_train, first_train + spec.train_shards), "val": range(first_val, max(val) + 1)}
    for split, numbers in wanted.items():
        if len(numbers) > len(splits[split]) or any(number not in splits[split] for number in numbers):
            raise DataError(
                f"{place}: a {split} shard is missing among the first {len(numbers)}, so the export is not whole; "
                "take another --revision"
            )
    shards = Shards(tuple(train[i] for i in wanted["train"]), tuple(val[i] for i in wanted["val"]))
    for file in (*shards.train, *shards.val):
        check_size(spec, file, HEADER_BYTES + TOKEN_BYTES, SHARD_BYTES)
    return shards


def choose_tokenizer(spec: Fetch, folder: str, listing: Mapping[str, RemoteFile], manifest: Any) -> RemoteFile:
    """The SentencePiece model of the export: the manifest's, else the one whose name holds the vocabulary's size.

    `manifest` is any JSON value. Raises `DataError` when there is no such file, or more than one.
    """
    place = f"{spec.repo}/{spec.inside('tokenizers')}"
    models = {name: file for name, file in listing.items() if TOKENIZER.fullmatch(name)}
    named = [name for name in _tokenizers_of(manifest, folder) if name in models]
    if not named and spec.vocab_size is not None:
        named = [name for name in sorted(models) if str(spec.vocab_size) in re.findall("[0-9]+", name)]
    if len(set(named)) == 1:
        check_size(spec, models[named[0]], 1, TOKENIZER_BYTES)
        return models[named[0]]
    if named:
        raise DataError(
            f"{place}: {' and '.join(sorted(set(named))[:8])} could each be the tokenizer of {folder}, and "
            "manifest.json does not say which; take another --revision"
        )
    there = ", ".join(sorted(models)[:20]) or "none"
    raise DataError(
        f"{place}: no SentencePiece model for {folder} (.model files there: {there}); choose another --variant"
    )


def read_manifest(path: Path) -> Any:
    """The published manifest as a JSON value, or None when it is not JSON; nothing else is asked of it."""
    try:
        return json.loads(files.read_bytes(path, MANIFEST_BYTES))
    except (OSError, ValueError, RecursionError):
        return None


def check_size(spec: Fetch, file: RemoteFile, least: int, most: int) -> None:
    """Raise `DataError` unless the listed size is from `least` to `most` bytes."""
    if not least <= file.size <= most:
        raise DataError(
            f"{spec.repo}/{file.path}: listed with {file.size:,} bytes, where {least:,} to {most:,} can be right; "
            "take another --revision"
        )


def stated_shards(manifest: Any, folder: str) -> dict[str, int]:
    """How many shards of each split the manifest counts for the export, where it does."""
    for entry in _entries(manifest, "datasets"):
        stats = entry.get("stats")
        if _last(entry.get("name")) == folder and isinstance(stats, dict):
            counts = {split: stats.get(f"files_{split}") for split in ("train", "val")}
            return {split: count for split, count in counts.items() if type(count) is int}
    return {}


def _tokenizers_of(manifest: Any, folder: str) -> list[str]:
    """File names of the models that the manifest gives the export, whatever the fields are called."""
    entries = _entries(manifest, "datasets")
    ours = [entry for entry in entries if folder in (_last(entry.get("name")), _last(entry.get("path")))]
    names = [entry["tokenizer_name"] for entry in ours if isinstance(entry.get("tokenizer_name"), str)]
    used = [entry for entry in _entries(manifest, "tokenizers") if entry.get("name") in names]
    values = [value for entry in (*ours, *used) for value in entry.values() if isinstance(value, str)]
    return sorted({_last(value) for value in values if value.endswith(".model")})


def _entries(manifest: Any, field: str) -> list[dict[str, Any]]:
    entries = manifest.get(field) if isinstance(manifest, dict) else None
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _last(value: Any) -> str:
    """The last part of a path, without the rest, wherever that leads."""
    return value.rstrip("/").rpartition("/")[2] if isinstance(value, str) else ""


# --- the folder on this machine ---

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
    try:
        record = strict_json.load(FetchRecord, folder / RECORD)
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
