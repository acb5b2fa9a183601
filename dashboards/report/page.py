"""What a page is made of (sections of words, tables, pictures), and the page as one HTML file."""

from __future__ import annotations

import base64
import datetime
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from markupsafe import Markup

from dashboards.charts.paper import Figure
from dashboards.pages import MADE_UP, base_css, templates_of, text_of
from golf_core.errors import ConfigError
from golf_core.files import write_text
from orchestrator.claim.columns import Column as SeedColumn
from orchestrator.folder.results import SeedResult

FILES = "dashboards.report"


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


Shown: TypeAlias = "str | Cell | tuple[float | None, int]"
"""A cell as sections write it: a text, or a figure (a dash where there is none) and how many decimals it has."""
Cells: TypeAlias = "list[Shown]"
"""A row."""


@dataclass(frozen=True)
class Grid:
    """A table. The first cell of a row is its heading; `foot` rows are set apart."""

    ident: str
    caption: str
    columns: tuple[Column, ...]
    rows: Sequence[Sequence[Cell]]
    foot: Sequence[Sequence[Cell]] = ()


Block: TypeAlias = "str | Grid | Figure | Markup"
"""A piece of a section: a paragraph, a table, a picture, markup that is safe already."""


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    ident: str
    title: str
    lead: str
    blocks: Sequence[Block] = field(default_factory=tuple)


@contextmanager
def refused(folder: Path) -> Iterator[None]:
    """A `ConfigError` for figures of the run in `folder` without which there is no page."""
    try:
        yield
    except MADE_UP as error:
        raise ConfigError(
            f"{folder}: holds figures that cannot be shown ({type(error).__name__}: {error}); "
            f"make its results anew from its ledger with: golf rebuild {folder}"
        ) from error


def grid(
    ident: str,
    caption: str,
    columns: Sequence[str | Column],
    rows: Sequence[Sequence[Shown]],
    foot: Sequence[Sequence[Shown]] = (),
) -> Grid:
    """A table; a column that is given as a text is one of words, and one of numbers where that begins with `#`."""
    titles = [c if isinstance(c, Column) else Column(c.removeprefix("#"), c.startswith("#")) for c in columns]
    cells, below = ([[_cell(shown) for shown in row] for row in each] for each in (rows, foot))
    return Grid(ident, caption, tuple(titles), cells, below)


def _cell(shown: Shown) -> Cell:
    if isinstance(shown, Cell):
        return shown
    if isinstance(shown, str):
        return Cell(shown)
    value, digits = shown
    if value is None or not math.isfinite(value):
        return Cell("–")
    return Cell(f"{value:,.{digits}f}", float(value))


def seed_figures(seed: SeedResult, columns: Sequence[SeedColumn]) -> Cells:
    """Cells of a seed's figures."""
    return [(column.of(seed), column.digits) for column in columns]


def moment(seconds: float, timespec: str = "seconds") -> str:
    """Seconds since the epoch as local date and time, with its offset."""
    return datetime.datetime.fromtimestamp(seconds).astimezone().isoformat(sep=" ", timespec=timespec)


def short_p(p: float | None) -> str:
    """A test's p, or a dash where it has none."""
    return "–" if p is None else f"{p:.2g}"


@dataclass(frozen=True)
class Header:
    """The top of a page."""

    title: str
    name: str
    verdict: str
    sentence: str
    facts: tuple[tuple[str, str], ...]

    @property
    def kind(self) -> str:
        """Class of its colour."""
        return {"claim": "is-holds", "no claim": "is-fails"}.get(self.verdict, "is-unknown")


def write_page(path: Path, header: Header, sections: Mapping[str, Callable[..., Section | None]], *runs: Any) -> Path:
    """Write to `path` the page of what `sections` make of the runs; a section that is None is left out.

    The page has no network, no frame and no script but its own: a policy in its head says so to the browser.
    """
    made = [_built(title, section, *runs) for title, section in sections.items()]
    script, style = text_of(FILES, "templates", "page.js"), base_css() + text_of(FILES, "templates", "page.css")
    page = (
        templates_of(FILES)
        .get_template("page.html.j2")
        .render(
            header=header,
            sections=[section for section in made if section is not None],
            # They are our own files, and hold no end of their element.
            script=Markup(script),
            style=Markup(style),
            policy=f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; img-src data:",
        )
    )
    write_text(path, page)
    return path


def _digest(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def _built(title: str, section: Callable[..., Section | None], *runs: Any) -> Section | None:
    """What `section` makes. Where a file holds figures that no reader foresaw, it says so in its place."""
    try:
        return section(*runs)
    except MADE_UP as error:
        ident = f"unreadable-{title.lower().replace(' ', '-')}"
        return Section(ident, title, f"Not shown: its figures cannot be read ({type(error).__name__}).")
