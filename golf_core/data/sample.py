"""A small data set that needs no download: the text of Python's own standard library.

The library's modules, with their documentation and comments, are cut into documents; a tokenizer like the
challenge's is trained on them. One Python version always gives the same bytes.
"""

from __future__ import annotations

import ast
import fcntl
import hashlib
import io
import os
import platform
import sysconfig
import tempfile
import textwrap
import tokenize
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sentencepiece

from golf_core.data.export import Progress, Split, export_documents, refuse_occupied, silent, split_of
from golf_core.data.manifest import MANIFEST, load_manifest
from golf_core.data.shards import HEADER_BYTES, TOKEN_BYTES
from golf_core.data.tokenizer import SPACE
from golf_core.errors import DataError

SAMPLE_VERSION = 1
"""Raised whenever the same Python would give other bytes, so that old caches are left alone."""

VAL_FRACTION = 0.06
"""Share of the documents; a little over the usual one, as the whole text is small."""
DOCUMENT_CHARACTERS = 2000
"""A document ends with the first definition that takes it past this length."""
LEAST_BYTES = 2_000_000
"""Less text than this means that the sources are not installed."""

INSTALLED_BESIDE = {"__pycache__", "site-packages", "dist-packages", "lib-dynload"}
TESTS = {"test", "tests", "idle_test"}
# Some distributions drop these or package them apart, and the sample should not depend on that.
NOT_EVERYWHERE = {"idlelib", "tkinter", "turtledemo", "lib2to3", "distutils", "ensurepip"}
TABLES = {"encodings"}
SKIPPED = frozenset(INSTALLED_BESIDE | TESTS | NOT_EVERYWHERE | TABLES)
"""Folders of the library that are left out."""
TOPICS = "pydoc_data/topics.py"


def default_sample_folder() -> Path:
    """Where the sample is cached: under $XDG_CACHE_HOME or ~/.cache, named by Python and sample version."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification has relative paths ignored.
    base = Path(cache) if Path(cache).is_absolute() else Path.home() / ".cache"
    return base / "parameter-golf" / f"sample-{platform.python_version()}-v{SAMPLE_VERSION}"


def build_sample(folder: Path, vocab_size: int = 1024, progress: Progress = silent) -> Path:
    """Make the sample data set in `folder`, unless it is there already, and return `folder`.

    The folder holds shards of both splits, `tokenizer.model` with `vocab_size` pieces and a manifest. It
    appears whole; several processes may ask for it at once, and one of them builds it. Raises `DataError`
    when the folder holds something else or is damaged, or the standard library's sources are not installed.
    """
    if _is_built(folder, vocab_size):
        return folder
    with _lock(folder):
        if not _is_built(folder, vocab_size):
            _build(folder, vocab_size, progress)
    return folder


def library_documents(library: Path | None = None) -> list[str]:
    """The documents of the standard library (or of the folder `library`), in an order that looks random.

    Each is stripped text without "▁", which the tokenizer could not tell from a space. No two are equal. The
    order is that of their SHA-256, whatever the file system's.
    """
    library = library or Path(sysconfig.get_path("stdlib"))
    documents = {document for path in _modules(library) for document in _module_documents(library, path)}
    return sorted(
        (document for document in documents if document and SPACE not in document),
        key=lambda document: hashlib.sha256(document.encode("utf-8")).digest(),
    )


def train_tokenizer(documents: list[str], vocab_size: int) -> bytes:
    """A SentencePiece BPE model with the challenge's ids: pad, bos, eos, unk = 0 … 3, byte pieces from 4.

    Unlike the challenge's it leaves text as it is (no Unicode normalisation, spaces kept), so that decoding
    gives back the text and the bytes of tokens are the bytes of the text. Raises `DataError` when the text
    cannot give `vocab_size` pieces.
    """
    model = io.BytesIO()
    try:
        _train(documents, vocab_size, model)
    except RuntimeError:
        raise DataError(
            f"vocab_size: {len(documents)} documents cannot give a tokenizer of {vocab_size} pieces; 1024 is usual"
        ) from None
    return model.getvalue()


def _train(documents: list[str], vocab_size: int, model: io.BytesIO) -> None:
    sentencepiece.SentencePieceTrainer.train(
        # Lines, as from a file: line ends are left to the byte pieces.
        sentence_iterator=(line for document in documents for line in document.splitlines() if line),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        character_coverage=0.999,
        split_digits=True,
        byte_fallback=True,
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        num_threads=1,  # for the same model every time
        minloglevel=2,
    )


def _build(folder: Path, vocab_size: int, progress: Progress) -> None:
    refuse_occupied(folder)  # before any work
    progress("reading Python's standard library")
    documents = library_documents()
    size = sum(len(document.encode("utf-8")) for document in documents)
    if size < LEAST_BYTES:
        raise DataError(
            f"{sysconfig.get_path('stdlib')}: holds only {size:,} bytes of Python sources, too few for a "
            "sample; install the standard library's sources or use `golf data export`"
        )
    progress(f"training a tokenizer of {vocab_size} pieces on {len(documents):,} documents, {size:,} bytes")
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer = Path(scratch) / "tokenizer.model"
        tokenizer.write_bytes(train_tokenizer(documents, vocab_size))
        progress("writing shards")
        splits: Iterator[tuple[Split, str]] = ((split_of(text, VAL_FRACTION), text) for text in documents)
        source = f"standard library of Python {platform.python_version()}, sample version {SAMPLE_VERSION}"
        export_documents(splits, tokenizer, folder, source, kind="sample", progress=progress)


def _is_built(folder: Path, vocab_size: int) -> bool:
    """Whether the sample lies there; sizes are compared, contents are left to `check_data`."""
    if not (folder / MANIFEST).exists():
        return False
    manifest = load_manifest(folder)
    if manifest.kind != "sample":
        raise DataError(f"{folder}: holds other data than a sample; choose another folder")
    if manifest.vocab_size != vocab_size:
        raise DataError(
            f"{folder}: holds a sample with {manifest.vocab_size} pieces, not {vocab_size}; "
            "choose another folder or remove it"
        )
    expected = {shard.file: HEADER_BYTES + TOKEN_BYTES * shard.tokens for shard in manifest.shards}
    for name, size in expected.items():
        if not (folder / name).is_file() or (folder / name).stat().st_size != size:
            raise DataError(f"{folder / name}: missing or damaged; remove {folder} and the sample is built again")
    if not (folder / manifest.tokenizer).is_file():
        raise DataError(f"{folder / manifest.tokenizer}: missing; remove {folder} and the sample is built again")
    return True


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Hold the lock file beside `folder`. The system lets go of it when the process dies, however it dies."""
    folder = folder.resolve()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        file = (folder.parent / f".{folder.name}.lock").open("w")
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be made ({error.strerror}); choose a folder that you may write, "
            "or set XDG_CACHE_HOME to one"
        ) from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _modules(library: Path) -> list[Path]:
    return [
        path
        for path in library.rglob("*.py")
        if not SKIPPED.intersection(path.relative_to(library).parts)
        # Both describe how and where this Python was built.
        and not path.name.startswith("_sysconfigdata")
        and not path.relative_to(library).parts[0].startswith("config-")
    ]


