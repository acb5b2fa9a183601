"""The Hugging Face hub, as far as fetching data needs it: one commit's files, their bytes, and what failed.

Requests, retries and resumption are `huggingface_hub`'s. What it is told to fetch is chosen in `plan`, and what came is
checked in `fetch`: it takes a file of the right length for the right one.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from golf_core.errors import DataError, GolfError, LostError, RunError
from golf_core.strict_json import printable
from orchestrator.job.sections import HUB, Fetch

R = TypeVar("R")

MAX_FILES = 20_000
"""Files of a repo at the most; the challenge's has a few hundred."""
KEPT = "what was fetched is kept, and the same command goes on from there"


class HubError(LostError):
    """The hub or the way to it failed; the same call may succeed later."""


class CancelledError(RunError):
    """The download of one file was given up because another failed."""


@dataclass(frozen=True)
class Patience:
    """How a failing hub is tried again."""

    tries: int = 5
    """Attempts at each question and each file, beside the library's own at a connection."""
    first_wait: float = 1.0
    """Seconds before the second try; doubled for each further one, up to 30."""
    read_seconds: float = 10.0
    """Without a byte from the server, after which a connection counts as lost."""


@dataclass(frozen=True)
class RemoteFile:
    """One file of a repo at one commit, as the hub lists it."""

    path: str
    size: int
    sha256: str | None
    """SHA-256 of a large file; None where the hub does not say."""
    git_hash: str | None
    """SHA-1 of a small file as a blob of git; None where the hub does not say."""

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class FetchProgress:
    """How far a fetch is at one moment."""

    done_bytes: int
    """Bytes that need not be fetched any more."""
    total_bytes: int
    bytes_per_second: float
    """Over this call; 0 at the beginning."""

    @property
    def eta_seconds(self) -> float | None:
        """Time still needed at this rate; None while nothing has come."""
        return (self.total_bytes - self.done_bytes) / self.bytes_per_second if self.bytes_per_second > 0 else None


