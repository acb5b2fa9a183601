"""The text of an audit: a shard, an array, documents or a made-up one, and the bytes of text that it stands for.

Bytes are the denominator of bits per byte. They are recounted from decoded text, and no look-up table takes part: each
document (a piece of the stream that begins with BOS) is decoded by SentencePiece and its UTF-8 bytes counted.
A tokenizer that puts a space before each document takes it away again when it decodes, so it does not count, nor does
it in the challenge's look-up table. One that keeps a document's own leading space decodes to it: there the table, which
never counts a space after a sentinel, has a byte less for each document that begins with one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sentencepiece

from golf_core.audit.report import BYTES, ByteEvidence, Condition, Verdict
from golf_core.audit.scorer import Tokens
from golf_core.data.export import read_texts
from golf_core.data.shards import read_shard
from golf_core.data.tokenizer import BOS, SPACE, byte_table
from golf_core.errors import DataError

REPLACEMENT = "\ufffd"


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
    for text in _texts(path):
        found += [bos, *processor.encode(text)]
        total += len(text.encode("utf-8"))
        if max_tokens is not None and len(found) > max_tokens:
            return np.array(found[:max_tokens], dtype=np.int64), None
    return np.array(found, dtype=np.int64), total


def _texts(path: Path) -> list[str]:
    if path.suffix != ".txt":
        return list(read_texts(path))
    try:
        return [path.read_text(encoding="utf-8")]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text ({error}); check the file") from None


def synthetic_tokens(count: int, vocab: int, seed: int, bos: int = 1) -> Tokens:
    """`count` tokens (int64) of an alphabet of `vocab`, in documents that begin with `bos` (where it is a symbol).

    Each symbol has at most four successors that follow it mostly, and any symbol may follow now and then.
    """
    rng = np.random.default_rng(seed)
    symbols = np.array([s for s in range(vocab) if s != bos or vocab <= 2])
    # Likely symbols are few even in a large alphabet, as in text.
    common = symbols[: min(len(symbols), 64)]
    successors = rng.choice(common, (vocab, 4))
    found: list[int] = []
    while len(found) < count:
        if bos < vocab:
            found.append(bos)
        last = int(rng.choice(common))
        for _ in range(int(rng.integers(12, 48))):
            found.append(last)
            last = int(rng.choice(symbols)) if rng.random() < 0.1 else int(successors[last, rng.integers(4)])
    return np.array(found[:count], dtype=np.int64)


@dataclass(frozen=True)
class _Document:
    """One document's tokens without sentinels, whether it is whole, and what it decodes to."""

    pieces: list[int]
    whole: bool
    text: str
    text_bytes: int


def count_bytes(
    tokens: Tokens,
    processor: sentencepiece.SentencePieceProcessor,
    claimed: float | None = None,
    bos: int = BOS,
    scored_from: int = 0,
    original_bytes: int | None = None,
) -> ByteEvidence:
    """Bytes of text that tokens[scored_from:] stand for, and how a claim differs from them.

    tokens: int64 [n]. The last document counts as cut unless the tokenizer would have ended there: it is left out of
    the round trip. Raises `DataError` for tokens that the tokenizer does not have.
    """
    size = processor.get_piece_size()
    if len(tokens) and int(tokens.max()) >= size:
        raise DataError(f"token {int(tokens.max())} is not in the tokenizer's {size} pieces; name the one that fits")
    documents = _documents(tokens, processor, bos)
    skipped = sum(d.text_bytes for d in _documents(tokens[:scored_from], processor, bos))
    total = sum(d.text_bytes for d in documents) - skipped
    table = byte_table(processor)
    before = np.concatenate((np.array([bos]), tokens[:-1]))
    by_table = int(table.token_bytes(before, tokens)[scored_from:].sum(dtype=np.int64)) if len(tokens) else 0
    broken = [d for d in documents if d.whole and processor.encode(d.text) != d.pieces]
    explanation = "" if claimed is None else _explain(claimed - total, _habits(tokens, documents, processor, bos))
    return ByteEvidence(
        tokens=len(tokens),
        documents=len(documents),
        scored_from=scored_from,
        text_bytes=total,
        claimed=claimed,
        explanation=explanation,
        table_bytes=by_table,
        not_round_trip=len(broken),
        first_not_round_trip=broken[0].text[:80] if broken else "",
        original_bytes=original_bytes,
    )


