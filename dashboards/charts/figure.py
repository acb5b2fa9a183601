"""A picture with its words and the exact figures behind it."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from golf_core.strict_json import printable

PLAIN_IN_URL = " ,.-+:/()'*"
"""Characters of a CSV file that a data address takes as they are."""
SPREADSHEET_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Table:
    """Exact figures: a row each, as many cells as there are columns. Cells are texts, numbers, or None."""

    columns: tuple[str, ...]
    rows: Sequence[Sequence[Any]]

    @property
    def csv(self) -> str:
        """As a CSV file (RFC 4180): numbers in full or in the digits they were recorded with."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([_cell(name) for name in self.columns])
        writer.writerows([[_cell(value) for value in row] for row in self.rows])
        return file.getvalue()

    @property
    def href(self) -> str:
        """The CSV file as a data address."""
        return "data:text/csv;charset=utf-8," + quote(self.csv, safe=PLAIN_IN_URL)


@dataclass(frozen=True)
class Legend:
    """One entry: a label, and the class of colour that it explains."""

    label: str
    colour: str
    dashed: bool = False


@dataclass(frozen=True)
class Figure:
    """A chart. `ident` is its name in the page; `hover` names the column of `table` along the horizontal axis."""

    ident: str
    title: str
    caption: str
    svg: Markup
    table: Table
    legend: tuple[Legend, ...] = ()
    hover: str | None = None
    wide: bool = False
    """It takes the page's whole width."""


def _cell(value: Any) -> Any:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    if not isinstance(value, str):
        return value
    # A text that a spreadsheet would run is kept a text; one with line breaks stays in its row.
    return printable("'" + value if value.startswith(SPREADSHEET_FORMULA) else value)
