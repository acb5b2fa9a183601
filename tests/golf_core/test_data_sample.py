"""The sample data set: the same bytes every time, exact byte counts, one builder at a time."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from golf_core.data import sample
from golf_core.data.manifest import check_data, load_manifest
from golf_core.data.sample import build_sample, default_sample_folder, library_documents, train_tokenizer
from golf_core.data.shards import read_shard, train_shards, val_shards
from golf_core.data.tokenizer import byte_table, load_tokenizer
from golf_core.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
BUILDER = """
import sys
from pathlib import Path
from golf_core.data.sample import build_sample
print("ready", flush=True)
sys.stdin.readline()
build_sample(Path(sys.argv[1]), progress=lambda message: print(message, flush=True))
"""


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sample, built once for all tests; none may change it."""
    return build_sample(tmp_path_factory.mktemp("cache") / "deep" / "sample")


@pytest.fixture(scope="session")
def documents() -> list[str]:
    return library_documents()


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "sample"
    folder.mkdir()
    for path in built.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_sample_is_sound_and_large_enough(built: Path) -> None:
    record = check_data(built, built / "tokenizer.model", 1024, seq_len=2048)
    assert record.train_tokens > 2_000_000
    assert record.val_tokens > 150_000
    manifest = load_manifest(built)
    assert manifest.kind == "sample"
    assert manifest.python == platform.python_version()
    assert sum(shard.documents for shard in manifest.shards) > 2000
    assert 4_000_000 < sum(shard.bytes for shard in manifest.shards) < 12_000_000


def test_decoding_gives_back_the_documents_and_bytes_are_exact(built: Path, documents: list[str]) -> None:
    processor = load_tokenizer(built / "tokenizer.model", 1024)
    table = byte_table(processor)
    found = []
    for paths in (train_shards(built), val_shards(built)):
        tokens = np.concatenate([read_shard(path) for path in paths])
        texts = [processor.decode(t.tolist()) for t in np.split(tokens, np.flatnonzero(tokens == 1)[1:])]
        counted = int(table.token_bytes(tokens[:-1], tokens[1:]).sum(dtype=np.int64))
        assert counted == sum(len(text.encode()) for text in texts)
        found.append(set(texts))
    assert not found[0] & found[1]
    assert found[0] | found[1] == set(documents)


def test_tokenizer_is_like_the_challenges(built: Path) -> None:
    processor = load_tokenizer(built / "tokenizer.model", 1024)
    ids = (processor.pad_id(), processor.bos_id(), processor.eos_id(), processor.unk_id())
    assert ids == (0, 1, 2, 3)
    assert [processor.id_to_piece(4 + byte) for byte in range(256)] == [f"<0x{byte:02X}>" for byte in range(256)]
    pieces = [processor.id_to_piece(token) for token in range(260, 1024)]
    assert not any(sum(c.isdigit() for c in piece) > 1 for piece in pieces)
    assert not any("▁" in piece[1:] for piece in pieces)  # more than one "▁" would be miscounted


@pytest.mark.parametrize(
    "text", ["if x:\n    return  1\n\n\tend ", "e\u0301 é \ufb01 \uff21", "日本 🙂\r\n", "<s> <0x41> </s>"]
)
def test_tokenizer_keeps_text_as_it_is(built: Path, text: str) -> None:
    processor = load_tokenizer(built / "tokenizer.model", 1024)
    tokens = np.array([1, *processor.encode(text)])
    assert processor.decode(tokens.tolist()) == text
    assert byte_table(processor).token_bytes(tokens[:-1], tokens[1:]).sum() == len(text.encode())


def test_documents_read_like_the_library(documents: list[str]) -> None:
    everything = "\n".join(documents)
    assert 'def heappush(heap, item):\n    """Push item onto heap' in everything
    assert '"assert" statement' in everything  # from the language reference
    assert all(document == document.strip() and document for document in documents)
    assert len(set(documents)) == len(documents)


