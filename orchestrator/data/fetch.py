"""`golf data fetch`: a published export from the hub as a data folder, resumable, checked, and never half there.

Files come into the folder `.incoming` of the data folder, where each that is right waits for the others. Only when
every file is there and right do they move to their places. The manifest moves first, so that a folder in which the
move was cut off fails `check_data` instead of passing for a smaller one; `fetch.json` is written last.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from golf_core import files, strict_json
from golf_core.data.manifest import MANIFEST, Manifest, ShardRecord, load_manifest
from golf_core.data.shards import read_shard
from golf_core.data.tokenizer import BOS, ByteTable, byte_table, load_tokenizer
from golf_core.errors import ConfigError, DataError
from orchestrator.data.hub import FetchProgress, Hub, HubError, Meter, Patience, RemoteFile, Snapshot, disk_error
from orchestrator.data.plan import (
    INCOMING,
    MANIFEST_BYTES,
    PUBLISHED_MANIFEST,
    RECORD,
    FetchRecord,
    Shards,
    check_disk,
    check_size,
    choose_folder,
    choose_shards,
    choose_tokenizer,
    default_folder,
    fault_of,
    locked,
    read_manifest,
    record_of,
    shards_in,
    size_of,
    stated_shards,
    sync,
)
from orchestrator.job.sections import Fetch

SLICE_TOKENS = 1 << 22
"""Tokens of a shard that are counted at once."""

Say = Callable[[str], None]
Watch = Callable[[FetchProgress], None]


@dataclass(frozen=True)
class Fetched:
    """A data folder that is there and whole: `folder` and `tokenizer` are a job's data.path and data.tokenizer."""

    folder: Path
    tokenizer: Path
    commit: str
    """Commit of the repo; empty where a folder of the user's own was found and nothing asked of the hub."""
    files: tuple[str, ...]
    """Names that were fetched now."""
    bytes: int
    """That came over the network now."""
    skipped: tuple[str, ...]
    """Names that were there and right."""


def fetch(
    spec: Fetch,
    folder: Path | None = None,
    *,
    workers: int = 4,
    force: bool = False,
    say: Say = lambda line: None,
    watch: Watch = lambda progress: None,
    patience: Patience | None = None,
) -> Fetched:
    """Make `folder` (default: in the user's cache) hold the shards that `spec` asks for, whole and checked.

    Files that are there are compared with the hub's checksums and kept where they are right (with `force` all
    are fetched anew). `say` is told what happens, `watch` twice a second how far it is. One process at a time
    works on a folder; others wait. Raises `DataError` for what the user can mend (names, access, disk, a folder
    with other data), `HubError` when the hub or the network fails; a later call goes on from there.
    """
    if workers < 1:
        raise ConfigError(f"--workers: got {workers}; give a whole number of at least 1")
    folder = folder or default_folder(spec)
    with locked(folder, say):
        return _Fetch(spec, folder, say, watch, workers, force, patience).run()


def ensure_data(
    spec: Fetch, folder: Path | None = None, tokenizer: Path | None = None, *, say: Say = lambda line: None
) -> Fetched:
    """The data of a job on this node, fetched first where it is not there: without a word to the hub where it is.

    Sizes alone are compared here; `check_data` compares checksums. A folder of shards that was not fetched is
    taken as it is if `tokenizer` is there too; a `tokenizer` that is there is the result's. Raises what `fetch`
    raises.
    """
    folder = folder or default_folder(spec)
    found = _there(spec, folder, tokenizer)
    if found is None:
        with locked(folder, say):
            found = _there(spec, folder, tokenizer)  # another seed on this node may have been faster
            if found is None:
                found = _Fetch(spec, folder, say).run()
    return found if tokenizer is None or not tokenizer.is_file() else replace(found, tokenizer=tokenizer)


def _there(spec: Fetch, folder: Path, tokenizer: Path | None) -> Fetched | None:
    """The data, if the folder holds them."""
    if (folder / INCOMING).exists():
        return None
    record = record_of(folder)
    if record is None:
        splits = {path.name.split("_")[1] for path in shards_in(folder)}
        if tokenizer is None or not tokenizer.is_file() or splits != {"train", "val"}:
            return None
        return Fetched(folder, tokenizer, "", (), 0, ())
    if not record.answers(spec) or any(size_of(folder / name) != size for name, size in record.sizes.items()):
        return None
    return Fetched(folder, folder / record.tokenizer, record.commit, (), 0, tuple(sorted(record.sizes)))


