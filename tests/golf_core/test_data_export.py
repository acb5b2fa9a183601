"""Export of text to a data folder, and the check of such folders."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from golf_core.data import export
from golf_core.data.export import export_documents, export_files, read_texts, split_of
from golf_core.data.manifest import MANIFEST, check_data, load_manifest
from golf_core.data.sample import train_tokenizer
from golf_core.data.shards import read_shard, train_shards, val_shards, write_shard
from golf_core.errors import DataError

VOCAB = 360


def made_up_texts(count: int) -> list[str]:
    rng = np.random.default_rng(1)
    words = [
        "red",
        "green",
        "naïve",
        "",
        "pears\nand",
        "apples",
        "fall",
        "1",
        "23",
        "from",
        "trees",
        "yesterday",
    ]
    words += ["beneath", "mountains", "something", "purple", "counting", "quick", "foxes", "jump", "lazily"]
    return [f"{i}: " + " ".join(rng.choice(words, rng.integers(3, 60))) for i in range(count)]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return made_up_texts(300)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "any name.model"
    path.write_bytes(train_tokenizer(texts, VOCAB))
    return path


@pytest.fixture
def jsonl(tmp_path: Path, texts: list[str]) -> Path:
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": text, "id": 1}) + "\n" for text in texts))
    return path


@pytest.fixture
def folder(tmp_path: Path, jsonl: Path, tokenizer: Path) -> Path:
    """An exported folder with several shards of each split."""
    export_files([jsonl], tokenizer, tmp_path / "out", val_fraction=0.3, shard_tokens=3000)
    return tmp_path / "out"


def decoded(paths: list[Path], tokenizer: Path) -> list[str]:
    """The documents of shards, found by their BOS."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer))
    tokens = np.concatenate([read_shard(path) for path in paths])
    assert tokens[0] == 1
    return [processor.decode(piece.tolist()) for piece in np.split(tokens, np.flatnonzero(tokens == 1)[1:])]


def test_every_document_lands_in_its_split_in_order(folder: Path, tokenizer: Path, texts: list[str]) -> None:
    val = [text for text in texts if split_of(text, 0.3) == "val"]
    train = [text for text in texts if split_of(text, 0.3) == "train"]
    assert 50 < len(val) < 130
    assert decoded(val_shards(folder), tokenizer) == val
    assert decoded(train_shards(folder), tokenizer) == train


def test_split_is_sha256_of_the_text() -> None:
    text = "naïve"
    share = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
    assert split_of(text, share * 1.0001) == "val"
    assert split_of(text, share * 0.9999) == "train"


def test_duplicates_share_a_split(tmp_path: Path, tokenizer: Path, texts: list[str]) -> None:
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[:40] * 2))
    export_files([path], tokenizer, tmp_path / "out", val_fraction=0.5)
    train = decoded(train_shards(tmp_path / "out"), tokenizer)
    val = decoded(val_shards(tmp_path / "out"), tokenizer)
    assert len(train) + len(val) == 80
    assert not set(train) & set(val)


def test_several_files_follow_each_other(tmp_path: Path, tokenizer: Path, texts: list[str]) -> None:
    parts = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for path, some in zip(parts, (texts[:30], texts[30:60]), strict=True):
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in some))
    manifest = export_files(parts, tokenizer, tmp_path / "out", val_fraction=0.3)
    assert manifest.source == f"{parts[0]}, {parts[1]}"
    train = [text for text in texts[:60] if split_of(text, 0.3) == "train"]
    assert decoded(train_shards(tmp_path / "out"), tokenizer) == train


def test_manifest_says_what_is_there(folder: Path, tokenizer: Path, texts: list[str], jsonl: Path) -> None:
    manifest = load_manifest(folder)
    assert manifest.kind == "export"
    assert manifest.source == str(jsonl)
    assert manifest.vocab_size == VOCAB
    assert manifest.sentencepiece == sentencepiece.__version__
    assert (folder / manifest.tokenizer).read_bytes() == tokenizer.read_bytes()
    assert manifest.tokenizer_sha256 == hashlib.sha256(tokenizer.read_bytes()).hexdigest()
    assert len(manifest.train) > 1
    assert len(manifest.val) > 1
    assert [shard.file for shard in manifest.train[:2]] == [
        "fineweb_train_000000.bin",
        "fineweb_train_000001.bin",
    ]
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [MANIFEST, "tokenizer.model", *(shard.file for shard in manifest.shards)]
    )
    for shard in manifest.shards:
        tokens = read_shard(folder / shard.file)
        assert shard.tokens == len(tokens) <= 3000
        assert shard.documents == (tokens == 1).sum()
        assert shard.sha256 == hashlib.sha256((folder / shard.file).read_bytes()).hexdigest()
    assert sum(shard.documents for shard in manifest.shards) == len(texts)
    assert sum(shard.bytes for shard in manifest.shards) == sum(len(text.encode()) for text in texts)