def _module_documents(library: Path, path: Path) -> list[str]:
    try:
        with tokenize.open(path) as file:
            source = file.read()
        tree = ast.parse(source)
    except (SyntaxError, ValueError, OSError):
        return []  # not a module of this Python
    if path.relative_to(library).as_posix() == TOPICS:
        return _topics(tree)
    pieces = _cut(source, _definition_lines(tree))
    return [textwrap.dedent(piece).strip() for piece in pieces]


def _topics(tree: ast.Module) -> list[str]:
    """The language reference as pydoc carries it: one long text a topic, in a dictionary."""
    dictionary = next((node.value for node in tree.body if isinstance(node, (ast.Assign, ast.AnnAssign))), None)
    if not isinstance(dictionary, ast.Dict):
        return []
    texts = [value.value for value in dictionary.values if isinstance(value, ast.Constant)]
    return [text.strip() for text in texts if isinstance(text, str)]


def _definition_lines(tree: ast.Module) -> list[int]:
    """Where a document may begin: lines, counted from 0, of the module's definitions and of its classes'."""
    lines: list[int] = []
    bodies = [tree.body, *(node.body for node in tree.body if isinstance(node, ast.ClassDef))]
    for node in (node for body in bodies for node in body):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            lines.append(first - 1)
    return sorted(lines)


def _cut(source: str, starts: list[int]) -> list[str]:
    # Not `splitlines`: ast counts lines by newlines alone, while form feeds occur within the library's.
    lines = source.split("\n")
    pieces, begin, length, end = [], 0, 0, 0
    for start in starts:
        while start > end and lines[start - 1].lstrip().startswith("#"):
            start -= 1  # a comment above a definition belongs to it
        length += sum(len(line) + 1 for line in lines[end:start])
        end = start
        if length >= DOCUMENT_CHARACTERS:
            pieces.append("\n".join(lines[begin:start]))
            begin, length = start, 0
    return [*pieces, "\n".join(lines[begin:])]
