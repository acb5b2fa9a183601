"""Rows on one axis: bars of parts against a limit, dots with intervals as a test sees them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from dashboards.charts.curves import Rule
from dashboards.charts.paper import (
    WIDTH,
    Figure,
    Head,
    Legend,
    Scale,
    Table,
    bounds,
    figure,
    line,
    rect,
    text,
    upright_grid,
)

ROW = 34
LEFT, RIGHT, FOOT, BAR = 116, 20, 46, 20
"""Margins of a chart of bars, and the height of a bar."""
DOTS_LEFT, DOTS_RIGHT, DOTS_FOOT, HEAD = 150, 24, 48, 44
WORDS = 130
"""Room for the words beside a line."""


@dataclass(frozen=True)
class Part:
    """A piece of a bar."""

    name: str
    value: float
    colour: str


@dataclass(frozen=True)
class Bar:
    """A row: its pieces from left to right."""

    label: str
    parts: tuple[Part, ...]

    @property
    def total(self) -> float:
        """All pieces together."""
        return sum(part.value for part in self.parts)


def row_scale(longest: float) -> Scale:
    """From zero to `longest`, as wide as rows of boxes are."""
    return Scale(0.0, longest, LEFT, WIDTH - RIGHT)


def top_of(row: int) -> float:
    """Where the boxes of a row begin."""
    return 12 + ROW * row


def rows_frame(x: Scale, labels: Sequence[str], unit: str) -> tuple[list[Markup], int]:
    """The grid, the rows' names and the unit of a chart of boxes in rows, and its height."""
    height = 12 + ROW * len(labels) + FOOT
    parts = upright_grid(x, 8, height - FOOT)
    parts += [text(LEFT - 8, top_of(row) + BAR / 2 + 5, label, "tick end") for row, label in enumerate(labels)]
    parts.append(text((LEFT + WIDTH) / 2, height - 8, unit, "label middle"))
    return parts, height


def bar_chart(head: Head, bars: Sequence[Bar], unit: str, limit: float | None = None, digits: int = 1) -> Figure:
    """One bar a row; with a `limit`, a line at it."""
    longest = max([bar.total for bar in bars] + ([limit] if limit else []), default=1.0) or 1.0
    x = row_scale(longest * 1.04)
    parts, height = rows_frame(x, [bar.label for bar in bars], unit)
    for number, bar in enumerate(bars):
        top, begin = top_of(number), 0.0
        for part in bar.parts:
            tip = f"{bar.label}, {part.name}: {part.value:,.{digits}f} {unit}"
            parts.append(rect(x(begin), top, x(begin + part.value) - x(begin), BAR, f"bar {part.colour}", tip))
            begin += part.value
        inside = x(bar.total) > WIDTH - WORDS
        kind, at = ("inside end", x(bar.total) - 6) if inside else ("value", x(bar.total) + 6)
        parts.append(text(at, top + BAR / 2 + 5, f"{bar.total:,.{digits}f}", kind))
    rows = [[bar.label, part.name, part.value] for bar in bars for part in bar.parts]
    said = "; ".join(f"{bar.label}: {bar.total:,.{digits}f} {unit}" for bar in bars) + "."
    legend = list({part.name: Legend(part.name, part.colour) for bar in bars for part in bar.parts}.values())
    if len(legend) == 1:
        legend = []
    if limit is not None:
        parts.append(line(x(limit), 4, x(limit), height - FOOT, "limit"))
        said += f" The limit is {limit:,.{digits}f} {unit}."
        legend.append(Legend(f"limit {limit:,.0f} {unit}", "limit"))
    return figure(head, said, parts, Table(("row", "part", unit), rows), legend, height)


@dataclass(frozen=True)
class Row:
    """A row: dots, and an interval whose ends may be open (infinite)."""

    label: str
    dots: tuple[float, ...]
    colour: str
    interval: tuple[float, float] | None = None
    interval_name: str = ""
    hollow: bool = False


