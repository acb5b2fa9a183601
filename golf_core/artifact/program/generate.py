"""The program of a configuration: `train_gpt.py` as it ships, and the same program to read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import golf_core
from golf_core.artifact.program.flatten import Recipe, flatten
from golf_core.artifact.program.modules import Package
from golf_core.artifact.program.pack import pack
from golf_core.artifact.program.strip import strip
from golf_core.config import GolfConfig
from golf_core.strict_json import to_dict

READABLE_NAME = "train_gpt_readable.py"
RECIPE = Recipe(
    entry="golf_core.train_gpt.entry",
    # The program does not make itself: it is its own file.
    replaced={"golf_core.artifact.program.generate.program_bytes": "golf_core.artifact.program.itself.program_bytes"},
)
CONFIG_CONSTANT = "golf_core.train_gpt.CONFIG"


def readable_program(config: GolfConfig) -> str:
    """The program as one module with its docstrings and comments; `config` is its default and only configuration.

    Raises `ProgramError` where the sources hold something that cannot be carried over for certain.
    """
    folder = Path(golf_core.__file__).parent
    return flatten(Package.read("golf_core", folder, {CONFIG_CONSTANT: _literal(to_dict(config))}), RECIPE)


def program_bytes(config: GolfConfig) -> bytes:
    """The program as it ships and counts. Deterministic for the same sources, configuration and liblzma."""
    return pack(strip(readable_program(config)))


def _literal(values: Mapping[str, Any]) -> str:
    """Plain values as a Python expression, a field a line."""
    return "\n".join(_lines(values, ""))


def _lines(values: Mapping[str, Any], indent: str) -> Iterator[str]:
    yield "{"
    for name, value in values.items():
        if isinstance(value, Mapping):
            first, *rest = _lines(value, indent + "    ")
            yield f'{indent}    "{name}": {first}'
            yield from rest[:-1]
            yield f"{rest[-1]},"
        else:
            yield f'{indent}    "{name}": {_plain(value)},'
    yield indent + "}"


def _plain(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) and value.isidentifier() else repr(value)
