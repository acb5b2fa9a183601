"""The recount of bytes from decoded text."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from byte_example import byte_example
from hypothesis import given
from hypothesis import strategies as st

from golf_core.audit.report import ByteEvidence
from golf_core.audit.text import count_bytes, judge_bytes, tokens_of_text
from golf_core.data.shards import read_shard
from golf_core.data.tokenizer import BOS, load_tokenizer
from golf_core.errors import DataError

PROCESSOR, TOKENS, BYTES = byte_example()


def encoded(*documents: str) -> np.ndarray:
    return np.array([t for text in documents for t in [BOS, *PROCESSOR.encode(text)]], dtype=np.int64)


@given(texts=st.lists(st.text(alphabet=st.characters(exclude_characters="▁", codec="utf-8")), min_size=1, max_size=4))
def test_any_documents(texts: list[str]) -> None:
    """All of Unicode; a leading space is the one thing that decoding loses."""
    documents = ["x" + text for text in texts]
    found = count_bytes(encoded(*documents), PROCESSOR)
    assert found.text_bytes == sum(len(d.encode()) for d in documents)
    assert found.not_round_trip == 0


@given(tokens=st.lists(st.integers(1, PROCESSOR.get_piece_size() - 1).filter(lambda t: t != 3), max_size=30))
def test_any_tokens_weigh_what_their_bytes_weigh(tokens: list[int]) -> None:
    """Also byte pieces that form no character, which decode to replacement characters of three bytes."""
    array = np.array([BOS, *tokens], dtype=np.int64)
    expected = 0
    for token in array.tolist():
        if PROCESSOR.is_byte(token):
            expected += 1
        elif token not in (BOS, 2):
            expected += len(PROCESSOR.id_to_piece(token).replace("▁", " ").encode())
    found = count_bytes(array, PROCESSOR)
    assert found.text_bytes == expected
    # This tokenizer keeps the space that begins a document; the look-up table, made for the challenge's, does not.
    kept = sum(len(piece) > 0 and PROCESSOR.id_to_piece(piece[0]).startswith("▁") for piece in _pieces(tokens))
    assert found.text_bytes - kept <= (found.table_bytes or 0) <= found.text_bytes


def _pieces(tokens: list[int]) -> list[list[int]]:
    """Tokens between sentinels."""
    pieces: list[list[int]] = [[]]
    for token in tokens:
        if token in (BOS, 2):
            pieces.append([])
        else:
            pieces[-1].append(token)
    return pieces


def test_a_space_that_begins_a_document_is_text_where_the_tokenizer_keeps_it() -> None:
    found = count_bytes(encoded(" fox"), PROCESSOR, claimed=3)
    assert (found.text_bytes, found.table_bytes) == (4, 3)
    assert "the look-up table counts 3" in judge_bytes(found).summary


def test_first_token_as_context() -> None:
    tokens = encoded("the quick brown fox")
    assert count_bytes(tokens, PROCESSOR, scored_from=1).text_bytes == 19
    inside = tokens[1:]
    rest = count_bytes(inside, PROCESSOR, scored_from=1)
    first = len(PROCESSOR.decode([int(inside[0])]))
    assert rest.text_bytes == 19 - first == rest.table_bytes


@pytest.mark.parametrize(
    ("surplus", "verdict", "told"),
    [
        (0, "holds", ""),
        (0.3, "holds", ""),
        (30, "violated", "sentinels count as one byte each"),
        (-600, "holds", ""),
        (-120, "holds", "byte pieces are left out"),
        (17, "violated", ""),
    ],
)
def test_claims(surplus: float, verdict: str, told: str) -> None:
    found = count_bytes(TOKENS, PROCESSOR, claimed=BYTES + surplus)
    assert judge_bytes(found).verdict == verdict
    assert told in found.explanation and (told or surplus in (0, 0.3, -600) or not found.explanation)


def test_tokens_that_do_not_come_from_their_text() -> None:
    """The same text in smaller pieces: it decodes alike and would be encoded otherwise."""
    pieces = PROCESSOR.encode("the fox")
    letters = [PROCESSOR.piece_to_id(c) for c in "the▁fox"]
    assert PROCESSOR.decode(letters) == PROCESSOR.decode(pieces)
    found = count_bytes(np.array([BOS, *letters, BOS, *pieces, BOS]), PROCESSOR, claimed=14)
    assert (found.not_round_trip, found.first_not_round_trip, found.text_bytes) == (1, "the fox", 14)
    judged = judge_bytes(found)
    assert judged.verdict == "holds" and "1 of 3 documents encode to other tokens" in judged.summary


def test_a_lossy_tokenizer_shows_against_the_text(tmp_path: Path) -> None:
    """SentencePiece's usual normalisation takes spaces out: fewer bytes than the text had."""
    model = tmp_path / "m"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the quick brown fox"] * 20),
        model_prefix=str(model),
        model_type="bpe",
        vocab_size=300,
        byte_fallback=True,
        minloglevel=2,
    )
    path = tmp_path / "t.txt"
    path.write_text("the  quick   fox", encoding="utf-8")
    processor = load_tokenizer(tmp_path / "m.model")
    tokens, original = tokens_of_text(path, processor)
    found = count_bytes(tokens, processor, claimed=original, original_bytes=original)
    assert (found.text_bytes, found.original_bytes) == (13, 16)
    assert judge_bytes(found).verdict == "violated"


def test_text_files(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "the fox"}\n{"text": "dogs"}\n', encoding="utf-8")
    tokens, original = tokens_of_text(path, PROCESSOR)
    assert np.array_equal(tokens, encoded("the fox", "dogs")) and original == 11
    cut, unknown = tokens_of_text(path, PROCESSOR, max_tokens=4)
    assert np.array_equal(cut, tokens[:4]) and unknown is None
    with pytest.raises(DataError, match="cannot be read as UTF-8"):
        tokens_of_text(tmp_path / "none.txt", PROCESSOR)


def test_a_token_too_large() -> None:
    with pytest.raises(DataError, match="not in the tokenizer's 360 pieces"):
        count_bytes(np.array([BOS, 360]), PROCESSOR)


def test_challenge_text(shared: Path) -> None:
    """The challenge's own tokens: decoding, the look-up table and the documents as text agree to the byte."""
    processor = load_tokenizer(shared / "data" / "tokenizers" / "fineweb_1024_bpe.model", 1024)
    tokens = np.asarray(read_shard(shared / "data" / "fineweb_val_000000.bin"), dtype=np.int64)
    with lzma.open(shared / "data" / "fineweb_val_prefix.jsonl.xz", "rt", encoding="utf-8") as file:
        original = sum(len(json.loads(line)["text"].encode()) for line in file)
    found: ByteEvidence = count_bytes(tokens, processor, claimed=2_504_867, original_bytes=original)
    assert found.text_bytes == found.table_bytes == found.original_bytes == 2_504_867
    assert (found.documents, found.not_round_trip) == (902, 0)
    assert judge_bytes(found).verdict == "holds"
