"""Shares of one, stacked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from dashboards.charts.figure import Figure, Legend, Table
from dashboards.charts.frame import frame, line, svg

DRAWN = 400


def area_chart(
    ident: str,
    title: str,
    x: Sequence[float],
    shares: Mapping[str, Sequence[float]],
    x_label: str,
    colours: Mapping[str, str],
    caption: str = "",
) -> Figure:
    """Stacked shares [len(x)] by name, the first at the bottom."""
    x_range = (float(x[0]), float(x[-1])) if len(x) > 1 else (0.0, float(x[0]) if len(x) else 1.0)
    paper = frame(x_range, (0.0, 1.0), x_label, "share")
    every = max(1, math.ceil(len(x) / DRAWN))
    chosen = sorted({*range(0, len(x), every), len(x) - 1}) if len(x) else []
    below = [0.0] * len(chosen)
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
    legend = tuple(Legend(name, colours[name]) for name in shares)
    return Figure(ident, title, caption, svg(ident, title, said, parts, x=paper.x), table, legend, x_label)
