"""Frozen dataclasses to plain values and back, strictly: the one reader of configs and results.

Unknown names, missing names and wrong types raise `ConfigError` with the full field path and, for a
misspelt name, the nearest valid one.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import reprlib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from golf_core.errors import ConfigError
from golf_core.files import read_bytes, write_text

R = TypeVar("R")

MAX_JSON = 16 * 1024 * 1024
"""Bytes of a file. Real ones have less than a megabyte; as values in memory, JSON takes up to 25 times its bytes."""
MAX_INT = 2**63 - 1
LONGEST = 60
"""Characters of a name or value in a sentence."""


def to_dict(record: Any) -> Any:
    """A dataclass (nested, with tuples and mappings) as JSON-ready values; non-finite floats become null.

    What has a `to_dict` of its own, and a `from_dict` to match, is written and read by them.
    """
    if hasattr(record, "to_dict"):
        return record.to_dict()
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {f.name: to_dict(getattr(record, f.name)) for f in dataclasses.fields(record)}
    if isinstance(record, Mapping):
        return {str(key): to_dict(value) for key, value in record.items()}
    if isinstance(record, (list, tuple)):
        return [to_dict(value) for value in record]
    if isinstance(record, float) and not math.isfinite(record):
        return None
    return record


def from_dict(cls: type[R], values: Any, where: str = "") -> R:
    """Build the dataclass `cls` from plain values; `where` prefixes the field paths in messages."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where or cls.__name__}: expected a mapping of fields, got {_shown(values)}")
    assert dataclasses.is_dataclass(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for name in values:
        if name not in fields:
            raise ConfigError(
                f"{_join(where, printable(name, LONGEST))}: no such field{nearest(printable(name, LONGEST), fields)}"
            )
    given = {}
    for name, field in fields.items():
        if name in values:
            given[name] = _convert(hints[name], values[name], _join(where, name))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{_join(where, name)}: missing; this field has no default")
    return cls(**given)


def save(record: Any, path: Path) -> None:
    """Write a dataclass to `path` as indented JSON, atomically."""
    write_text(path, json.dumps(to_dict(record), indent=2) + "\n")


def load(cls: type[R], path: Path, most: int = MAX_JSON) -> R:
    """Read a dataclass that `save` wrote, of at most `most` bytes. Raises `ConfigError` naming the file."""
    try:
        values = parse(read_bytes(path, most))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); name a JSON file") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not a JSON file ({error}); write or copy it again") from None
    return from_dict(cls, values, where=str(path))


def parse(text: bytes) -> Any:
    """The values of JSON in UTF-8. Raises `ValueError` with a short reason, for too deep or not finite ones too."""
    try:
        return json.loads(text.decode("utf-8"), parse_constant=_not_finite)
    except RecursionError:
        raise ValueError("too deeply nested") from None


def printable(value: Any, most: int | None = None) -> str:
    """`value` as text on one line, cut to `most` characters.

    It comes from a file: a line break or a terminal's control code in it is shown, not obeyed.
    """
    text = value if isinstance(value, str) else str(value) if isinstance(value, Exception) else _shown(value)
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[: None if most is None else most + 1])
    return text if most is None or len(text) <= most else text[: most - 3] + "..."


def nearest(name: str, valid: typing.Iterable[str]) -> str:
    """The end of an error message: the nearest valid name, or all of them when none is near."""
    names = sorted(valid)
    match = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"; did you mean '{match[0]}'?" if match else f"; valid fields: {', '.join(names)}"


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _convert(next(a for a in args if a is not type(None)), value, where)
    if origin is typing.Literal:
        if value not in args:
            raise ConfigError(f"{where}: {_shown(value)} is not one of {', '.join(map(str, args))}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where}: expected a list, got {_shown(value)}")
        element = args[0]
        if args[-1] is not Ellipsis and len(value) != len(args):
            raise ConfigError(f"{where}: expected {len(args)} values, got {len(value)}")
        return tuple(_convert(element, item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin in (dict, Mapping) or getattr(origin, "__name__", "") == "Mapping":
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: expected a mapping, got {_shown(value)}")
        return {str(key): _convert(args[1], item, _join(where, printable(key, LONGEST))) for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, where)
    if hasattr(hint, "from_dict"):
        return hint.from_dict(value, where)
    if hint is Any:
        return value
    return _scalar(hint, value, where)


def _scalar(hint: type, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > MAX_INT:
            raise ConfigError(f"{where}: {_shown(value)} is out of range; give a number of at most 64 bits")
        return float(value)
    if hint is float and value is None:
        return math.nan  # written as null by `to_dict`
    # bool is a subclass of int; a `true` where a count belongs is a mistake.
    if not isinstance(value, hint) or (hint in (int, float) and isinstance(value, bool)):
        raise ConfigError(f"{where}: expected {hint.__name__}, got {_shown(value)}")
    # Python's integers have no end, those of torch, numpy and JSON's other readers have.
    if isinstance(value, int) and abs(value) > MAX_INT:
        raise ConfigError(f"{where}: {_shown(value)} is out of range; give a number of at most 64 bits")
    return value


def _not_finite(name: str) -> Any:
    raise ValueError(f"it holds {name}")


def _shown(value: Any) -> str:
    limited = reprlib.Repr()  # a deep value has a short text too
    limited.maxstring = limited.maxother = limited.maxlong = LONGEST
    return printable(limited.repr(value), LONGEST)


def _join(where: str, name: str) -> str:
    if not where:
        return name
    return f"{where}: {name}" if where.endswith((".json", ".yaml", ".yml")) else f"{where}.{name}"
