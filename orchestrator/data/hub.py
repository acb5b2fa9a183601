"""The Hugging Face hub, as far as fetching data needs it: which commit, which files, and their bytes.

Listing, addresses, headers, connections and errors are `huggingface_hub`'s. The bytes are streamed here and not
by `hf_hub_download`, because that throws a partial file away when it fails or its process ends; plain HTTP with
byte ranges goes on from where it was, and works with every mirror.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from golf_core.errors import DataError, GolfError, LostError, RunError
from golf_core.strict_json import printable
from orchestrator.job.sections import HUB, Fetch

R = TypeVar("R")

MAX_ENTRIES = 20_000
"""Of one folder of a repo; the challenge's has a few hundred."""
KEPT = "what was fetched is kept, and the same command goes on from there"


class HubError(LostError):
    """The hub or the way to it failed; the same call may succeed later."""


class CancelledError(RunError):
    """The download of one file was given up because another failed."""


@dataclass(frozen=True)
class Patience:
    """How a failing connection is tried again."""

    tries: int = 5
    """In a row without one new byte."""
    first_wait: float = 1.0
    """Seconds before the second try; doubled for each further one, up to 30."""
    read_seconds: float = 30.0
    """Without a byte from the server, after which a connection counts as lost."""
    call_seconds: float = 120.0
    """For a listing as a whole."""


@dataclass(frozen=True)
class RemoteFile:
    """One file of a repo at one commit, as the hub lists it."""

    path: str
    size: int
    sha256: str | None
    """Known for large files."""
    git_oid: str | None
    """Known for small files: SHA-1 of git's blob."""

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class Listing:
    """One folder of a repo: its files by name, and the names of the folders in it."""

    files: dict[str, RemoteFile]
    folders: tuple[str, ...]


