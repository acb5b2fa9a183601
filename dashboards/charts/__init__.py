"""Charts as SVG, drawn on the server: they print, follow light and dark, and need no script to be read."""

from dashboards.charts.areas import area_chart
from dashboards.charts.bars import Bar, Part, bar_chart
from dashboards.charts.dots import Row, dot_chart
from dashboards.charts.figure import Figure, Legend, Table
from dashboards.charts.lines import Line, Rule, line_chart

__all__ = [
    "Bar",
    "Figure",
    "Legend",
    "Line",
    "Part",
    "Row",
    "Rule",
    "Table",
    "area_chart",
    "bar_chart",
    "dot_chart",
    "line_chart",
]