class Meter:
    """Counts the bytes of all downloads together, and ends them all once `stop` is set."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.total = 0
        """Bytes of all files that are to be fetched."""
        self.received = 0
        """Bytes that came over the network."""
        self._done: dict[str, int] = {}
        self._lock = threading.Lock()
        self._began = time.monotonic()

    def bar(self, file: RemoteFile, endpoint: str) -> type:
        """A class with as much of a progress bar as `huggingface_hub` uses of it, to count the bytes of one file.

        Its `update` raises `CancelledError` once `stop` is set, and `DataError` for a byte beyond the listed size,
        in both cases before the bytes are written.
        """
        meter = self

        class Bar:
            def __init__(self, **options: Any) -> None:
                meter._done[file.path] = int(options.get("initial") or 0)  # of a further try, anew

            def __enter__(self) -> Bar:
                return self

            def __exit__(self, *error: object) -> None:
                """Nothing is shown, so nothing is to be cleared away."""

            def update(self, n: int = 1) -> None:
                with meter._lock:
                    meter._done[file.path] += n
                    meter.received += max(n, 0)
                if meter._done[file.path] > file.size:
                    raise DataError(
                        f"{file.path}: {endpoint} sends more than the {file.size:,} bytes that it lists; fetch from "
                        "another --endpoint"
                    )
                if meter.stop.is_set():
                    raise CancelledError(f"{file.name}: given up")

        return Bar

    def progress(self) -> FetchProgress:
        """The state now."""
        with self._lock:
            done, seconds = sum(self._done.values()), time.monotonic() - self._began
            return FetchProgress(min(done, self.total), self.total, self.received / max(seconds, 1e-3))


@dataclass(frozen=True)
class Snapshot:
    """The files of a repo at one commit."""

    commit: str
    files: dict[str, RemoteFile]
    """By path."""

    def inside(self, folder: str) -> dict[str, RemoteFile]:
        """The files in one folder, by name."""
        split = ((path.rpartition("/"), file) for path, file in self.files.items())
        return {name: file for (parent, _, name), file in split if parent == folder}

    def folders(self, folder: str) -> list[str]:
        """The names of the folders in one folder, sorted."""
        start = f"{folder}/"
        below = (path.removeprefix(start) for path in self.files if path.startswith(start))
        return sorted({path.partition("/")[0] for path in below if "/" in path})


class Hub:
    """One dataset on one hub."""

    def __init__(self, spec: Fetch, patience: Patience, meter: Meter) -> None:
        """The token in HF_TOKEN goes to the user's own hub alone, never to an address that a job file names."""
        from huggingface_hub import constants
        from huggingface_hub.utils import logging

        constants.HF_HUB_DISABLE_TELEMETRY = True
        constants.HF_HUB_DISABLE_XET = True  # plain HTTP works with every mirror, and keeps no cache of its own
        constants.HF_HUB_DOWNLOAD_TIMEOUT = patience.read_seconds  # type: ignore[assignment]
        logging.set_verbosity_error()  # our sentences say what happened
        home = (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")
        self.endpoint = spec.endpoint or home
        token = os.environ.get("HF_TOKEN", "").strip()
        self._token: str | bool = (token or False) if self.endpoint == home else False
        self._withheld = bool(token) and not self._token
        self._spec, self._patience, self._meter = spec, patience, meter

    def snapshot(self) -> Snapshot:
        """The commit that the revision stands for, and its files. Raises `DataError` and `HubError`."""
        from huggingface_hub import HfApi

        spec, api = self._spec, HfApi(endpoint=self.endpoint, token=self._token, library_name="golf")
        seconds = self._patience.read_seconds
        info = self._ask(
            lambda: api.dataset_info(spec.repo, revision=spec.revision, timeout=seconds, files_metadata=True), ""
        )
        commit, siblings = info.sha, info.siblings or []
        if not isinstance(commit, str) or not 7 <= len(commit) <= 64 or not (commit.isalnum() and commit.isascii()):
            raise HubError(f"{self.endpoint} names no commit of {spec.repo}; check --endpoint")
        if len(siblings) > MAX_FILES:
            raise DataError(f"{spec.repo}: more than {MAX_FILES:,} files, so it is no export; check --repo")
        return Snapshot(commit, {str(entry.rfilename): self._remote_file(entry) for entry in siblings})

    def download(self, file: RemoteFile, commit: str, scratch: Path) -> Path:
        """Fetch `file` to somewhere below `scratch`; its contents are not checked.

        Raises `HubError` when the connection fails for good, `DataError` when the file is not to be had or the disk
        is full, `CancelledError` once the meter is stopped.
        """
        from huggingface_hub import hf_hub_download

        def fetched() -> str:
            return hf_hub_download(
                self._spec.repo,
                file.path,
                repo_type="dataset",
                revision=commit,
                local_dir=scratch,
                cache_dir=scratch / "cache",  # never a copy from the user's cache: what came is what is counted
                endpoint=self.endpoint,
                token=self._token,
                library_name="golf",
                etag_timeout=self._patience.read_seconds,
                tqdm_class=self._meter.bar(file, self.endpoint),
            )

        return Path(self._ask(fetched, file.path))

    def _remote_file(self, entry: Any) -> RemoteFile:
        if type(entry.size) is not int or entry.size < 0:
            raise DataError(f"{self.endpoint} does not answer as a hub does (a size that is none); check --endpoint")
        sha256 = entry.lfs.sha256 if entry.lfs is not None else None
        return RemoteFile(
            path=str(entry.rfilename),
            size=entry.size,
            sha256=sha256.lower() if isinstance(sha256, str) and len(sha256) == 64 else None,
            git_hash=entry.blob_id if entry.lfs is None and isinstance(entry.blob_id, str) else None,
        )

    def _ask(self, question: Callable[[], R], path: str) -> R:
        """The answer to a question about `path`, asked again while the hub fails."""
        for failed in range(1, self._patience.tries + 1):
            try:
                return question()
            except Exception as error:
                explained = self._explain(error, path)
                if not isinstance(explained, HubError) or failed == self._patience.tries or self._meter.stop.is_set():
                    raise explained from None
                self._meter.stop.wait(min(30.0, self._patience.first_wait * 2 ** (failed - 1)))
        raise AssertionError("the last try returns or raises")

    def _explain(self, error: BaseException, path: str) -> GolfError:
        """What went wrong as a sentence; `HubError` where another try may help."""
        from huggingface_hub import errors

        spec, repo = self._spec, f"{self._spec.repo} on {self.endpoint}"
        if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
            error = error.__cause__  # the library also looked on this machine, and says only that
        if isinstance(error, GolfError):
            return error
        if isinstance(error, errors.OfflineModeIsEnabled):
            return DataError("HF_HUB_OFFLINE forbids downloads; unset it, or use data that is on this machine")
        if isinstance(error, errors.GatedRepoError):
            return DataError(f"{repo} is gated; ask for access on its page and set HF_TOKEN to a token of yours")
        if isinstance(error, errors.RevisionNotFoundError):
            return DataError(f"{repo} has no revision '{spec.revision}'; check --revision, main is usual")
        if isinstance(error, errors.EntryNotFoundError):
            return DataError(f"{repo} has no '{path}'; check --prefix and --revision")
        if isinstance(error, errors.HfHubHTTPError):
            return self._explain_status(error.response.status_code, error, repo, path)
        if isinstance(error, (errors.HTTPError, TimeoutError, ConnectionError)):
            lines = str(error).strip().splitlines() or [type(error).__name__]
            return HubError(
                f"{self.endpoint} cannot be reached ({printable(lines[0], 200)}); check the network, or name a "
                f"mirror with --endpoint; {KEPT}"
            )
        if isinstance(error, OSError) and error.errno is None:  # the library's own: fewer bytes than announced
            return HubError(f"{self.endpoint} ends {path} too early; {KEPT}")
        if isinstance(error, OSError):
            return disk_error(error, path)
        return DataError(
            f"{self.endpoint} does not answer as a hub does ({type(error).__name__}); check --endpoint and any proxy"
        )

    def _explain_status(self, status: int, error: Exception, repo: str, path: str) -> GolfError:
        from huggingface_hub import errors

        if status in (401, 403) and self._token:
            return DataError(f"{repo} refuses the token in HF_TOKEN; renew it, ask for access, or unset it")
        # A hub says 401 of a repo that is not there, too, so as not to tell which are.
        if status in (401, 403) or isinstance(error, errors.RepositoryNotFoundError):
            remedy = "set HF_TOKEN if it is private"
            if self._withheld:
                remedy = f"set HF_ENDPOINT to {self.endpoint} if HF_TOKEN is meant for it"
            return DataError(f"{repo} does not exist or is private; check --repo, or {remedy}")
        if status == 404:
            return DataError(f"{repo} has no '{path}'; check --repo, --prefix and --revision")
        if status == 429:
            return HubError(f"{self.endpoint} asks for fewer requests; wait some minutes or set HF_TOKEN; {KEPT}")
        if status >= 500 or status in (408, 416):
            return HubError(f"{self.endpoint} fails with status {status}; try again later; {KEPT}")
        return DataError(f"{self.endpoint} answers with status {status} for '{path or repo}'; check --endpoint")


def disk_error(error: OSError, path: Path | str) -> GolfError:
    """The sentence for a file that cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DataError(f"{path}: the disk is full; free some space or choose another disk with --out; {KEPT}")
    return DataError(f"{path}: cannot be written ({error.strerror or error}); choose another folder with --out")
