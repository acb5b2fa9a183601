"""submission.json as it was filed: every value with its path, its line, and the digits in which it was written."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from golf_core.files import open_plain

SUBMISSION = "submission.json"
MOST_BYTES = 4 << 20
MOST_LEAVES = 5_000
DEEPEST = 12
TEXT_CHARACTERS = 20_000
LOOKED_AHEAD = 50_000
"""Within how many characters a name is looked for, to give its line."""


class Digits(str):
    """A number of the file in its own digits: 1.0400 is not 1.04."""


@dataclass(frozen=True)
class Leaf:
    """One value."""

    path: tuple[str, ...]
    """Keys, and list positions as [0], from the outside."""
    value: Digits | str | bool | None
    line: int
    """Counted from 1; 0 where it could not be found."""

    @property
    def key(self) -> str:
        """The last name on the path, list positions left out."""
        names = names_on(self.path)
        return names[-1].lower() if names else ""

    @property
    def where(self) -> str:
        """The path as one writes it."""
        return ".".join(self.path).replace(".[", "[")


@dataclass(frozen=True)
class Submission:
    """The file, or why there is none to speak of."""

    present: bool
    fault: str
    """Why it could not be read, in one sentence; nothing when it could."""
    notes: tuple[str, ...]
    leaves: tuple[Leaf, ...]

    def under(self, *names: str) -> list[Leaf]:
        """The values whose path begins with one of these names."""
        return [leaf for leaf in self.leaves if leaf.path and leaf.path[0].lower() in names]


def read_submission(path: Path | None) -> Submission:
    """Read the file at `path`; faults are told, not raised."""
    if path is None:
        return Submission(False, "", (), ())
    try:
        with open_plain(path) as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        return _faulty(f"it cannot be read ({error.strerror})")
    if len(content) > MOST_BYTES:
        return _faulty(f"it is larger than {MOST_BYTES:,} bytes")
    notes: list[str] = []
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("utf-8", "replace")
        notes.append("not all of it is UTF-8; what is not was replaced")
    if not text.strip():
        return _faulty("it is empty")

    def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = Counter(name for name, _ in pairs)
            notes.extend(f"'{name[:40]}' is given more than once" for name, times in names.items() if times > 1)
        return found

    try:
        value = json.loads(
            text, parse_float=Digits, parse_int=Digits, parse_constant=Digits, object_pairs_hook=_members
        )
    except json.JSONDecodeError as error:
        return _faulty(f"it is not JSON ({error.msg}, line {error.lineno})")
    except RecursionError:
        return _faulty("it is nested too deeply")
    if not isinstance(value, dict):
        return _faulty(f"it holds {_kind(value)} where an object with named figures belongs")
    leaves = tuple(_numbered(_leaves(value), text, notes))
    return Submission(True, "", tuple(notes[:20]), leaves)


def names_on(path: Sequence[str]) -> list[str]:
    """The keys of a path without list positions."""
    return [part for part in path if not part.startswith("[")]


def _faulty(fault: str) -> Submission:
    return Submission(True, fault, (), ())


def _kind(value: Any) -> str:
    return {list: "a list", str: "a text", Digits: "a number", bool: "true or false"}.get(type(value), "nothing")


def _leaves(value: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All values in the order of the file; what is nested deeper than `DEEPEST` is left out."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((), value)]
    while waiting:
        path, found = waiting.pop()
        if isinstance(found, dict) and len(path) < DEEPEST:
            waiting.extend(((*path, str(name)), item) for name, item in reversed(found.items()))
        elif isinstance(found, list) and len(path) < DEEPEST:
            waiting.extend(((*path, f"[{i}]"), item) for i, item in reversed(list(enumerate(found))))
        elif not isinstance(found, (dict, list)):
            yield path, found


def _numbered(leaves: Iterator[tuple[tuple[str, ...], Any]], text: str, notes: list[str]) -> Iterator[Leaf]:
    cursor, line, previous = 0, 1, ""
    for count, (path, value) in enumerate(leaves):
        if count >= MOST_LEAVES:
            notes.append(f"only its first {MOST_LEAVES:,} values were read")
            return
        names = names_on(path)
        if names and ".".join(path[:-1]) + names[-1] != previous:
            quoted = re.escape(json.dumps(names[-1], ensure_ascii=False))
            found = re.compile(rf"{quoted}\s{{0,20}}:").search(text, cursor, cursor + LOOKED_AHEAD)
            if found:
                line += text.count("\n", cursor, found.start())
                cursor = found.start()
            previous = ".".join(path[:-1]) + names[-1]
        if isinstance(value, str) and not isinstance(value, Digits):
            value = value[:TEXT_CHARACTERS]
        yield Leaf(path, value, line)