def judge_bytes(evidence: ByteEvidence) -> Condition:
    """A claim of more bytes than there are lowers BPB; fewer hurts only the claimant."""
    total, claimed = evidence.text_bytes, evidence.claimed
    remarks = []
    if evidence.not_round_trip:
        remarks.append(f"{evidence.not_round_trip} of {evidence.documents} documents encode to other tokens than these")
    if evidence.table_bytes is not None and evidence.table_bytes != total:
        remarks.append(f"the look-up table counts {evidence.table_bytes:,}")
    if evidence.original_bytes is not None and evidence.original_bytes != total:
        remarks.append(f"the text before encoding has {evidence.original_bytes:,}")
    rest = "".join(f"; {remark}" for remark in remarks)
    if claimed is None:
        return Condition(BYTES, None, "not measured", f"no count was claimed; the text has {total:,} bytes{rest}")
    if abs(claimed - total) < 0.5:
        return Condition(BYTES, None, "holds", f"{total:,} bytes, as claimed{rest}")
    verdict: Verdict = "violated" if claimed > total else "holds"
    direction = "too many" if claimed > total else "too few (no gain from it)"
    why = f": {evidence.explanation}" if evidence.explanation else ""
    summary = f"{claimed:,.0f} claimed, {total:,} counted, {abs(claimed - total):,.0f} {direction}{why}{rest}"
    return Condition(BYTES, None, verdict, summary)


def _documents(tokens: Tokens, processor: sentencepiece.SentencePieceProcessor, bos: int) -> list[_Document]:
    if not len(tokens):
        return []
    starts = np.flatnonzero(tokens == bos)
    edges = np.unique(np.concatenate(([0], starts, [len(tokens)])))
    stands_for_text = ~byte_table(processor).boundary[tokens]
    found = []
    for begin, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        pieces = tokens[begin:end][stands_for_text[begin:end]].tolist()
        text = processor.decode(pieces)
        whole = end < len(tokens) and int(tokens[begin]) == bos
        found.append(_Document(pieces, whole, text, _utf8_length(pieces, text, processor)))
    return found


def _utf8_length(pieces: list[int], text: str, processor: sentencepiece.SentencePieceProcessor) -> int:
    """UTF-8 bytes of a decoded document; bytes that form no character count as themselves.

    SentencePiece decodes each of them to a replacement character of three bytes. They can only come from byte
    pieces, so runs of byte pieces are decoded apart and the surplus is taken off.
    """
    length = len(text.encode("utf-8"))
    if REPLACEMENT not in text:
        return length
    run: list[int] = []
    for token in [*pieces, None]:
        if token is not None and processor.is_byte(token):
            run.append(token)
        elif run:
            length -= len(processor.decode(run).encode("utf-8")) - len(run)
            run = []
    return length


def _habits(
    tokens: Tokens, documents: list[_Document], processor: sentencepiece.SentencePieceProcessor, bos: int
) -> Mapping[str, int]:
    """What known miscounts would add to the true count."""
    ids, counts = np.unique(tokens, return_counts=True)
    sentinels = named = spaces = fallback = 0
    boundary = byte_table(processor).boundary
    for token, count in zip(ids.tolist(), counts.tolist(), strict=True):
        piece = processor.id_to_piece(token)
        if boundary[token]:
            sentinels += count
            named += count * len(piece.encode("utf-8"))
        elif processor.is_byte(token):
            fallback += count
        elif piece.startswith(SPACE):
            spaces += count
    leading = sum(bool(d.pieces) and processor.id_to_piece(d.pieces[0]).startswith(SPACE) for d in documents)
    text = sum(d.text_bytes for d in documents)
    return {
        "sentinels count as one byte each": sentinels,
        "sentinels count with the bytes of their names": named,
        "spaces that begin a token count twice": spaces - leading,
        "spaces that begin a token count twice, those that begin a document too": spaces,
        "the space before each document counts": leading,
        "spaces count with the three bytes of their stand-in": 2 * (spaces - leading),
        "spaces count with the three bytes of their stand-in, those before documents too": 2 * spaces + leading,
        "byte pieces count with the bytes of their names": 5 * fallback,
        "byte pieces count as three bytes each": 2 * fallback,
        "byte pieces are left out": -fallback,
        "spaces that begin a token are left out": -(spaces - leading),
        "characters are counted instead of bytes": sum(len(d.text) for d in documents) - text,
        "the byte of the newline after each document counts": len(documents),
    }


def _explain(difference: float, habits: Mapping[str, int]) -> str:
    """The miscount, or the two together, that make up the difference; empty if none do."""
    if abs(difference) < 0.5:
        return ""
    for name, surplus in habits.items():
        if surplus and abs(difference - surplus) < 0.5:
            return name
    items = [(name, surplus) for name, surplus in habits.items() if surplus]
    for i, (one, first) in enumerate(items):
        for other, second in items[i + 1 :]:
            if abs(difference - first - second) < 0.5:
                return f"{one}, and {other}"
    return ""
