"""The kinds of charts: curves and stacked shares over a common axis; rows of bars, or of dots with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from dashboards.charts.paper import (
    WIDTH,
    Figure,
    Frame,
    Head,
    Legend,
    Scale,
    Table,
    bounds,
    figure,
    frame,
    join,
    line,
    rect,
    text,
    upright_grid,
)

DRAWN_POINTS = 700
"""Points of a curve at the most: more than a line has room for."""
DRAWN_SHARES = 400
AREA_COLOURS = 8
ROW = 34
LEFT, RIGHT, FOOT, BAR = 116, 20, 46, 20
"""Margins of a chart of bars, and the height of a bar."""
DOTS_LEFT, DOTS_RIGHT, DOTS_FOOT, HEAD = 150, 24, 48, 44
WORDS = 130
"""Room for the words beside a line."""


# --- curves --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """A curve: points in order of x. Points that are not finite leave a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str
    points: bool = False
    """Mark every point."""


@dataclass(frozen=True)
class Rule:
    """A straight line across the chart at a height of its own."""

    value: float
    label: str


@dataclass(frozen=True)
class Axes:
    """What a chart of curves is drawn over."""

    x_label: str
    y_label: str
    skip: float = 0.0
    """Share of the horizontal axis whose values do not decide the vertical range: a beginning that would press all
    the rest flat."""
    log_x: bool = False


def line_chart(
    head: Head,
    axes: Axes,
    lines: Sequence[Line],
    rules: Sequence[Rule] = (),
    legend: Sequence[Legend] | None = None,
    table: Table | None = None,
    digits: int | None = None,
) -> Figure:
    """Curves in one frame. `table` replaces the table made of the curves, of x and figures with `digits` decimals."""
    xs = [x for curve in lines for x in curve.x]
    x_range = (min(xs), max(xs)) if xs else (0.0, 1.0)
    if x_range[0] == x_range[1]:
        x_range = (x_range[0] - 0.5, x_range[1] + 0.5)
    from_x = x_range[0] + axes.skip * (x_range[1] - x_range[0])
    ys = [y for curve in lines for x, y in zip(curve.x, curve.y, strict=True) if x >= from_x]
    near = [rule for rule in rules if _near(rule.value, ys)]
    paper = frame(x_range, bounds([*ys, *(r.value for r in near)]), axes.x_label, axes.y_label, axes.log_x)
    parts = [paper.axes()]
    parts += [part for rule in near for part in _rule(paper, rule)]
    parts += [_curve(paper, curve) for curve in lines]
    parts.append(line(0, 0, 0, 0, "cross"))
    table = table or _table(lines, axes.x_label, digits)
    if legend is None:
        legend = [Legend(curve.name, curve.colour) for curve in lines]
    return figure(head, _said(lines, axes.y_label), parts, table, legend, x=paper.x)


def _near(value: float, ys: Sequence[float]) -> bool:
    """Whether a rule is near enough to the curves to be drawn without pressing them flat."""
    low, high = bounds(ys)
    room = 1.5 * (high - low)
    return low - room <= value <= high + room


def _rule(paper: Frame, rule: Rule) -> list[Markup]:
    at, x = paper.y(rule.value), paper.x
    return [line(x.begin, at, x.end, at, "rule"), text(x.end - 4, at - 5, rule.label, "note end")]


def _curve(paper: Frame, curve: Line) -> Markup:
    points = zip(curve.x, curve.y, strict=True)
    sound = [(x, y) for x, y in points if math.isfinite(y) and (x > 0 or not paper.x.log)]
    drawn = [Markup("<path class='curve {}' d='{}'/>").format(curve.colour, _path(paper, thinned(sound)))]
    if curve.points or len(sound) == 1:
        mark = Markup("<circle class='mark {}' cx='{:.1f}' cy='{:.1f}' r='3'/>")
        drawn += [mark.format(curve.colour, paper.x(x), paper.y(y)) for x, y in sound]
    return join(drawn)


