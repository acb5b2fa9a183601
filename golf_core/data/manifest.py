"""What a data folder holds: the manifest that export writes, and the check before a run spends anything."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from golf_core import strict_json
from golf_core.data.shards import read_shard, train_shards, val_shards
from golf_core.data.tokenizer import load_tokenizer
from golf_core.errors import ConfigError, DataError
from golf_core.files import sha256
from golf_core.results import DataRecord

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class ShardRecord:
    """One shard as it was written."""

    file: str
    tokens: int
    documents: int
    bytes: int
    """UTF-8 length of the documents' text, before the tokenizer normalises it."""
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """One data folder as it was written."""

    kind: Literal["sample", "export"]
    source: str
    """Where the text came from, for the reader."""
    tokenizer: str
    """File name of the model within the folder."""
    tokenizer_sha256: str
    vocab_size: int
    train: tuple[ShardRecord, ...]
    val: tuple[ShardRecord, ...]
    python: str
    """Version that wrote the folder; the sample's text depends on it."""
    sentencepiece: str

    @property
    def shards(self) -> tuple[ShardRecord, ...]:
        """All shards, training first."""
        return self.train + self.val


@dataclass(frozen=True)
class _Inspected:
    tokens: int
    largest: int
    sha256: str


def load_manifest(folder: Path) -> Manifest:
    """The manifest of a data folder. Raises `DataError` when it is missing or damaged."""
    try:
        manifest = strict_json.load(Manifest, folder / MANIFEST)
    except ConfigError as error:
        raise DataError(f"{error}; the manifest is damaged, so export the data again") from None
    for name in (manifest.tokenizer, *(shard.file for shard in manifest.shards)):
        # Joined to a folder, such a name would leave it.
        if name in ("", ".", "..") or "/" in name or "\0" in name or not name.isprintable():
            shown = strict_json.printable(name, strict_json.LONGEST)
            raise DataError(
                f"{folder / MANIFEST}: '{shown}' is not the name of a file in its folder; the manifest is "
                "damaged, so export the data again"
            )
    return manifest


def check_data(folder: Path, tokenizer: Path, vocab_size: int, seq_len: int) -> DataRecord:
    """Check everything about a data folder that can be known before a run, and say what the run will see.

    Shards must be sound, their token ids below `vocab_size`, each split at least one row of `seq_len` + 1
    tokens, and the tokenizer must have `vocab_size` pieces. With a manifest in the folder, files and
    checksums must be the manifest's. Reads everything, several shards at a time. Raises `DataError`.
    """
    train, val = train_shards(folder), val_shards(folder)
    load_tokenizer(tokenizer, vocab_size)
    # Hashing and numpy's reductions both release the interpreter lock.
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        inspected = dict(zip([*train, *val], pool.map(_inspect, [*train, *val]), strict=True))
    for path, shard in inspected.items():
        if shard.largest >= vocab_size:
            raise DataError(
                f"{path}: holds the token id {shard.largest}, outside the vocabulary of {vocab_size}; "
                "use the tokenizer that the shards were made with, or export them again"
            )
    train_tokens = sum(inspected[path].tokens for path in train)
    val_tokens = sum(inspected[path].tokens for path in val)
    for split, tokens in (("training", train_tokens), ("validation", val_tokens)):
        if tokens <= seq_len:
            raise DataError(
                f"{folder}: {tokens} {split} tokens are less than one row of seq_len + 1 = {seq_len + 1}; "
                "lower seq_len or export more text"
            )
    record = DataRecord(
        path=str(folder),
        tokenizer=str(tokenizer),
        tokenizer_sha256=sha256(tokenizer),
        train_tokens=train_tokens,
        val_tokens=val_tokens,
        checksums={path.name: shard.sha256 for path, shard in inspected.items()},
    )
    if (folder / MANIFEST).exists():
        _compare(folder, load_manifest(folder), record)
    return record


def _inspect(path: Path) -> _Inspected:
    tokens = read_shard(path)
    return _Inspected(len(tokens), int(tokens.max()), sha256(path))


def _compare(folder: Path, manifest: Manifest, record: DataRecord) -> None:
    written = {shard.file: shard.sha256 for shard in manifest.shards}
    for name in sorted(written.keys() | record.checksums.keys()):
        if name not in record.checksums:
            raise DataError(f"{folder / name}: missing, though the manifest lists it; export the data again")
        if name not in written:
            raise DataError(
                f"{folder / name}: not listed in the folder's {MANIFEST}; move it to a folder of its own "
                f"or delete the {MANIFEST}"
            )
        if written[name] != record.checksums[name]:
            raise DataError(f"{folder / name}: its checksum is not the manifest's; export the data again")
    if manifest.tokenizer_sha256 != record.tokenizer_sha256:
        raise DataError(
            f"{record.tokenizer}: not the tokenizer that the shards in {folder} were made with; "
            f"use {folder / manifest.tokenizer}"
        )
