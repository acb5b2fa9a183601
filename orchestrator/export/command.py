"""The command that runs a job, as words and as one line for a shell."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import PurePath

from golf_core.errors import UserError

_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")


def run_words(job: str | PurePath, changes: Sequence[str] = (), program: Sequence[str] = ("golf",)) -> list[str]:
    """The words of `golf run JOB --set CHANGE ...`, with `program` in the place of `golf`."""
    path = str(job)
    if path.startswith("-"):  # a file, not an option
        path = f"./{path}"
    words = [*program, "run", path]
    for change in changes:
        words += ["--set", change]
    return words


def module_program(python: str) -> tuple[str, ...]:
    """`golf` for places where only an interpreter is known."""
    return (python, "-m", "orchestrator")


def shell_line(words: Sequence[str]) -> str:
    """One line that a POSIX shell splits into exactly `words`, whatever characters they hold.

    Raises `UserError` for a zero byte, which no command line can hold.
    """
    for word in words:
        if "\0" in word:
            raise UserError(f"{word!r}: holds a zero byte, which no command line can carry; rename it")
    return shlex.join(words)


def is_plain(words: Sequence[str]) -> bool:
    """Whether any number of shells, one after another, leave every word as it is."""
    return all(_PLAIN.fullmatch(word) for word in words)