def dot_chart(
    head: Head,
    rows: Sequence[Row],
    unit: str,
    rules: Sequence[Rule] = (),
    legend: Sequence[Legend] = (),
    digits: int = 5,
) -> Figure:
    """Rows of dots with intervals; `rules` are upright lines that all rows are compared with."""
    values = [v for row in rows for v in (*row.dots, *(row.interval or ())) if math.isfinite(v)]
    values += [rule.value for rule in rules]
    height = HEAD + ROW * len(rows) + DOTS_FOOT
    x = Scale(*bounds(values, pad=0.08), DOTS_LEFT, WIDTH - DOTS_RIGHT)
    bottom = height - DOTS_FOOT
    parts = [
        line(x.begin, bottom, x.end, bottom, "axis"),
        *upright_grid(x, HEAD - 6, bottom),
        *_rules(x, rules, bottom),
    ]
    table = []
    for number, row in enumerate(rows):
        at = HEAD + ROW * number + ROW / 2
        parts.append(text(DOTS_LEFT - 10, at + 5, row.label, "tick end"))
        if row.interval is not None:
            parts += _interval(x, at, row, digits)
        for value in row.dots:
            kind = f"dot {row.colour}" + (" hollow" if row.hollow else "")
            dot = Markup("<circle class='{}' cx='{:.1f}' cy='{:.1f}' r='5'><title>{}</title></circle>")
            parts.append(dot.format(kind, x(value), at, f"{row.label}: {value:.{digits}f} {unit}"))
        low, high = row.interval or (None, None)
        table += [[row.label, value, low, high, row.interval_name] for value in row.dots]
    parts.append(text((x.begin + x.end) / 2, height - 8, unit, "label middle"))
    said = "; ".join(f"{row.label} {', '.join(f'{v:.{digits}f}' for v in row.dots)}" for row in rows)
    said += "".join(f"; {rule.label} {rule.value:.{digits}f}" for rule in rules)
    columns = ("row", unit, "low", "high", "interval")
    return figure(head, said + ".", parts, Table(columns, table), legend, height)


def _rules(x: Scale, rules: Sequence[Rule], bottom: float) -> list[Markup]:
    """Upright lines. The words of the first stand to its left, those of the last to its right, so that none meet."""
    parts = []
    ordered = sorted(rules, key=lambda rule: rule.value)
    for number, rule in enumerate(ordered):
        at = x(rule.value)
        left = number == 0 if len(ordered) > 1 else at > (x.begin + x.end) / 2
        # Where there is no room on that side, the words stand one line higher on the other.
        turned = (left and at - x.begin < WORDS) or (not left and x.end - at < WORDS)
        left, level = left != turned, HEAD - (26 if turned and len(ordered) > 1 else 12)
        parts.append(line(at, HEAD - 10, at, bottom, "rule"))
        parts.append(text(at + (-4 if left else 4), level, rule.label, "note end" if left else "note"))
    return parts


def _interval(x: Scale, at: float, row: Row, digits: int) -> list[Markup]:
    assert row.interval is not None
    low, high = row.interval
    tip = f"{row.interval_name}: {_end(low, digits)} to {_end(high, digits)}"
    bar = Markup("<line class='interval {}' x1='{:.1f}' x2='{:.1f}' y1='{:.1f}' y2='{:.1f}'><title>{}</title></line>")
    parts = [bar.format(row.colour, x(max(low, x.low)), x(min(high, x.high)), at, at, tip)]
    for end in (low, high):
        if math.isfinite(end):
            parts.append(line(x(end), at - 6, x(end), at + 6, f"interval {row.colour}"))
        else:  # it has no end on this side
            sign = 1 if end > 0 else -1
            tip_at = x.end if end > 0 else x.begin
            arrow = Markup("<path class='arrow {}' d='M{:.1f} {:.1f}l{} -5v10z'/>")
            parts.append(arrow.format(row.colour, tip_at, at, -8 * sign))
    return parts


def _end(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "without end"
