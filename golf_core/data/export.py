"""Text to a data folder: tokenize documents into training and validation shards."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import platform
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal, cast

import numpy as np
import sentencepiece

from golf_core import files, strict_json
from golf_core.data.manifest import MANIFEST, Manifest, ShardRecord
from golf_core.data.shards import Tokens, write_shard
from golf_core.data.tokenizer import BOS, load_tokenizer
from golf_core.errors import DataError

Split = Literal["train", "val"]
Progress = Callable[[str], None]

TOKENIZER = "tokenizer.model"
BATCH_CHARACTERS = 4_000_000
"""Text that is encoded at once: enough to keep every core busy, little enough to hold as Python integers."""


def silent(message: str) -> None:
    """The progress listener of those who do not want to know."""


def split_of(text: str, val_fraction: float) -> Split:
    """The split of a document: decided by the SHA-256 of its text, so equal documents share a split."""
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return "val" if int.from_bytes(digest[:8], "big") < val_fraction * 2**64 else "train"


def read_texts(path: Path) -> Iterator[str]:
    """The "text" of each line of a .jsonl, .jsonl.gz or .jsonl.xz file; blank lines are passed over.

    Raises `DataError` naming the file, and the line where there is one, for anything that cannot be read.
    """
    number = 0
    try:
        with _open(path) as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _text_of(path, number, line)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; name a .jsonl, .jsonl.gz or .jsonl.xz file") from None
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{path}: cannot be read after line {number} ({error}); check or fetch it again") from None


def export_files(
    texts: Sequence[Path],
    tokenizer: Path,
    out: Path,
    val_fraction: float = 0.05,
    shard_tokens: int = 100_000_000,
    progress: Progress = silent,
) -> Manifest:
    """Export the documents of JSON-lines files, about `val_fraction` of them to validation, as `out`.

    See `read_texts` for the files, which follow each other in the order given, `split_of` for the split and
    `export_documents` for the rest.
    """
    if not 0 < val_fraction < 1:
        raise DataError(f"--val-fraction: {val_fraction} is not between 0 and 1; 0.05 is usual")
    documents = ((split_of(document, val_fraction), document) for text in texts for document in read_texts(text))
    source = ", ".join(map(str, texts))
    return export_documents(documents, tokenizer, out, source, shard_tokens=shard_tokens, progress=progress)


def export_documents(
    documents: Iterable[tuple[Split, str]],
    tokenizer: Path,
    out: Path,
    source: str,
    *,
    kind: Literal["sample", "export"] = "export",
    shard_tokens: int = 100_000_000,
    progress: Progress = silent,
) -> Manifest:
    """Write `documents` (split, text) as a data folder: shards, the tokenizer and a manifest.

    Each document becomes BOS and its tokens, in the order given. Shards hold at most `shard_tokens` tokens
    and end with a document (one longer document has a shard to itself). `source` says in the manifest where
    the text came from. The folder appears whole or not at all; one that holds anything already is refused.
    Raises `DataError` for that, for a tokenizer that does not fit, and for a split without documents.
    """
    if shard_tokens < 1:
        raise DataError(f"--shard-tokens: {shard_tokens} is less than 1; 100000000 is usual")
    processor = load_tokenizer(tokenizer)
    _check_fits_shards(tokenizer, processor)
    with _new_folder(out) as folder:
        writers: dict[Split, _SplitWriter] = {
            "train": _SplitWriter(folder, "train", shard_tokens, progress),
            "val": _SplitWriter(folder, "val", shard_tokens, progress),
        }
        for batch in _batches(documents):
            encoded = processor.encode([text for _, text in batch], out_type=int)
            for (split, text), tokens in zip(batch, encoded, strict=True):
                writers[split].add(np.array([BOS, *tokens], dtype=np.uint16), len(text.encode("utf-8")))
        train, val = writers["train"].finish(), writers["val"].finish()
        _check_not_empty(source, train, val)
        files.write_bytes(folder / TOKENIZER, tokenizer.read_bytes())
        manifest = Manifest(
            kind=kind,
            source=source,
            tokenizer=TOKENIZER,
            tokenizer_sha256=files.sha256(folder / TOKENIZER),
            vocab_size=processor.get_piece_size(),
            train=train,
            val=val,
            python=platform.python_version(),
            sentencepiece=sentencepiece.__version__,
        )
        strict_json.save(manifest, folder / MANIFEST)
    return manifest


class _SplitWriter:
    """Collects the documents of one split and writes a shard whenever one is full."""

    def __init__(self, folder: Path, split: Split, shard_tokens: int, progress: Progress) -> None:
        self._folder, self._split = folder, split
        self._shard_tokens, self._progress = shard_tokens, progress
        self._documents: list[Tokens] = []
        self._tokens = self._bytes = 0
        self._written: list[ShardRecord] = []

    def add(self, tokens: Tokens, text_bytes: int) -> None:
        if self._documents and self._tokens + len(tokens) > self._shard_tokens:
            self._write()
        self._documents.append(tokens)
        self._tokens += len(tokens)
        self._bytes += text_bytes

    def finish(self) -> tuple[ShardRecord, ...]:
        if self._documents:
            self._write()
        return tuple(self._written)

    def _write(self) -> None:
        path = self._folder / f"fineweb_{self._split}_{len(self._written):06d}.bin"
        write_shard(path, np.concatenate(self._documents))
        shard = ShardRecord(path.name, self._tokens, len(self._documents), self._bytes, files.sha256(path))
        self._written.append(shard)
        self._progress(f"{path.name}: {shard.documents:,} documents, {shard.tokens:,} tokens")
        self._documents, self._tokens, self._bytes = [], 0, 0


def refuse_occupied(out: Path) -> None:
    """Raise `DataError` unless `out` is free for a new data folder: absent, or an empty folder."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: exists and is not an empty folder; choose another folder or remove it")


