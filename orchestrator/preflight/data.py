"""A job's data on this machine: shards, tokenizer, manifest, and that validation is none of the training text."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golf_core.data.manifest import MANIFEST, check_data, load_manifest
from golf_core.data.shards import Tokens, read_shard, train_shards, val_shards
from golf_core.data.tokenizer import BOS, load_tokenizer
from golf_core.errors import DataError, UserError
from golf_core.files import sha256
from golf_core.results import MIB
from orchestrator.preflight.findings import Finding, error, from_error, ok, warning

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
TRAIN_TOKENS = 100_000_000
"""Tokens of the training shards that are searched at the most."""


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


# --- validation text among the training text ---

WINDOW = 64
"""Tokens that must agree in a row: some 250 characters."""
WINDOWS = 1024
BLOCK = 4_000_000
"""Tokens that are read in a row."""
STEP = 65_536
IDS = 65_536
TABLE_BITS = 22


@dataclass(frozen=True)
class Overlap:
    """What a search of the training shards for windows of the validation text found."""

    windows: int
    """Looked up, of 64 tokens each."""
    found: int
    """Windows that were found in the part of the training shards that was searched."""
    train_tokens: int
    train_tokens_searched: int
    same_files: tuple[tuple[str, str], ...]
    """Pairs of a training and a validation shard with equal beginnings."""

    @property
    def searched(self) -> float:
        """Share of the training tokens."""
        return self.train_tokens_searched / self.train_tokens

    @property
    def share(self) -> float:
        """Share (0 to 1) of the validation text expected in all training shards, if what was not searched is alike."""
        return min(self.found / (self.windows * self.searched), 1.0) if self.windows else 0.0


def overlap(
    train: Sequence[Path],
    val: Sequence[Path],
    checksums: Mapping[str, str] | None = None,
    windows: int = WINDOWS,
    train_tokens: int = TRAIN_TOKENS,
) -> Overlap:
    """Search at most `train_tokens` tokens of the training shards for `windows` windows of the validation shards.

    Windows lie evenly over the validation text, the tokens that are searched in blocks evenly over the training
    shards. Shards count as the same when their checksums (by file name) or their first tokens are equal. A text that
    repeats itself, as licences do on the web, may be found without any leak. Raises `DataError` for a damaged shard.
    """
    sample = _windows([read_shard(path) for path in val], windows)
    shards = [read_shard(path) for path in train]
    total = sum(map(len, shards))
    finder = _Finder(sample)
    searched = 0
    for block in _blocks(shards, total, train_tokens):
        searched += len(block)
        finder.search(block)
    return Overlap(
        len(sample), int(finder.found.sum()), total, min(searched, total), _same_files(train, val, checksums or {})
    )


class _Finder:
    """Looks a fixed set of windows up in stretches of tokens."""

    def __init__(self, windows: NDArray[np.uint16]) -> None:
        """windows: [n, WINDOW]."""
        self._windows = windows
        self.found = np.zeros(len(windows), dtype=bool)
        # Of each window, the pair of neighbours that is rarest among all windows: there are few candidates then.
        pairs = windows[:, :-1].astype(np.int64) * IDS + windows[:, 1:]
        _, inverse, counts = np.unique(pairs, return_inverse=True, return_counts=True)
        if not len(windows):
            return
        self._offset = counts[inverse.reshape(pairs.shape)].argmin(axis=1)
        self._key = pairs[np.arange(len(windows)), self._offset]
        self._table = np.zeros(1 << TABLE_BITS, dtype=bool)
        self._table[_slot((self._key // IDS).astype(np.uint16), (self._key % IDS).astype(np.uint16))] = True

    def search(self, tokens: Tokens) -> None:
        """Mark the windows that occur in `tokens` [n]."""
        if self.found.all() or len(tokens) < WINDOW:
            return
        # One look at a small table leaves few positions of which the pair itself is compared.
        candidates = np.flatnonzero(self._table[_slot(tokens[:-1], tokens[1:])])
        keys = tokens[candidates].astype(np.int64) * IDS + tokens[candidates + 1]
        order = np.argsort(keys, kind="stable")
        candidates, keys = candidates[order], keys[order]
        low = np.searchsorted(keys, self._key, side="left")
        high = np.searchsorted(keys, self._key, side="right")
        for index in np.flatnonzero((high > low) & ~self.found):
            starts = candidates[low[index] : high[index]] - self._offset[index]
            self.found[index] = self._matches(tokens, starts, self._windows[index])

    @staticmethod
    def _matches(tokens: Tokens, starts: NDArray[np.int64], window: NDArray[np.uint16]) -> bool:
        starts = starts[(starts >= 0) & (starts + WINDOW <= len(tokens))]
        for offset in range(WINDOW):
            if not len(starts):
                return False
            starts = starts[tokens[starts + offset] == window[offset]]
        return bool(len(starts))


def _slot(first: NDArray[np.uint16], second: NDArray[np.uint16]) -> NDArray[np.uint32]:
    """Where a pair of neighbours stands in the table: apart for vocabularies up to 2,048."""
    return ((first.astype(np.uint32) << np.uint32(TABLE_BITS // 2)) ^ second) & np.uint32((1 << TABLE_BITS) - 1)


def _windows(shards: Sequence[Tokens], count: int) -> NDArray[np.uint16]:
    """Up to `count` windows [n, WINDOW], evenly over the shards, none across two of them."""
    found = []
    total = sum(map(len, shards))
    for shard in shards:
        room = len(shard) // WINDOW
        wanted = min(room, max(1, round(count * len(shard) / total)))
        for start in np.linspace(0, len(shard) - WINDOW, wanted).astype(int) if wanted else ():
            found.append(np.asarray(shard[start : start + WINDOW]))
    return np.stack(found) if found else np.empty((0, WINDOW), dtype=np.uint16)


def _blocks(shards: Sequence[Tokens], total: int, most: int) -> list[Tokens]:
    """Stretches of at most `most` tokens in all, evenly over the shards; all tokens where these are fewer."""
    blocks = []
    for shard in shards:
        share = len(shard) if total <= most else int(most * len(shard) / total)
        pieces = max(1, -(-share // BLOCK))
        if share == len(shard):
            # Neighbours overlap, so that no window is lost between them.
            starts = range(0, len(shard), BLOCK)
            blocks += [shard[start : start + BLOCK + WINDOW - 1] for start in starts]
        elif share >= WINDOW:
            size = share // pieces
            blocks += [shard[start : start + size] for start in np.linspace(0, len(shard) - size, pieces).astype(int)]
    return blocks


def _same_files(
    train: Sequence[Path], val: Sequence[Path], checksums: Mapping[str, str]
) -> tuple[tuple[str, str], ...]:
    beginnings = {path: read_shard(path)[:STEP].tobytes() for path in (*train, *val)}
    return tuple(
        (one.name, other.name)
        for one in train
        for other in val
        if beginnings[one] == beginnings[other] or checksums.get(one.name, one) == checksums.get(other.name, other)
    )
