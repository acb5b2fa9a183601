"""What sections are made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from markupsafe import Markup

from dashboards.charts import Figure
from golf_core.errors import ConfigError
from orchestrator.folder.results import Condition

SEED_COLOURS = 6
MADE_UP = (ArithmeticError, ValueError, TypeError, LookupError, AttributeError, RecursionError, OSError)
"""What a figure that was never measured can raise: a time that no clock shows, a number without end."""
Made = TypeVar("Made")


@dataclass(frozen=True)
class Cell:
    """A cell of a table: what is shown, and the exact figure behind it."""

    text: str
    value: float | None = None
    kind: str = ""


@dataclass(frozen=True)
class Column:
    """Title of a column; numbers are set to the right."""

    title: str
    number: bool = True
    note: str = ""
    """Said when the title is pointed at."""


@dataclass(frozen=True)
class Grid:
    """A table. The first cell of a row is its heading; `foot` rows are set apart."""

    ident: str
    caption: str
    columns: tuple[Column, ...]
    rows: Sequence[Sequence[Cell]]
    foot: Sequence[Sequence[Cell]] = ()


@dataclass(frozen=True)
class Block:
    """A piece of a section."""

    kind: Literal["text", "grid", "figure", "html", "code"]
    content: Any


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    ident: str
    title: str
    lead: str
    blocks: Sequence[Block] = field(default_factory=tuple)


def built(title: str, build: Callable[[], Section | None]) -> Section | None:
    """What `build` makes. Where a file holds figures that no reader foresaw, a section says so in its place."""
    try:
        return build()
    except MADE_UP as error:
        ident = f"unreadable-{title.lower().replace(' ', '-')}"
        return Section(ident, title, f"Not shown: its figures cannot be read ({type(error).__name__}).")


def or_refused(folder: Path, read: Callable[[], Made]) -> Made:
    """What `read` returns; a `ConfigError` for figures of the run in `folder` without which there is no page."""
    try:
        return read()
    except MADE_UP as error:
        raise ConfigError(
            f"{folder}: holds figures that cannot be shown ({type(error).__name__}: {error}); "
            f"make its results anew from its ledger with: golf rebuild {folder}"
        ) from error


def paragraph(words: str) -> Block:
    """Plain text."""
    return Block("text", words)


def grid(*arguments: Any, **named: Any) -> Block:
    """A `Grid`."""
    return Block("grid", Grid(*arguments, **named))


def figure(chart: Figure) -> Block:
    """A chart."""
    return Block("figure", chart)


def html(markup: Markup) -> Block:
    """Markup that is safe already."""
    return Block("html", markup)


def code(words: str) -> Block:
    """Commands, a line each."""
    return Block("code", words)


def number(value: float | None, digits: int = 5, kind: str = "") -> Cell:
    """A figure with so many decimals; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return Cell("–", None, kind)
    return Cell(f"{value:,.{digits}f}", float(value), kind)


def words(text: str, kind: str = "") -> Cell:
    """A text."""
    return Cell(text, None, kind)


def seed_colour(index: int) -> str:
    """Class of colour of the seed at `index`."""
    return f"s{index % SEED_COLOURS}"


def mark(condition: Condition) -> Cell:
    """Whether a condition holds, in a sign and a word."""
    sign, word = condition.mark
    return Cell(f"{sign} {word}", None, f"is-{word}")
