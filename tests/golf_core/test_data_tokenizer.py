"""Byte counts of tokens against recounts of the text itself."""

from __future__ import annotations

import io
import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from golf_core.data.sample import train_tokenizer
from golf_core.data.shards import read_shard
from golf_core.data.tokenizer import BOS, ByteTable, byte_table, load_tokenizer
from golf_core.errors import DataError

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
WORDS = [
    *("the", "quick", "brown", "fox", "jumps", "over", "lazy", "dogs", "while", "counting", "0123456789"),
    *("naïve", "café", "—", "tokens\tof", "text", "beneath", "mountains", "yesterday", "something", "purple"),
]


@pytest.fixture(scope="module")
def model() -> bytes:
    """A tokenizer of 400 pieces, trained on made-up text."""
    rng = np.random.default_rng(0)
    return train_tokenizer([" ".join(rng.choice(WORDS, 200)) for _ in range(40)], 400)


@pytest.fixture(scope="module")
def processor(model: bytes) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_proto=model)


@pytest.fixture(scope="module")
def challenge() -> Path:
    path = SHARED / "data" / "tokenizers" / "fineweb_1024_bpe.model"
    if not path.exists():
        pytest.skip("the challenge's tokenizer is not in ../shared")
    return path


def counted(table: ByteTable, tokens: np.ndarray) -> int:
    """Bytes of every token but the first."""
    return int(table.token_bytes(tokens[:-1], tokens[1:]).sum(dtype=np.int64))


def test_rule_on_a_made_up_table() -> None:
    table = ByteTable(
        base_bytes=np.array([0, 3, 1, 2], dtype=np.int16),
        leading_space=np.array([False, True, False, False]),
        boundary=np.array([True, False, False, False]),
    )
    previous = np.array([[0, 1, 2], [1, 1, 3]], dtype=np.uint16)
    current = np.array([[1, 1, 1], [0, 2, 3]], dtype=np.uint16)
    counts = table.token_bytes(previous, current)
    assert counts.dtype == np.int16
    # "▁" counts after an ordinary token, not after a boundary.
    assert counts.tolist() == [[3, 4, 4], [0, 1, 2]]


def test_pieces_are_sorted_by_kind(processor: sentencepiece.SentencePieceProcessor) -> None:
    table = byte_table(processor)
    assert np.flatnonzero(table.boundary).tolist() == [0, 1, 2, 3]
    assert table.base_bytes[:4].tolist() == [0] * 4
    assert table.base_bytes[4:260].tolist() == [1] * 256
    assert not table.leading_space[:260].any()
    for token in range(260, 400):
        text = processor.id_to_piece(token).replace("▁", " ")
        assert table.leading_space[token] == text.startswith(" ")
        assert table.base_bytes[token] + table.leading_space[token] == len(text.encode())


class MadeUpProcessor:
    """A vocabulary with every kind of piece; no trainer makes unused ones."""

    pieces = ("<unk>", "<s>", "▁gone", "▁é", "own", "<0x41>", "▁", "▁▁")

    def get_piece_size(self) -> int:
        return len(self.pieces)

    def id_to_piece(self, token: int) -> str:
        return self.pieces[token]

    def is_unknown(self, token: int) -> bool:
        return token == 0

    def is_control(self, token: int) -> bool:
        return token == 1

    def is_unused(self, token: int) -> bool:
        return token == 2

    def is_byte(self, token: int) -> bool:
        return token == 5


def test_every_kind_of_piece() -> None:
    table = byte_table(MadeUpProcessor())
    assert table.boundary.tolist() == [True, True, True, False, False, False, False, False]
    assert table.leading_space.tolist() == [False, False, False, True, False, False, True, True]
    assert table.base_bytes.tolist() == [0, 0, 0, 2, 3, 1, 0, 1]


@pytest.mark.parametrize(
    "settings",
    [
        {"user_defined_symbols": ["▁and▁the", "▁of▁"]},
        {"user_defined_symbols": ["▁▁", "▁▁▁▁"]},
        {"split_by_whitespace": False, "vocab_size": 420},
        {"treat_whitespace_as_suffix": True},
        {"treat_whitespace_as_suffix": True, "model_type": "unigram", "vocab_size": 320},
    ],
    ids=str,
)
def test_spaces_anywhere_in_a_piece_count_one_byte(settings: dict[str, Any]) -> None:
    """Tokenizers of other makes: the middle of a text counts what it decodes to, to the byte."""
    rng = np.random.default_rng(3)
    words = [*WORDS, "and the", "and the cat of a", "two   spaces", "  four    "]
    model = io.BytesIO()
    given = {"vocab_size": 400, "model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity"}
    given |= {"add_dummy_prefix": False, "remove_extra_whitespaces": False, "hard_vocab_limit": False, "minloglevel": 2}
    lines = (" ".join(rng.choice(words, 30)) for _ in range(60))
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=lines, model_writer=model, **(given | settings))
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    table = byte_table(processor)
    inner = 0
    for _ in range(20):
        # A letter at either end: what a space there decodes to is the document's affair, not the piece's.
        tokens = np.array(processor.encode(f"x{' '.join(rng.choice(words, 40))}x"))
        inner += sum("▁" in processor.id_to_piece(int(token))[1:] for token in tokens)
        decoded = [len(processor.decode(tokens[:end].tolist()).encode()) for end in (3, len(tokens) - 3)]
        assert int(table.token_bytes(tokens[2:-4], tokens[3:-3]).sum()) == decoded[1] - decoded[0]
    assert inner