def test_batches_change_nothing(
    tmp_path: Path, folder: Path, jsonl: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "BATCH_CHARACTERS", 700)
    manifest = export_files([jsonl], tokenizer, tmp_path / "small", val_fraction=0.3, shard_tokens=3000)
    assert manifest == load_manifest(folder)


def test_a_document_longer_than_a_shard_has_its_own(tmp_path: Path, tokenizer: Path) -> None:
    documents = [("val", "a"), ("train", "pears"), ("train", "apples " * 100), ("train", "pears")]
    manifest = export_documents(documents, tokenizer, tmp_path / "out", "made up", shard_tokens=20)
    assert [shard.documents for shard in manifest.train] == [1, 1, 1]
    assert manifest.train[1].tokens > 20


def test_progress_tells_of_each_shard(tmp_path: Path, jsonl: Path, tokenizer: Path) -> None:
    said: list[str] = []
    manifest = export_files([jsonl], tokenizer, tmp_path / "out", progress=said.append)
    assert [line.split(":")[0] for line in said] == [shard.file for shard in manifest.shards]


@pytest.mark.parametrize(("suffix", "opener"), [(".jsonl.gz", gzip.open), (".jsonl.xz", lzma.open)])
def test_compressed_text_is_the_same_text(tmp_path: Path, texts: list[str], jsonl: Path, suffix: str, opener) -> None:
    path = tmp_path / f"packed{suffix}"
    with opener(path, "wb") as file:
        file.write(jsonl.read_bytes() + b"\n  \n")
    assert list(read_texts(path)) == texts
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=rf"packed{suffix}: cannot be read after line \d+"):
        list(read_texts(path))
    path.write_bytes(b"plain text\n")
    with pytest.raises(DataError, match=rf"packed{suffix}: cannot be read after line 0"):
        list(read_texts(path))


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b'{"words": "a"}',
        b'{"text": 3}',
        b'["text"]',
        b'{"text": "\xff"}',
        b'{"text": "\\ud800"}',
        b'"text"',
    ],
)
def test_bad_line_is_named(tmp_path: Path, tokenizer: Path, line: bytes) -> None:
    path = tmp_path / "text.jsonl"
    path.write_bytes(b'{"text": "a"}\n\n' + line + b'\n{"text": "b"}\n')
    with pytest.raises(DataError, match=r"text\.jsonl, line 3: not a JSON object"):
        export_files([path], tokenizer, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [path]  # nothing half done is left behind


def test_missing_text_is_named(tmp_path: Path, tokenizer: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl: no such file"):
        export_files([tmp_path / "none.jsonl"], tokenizer, tmp_path / "out")


def test_empty_input_and_empty_splits(tmp_path: Path, tokenizer: Path) -> None:
    path = tmp_path / "text.jsonl"
    path.write_text("\n")
    with pytest.raises(DataError, match=r"text\.jsonl: holds no document"):
        export_files([path], tokenizer, tmp_path / "out")
    path.write_text('{"text": "a"}\n{"text": "a"}\n')
    with pytest.raises(DataError, match=r"none of the 2 documents falls to the validation split; .* raise"):
        export_files([path], tokenizer, tmp_path / "out", val_fraction=1e-9)
    with pytest.raises(DataError, match=r"none of the 2 documents falls to the training split; .* lower"):
        export_files([path], tokenizer, tmp_path / "out", val_fraction=1 - 1e-9)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_fraction_lies_between_0_and_1(tmp_path: Path, jsonl: Path, tokenizer: Path, fraction: float) -> None:
    with pytest.raises(DataError, match="--val-fraction"):
        export_files([jsonl], tokenizer, tmp_path / "out", val_fraction=fraction)


def test_occupied_folder_is_refused(tmp_path: Path, jsonl: Path, tokenizer: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").write_text("mine")
    with pytest.raises(DataError, match="out: exists and is not an empty folder"):
        export_files([jsonl], tokenizer, out)
    with pytest.raises(DataError, match="precious: exists and is not an empty folder"):
        export_files([jsonl], tokenizer, out / "precious")
    assert [path.name for path in out.iterdir()] == ["precious"]
    (out / "precious").unlink()
    assert export_files([jsonl], tokenizer, out) == load_manifest(out)


def test_folder_filled_meanwhile_is_refused(tmp_path: Path, texts: list[str], tokenizer: Path) -> None:
    out = tmp_path / "out"

    def documents():
        yield "train", texts[0]
        yield "val", texts[1]
        out.mkdir()
        (out / "precious").write_text("mine")

    with pytest.raises(DataError, match="out: exists and is not an empty folder"):
        export_documents(documents(), tokenizer, out, "made up")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (out / "precious").read_text() == "mine"


def test_tokenizer_must_have_the_challenges_bos(tmp_path: Path, jsonl: Path) -> None:
    path = tmp_path / "t.model"
    sentencepiece.SentencePieceTrainer.train(
        input=str(jsonl),
        model_prefix=str(path.with_suffix("")),
        vocab_size=60,
        character_coverage=1.0,
        model_type="char",
        hard_vocab_limit=False,
        bos_id=-1,
        minloglevel=2,
    )
    with pytest.raises(DataError, match=r"t\.model: BOS has the id -1"):
        export_files([jsonl], path, tmp_path / "out")


def test_check_reports_the_folder(folder: Path) -> None:
    record = check_data(folder, folder / "tokenizer.model", VOCAB, seq_len=64)
    manifest = load_manifest(folder)
    assert record.path == str(folder)
    assert record.tokenizer_sha256 == manifest.tokenizer_sha256
    assert record.train_tokens == sum(shard.tokens for shard in manifest.train)
    assert record.val_tokens == sum(shard.tokens for shard in manifest.val)
    assert record.checksums == {shard.file: shard.sha256 for shard in manifest.shards}
    (folder / MANIFEST).unlink()
    assert check_data(folder, folder / "tokenizer.model", VOCAB, seq_len=64) == record


def test_check_finds_changed_shards(folder: Path) -> None:
    path = folder / "fineweb_train_000001.bin"
    tokens = np.array(read_shard(path))
    tokens[5] = 300 if tokens[5] != 300 else 301
    write_shard(path, tokens)
    with pytest.raises(DataError, match=r"train_000001\.bin: its checksum is not the manifest's"):
        check_data(folder, folder / "tokenizer.model", VOCAB, seq_len=64)
    (folder / MANIFEST).unlink()
    check_data(folder, folder / "tokenizer.model", VOCAB, seq_len=64)


def test_check_finds_missing_and_foreign_shards(folder: Path) -> None:
    last = train_shards(folder)[-1]
    last.rename(folder / "fineweb_val_000099.bin")
    with pytest.raises(DataError, match=rf"{last.name}: missing, though the manifest lists it"):
        check_data(folder, folder / "tokenizer.model", VOCAB, seq_len=64)
    write_shard(last, read_shard(folder / "fineweb_val_000099.bin"))
    with pytest.raises(DataError, match=r"val_000099\.bin: not listed in the folder's manifest"):
        check_data(folder, folder / "tokenizer.model", VOCAB, seq_len=64)


@pytest.mark.parametrize("split", ["train", "val"])
def test_check_scans_every_token(folder: Path, split: str) -> None:
    (folder / MANIFEST).unlink()
    path = folder / f"fineweb_{split}_000001.bin"
    tokens = np.array(read_shard(path))
    tokens[-1] = VOCAB
    write_shard(path, tokens)
    with pytest.raises(DataError, match=rf"{path.name}: holds the token id {VOCAB}, outside the vocabulary of {VOCAB}"):
        check_data(folder, folder / "tokenizer.model", VOCAB, seq_len=64)


def test_check_finds_damage(folder: Path) -> None:
    path = folder / "fineweb_val_000000.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"val_000000\.bin: truncated"):
        check_data(folder, folder / "tokenizer.model", VOCAB, seq_len=64)


def test_check_wants_a_row_of_each_split(tmp_path: Path, tokenizer: Path) -> None:
    for short, other in (("train", "val"), ("val", "train")):
        write_shard(tmp_path / f"fineweb_{short}_000000.bin", np.ones(64, np.uint16))
        write_shard(tmp_path / f"fineweb_{other}_000000.bin", np.ones(65, np.uint16))
        with pytest.raises(DataError, match=r"64 (training|validation) tokens are less than one row .* 65"):
            check_data(tmp_path, tokenizer, VOCAB, seq_len=64)
    write_shard(tmp_path / "fineweb_val_000000.bin", np.ones(65, np.uint16))
    check_data(tmp_path, tokenizer, VOCAB, seq_len=64)


def test_check_finds_a_tokenizer_that_does_not_fit(folder: Path, tmp_path: Path, texts: list[str]) -> None:
    with pytest.raises(DataError, match=r"has 360 pieces but the model's vocab_size is 1024"):
        check_data(folder, folder / "tokenizer.model", 1024, seq_len=64)
    other = tmp_path / "other.model"
    other.write_bytes(train_tokenizer([text.upper() for text in texts], VOCAB))
    with pytest.raises(DataError, match=r"other\.model: not the tokenizer that the shards in .*tokenizer\.model"):
        check_data(folder, other, VOCAB, seq_len=64)


@pytest.mark.parametrize("content", ["{", '{"kind": "export"}', '{"kind": "theft"}', "[]"])
def test_damaged_manifest_is_named(folder: Path, content: str) -> None:
    (folder / MANIFEST).write_text(content)
    with pytest.raises(DataError, match=r"manifest\.json.*export the data again"):
        check_data(folder, folder / "tokenizer.model", VOCAB, seq_len=64)


def test_check_of_nothing(tmp_path: Path, tokenizer: Path) -> None:
    with pytest.raises(DataError, match="no such data folder"):
        check_data(tmp_path / "none", tokenizer, VOCAB, seq_len=64)
