"""A record folder as it lies on disk: which files it holds, and all that they say, read without following them out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from golf_core import files
from golf_core.errors import UserError
from golf_core.files import open_plain
from golf_core.strict_json import printable
from orchestrator.verify.figures import LogFile, Run, seed_in_name
from orchestrator.verify.logs import read_log
from orchestrator.verify.submission import SUBMISSION, Submission, read_submission

README = "readme.md"
MOST_LOGS = 60
MOST_LOG_BYTES = 1 << 30
MOST_ENTRIES = 100_000
README_BYTES = 1 << 20
LOG_FOLDERS = frozenset({"logs", "log"})
_LOG_WORDS = ("log", "train", "eval", "seed", "run", "out")
PROGRAMS = ("train_gpt.py", "train_gpt.pyz")
WEIGHTS = (".ptz", ".golf", ".xz", ".lzma", ".zst", ".br")


class FolderError(UserError):
    """Not a folder, or one without anything that could be checked."""


@dataclass(frozen=True)
class RecordFolder:
    """Everything that was read."""

    name: str
    """The folder's own name, without its place."""
    place: Path
    """Where it really is."""
    logs: tuple[LogFile, ...]
    submission: Submission
    readme: tuple[str, ...] | None
    """Lines of README.md; None where there is none."""
    sizes: dict[str, int]
    """Bytes of every file in the folder itself."""
    notes: tuple[str, ...]
    """What was not read, and why."""

    @property
    def runs(self) -> list[Run]:
        """All runs of all logs, those of identical files once."""
        return [run for log in self.logs if not log.same_as for run in log.runs]


def read_folder(place: Path) -> RecordFolder:
    """Read the record folder at `place`.

    Raises `FolderError` where there is no such folder, or it holds neither submission.json nor a log.
    """
    notes: list[str] = []
    try:
        name = plain(place.resolve().name or str(place))
        if not place.exists():
            raise FolderError(f"{plain(str(place))}: no such folder; name one with {SUBMISSION} and logs")
        if not place.is_dir():
            raise FolderError(f"{plain(str(place))}: a file; name the folder that holds {SUBMISSION} and the logs")
        found = dict(sorted(_files(place, notes), key=lambda item: _order(item[0])))
    except ValueError:  # a zero byte in the name
        raise FolderError(f"{plain(str(place))}: not a name that a folder can have") from None
    except (OSError, RuntimeError) as error:  # RuntimeError: links that lead in a circle
        reason = getattr(error, "strerror", None) or "links lead in a circle"
        raise FolderError(f"{plain(str(place))}: cannot be read ({reason})") from None
    submission = next((path for name_, path in found.items() if name_ == SUBMISSION), None)
    logs = {name_: path for name_, path in found.items() if _is_log(name_)}
    if submission is None and not logs:
        raise FolderError(f"{plain(str(place))}: holds neither {SUBMISSION} nor a log; name a record folder")
    readme = next((path for name_, path in found.items() if name_.lower() == README), None)
    return RecordFolder(
        name=name,
        place=place.resolve(),
        logs=tuple(_read_logs(logs, notes)),
        submission=read_submission(submission),
        readme=None if readme is None else _read_readme(readme, notes),
        sizes={name_: _size(path) for name_, path in found.items()},
        notes=tuple(notes),
    )


def plain(text: str) -> str:
    """A name fit to be printed: without control characters, of bounded length."""
    return printable(text, 200)


def _files(place: Path, notes: list[str]) -> Iterator[tuple[str, Path]]:
    """Plain files of the folder and of its folder of logs, by their names; links that lead out are left alone."""
    root, count = place.resolve(), 0
    folders = [(place, "")]
    while folders:
        folder, prefix = folders.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                count += 1
                if count > MOST_ENTRIES:
                    notes.append(f"it holds more than {MOST_ENTRIES:,} files; the rest was not looked at")
                    return
                path = Path(entry.path)
                name = plain(prefix + entry.name)
                if entry.is_symlink() and not _inside(path, root):
                    if _is_log(name) or name in (SUBMISSION, *PROGRAMS) or name.lower() == README:
                        notes.append(f"{name} is a link out of the folder, or a broken one; it was not followed")
                elif entry.is_file():
                    yield name, path
                elif entry.is_dir() and not prefix and entry.name.lower() in LOG_FOLDERS and not entry.is_symlink():
                    folders.append((path, entry.name + "/"))
                elif _is_log(name) and not entry.is_dir():
                    notes.append(f"{name} is not a plain file; it was not opened")


def _inside(path: Path, root: Path) -> bool:
    try:
        return path.resolve(strict=True).is_relative_to(root)
    except (OSError, RuntimeError):
        return False


def _is_log(name: str) -> bool:
    base = name.rsplit("/", 1)[-1].lower()
    if base.endswith(".log"):
        return True
    stem, dot, ending = base.rpartition(".")
    return dot == "." and ending in ("txt", "out") and any(word in stem for word in _LOG_WORDS)


def _order(name: str) -> tuple[bool, int, str]:
    """Logs that name a seed first, by seed; so of two identical files the one with a seed counts."""
    seed = seed_in_name(name)
    return seed is None, seed or 0, name


def _read_logs(logs: dict[str, Path], notes: list[str]) -> Iterator[LogFile]:
    if len(logs) > MOST_LOGS:
        notes.append(f"it holds {len(logs):,} logs; only the first {MOST_LOGS} were read")
    digests: dict[tuple[int, str], str] = {}
    sizes = {name: _size(path) for name, path in list(logs.items())[:MOST_LOGS]}
    left = MOST_LOG_BYTES
    for name, size in sizes.items():
        left -= size
        if left < 0:
            notes.append(f"{name} was not read: the logs together are larger than {MOST_LOG_BYTES >> 30} GiB")
            continue
        log = read_log(logs[name], name)
        twin = None
        if not log.fault and list(sizes.values()).count(size) > 1:
            twin = digests.setdefault((size, files.sha256(logs[name])), name)
        yield log if twin in (None, name) else replace(log, same_as=str(twin))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _read_readme(path: Path, notes: list[str]) -> tuple[str, ...]:
    try:
        with open_plain(path) as file:
            content = file.read(README_BYTES + 1)
    except OSError as error:
        notes.append(f"{plain(path.name)} cannot be read ({error.strerror})")
        return ()
    if len(content) > README_BYTES:
        notes.append(f"of {plain(path.name)} only the first {README_BYTES:,} bytes were read")
    if b"\0" in content[:8192]:
        notes.append(f"{plain(path.name)} is binary, not text; it was not read")
        return ()
    return tuple(line[:4096] for line in content[:README_BYTES].decode("utf-8", "replace").splitlines())