@given(texts=st.lists(st.text(alphabet=st.characters(exclude_characters=" ▁", codec="utf-8"), max_size=20)))
def test_bytes_of_any_words_are_their_utf8(processor: sentencepiece.SentencePieceProcessor, texts: list[str]) -> None:
    text = "x" + "  ".join(texts)  # does not begin with a space, which BOS would swallow
    tokens = np.array([BOS, *processor.encode(text)])
    assert processor.decode(tokens.tolist()) == text
    assert counted(byte_table(processor), tokens) == len(text.encode())


def test_space_after_bos_is_not_counted(processor: sentencepiece.SentencePieceProcessor) -> None:
    tokens = np.array([BOS, *processor.encode(" fox")])
    assert processor.id_to_piece(int(tokens[1])).startswith("▁")
    assert counted(byte_table(processor), tokens) == len("fox")


def test_challenge_documents_count_their_text(challenge: Path) -> None:
    """The shard's own tokens, counted in one go across documents, against the documents as text."""
    with lzma.open(SHARED / "data" / "fineweb_val_prefix.jsonl.xz", "rt", encoding="utf-8") as file:
        documents = [json.loads(line)["text"] for line in file]
    table = byte_table(load_tokenizer(challenge, 1024))
    tokens = read_shard(SHARED / "data" / "fineweb_val_000000.bin")
    assert counted(table, tokens) == sum(len(text.encode()) for text in documents)


def test_challenge_table_agrees_with_decoding(challenge: Path) -> None:
    """Each token's bytes as the growth of the decoded text, an account that never looks at pieces."""
    processor = load_tokenizer(challenge, 1024)
    text = "Naïve café — 日本, 12 apples\nand   more of it 🙂 end"
    tokens = [BOS, *processor.encode(text)]
    counts = byte_table(processor).token_bytes(np.array(tokens[:-1]), np.array(tokens[1:]))
    lengths = [0]
    for end in range(1, len(tokens)):
        # An unfinished character decodes to one replacement character of 3 bytes for each of its bytes.
        decoded = processor.decode(tokens[1 : end + 1]).encode()
        lengths.append(len(decoded) - 2 * decoded.count("\ufffd".encode()))
    assert counts.tolist() == np.diff(lengths).tolist()
    assert counts.sum() == len(processor.decode(tokens[1:]).encode())


def test_loading_checks_the_size(tmp_path: Path, model: bytes) -> None:
    path = tmp_path / "t.model"
    path.write_bytes(model)
    assert load_tokenizer(path, 400).get_piece_size() == 400
    assert load_tokenizer(path).get_piece_size() == 400
    with pytest.raises(DataError, match=r"t\.model: the tokenizer has 400 pieces .* vocab_size is 1024; "):
        load_tokenizer(path, 1024)


@pytest.mark.parametrize("content", [b"", b"no model at all", b"\0" * 100, b'{"version": "1.0"}'])
def test_other_files_are_no_tokenizers(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.model"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"t\.model: not a SentencePiece model; "):
        load_tokenizer(path, 400)


def test_truncated_model_is_refused(tmp_path: Path, model: bytes) -> None:
    path = tmp_path / "t.model"
    path.write_bytes(model[: len(model) // 2])
    with pytest.raises(DataError, match=r"t\.model: "):
        load_tokenizer(path, 400)


def test_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.model: the tokenizer cannot be read \(No such file"):
        load_tokenizer(tmp_path / "none.model", 400)


def test_default_settings_of_sentencepiece_count_too() -> None:
    """A tokenizer with a dummy prefix: its "▁" after BOS is no text, so the bytes still come out right."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(WORDS * 30),
        model_writer=model,
        model_type="bpe",
        vocab_size=360,
        byte_fallback=True,
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    text = "the quick fox"
    assert counted(byte_table(processor), np.array([BOS, *processor.encode(text)])) == len(text)