class Hub:
    """One dataset on one hub."""

    def __init__(self, spec: Fetch, patience: Patience) -> None:
        """The token in HF_TOKEN goes to the user's own hub alone, never to an address that a job file names."""
        from huggingface_hub import HfApi, constants
        from huggingface_hub.utils import build_hf_headers, logging

        constants.HF_HUB_DISABLE_TELEMETRY = True
        logging.set_verbosity_error()  # our sentences say what happened
        home = (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")
        self.endpoint = spec.endpoint or home
        token = os.environ.get("HF_TOKEN", "").strip()
        self._token: str | bool = (token or False) if self.endpoint == home else False
        self._withheld = bool(token) and not self._token
        self._spec, self._patience = spec, patience
        self._api = HfApi(endpoint=self.endpoint, token=self._token, library_name="golf")
        self._headers = {
            **build_hf_headers(token=self._token, library_name="golf"),
            "Accept-Encoding": "identity",  # ranges of a compressed body would not be ranges of the file
        }

    def commit(self) -> str:
        """The hash of the commit that the revision stands for. Raises `DataError` and `HubError`."""
        sha = self._ask(
            lambda: (
                self._api.dataset_info(
                    self._spec.repo, revision=self._spec.revision, timeout=self._patience.read_seconds
                ).sha
            )
        )
        if not isinstance(sha, str) or not 7 <= len(sha) <= 64 or not (sha.isalnum() and sha.isascii()):
            raise HubError(f"{self.endpoint} names no commit of {self._spec.repo}; check --endpoint")
        return sha

    def listing(self, folder: str, commit: str) -> Listing:
        """What lies in a folder of the repo. Raises `DataError` when there is none, and `HubError`."""

        def listed() -> list[Any]:
            tree = self._api.list_repo_tree(
                self._spec.repo, folder or None, revision=commit, repo_type="dataset", recursive=False
            )
            return list(islice(tree, MAX_ENTRIES + 1))

        entries = self._ask(listed, folder)
        if len(entries) > MAX_ENTRIES:
            raise DataError(
                f"{self._spec.repo}: more than {MAX_ENTRIES:,} files in '{folder}', so it is no export; check --prefix"
            )
        parts = [(entry, str(entry.path).rpartition("/")) for entry in entries]
        inside = [(entry, name) for entry, (parent, _, name) in parts if parent == folder and name]
        return Listing(
            files={name: self._remote_file(entry) for entry, name in inside if hasattr(entry, "size")},
            folders=tuple(sorted(name for entry, name in inside if not hasattr(entry, "size"))),
        )

    def download(
        self, file: RemoteFile, commit: str, part: Path, count: Callable[[int], None], stop: threading.Event
    ) -> None:
        """Bring `part` from the bytes that it has, if any, to the file's size; contents are not checked.

        `count` is told of each piece's bytes, of bytes thrown away as a negative number. Raises `HubError` when
        the connection fails for good (the bytes are kept), `DataError` when the file is not to be had or the
        disk is full, `CancelledError` once `stop` is set.
        """
        from huggingface_hub import hf_hub_url

        url = hf_hub_url(self._spec.repo, file.path, repo_type="dataset", revision=commit, endpoint=self.endpoint)
        failed = 0
        while True:
            if stop.is_set():
                raise CancelledError(f"{file.name}: given up")
            before = _size(part)
            if before > file.size:
                part.unlink()
                count(-before)
                before = 0
            if before == file.size and part.exists():
                return
            try:
                self._stream(url, file, part, before, count, stop)
            except Exception as error:
                failed = 1 if _size(part) > before else failed + 1
                explained = self._explain(error, file.path)
                if not isinstance(explained, HubError) or failed >= self._patience.tries:
                    raise explained from None
                stop.wait(self._wait(failed))

    def _stream(
        self, url: str, file: RemoteFile, part: Path, start: int, count: Callable[[int], None], stop: threading.Event
    ) -> None:
        from huggingface_hub import get_session
        from huggingface_hub.utils import hf_raise_for_status

        headers = {**self._headers, "Range": f"bytes={start}-"} if start else self._headers
        with (
            get_session().stream("GET", url, headers=headers, timeout=self._patience.read_seconds) as response,
            part.open("ab") as target,
        ):
            hf_raise_for_status(response)
            if start and not _goes_on_from(response, start):
                target.truncate(0)
                count(-start)
                start = 0
            # Pieces as they come: of a larger one, the beginning would be lost with the connection.
            for chunk in response.iter_bytes():
                if start + len(chunk) > file.size:
                    raise DataError(
                        f"{self._spec.repo}/{file.path}: {self.endpoint} sends more than the {file.size:,} bytes that "
                        "it lists; fetch from another --endpoint"
                    )
                target.write(chunk)
                start += len(chunk)
                count(len(chunk))
                if stop.is_set():
                    raise CancelledError(f"{file.name}: given up")
        if start < file.size:
            raise HubError(f"{self.endpoint} ends {file.path} after {start:,} of {file.size:,} bytes; {KEPT}")

    def _remote_file(self, entry: Any) -> RemoteFile:
        if type(entry.size) is not int or entry.size < 0:
            raise DataError(f"{self.endpoint} does not answer as a hub does (a size that is none); check --endpoint")
        sha256 = entry.lfs.sha256 if entry.lfs is not None else None
        return RemoteFile(
            path=str(entry.path),
            size=entry.size,
            sha256=sha256.lower() if isinstance(sha256, str) and len(sha256) == 64 else None,
            git_oid=entry.blob_id if entry.lfs is None and isinstance(entry.blob_id, str) else None,
        )

    def _ask(self, question: Callable[[], R], folder: str = "") -> R:
        """The answer to a question that costs little, asked again while the hub fails."""
        for failed in range(1, self._patience.tries + 1):
            try:
                return _within(self._patience.call_seconds, question)
            except Exception as error:
                explained = self._explain(error, folder)
                if not isinstance(explained, HubError) or failed == self._patience.tries:
                    raise explained from None
                time.sleep(self._wait(failed))
        raise AssertionError("the last try returns or raises")

    def _wait(self, failed: int) -> float:
        return min(30.0, self._patience.first_wait * 2 ** (failed - 1))

    def _explain(self, error: Exception, path: str) -> GolfError:
        """What went wrong as a sentence; `HubError` where another try may help."""
        from huggingface_hub import errors

        spec, repo = self._spec, f"{self._spec.repo} on {self.endpoint}"
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
            return self._explain_status(error, repo, path)
        if isinstance(error, (errors.HTTPError, TimeoutError, ConnectionError)):
            lines = str(error).strip().splitlines() or [type(error).__name__]
            return HubError(
                f"{self.endpoint} cannot be reached ({printable(lines[0], 200)}); check the network, or name a "
                f"mirror with --endpoint; {KEPT}"
            )
        if isinstance(error, OSError):
            return disk_error(error, path)
        return DataError(
            f"{self.endpoint} does not answer as a hub does ({type(error).__name__}); check --endpoint and any proxy"
        )

    def _explain_status(self, error: Any, repo: str, path: str) -> GolfError:
        from huggingface_hub import errors

        status = error.response.status_code
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


def _goes_on_from(response: Any, start: int) -> bool:
    """Whether the body begins at byte `start`; a server may ignore the range and send the whole file."""
    return response.status_code == 206 and str(response.headers.get("Content-Range", "")).startswith(f"bytes {start}-")


def _within(seconds: float, call: Callable[[], R]) -> R:
    """The result of `call`, or `TimeoutError`: the library's listings would wait for a silent server for ever."""
    outcome: list[R] = []
    failure: list[Exception] = []

    def run() -> None:
        try:
            outcome.append(call())
        except Exception as error:
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True, name="hub")
    thread.start()
    thread.join(seconds)
    if failure:
        raise failure[0]
    if not outcome:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return outcome[0]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