def _path(paper: Frame, points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{paper.x(x):.1f} {paper.y(y):.1f}" for x, y in points) if points else ""


def thinned(points: Sequence[tuple[float, float]], most: int = DRAWN_POINTS) -> list[tuple[float, float]]:
    """At most about `most` points: of every stretch the lowest and the highest, so that no peak is lost."""
    if len(points) <= most:
        return list(points)
    kept = []
    size = math.ceil(len(points) / (most / 2))
    for begin in range(0, len(points), size):
        stretch = points[begin : begin + size]
        low, high = min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])
        kept += sorted({low, high})
    if kept[-1] != points[-1]:
        kept.append(points[-1])
    return kept


def _table(lines: Sequence[Line], x_label: str, digits: int | None) -> Table:
    """One row for every x of any curve."""
    ys = [curve.y if digits is None else [round(y, digits) for y in curve.y] for curve in lines]
    by_x = [dict(zip(curve.x, y, strict=True)) for curve, y in zip(lines, ys, strict=True)]
    rows = [[x, *(column.get(x) for column in by_x)] for x in sorted({x for column in by_x for x in column})]
    return Table((x_label, *(curve.name for curve in lines)), rows)


def _said(lines: Sequence[Line], y_label: str) -> str:
    ends = [f"{curve.name} ends at {curve.y[-1]:.5g}" for curve in lines if len(curve.y)]
    return f"{y_label}: {'; '.join(ends[:12])}." if ends else "No figures."


def area_chart(head: Head, x_label: str, x: Sequence[float], shares: Mapping[str, Sequence[float]]) -> Figure:
    """Stacked shares [len(x)] by name, the first at the bottom."""
    x_range = (float(x[0]), float(x[-1])) if len(x) > 1 else (0.0, float(x[0]) if len(x) else 1.0)
    paper = frame(x_range, (0.0, 1.0), x_label, "share")
    every = max(1, math.ceil(len(x) / DRAWN_SHARES))
    chosen = sorted({*range(0, len(x), every), len(x) - 1}) if len(x) else []
    below = [(x[i], 0.0) for i in chosen]
    colours = {name: f"a{i % AREA_COLOURS}" for i, name in enumerate(shares)}
    parts = []
    for name, values in shares.items():
        above = [(at, y + values[i]) for (at, y), i in zip(below, chosen, strict=True)]
        path = _path(paper, [*above, *reversed(below)]) + ("Z" if above else "")
        tip = f"{name}: {values[-1]:.4f} at the end" if len(values) else name
        area = Markup("<path class='area {}' d='{}'><title>{}</title></path>")
        parts.append(area.format(colours[name], path, tip))
        below = above
    parts += [paper.axes(), line(0, 0, 0, 0, "cross")]
    table = Table((x_label, *shares), [[at, *(values[i] for values in shares.values())] for i, at in enumerate(x)])
    ends = "; ".join(f"{name} {values[-1]:.3f}" for name, values in shares.items() if len(values))
    said = f"Shares at the end: {ends}." if ends else "No figures."
    return figure(head, said, parts, table, [Legend(name, colours[name]) for name in shares], x=paper.x)


# --- rows ----------------------------------------------------------------------------------------


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
            parts += _interval(x, at, row)
        for value in row.dots:
            kind = f"dot {row.colour}" + (" hollow" if row.hollow else "")
            dot = Markup("<circle class='{}' cx='{:.1f}' cy='{:.1f}' r='5'><title>{}</title></circle>")
            parts.append(dot.format(kind, x(value), at, f"{row.label}: {value:.5f} {unit}"))
        low, high = row.interval or (None, None)
        table += [[row.label, value, low, high, row.interval_name] for value in row.dots]
    parts.append(text((x.begin + x.end) / 2, height - 8, unit, "label middle"))
    said = "; ".join(f"{row.label} {', '.join(f'{v:.5f}' for v in row.dots)}" for row in rows)
    said += "".join(f"; {rule.label} {rule.value:.5f}" for rule in rules)
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


def _interval(x: Scale, at: float, row: Row) -> list[Markup]:
    assert row.interval is not None
    low, high = row.interval
    tip = f"{row.interval_name}: {_end(low)} to {_end(high)}"
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


def _end(value: float) -> str:
    return f"{value:.5f}" if math.isfinite(value) else "without end"
