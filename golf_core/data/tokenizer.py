"""The SentencePiece tokenizer, and how many bytes of text each token stands for (BPB divides by them)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from golf_core.errors import DataError
from golf_core.files import read_bytes

BOS = 1
"""Begins every document in the challenge's shards."""
SPACE = "▁"
"""SentencePiece's stand-in for a space."""
MAX_MODEL = 64 * 1024 * 1024
MAX_PIECE = 1024
"""Bytes of a piece; the counts of bytes are 16-bit."""


def load_tokenizer(path: Path, vocab_size: int | None = None) -> sentencepiece.SentencePieceProcessor:
    """The SentencePiece model at `path`.

    Raises `DataError` when the file is missing, is not a SentencePiece model, or has not `vocab_size` pieces
    (None: any number will do).
    """
    try:
        model = read_bytes(path, MAX_MODEL)
    except OSError as error:
        raise DataError(f"{path}: the tokenizer cannot be read ({error.strerror}); check the path") from None
    processor = sentencepiece.SentencePieceProcessor()
    try:
        sound = bool(model) and processor.LoadFromSerializedProto(model) and processor.get_piece_size() > 0
        pieces = processor.get_piece_size()
        # A piece that is not UTF-8 fails here rather than where it is first used.
        sound = sound and all(len(processor.id_to_piece(i).encode("utf-8")) <= MAX_PIECE for i in range(pieces))
    except (RuntimeError, ValueError, LookupError, MemoryError):
        sound = False
    if not sound:
        raise DataError(f"{path}: not a SentencePiece model; name the .model file that the data was made with")
    if vocab_size is not None and pieces != vocab_size:
        raise DataError(
            f"{path}: the tokenizer has {pieces} pieces but the model's vocab_size is {vocab_size}; "
            "set model.vocab_size or choose the tokenizer that fits"
        )
    return processor


@dataclass(frozen=True)
class ByteTable:
    """What is needed to count the text bytes of tokens, for a vocabulary of V pieces."""

    base_bytes: NDArray[np.int16]
    """[V]: bytes without the leading space: 1 for a byte piece, 0 for control, unknown and unused pieces. Every "▁"
    behind the first character stands for a space too, as it does where the piece is decoded."""
    leading_space: NDArray[np.bool_]
    """[V]: the piece begins with "▁", which stands for a space."""
    boundary: NDArray[np.bool_]
    """[V]: control, unknown or unused piece; the leading space of the token after it stands for no byte."""

    def token_bytes(self, previous: NDArray[np.integer], current: NDArray[np.integer]) -> NDArray[np.int16]:
        """Bytes of text of each `current` token that follows the token `previous` at the same index.

        Both are ids of any integer dtype and one shape; the result is int16 of that shape.
        """
        return self.base_bytes[current] + (self.leading_space[current] & ~self.boundary[previous])


def byte_table(processor: sentencepiece.SentencePieceProcessor) -> ByteTable:
    """The byte counts of a tokenizer's pieces."""
    size = processor.get_piece_size()
    base_bytes = np.zeros(size, dtype=np.int16)
    leading_space = np.zeros(size, dtype=np.bool_)
    boundary = np.zeros(size, dtype=np.bool_)
    for token in range(size):
        if processor.is_control(token) or processor.is_unknown(token) or processor.is_unused(token):
            boundary[token] = True
        elif processor.is_byte(token):
            base_bytes[token] = 1
        else:
            piece = processor.id_to_piece(token)
            leading_space[token] = piece.startswith(SPACE)
            base_bytes[token] = len(piece.removeprefix(SPACE).replace(SPACE, " ").encode("utf-8"))
    return ByteTable(base_bytes, leading_space, boundary)
