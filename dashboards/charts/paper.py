"""A picture with its words and exact figures, and the paper it is drawn on: scales, frame, axes."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from markupsafe import Markup, escape

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


@dataclass(frozen=True)
class Head:
    """What stands above and below a chart. `ident` is its name in the page; `wide`: it takes the whole width."""

    ident: str
    title: str
    caption: str = ""
    wide: bool = False


@dataclass(frozen=True, kw_only=True)
class Figure(Head):
    """A chart; `hover` names the column of `table` along the horizontal axis."""

    svg: Markup
    table: Table
    legend: tuple[Legend, ...] = ()
    hover: str | None = None


def _cell(value: Any) -> Any:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    if not isinstance(value, str):
        return value
    # A text that a spreadsheet would run is kept a text; one with line breaks stays in its row.
    return printable("'" + value if value.startswith(SPREADSHEET_FORMULA) else value)


@dataclass(frozen=True)
class Scale:
    """Maps `low`..`high` to `begin`..`end`, evenly or by logarithms."""

    low: float
    high: float
    begin: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Where `value` lies; beyond the ends, it is held at them."""
        low, high, value = (self.low, self.high, min(max(value, self.low), self.high))
        if self.log:
            low, high, value = (math.log(x) for x in (low, high, value))
        share = (value - low) / (high - low) if high > low else 0.5
        return self.begin + share * (self.end - self.begin)

    def ticks(self) -> list[float]:
        """A few round figures within the range."""
        return log_ticks(self.low, self.high) if self.log else even_ticks(self.low, self.high)


def even_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / max(most - 1, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Powers of ten, thinned out; with few of them, their halves and fifths too."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for factors in ((1, 2, 5), (1, 3), (1,)):
        found = [f * 10.0**p for p in range(first, last + 1) for f in factors if low <= f * 10.0**p <= high]
        if len(found) <= most:
            return found
    return found[:: math.ceil(len(found) / most)]


def bounds(values: Sequence[float], log: bool = False, pad: float = 0.04) -> tuple[float, float]:
    """The range of `values` with a little room around it. Without finite values: 0 to 1."""
    sound = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
    if not sound:
        return (1.0, 10.0) if log else (0.0, 1.0)
    low, high = min(sound), max(sound)
    if log:
        return (low / 1.2, high * 1.2)
    room = (high - low) * pad or abs(high) * 0.01 or 1.0
    return low - room, high + room


def shown(value: float) -> str:
    """A figure beside an axis: short, without needless zeros."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e9 or size < 1e-4:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
    if size >= 1e4:
        return f"{value / 1e6:.10g}M" if size >= 1e6 else f"{value / 1e3:.10g}k"
    return f"{value:.10g}" if size >= 1000 else f"{value:.6g}"


WIDTH, HEIGHT = 640, 280
LEFT, RIGHT, TOP, BOTTOM = 78, 26, 12, 52


@dataclass(frozen=True)
class Frame:
    """Both scales of a chart and the words beside them."""

    x: Scale
    y: Scale
    x_label: str
    y_label: str

    def axes(self) -> Markup:
        """Grid lines, figures and labels."""
        parts = [Markup("<g class='axes' aria-hidden='true'>")]
        for value in self.y.ticks():
            at = self.y(value)
            parts.append(line(self.x.begin, at, self.x.end, at, "grid"))
            parts.append(text(self.x.begin - 8, at + 4, shown(value), "tick end"))
        for value in self.x.ticks():
            at = self.x(value)
            parts.append(line(at, self.y.begin, at, self.y.begin + 5, "axis"))
            parts.append(text(at, self.y.begin + 20, shown(value), "tick middle"))
        parts.append(line(self.x.begin, self.y.begin, self.x.end, self.y.begin, "axis"))
        middle = (self.x.begin + self.x.end) / 2
        parts.append(text(middle, HEIGHT - 8, self.x_label, "label middle"))
        at = (self.y.begin + self.y.end) / 2
        turned = Markup("<text class='label middle' transform='translate(14 {:.0f}) rotate(-90)'>{}</text>")
        parts.append(turned.format(at, self.y_label))
        parts.append(Markup("</g>"))
        return join(parts)


def frame(
    x: tuple[float, float], y: tuple[float, float], x_label: str, y_label: str, log_x: bool = False, log_y: bool = False
) -> Frame:
    """A frame of the usual size over the given ranges."""
    return Frame(Scale(*x, LEFT, WIDTH - RIGHT, log_x), Scale(*y, HEIGHT - BOTTOM, TOP, log_y), x_label, y_label)


def figure(
    head: Head,
    said: str,
    parts: Sequence[Markup],
    table: Table,
    legend: Sequence[Legend] = (),
    height: int = HEIGHT,
    x: Scale | None = None,
) -> Figure:
    """The chart of `parts`; `said` is what a screen reader says of it.

    `x`, the scale of the first column of `table`, lets figures be looked up along the axis.
    """
    opened = Markup(
        "<svg class='chart' role='img' viewBox='0 0 {w} {h}' aria-labelledby='{i}-t {i}-d'{axis}>"
        "<title id='{i}-t'>{t}</title><desc id='{i}-d'>{d}</desc>"
    )
    axis, hover = Markup(""), None
    if x is not None:
        axis = Markup(" data-low='{!r}' data-high='{!r}' data-log='{:d}'").format(x.low, x.high, x.log)
        hover = table.columns[0]
    opened = opened.format(w=WIDTH, h=height, i=head.ident, t=head.title, d=said, axis=axis)
    drawn = join([opened, *parts, Markup("</svg>")])
    return Figure(**vars(head), svg=drawn, table=table, legend=tuple(legend), hover=hover)


def upright_grid(x: Scale, top: float, bottom: float) -> list[Markup]:
    """Upright grid lines from `top` to `bottom`, with their figures below."""
    parts = []
    for value in x.ticks():
        parts.append(line(x(value), top, x(value), bottom, "grid"))
        parts.append(text(x(value), bottom + 18, shown(value), "tick middle"))
    return parts


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """A straight line of class `kind`."""
    return Markup("<line x1='{:.1f}' y1='{:.1f}' x2='{:.1f}' y2='{:.1f}' class='{}'/>").format(x1, y1, x2, y2, kind)


def text(x: float, y: float, words: str, kind: str) -> Markup:
    """Words of class `kind`."""
    return Markup("<text x='{:.1f}' y='{:.1f}' class='{}'>{}</text>").format(x, y, kind, words)


def rect(x: float, y: float, width: float, height: float, kind: str, tip: str) -> Markup:
    """A box of class `kind`; `tip` is shown when it is pointed at."""
    box = Markup("<rect x='{:.1f}' y='{:.1f}' width='{:.2f}' height='{:.1f}' class='{}'><title>{}</title></rect>")
    return box.format(x, y, max(width, 0.0), height, kind, tip)


def join(parts: Sequence[Markup]) -> Markup:
    """One after another."""
    return Markup("").join(escape(part) for part in parts)
