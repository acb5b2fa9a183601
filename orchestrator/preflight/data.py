"""A job's data on this machine: shards, tokenizer, manifest, and that validation is none of the training text."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from golf_core.data.manifest import MANIFEST, check_data, load_manifest
from golf_core.data.shards import read_shard, train_shards, val_shards
from golf_core.data.tokenizer import BOS, load_tokenizer
from golf_core.errors import DataError, UserError
from golf_core.files import sha256
from golf_core.results import MIB
from orchestrator.preflight.findings import Finding, error, from_error, ok, warning
from orchestrator.preflight.overlap import TRAIN_TOKENS, WINDOW, Overlap, overlap

WHOLE_BYTES = 2048 * MIB
"""Shards of no more than this in all are read and hashed whole, even where seconds count."""
SAMPLED = 65_536
"""Tokens of each shard that are looked at otherwise."""
DOCUMENTS, DOCUMENT_TOKENS = 20, 2000
CUT_TOKENS = 8
"""At the end of a document that may be cut, tokens may be others."""
FEW_FOUND, MANY_FOUND = 0.05, 0.25
"""Shares that call for a warning and for a refusal: of the validation text in all training shards, by extrapolation,
and of the windows in what was searched. Some 3% of technical prose repeats itself."""


def check_data_folder(
    data: Mapping[str, str] | None,
    vocab_size: int,
    seq_len: int,
    checksums: Mapping[str, str] | None = None,
    whole_bytes: int = WHOLE_BYTES,
    search_tokens: int = TRAIN_TOKENS,
) -> list[Finding]:
    """All checks of the data on this machine; `data` as the ranks get it, None for the sample corpus.

    `checksums` (by shard) come from a `check_data` of this folder that has just passed, which is then not repeated.
    More than `whole_bytes` of shards are sampled instead of read; the finding says so. Of the training shards
    `search_tokens` are searched for validation text, a second for each 100 million. Never raises `UserError`.
    """
    if data is None:
        from golf_core.data.sample import default_sample_folder

        folder = default_sample_folder()
        if not (folder / MANIFEST).exists():
            return [ok("the sample corpus is built on first use", f"data, {platform.node()}")]
        data = {"path": str(folder), "tokenizer": str(folder / "tokenizer.model")}
    folder, tokenizer = Path(data["path"]), Path(data["tokenizer"])
    where = f"{folder}, {platform.node()}"
    try:
        train, val = train_shards(folder), val_shards(folder)
        size = sum(path.stat().st_size for path in (*train, *val))
        if checksums is not None:
            findings = [ok(f"{len(train)} training and {len(val)} validation shards, read whole and hashed", where)]
        elif size <= whole_bytes:
            record = check_data(folder, tokenizer, vocab_size, seq_len)
            checksums = record.checksums
            findings = [_read_whole(folder, len(train), len(val), record.train_tokens, record.val_tokens, where)]
        else:
            findings = [_sampled(folder, tokenizer, vocab_size, seq_len, size, where)]
        findings.append(check_tokenizer(tokenizer, vocab_size, val))
        findings.append(judge_overlap(overlap(train, val, checksums, train_tokens=search_tokens), where))
    except UserError as problem:
        return from_error(problem, where)
    except OSError as problem:
        return [error(f"cannot be read ({problem.strerror})", where, "check the path and its permissions")]
    return findings


def judge_overlap(found: Overlap, where: str) -> Finding:
    """What a search for validation text among the training shards means."""
    what = (
        f"{found.found} of {found.windows} sampled {WINDOW}-token windows of the validation text occur in the "
        f"{found.train_tokens_searched:,} training tokens searched ({found.searched:.0%} of all)"
    )
    remedy = "train on other shards, or export the data again"
    if found.same_files:
        pairs = ", ".join(f"{one} = {other}" for one, other in found.same_files[:3])
        return error(f"training shards begin like validation shards: {pairs}", where, remedy)
    if found.found >= MANY_FOUND * found.windows > 0:
        return error(what, where, remedy)
    if found.found >= 3 and found.share >= FEW_FOUND:
        return warning(what, where, f"see whether it is text that repeats itself; if not, {remedy}")
    return ok(what, where)


def check_tokenizer(tokenizer: Path, vocab_size: int, val: list[Path]) -> Finding:
    """Whether the tokenizer makes the validation shards' tokens again from their own text. Raises `DataError`."""
    processor: Any = load_tokenizer(tokenizer, vocab_size)
    tokens = np.asarray(read_shard(val[0])[: DOCUMENTS * DOCUMENT_TOKENS]).tolist()
    if max(tokens) >= vocab_size:
        raise DataError(
            f"{val[0]}: holds the token id {max(tokens)}, outside the vocabulary of {vocab_size}; use the tokenizer "
            "that the shards were made with, or export them again"
        )
    documents = _documents(tokens)
    same = sum(_comes_again(processor, document) for document in documents)
    what = f"{same} of {len(documents)} validation documents give the same tokens again when their text is encoded"
    where, remedy = str(tokenizer), "use the tokenizer that the shards were made with"
    if same < 0.5 * len(documents):
        return error(what, where, remedy)
    return ok(what, where) if same >= 0.9 * len(documents) else warning(what, where, f"if in doubt, {remedy}")


