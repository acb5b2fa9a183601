"""Log files, read line by line: bounded memory, bounded time, whatever the file holds."""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from golf_core.files import open_plain
from orchestrator.verify.figures import LogFile, Run
from orchestrator.verify.runs import CORE_WORDS, SEPARATOR, WORDS, RunBuilder, looks_like_code, read_line

LINE_BYTES = 4_096
"""What a line has beyond this is skipped."""
SAME_SHAPE = 2_000
"""Lines that differ in digits alone are read up to this number, and then the last of them."""
SHAPES, SHAPE_BYTES = 20_000, 256
READ_BYTES = 2 << 20
"""After so many bytes of lines that were read, only the last lines are, where the final figures stand."""
LAST_LINES = 5_000
MOST_LINES, TAIL_BYTES = 1_000_000, 1 << 20
"""After so many lines the rest is skipped, all but its end: a file may be a thousand million lines long."""
SHORT_LINE = 4
"""A line of fewer bytes holds no figure."""
_BLOCK_BYTES = 1 << 20
MOST_RUNS = 50
_SNIFFED = 8_192
_DIGITS = b"0123456789.\r\n"
_LISTING = (b"import ", b"from ", b"def ", b"class ")


def read_log(path: Path, name: str) -> LogFile:
    """Everything that the log at `path` says, as the file `name`; what cannot be read has a `fault`."""
    try:
        with open_plain(path) as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(_SNIFFED)
            file.seek(0)
            wide = head.startswith((b"\xff\xfe", b"\xfe\xff"))
            if not head.strip():
                if size <= len(head):
                    return LogFile(name, fault="it is empty")
            elif b"\0" in head and not wide:
                return LogFile(name, fault="it is binary, not text")
            reader = _Reader(name)
            for number, line in _utf16_lines(file) if wide else _lines(file, size):
                reader.feed(number, line)
            runs = reader.finish()
    except (OSError, UnicodeError) as error:
        return LogFile(name, fault=f"it cannot be read ({getattr(error, 'strerror', None) or 'not text'})")
    return LogFile(name, reader.lines, notes=tuple(reader.notes()), runs=runs)


def _lines(file: BinaryIO, size: int) -> Iterator[tuple[int, bytes]]:
    number = 0
    while line := file.readline(LINE_BYTES):
        number += 1
        yield number, line
        while len(line) == LINE_BYTES and not line.endswith(b"\n"):
            line = file.readline(LINE_BYTES)
        if number == MOST_LINES:
            number += _skip(file, size - TAIL_BYTES)


def _skip(file: BinaryIO, end: int) -> int:
    """Go on to the first line that begins at `end` or after it; returns how many lines that leaves out."""
    count, last = 0, b"\n"
    while (left := end - file.tell()) > 0 and (block := file.read(min(left, _BLOCK_BYTES))):
        count += block.count(b"\n")
        last = block[-1:]
    if last != b"\n":
        while (rest := file.readline(LINE_BYTES)) and not rest.endswith(b"\n"):
            pass
        count += 1
    return count


def _utf16_lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    number = 0
    text = io.TextIOWrapper(file, encoding="utf-16", errors="replace", newline="\n")
    while line := text.readline(LINE_BYTES):
        number += 1
        yield number, line.encode("utf-8", "replace")
        while len(line) == LINE_BYTES and not line.endswith("\n"):
            line = text.readline(LINE_BYTES)
        if number == MOST_LINES:
            break
    text.detach()


class _Reader:
    """Sorts lines into runs. Lines seen thousands of times with other digits are kept back, all but the last."""

    def __init__(self, name: str) -> None:
        self.lines = 0
        self._name = name
        self._runs: list[Run] = []
        self._builder = RunBuilder(name, 1)
        self._shapes: dict[bytes, int] = {}
        self._kept_back: dict[bytes, tuple[int, bytes]] = {}
        self._last: deque[tuple[int, bytes]] = deque(maxlen=LAST_LINES)
        self._read = 0
        self._listing = 0
        self._long = self._more_runs = self._foreign = self._skipped = False

    def feed(self, number: int, line: bytes) -> None:
        """One line of the file."""
        self._skipped |= number > self.lines + 1
        self.lines = number
        if len(line) < SHORT_LINE:
            return
        if self._read > READ_BYTES:
            self._last.append((number, line))
            return
        shape = line.translate(None, _DIGITS)[:SHAPE_BYTES]
        seen = self._shapes.get(shape, 0)
        if seen >= SAME_SHAPE:
            self._kept_back[shape] = (number, line)
            return
        if len(line) >= LINE_BYTES:
            self._long = True
        if line.startswith(_LISTING):
            self._listing += 1
        elif self._listing >= 3 and SEPARATOR.fullmatch(line.rstrip()):
            # What came before was the program itself, whose assignments are no results.
            self._builder, self._listing = RunBuilder(self._name, len(self._runs) + 1), 0
            self._shapes.clear()
            return
        lower = line.lower()
        if not any(word in lower for word in WORDS):
            return
        if seen or len(self._shapes) < SHAPES:
            self._shapes[shape] = seen + 1
        self._read += len(line)
        for piece in line.rstrip(b"\r\n").split(b"\r"):  # a progress bar overwrites its own line
            self._take(number, self._decoded(piece))

    def finish(self) -> tuple[Run, ...]:
        """All runs of the file."""
        self._end_run()
        return tuple(self._runs)

    def notes(self) -> Iterator[str]:
        """What a reader should know of how the file was read."""
        if self._foreign:
            yield "not all of it is UTF-8; what is not was replaced"
        if self._long:
            yield f"lines longer than {LINE_BYTES:,} bytes were cut"
        if self._skipped or self.lines == MOST_LINES:
            yield f"of more than {MOST_LINES:,} lines only the first, and the end of the file, were read"
        if self._last:
            yield f"after {READ_BYTES >> 20} MiB of lines with figures only the last {LAST_LINES:,} lines were read"
        if self._more_runs:
            yield f"only the first {MOST_RUNS} runs of it were read"

    def _take(self, number: int, text: str) -> None:
        if looks_like_code(text):
            return
        read = read_line(text)
        if self._builder.starts_another(read):
            header = list(self._builder.header_of_next)
            self._end_run()
            self._builder = RunBuilder(self._name, len(self._runs) + 1)
            for earlier, words in header:
                self._builder.take(earlier, words)
        self._builder.take(number, text, read)

    def _end_run(self) -> None:
        if self._kept_back or self._skipped:
            self._builder.losses_cut = True
        last = [pair for pair in self._last if any(word in pair[1].lower() for word in CORE_WORDS)]
        for number, line in sorted([*self._kept_back.values(), *last]):
            self._builder.take(number, self._decoded(line.rstrip()))
        self._kept_back.clear()
        self._shapes.clear()
        if self._builder.empty:
            return
        if len(self._runs) < MOST_RUNS:
            self._runs.append(self._builder.finish())
        else:
            self._more_runs = True

    def _decoded(self, line: bytes) -> str:
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError:
            self._foreign = True
            return line.decode("utf-8", "replace")
