"""Reading logs of events: one line, a whole file, or what has come since the last look."""

from __future__ import annotations

import errno
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from golf_core.errors import ConfigError
from golf_core.events import Chunk, Event, Gpu, Note, PhaseFinished, PhaseStarted, System, TrainStep, Validation
from golf_core.files import MAX_RECORD_BYTES, open_plain, read_bytes

KINDS: Mapping[str, type[Event]] = {
    cls.kind: cls for cls in (PhaseStarted, PhaseFinished, TrainStep, Validation, Chunk, Note, System)
}
MOST = 10**12
"""The largest figure that anything is: what is beyond it is damaged."""
READ_BYTES = 4 << 20


def parse(line: bytes) -> Event:
    """The event of one line of a log. Raises `ValueError` for a line that is torn or damaged, or of no known kind."""
    try:
        values = json.loads(line)
    except RecursionError:
        raise ValueError("too deeply nested") from None
    return event_of(values)


def event_of(values: Any) -> Event:
    """An event from the values of its line: {"time", "kind", ...fields}. Raises `ValueError` for damaged ones.

    Figures that are null or missing are NaN, or None where the event says so; unknown names are kept in `more`.
    """
    try:
        given = dict(values)
        cls, moment = KINDS[given.pop("kind")], float(given.pop("time"))
        if not math.isfinite(moment):
            raise ValueError("no such time")
        return cls(**_own(cls, given), time=moment, more=given)
    except (LookupError, TypeError, ArithmeticError) as error:
        raise ValueError(f"not an event ({type(error).__name__})") from None


def _own(cls: type, given: dict[str, Any]) -> dict[str, Any]:
    """The fields of `cls` taken out of `given`, checked."""
    names = {f.name: str(f.type) for f in fields(cls) if f.name not in ("time", "more")}
    return {name: CHECKS[kind](given.pop(name)) for name, kind in names.items() if name in given}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _count(value: Any) -> int:
    number = int(_number(value))
    if not 0 <= number <= MOST:
        raise ValueError("cannot be counted")
    return number


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError
    if abs(value) > MOST and math.isfinite(value):
        raise ValueError("no such figure")
    return value if math.isfinite(value) else math.nan


def _shares(value: Any) -> dict[str, float]:
    return {str(name): _number(share) for name, share in dict(value or {}).items()}


def _gpus(value: Any) -> tuple[Gpu, ...]:
    return tuple(Gpu(**_own(Gpu, dict(gpu))) for gpu in value or ())


def _or_none(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def checked(value: Any) -> Any:
        found = None if value is None else check(value)
        return None if found != found else found

    return checked


CHECKS: Mapping[str, Callable[[Any], Any]] = {
    "str": _text,
    "str | None": _or_none(_text),
    "int": _count,
    "int | None": _or_none(_count),
    "float": lambda value: math.nan if value is None else _number(value),
    "float | None": _or_none(_number),
    "Mapping[str, float]": _shares,
    "tuple[Gpu, ...]": _gpus,
}
"""By the types that events' fields have."""


def sound_events(lines: Iterator[bytes] | list[bytes]) -> Iterator[Event]:
    """The events of `lines`, without what is torn or damaged."""
    for line in lines:
        try:
            yield parse(line)
        except ValueError:
            continue


def read_events(path: Path) -> list[Event]:
    """The events that a seed's log.jsonl holds. Raises `ConfigError` naming the file and line."""
    try:
        lines = read_bytes(path, MAX_RECORD_BYTES).decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno == errno.EFBIG:
            raise ConfigError(f"{path}: {error.strerror}, so it is no seed's log; is this a run's folder?") from None
        raise ConfigError(f"{path}: missing or not text; the run's folder must hold each seed's log") from None
    events = []
    for number, line in enumerate(lines, start=1):
        try:
            events.append(parse(line.encode("utf-8")))
        except ValueError:
            raise ConfigError(f"{path}: line {number} is not an event; the log is damaged") from None
    return events


def whole_lines(path: Path, offset: int) -> list[bytes]:
    """Whole lines of a growing file from byte `offset` on, `READ_BYTES` at the most; none where there is no file."""
    try:
        with open_plain(path) as file:
            file.seek(offset)
            block = file.read(READ_BYTES)
    except OSError:
        return []
    return block[: block.rfind(b"\n") + 1].splitlines(keepends=True)


class Tail:
    """A growing log, each of whose lines is told once."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path, self.offset = path, offset

    @property
    def replaced(self) -> bool:
        """Whether the file is shorter than what has been read: another attempt's log has taken its place."""
        try:
            return self.path.stat().st_size < self.offset
        except OSError:
            return False

    def events(self) -> Iterator[Event]:
        """What has come since the last call, without what is damaged."""
        while block := whole_lines(self.path, self.offset):
            self.offset += sum(map(len, block))
            yield from sound_events(block)
