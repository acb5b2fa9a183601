"""The text of an audit: a shard, an array, documents to be encoded, or made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import sentencepiece

from golf_core.audit.scorer import Tokens
from golf_core.data.export import read_texts
from golf_core.data.shards import read_shard
from golf_core.data.tokenizer import BOS
from golf_core.errors import DataError


def tokens_of_file(path: Path, max_tokens: int | None = None) -> Tokens:
    """Tokens (int64 [n]) of a shard in the challenge's format (.bin) or of an array of integers [n] (.npy).

    Raises `DataError` naming the file for anything else.
    """
    if path.suffix == ".npy":
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: not an array of numbers ({error}); save one with numpy.save") from None
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise DataError(f"{path}: holds {array.dtype} {list(array.shape)}; save integers of shape [n]")
        return np.asarray(array[:max_tokens], dtype=np.int64)
    if path.suffix != ".bin":
        raise DataError(f"{path}: name a shard (.bin) or an array (.npy); text goes with --text")
    return np.asarray(read_shard(path)[:max_tokens], dtype=np.int64)


def tokens_of_text(
    path: Path, processor: sentencepiece.SentencePieceProcessor, max_tokens: int | None = None, bos: int = BOS
) -> tuple[Tokens, int | None]:
    """Tokens (int64 [n]) of documents, each after `bos`, and the UTF-8 bytes of the documents as they are.

    path: JSON lines as `golf data export` takes them, or a .txt file, which is one document. The bytes are None where
    `max_tokens` cuts the text. Raises `DataError` for a file that cannot be read.
    """
    found: list[int] = []
    total = 0
    for text in _documents(path):
        found += [bos, *processor.encode(text)]
        total += len(text.encode("utf-8"))
        if max_tokens is not None and len(found) > max_tokens:
            return np.array(found[:max_tokens], dtype=np.int64), None
    return np.array(found, dtype=np.int64), total


def _documents(path: Path) -> list[str]:
    if path.suffix != ".txt":
        return list(read_texts(path))
    try:
        return [path.read_text(encoding="utf-8")]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text ({error}); check the file") from None