class _Fetch:
    """One call of `fetch`, in the order in which it happens."""

    def __init__(
        self,
        spec: Fetch,
        folder: Path,
        say: Say,
        watch: Watch = lambda progress: None,
        workers: int = 4,
        force: bool = False,
        patience: Patience | None = None,
    ) -> None:
        self._spec, self._folder, self._workers, self._force = spec, folder, workers, force
        self._say, self._watch = say, watch
        self._incoming = folder / INCOMING
        self._scratch = self._incoming / "hub"
        """Where the library works: nothing in it has been checked."""
        self._meter = Meter()
        self._hub = Hub(spec, patience or Patience(), self._meter)
        self._fetched: set[str] = set()
        self._kept: set[str] = set()
        self._commit = self._tokenizer = ""

    def run(self) -> Fetched:
        spec, hub = self._spec, self._hub
        self._refuse_other_data()
        snapshot = hub.snapshot()
        self._commit = snapshot.commit
        self._say(f"{spec.repo} at {snapshot.commit[:12]} on {hub.endpoint}")
        exports = snapshot.folders(spec.inside("datasets"))
        if not exports:
            raise DataError(
                f"{spec.repo} on {hub.endpoint} has no '{spec.inside('datasets')}'; check --prefix and --revision"
            )
        export = choose_folder(spec, exports)
        shards = choose_shards(spec, export, snapshot.inside(spec.inside(f"datasets/{export}")))
        self._refuse_surplus(shards)
        try:
            shutil.rmtree(self._incoming if self._force else self._scratch, ignore_errors=True)
            self._incoming.mkdir(parents=True, exist_ok=True)
            small = self._manifest_and_tokenizer(export, shards, snapshot)
            wanted = {file.name: file for file in (*shards.train, *shards.val)}
            self._get(wanted)
            self._move_in(self._describe(export, shards), {*small, *wanted})
        except OSError as error:
            raise disk_error(error, error.filename or self._folder) from None
        return Fetched(
            folder=self._folder,
            tokenizer=self._folder / self._tokenizer,
            commit=self._commit,
            files=tuple(sorted(self._fetched)),
            bytes=self._meter.received,
            skipped=tuple(sorted({*small, *wanted} - self._fetched)),
        )

    def _refuse_other_data(self) -> None:
        """A folder that something else made is not ours to change."""
        folder = self._folder
        if folder.exists() and not folder.is_dir():
            raise DataError(f"{folder}: not a folder; choose another with --out")
        if (folder / MANIFEST).exists() and record_of(folder) is None and not self._incoming.exists():
            raise DataError(f"{folder}: holds other data (its {MANIFEST} was not fetched); choose another --out")

    def _refuse_surplus(self, shards: Shards) -> None:
        wanted = {file.name for file in (*shards.train, *shards.val)}
        surplus = [path.name for path in shards_in(self._folder) if path.name not in wanted]
        if surplus:
            raise DataError(
                f"{self._folder}: holds {len(surplus)} shards beyond those asked for, such as {surplus[0]}, and a run "
                "would read them too; choose another --out, or remove them"
            )

    def _manifest_and_tokenizer(self, export: str, shards: Shards, snapshot: Snapshot) -> dict[str, RemoteFile]:
        """Fetch the two; the published manifest, where there is one, helps to choose the tokenizer."""
        spec = self._spec
        small: dict[str, RemoteFile] = {}
        manifest = None
        published = snapshot.files.get(spec.inside(MANIFEST))
        if published is not None:
            check_size(spec, published, 0, MANIFEST_BYTES)
            small[PUBLISHED_MANIFEST] = published
            self._get(small)
            manifest = read_manifest(self._place(PUBLISHED_MANIFEST))
        if manifest is None:
            self._say("the export has no readable manifest.json; its files are chosen by their names")
        stated = stated_shards(manifest, export).get("val")
        if stated is not None and stated != len(shards.val):
            self._say(f"note: the published manifest counts {stated} validation shards, the repo has {len(shards.val)}")
        tokenizer = choose_tokenizer(spec, export, snapshot.inside(spec.inside("tokenizers")), manifest)
        self._tokenizer = tokenizer.name
        self._get({tokenizer.name: tokenizer})
        return {**small, tokenizer.name: tokenizer}

    # --- files ------------------------------------------------------------------------------------

    def _get(self, wanted: dict[str, RemoteFile]) -> None:
        """Bring every file, by its local name, to `_place`, right: in the folder where it was, else in `.incoming`."""
        with ThreadPoolExecutor(self._workers, thread_name_prefix="fetch") as pool:
            checks = {pool.submit(self._is_there, name, file): name for name, file in wanted.items()}
            self._finish(checks)
            missing = {name: wanted[name] for check, name in checks.items() if not check.result()}
            needed = sum(file.size for file in missing.values())
            check_disk(self._folder, self._incoming, needed)
            self._meter.total += needed
            self._finish([pool.submit(self._download, name, file) for name, file in missing.items()])

    def _is_there(self, name: str, file: RemoteFile) -> bool:
        """Whether a right file lies in the folder, or waits in `.incoming`; a wrong one there is removed."""
        waiting, present = self._incoming / name, self._folder / name
        if waiting.is_file():
            if fault_of(waiting, file) is None:
                return True
            waiting.unlink()
        if self._force or not present.is_file():
            return False
        fault = fault_of(present, file)
        if fault is None:
            self._kept.add(name)
        else:
            self._say(f"{name}: {fault}; fetching it anew")
        return fault is None

    def _download(self, name: str, file: RemoteFile) -> None:
        for last in (False, True):
            path = self._hub.download(file, self._commit, self._scratch)
            fault = fault_of(path, file)
            if fault is None:
                break
            path.unlink()
            if last:
                raise HubError(
                    f"{name}: {fault}, twice in a row, though {self._hub.endpoint} lists it so; fetch it from another "
                    "--endpoint or --revision"
                )
            self._say(f"{name}: {fault}; fetching it once more")
        sync(path)
        path.replace(self._incoming / name)
        self._fetched.add(name)

    def _finish(self, jobs: Iterable[Future[Any]]) -> None:
        """Wait for the jobs, telling how far they are; the first failure, or an interrupt, ends the others."""
        waiting = set(jobs)
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
                for job in done:
                    job.result()
                progress = self._meter.progress()
                if progress.total_bytes:
                    self._watch(progress)
        except BaseException:
            self._meter.stop.set()
            for job in waiting:
                job.cancel()
            raise

    def _place(self, name: str) -> Path:
        waiting = self._incoming / name
        return waiting if waiting.exists() else self._folder / name

    # --- the manifest, and the move ---------------------------------------------------------------

    def _describe(self, export: str, shards: Shards) -> Manifest:
        """Our manifest. Raises `DataError` when tokenizer and shards do not fit each other."""
        import sentencepiece

        path = self._place(self._tokenizer)
        processor = load_tokenizer(path, self._spec.vocab_size)
        table, known = byte_table(processor), self._known_shards()
        with ThreadPoolExecutor(self._workers, thread_name_prefix="count") as pool:
            train = [pool.submit(self._shard_record, file, table, known) for file in shards.train]
            val = [pool.submit(self._shard_record, file, table, known) for file in shards.val]
            self._finish([*train, *val])
        return Manifest(
            kind="export",
            source=(
                f"{self._spec.repo} at {self._commit}, {self._spec.inside(f'datasets/{export}')}; bytes are those "
                "that the tokens stand for"
            ),
            tokenizer=self._tokenizer,
            tokenizer_sha256=files.sha256(path),
            vocab_size=processor.get_piece_size(),
            train=tuple(job.result() for job in train),
            val=tuple(job.result() for job in val),
            python=platform.python_version(),
            sentencepiece=sentencepiece.__version__,
        )

    def _shard_record(self, file: RemoteFile, table: ByteTable, known: dict[str, ShardRecord]) -> ShardRecord:
        path, pieces = self._place(file.name), len(table.base_bytes)
        digest = file.sha256 or files.sha256(path)
        if file.name in known and known[file.name].sha256 == digest:
            return known[file.name]
        tokens, documents, length, previous = read_shard(path), 0, 0, BOS
        for start in range(0, len(tokens), SLICE_TOKENS):
            piece = tokens[start : start + SLICE_TOKENS]
            largest = int(piece.max())
            if largest >= pieces:
                raise DataError(
                    f"{self._spec.repo}/{file.path}: holds the token id {largest}, outside the tokenizer's "
                    f"{pieces} pieces; take another --revision"
                )
            documents += int(np.count_nonzero(piece == BOS))
            before = np.concatenate([np.array([previous], dtype=piece.dtype), piece[:-1]])
            length += int(table.token_bytes(before, piece).sum(dtype=np.int64))
            previous = int(piece[-1])
        return ShardRecord(file.name, len(tokens), documents, length, digest)

    def _known_shards(self) -> dict[str, ShardRecord]:
        """What an earlier fetch counted, if it was with the same tokenizer."""
        if record_of(self._folder) is None or self._tokenizer not in self._kept:
            return {}
        try:
            return {shard.file: shard for shard in load_manifest(self._folder).shards}
        except DataError:
            return {}

    def _move_in(self, manifest: Manifest, names: set[str]) -> None:
        waiting = [name for name in sorted(names) if (self._incoming / name).exists()]
        if waiting or not self._is_written(manifest):
            (self._folder / RECORD).unlink(missing_ok=True)
            strict_json.save(manifest, self._folder / MANIFEST)
            for name in waiting:
                (self._incoming / name).replace(self._folder / name)
            sync(self._folder)
        record = FetchRecord(
            **self._spec.model_dump(exclude={"endpoint"}),
            commit=self._commit,
            tokenizer=self._tokenizer,
            sizes={name: size_of(self._folder / name) for name in sorted(names)},
        )
        strict_json.save(record, self._folder / RECORD)
        shutil.rmtree(self._incoming)

    def _is_written(self, manifest: Manifest) -> bool:
        """Whether the folder's manifest says the same of the files, if perhaps of an earlier commit."""
        try:
            there = load_manifest(self._folder)
        except DataError:
            return False
        return (there.shards, there.tokenizer_sha256) == (manifest.shards, manifest.tokenizer_sha256)