def _comes_again(processor: Any, document: list[int]) -> bool:
    end = max(len(document) - CUT_TOKENS, 1)
    return bool(processor.encode(processor.decode(document))[:end] == document[:end])


def _documents(tokens: list[int]) -> list[list[int]]:
    """The documents that begin within `tokens`; all of it where none does."""
    documents: list[list[int]] = [[]]
    for token in tokens:
        if token == BOS:
            documents.append([])
        else:
            documents[-1].append(token)
    begun = [document for document in documents[1:] if document]
    return (begun or documents)[:DOCUMENTS]


def _read_whole(folder: Path, train: int, val: int, train_tokens: int, val_tokens: int, where: str) -> Finding:
    listed = f"checksums are those of {MANIFEST}" if (folder / MANIFEST).exists() else f"no {MANIFEST} to compare with"
    return ok(
        f"{train} training and {val} validation shards, {train_tokens:,} and {val_tokens:,} tokens, all read; {listed}",
        where,
    )


def _sampled(folder: Path, tokenizer: Path, vocab_size: int, seq_len: int, size: int, where: str) -> Finding:
    """Headers and sizes of all shards, token ids of a part of each, names and counts of the manifest."""
    train, val = train_shards(folder), val_shards(folder)
    counts = {}
    for path in (*train, *val):
        tokens = read_shard(path)
        counts[path.name] = len(tokens)
        largest = max(int(tokens[:SAMPLED].max()), int(tokens[-SAMPLED:].max()))
        if largest >= vocab_size:
            raise DataError(
                f"{path}: holds the token id {largest}, outside the vocabulary of {vocab_size}; use the tokenizer "
                "that the shards were made with, or export them again"
            )
    for split, shards in (("training", train), ("validation", val)):
        if sum(counts[path.name] for path in shards) <= seq_len:
            raise DataError(f"{folder}: the {split} shards have not one row of {seq_len + 1} tokens; export more text")
    if (folder / MANIFEST).exists():
        manifest = load_manifest(folder)
        written = {shard.file: shard.tokens for shard in manifest.shards}
        for name in sorted(written.keys() | counts.keys()):
            if written.get(name) != counts.get(name):
                raise DataError(
                    f"{folder / name}: {counts.get(name, 'no'):} tokens, in {MANIFEST} {written.get(name, 'no')}; "
                    "export the data again"
                )
        if manifest.tokenizer_sha256 != sha256(tokenizer):
            raise DataError(f"{tokenizer}: not the tokenizer of {MANIFEST}; use {folder / manifest.tokenizer}")
    return ok(
        f"{len(train)} training and {len(val)} validation shards: headers, sizes and {SAMPLED:,} token ids at both "
        f"ends of each; {size / MIB / 1024:.0f} GiB are not hashed here but on the nodes",
        where,
    )