def _batches(documents: Iterable[tuple[Split, str]]) -> Iterator[list[tuple[Split, str]]]:
    batch: list[tuple[Split, str]] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document[1])
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that becomes `out` on success and vanishes on failure."""
    refuse_occupied(out)
    out = out.resolve()  # "." has no parent to rename within
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    except OSError as error:
        raise DataError(f"{out}: cannot be made ({error.strerror}); choose a folder that you may write") from None
    try:
        yield folder
        folder.chmod(0o755)  # mkdtemp's folders are private
        try:
            folder.rename(out)
        except OSError:
            refuse_occupied(out)  # by another process, meanwhile
            raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _open(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    if path.suffix == ".xz":
        return lzma.open(path, "rb")
    return path.open("rb")


def _text_of(path: Path, number: int, line: bytes) -> str:
    try:
        text = json.loads(line)["text"]
        text.encode("utf-8")  # JSON can spell halves of surrogate pairs, which are no text
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise DataError(
            f'{path}, line {number}: not a JSON object {{"text": "..."}}; mend or remove the line'
        ) from None
    return str(text)


def _check_fits_shards(tokenizer: Path, processor: sentencepiece.SentencePieceProcessor) -> None:
    if processor.bos_id() != BOS:
        raise DataError(
            f"{tokenizer}: BOS has the id {processor.bos_id()}, but documents in shards begin with {BOS}; "
            f"train the tokenizer with bos_id={BOS}"
        )
    if processor.get_piece_size() > 2**16:
        raise DataError(
            f"{tokenizer}: {processor.get_piece_size()} pieces do not fit the shards' 16-bit tokens; "
            "use a tokenizer of at most 65536"
        )


def _check_not_empty(source: str, train: tuple[ShardRecord, ...], val: tuple[ShardRecord, ...]) -> None:
    if not train and not val:
        raise DataError(f"{source}: holds no document; name a file with text")
    if not train or not val:
        count = sum(shard.documents for shard in train + val)
        missing, remedy = ("validation", "raise") if train else ("training", "lower")
        raise DataError(
            f"{source}: none of the {count} documents falls to the {missing} split; "
            f"add documents or {remedy} --val-fraction"
        )