def test_racing_builders_elsewhere_make_the_same_bytes_once(built: Path, tmp_path: Path) -> None:
    """Two processes at once, with other hash seeds and another locale than this one's."""
    folder = tmp_path / "sample"
    builders = [
        subprocess.Popen(
            [sys.executable, "-c", BUILDER, str(folder)],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed, "LC_ALL": "C", "PYTHONUTF8": "0"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    for builder in builders:
        assert builder.stdout is not None
        assert builder.stdout.readline() == "ready\n"
    # Both have done their imports: let them go together.
    for builder in builders:
        assert builder.stdin is not None
        builder.stdin.write("\n")
        builder.stdin.flush()
    said = "".join(builder.communicate(timeout=120)[0] for builder in builders)
    assert [builder.returncode for builder in builders] == [0, 0]
    assert said.count("training a tokenizer") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"sample", ".sample.lock"}
    for path in built.iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes(), path.name


def test_second_call_only_looks(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "_build", lambda *_: pytest.fail("built again"))
    before = {path.name: path.stat().st_mtime_ns for path in built.iterdir()}
    assert build_sample(built) == built
    assert {path.name: path.stat().st_mtime_ns for path in built.iterdir()} == before


def test_failed_build_leaves_no_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(message: str) -> None:
        if message.startswith("fineweb_train"):
            raise KeyboardInterrupt

    texts = [f"document {i} of some words " * 20 for i in range(200)]
    monkeypatch.setattr(sample, "library_documents", lambda: texts)
    monkeypatch.setattr(sample, "LEAST_BYTES", 1)
    with pytest.raises(KeyboardInterrupt):
        build_sample(tmp_path / "sample", 300, progress=interrupted)
    assert [path.name for path in tmp_path.iterdir()] == [".sample.lock"]
    assert build_sample(tmp_path / "sample", 300) == tmp_path / "sample"
    with pytest.raises(DataError, match="holds a sample with 300 pieces, not 1024"):
        build_sample(tmp_path / "sample")


@pytest.mark.parametrize("name", ["fineweb_val_000000.bin", "tokenizer.model"])
def test_damaged_cache_is_refused(copy: Path, name: str) -> None:
    if name.endswith(".bin"):
        (copy / name).write_bytes((copy / name).read_bytes()[:-2])
        with pytest.raises(DataError, match="the sample is built again"):
            build_sample(copy)
    (copy / name).unlink()
    with pytest.raises(DataError, match="the sample is built again"):
        build_sample(copy)


def test_other_data_is_never_overwritten(copy: Path, tmp_path: Path) -> None:
    values = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**values, "kind": "export"}))
    with pytest.raises(DataError, match="holds other data than a sample"):
        build_sample(copy)
    (copy / "manifest.json").unlink()
    with pytest.raises(DataError, match="exists and is not an empty folder"):
        build_sample(copy)
    assert (copy / "tokenizer.model").exists()


def test_missing_sources_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "library_documents", lambda: ["import this"])
    with pytest.raises(DataError, match=r"holds only 11 bytes of Python sources.*golf data export"):
        build_sample(tmp_path / "sample")


def test_folder_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="XDG_CACHE_HOME"):
        build_sample(tmp_path / "file" / "sample")


def test_impossible_vocabulary_is_explained() -> None:
    with pytest.raises(DataError, match="cannot give a tokenizer of 100000 pieces"):
        train_tokenizer(["a few words"], 100_000)


def test_default_folder_follows_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"sample-{platform.python_version()}-v{sample.SAMPLE_VERSION}"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_sample_folder() == tmp_path / "cache" / "parameter-golf" / name
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert default_sample_folder() == tmp_path / "home" / ".cache" / "parameter-golf" / name


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A little library with everything that must be left out."""
    folder = tmp_path / "library"
    sources = {
        "a.py": '"""Module a."""\n',
        "package/b.py": "".join(f"\n\n# About f{i}.\n@cached\ndef f{i}():\n    return {i}\n" for i in range(300)),
        "package/c.py": "class C:\n" + "".join(f"    def m{i}(self):\n        return '\f'\n\n" for i in range(300)),
        "pydoc_data/topics.py": "topics = {'x': 'About x.\\n', 'y': r'''About y.'''}\n",
        "tests/t.py": "'left out'\n",
        "package/test/t.py": "'left out'\n",
        "site-packages/p.py": "'left out'\n",
        "encodings/cp.py": "'left out'\n",
        "_sysconfigdata_linux.py": "'left out'\n",
        "config-3/makesetup.py": "'left out'\n",
        "broken.py": "left out (\n",
        "block.py": "'left out: ▁'\n",
        "latin.py": "# coding: latin-1\nname = 'é'\n",
        "same.py": '"""Module a."""\n\n',
        "empty.py": "",
    }
    for name, source in sources.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.encode("latin-1" if name == "latin.py" else "utf-8"))
    return folder


def test_documents_of_a_library(library: Path) -> None:
    documents = library_documents(library)
    assert not any("left out" in document for document in documents)
    assert {'"""Module a."""', "About x.", "About y.", "# coding: latin-1\nname = 'é'"} <= set(documents)
    functions = [document for document in documents if "def f" in document]
    assert len(functions) > 3
    # A definition keeps its comment and decorator, and none is lost or doubled.
    assert all(document.startswith("# About f") for document in functions)
    assert sum(document.count("def f") for document in functions) == 300
    methods = [document for document in documents if "def m" in document]
    assert sum(document.count("def m") for document in methods) == 300
    assert sum(document.startswith("def m") for document in methods) == len(methods) - 1
    assert all(len(document) < 2 * sample.DOCUMENT_CHARACTERS for document in functions + methods)


def test_order_does_not_depend_on_the_file_system(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = library_documents(library)
    found = Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda self, pattern: sorted(found(self, pattern), reverse=True))
    assert library_documents(library) == expected
    assert expected != sorted(expected)
