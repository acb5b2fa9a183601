"""Curves and stacked shares over a common horizontal axis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from dashboards.charts.paper import Figure, Frame, Head, Legend, Table, bounds, figure, frame, join, line, text

DRAWN_POINTS = 700
"""Points of a curve at the most: more than a line has room for."""
DRAWN_SHARES = 400
AREA_COLOURS = 8


@dataclass(frozen=True)
class Line:
    """A curve: points in order of x. Points that are not finite leave a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str
    dashed: bool = False
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
    parts += [_rule(paper, rule) for rule in near]
    parts += [_curve(paper, curve) for curve in lines]
    parts.append(line(0, 0, 0, 0, "cross"))
    table = table or _table(lines, axes.x_label, digits)
    if legend is None:
        legend = [Legend(curve.name, curve.colour, curve.dashed) for curve in lines]
    return figure(head, _said(lines, axes.y_label), parts, table, legend, x=paper.x)


def _near(value: float, ys: Sequence[float]) -> bool:
    """Whether a rule is near enough to the curves to be drawn without pressing them flat."""
    low, high = bounds(ys)
    room = 1.5 * (high - low)
    return low - room <= value <= high + room


def _rule(paper: Frame, rule: Rule) -> Markup:
    at = paper.y(rule.value)
    return join(
        [
            line(paper.x.begin, at, paper.x.end, at, "rule"),
            text(paper.x.end - 4, at - 5, rule.label, "note end"),
        ]
    )


def _curve(paper: Frame, curve: Line) -> Markup:
    points = list(zip(curve.x, curve.y, strict=True))
    sound = [(x, y) for x, y in points if math.isfinite(y) and (x > 0 or not paper.x.log)]
    pieces = []
    last = None
    for x, y in thinned(sound):
        place = f"{paper.x(x):.1f} {paper.y(y):.1f}"
        pieces.append(f"{'L' if last is not None else 'M'}{place}")
        last = place
    kind = f"curve {curve.colour}" + (" dashed" if curve.dashed else "")
    drawn = [Markup("<path class='{}' d='{}'/>").format(kind, "".join(pieces))]
    if curve.points or len(sound) == 1:
        mark = Markup("<circle class='mark {}' cx='{:.1f}' cy='{:.1f}' r='3'/>")
        drawn += [mark.format(curve.colour, paper.x(x), paper.y(y)) for x, y in sound]
    return join(drawn)


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
    below = [0.0] * len(chosen)
    colours = {name: f"a{i % AREA_COLOURS}" for i, name in enumerate(shares)}
    parts = []
    for name, values in shares.items():
        above = [b + values[i] for b, i in zip(below, chosen, strict=True)]
        there = [f"{paper.x(x[i]):.1f} {paper.y(v):.1f}" for i, v in zip(chosen, above, strict=True)]
        back = [f"{paper.x(x[i]):.1f} {paper.y(v):.1f}" for i, v in zip(chosen, below, strict=True)][::-1]
        path = "M" + "L".join(there + back) + "Z" if there else ""
        tip = f"{name}: {values[-1]:.4f} at the end" if len(values) else name
        area = Markup("<path class='area {}' d='{}'><title>{}</title></path>")
        parts.append(area.format(colours[name], path, tip))
        below = above
    parts += [paper.axes(), line(0, 0, 0, 0, "cross")]
    table = Table((x_label, *shares), [[at, *(values[i] for values in shares.values())] for i, at in enumerate(x)])
    ends = "; ".join(f"{name} {values[-1]:.3f}" for name, values in shares.items() if len(values))
    said = f"Shares at the end: {ends}." if ends else "No figures."
    return figure(head, said, parts, table, [Legend(name, colours[name]) for name in shares], x=paper.x)
