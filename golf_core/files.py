"""Files that are either whole or absent, and files of others, read within bounds."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

MAX_RECORD_BYTES = 64 << 20
"""The most that a ledger, a log or a result can hold; a real one is a hundredth of that."""


@contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`; on success fsync it and rename it over `path`.

    A reader sees the old file or the whole new one, never a part, whatever happens in between.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes private files; results are meant to be read by others on the machine.
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically."""
    with atomic_writer(path) as file:
        file.write(content)


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 `content` to `path` atomically."""
    write_bytes(path, content.encode("utf-8"))


def open_plain(path: Path) -> BufferedReader:
    """Open a plain file, or a link to one. Raises `OSError` with a reason: a pipe would wait, a device never end."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError:  # a zero byte in the name
        raise OSError(errno.EINVAL, "not a file name") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a plain file")
    return os.fdopen(fd, "rb")


def read_bytes(path: Path, most: int) -> bytes:
    """All bytes of a plain file. Raises `OSError` with a reason where it is none or has more than `most`."""
    with open_plain(path) as file:
        # The size first: what the file claims costs nothing, and reading asks for no more than it.
        size = os.fstat(file.fileno()).st_size
        content = file.read(size + 1) if size <= most else b""
    if size > most or len(content) > most:
        raise OSError(errno.EFBIG, f"larger than {most:,} bytes")
    return content


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a plain file's bytes. Raises `OSError`."""
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    # Without this the rename itself may be lost in a power cut.
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
