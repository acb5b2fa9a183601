"""Charts as SVG, drawn on the server: they print, follow light and dark, and need no script to be read."""

from dashboards.charts.curves import Axes, Line, Rule, area_chart, line_chart
from dashboards.charts.paper import Figure, Head, Legend, Table
from dashboards.charts.rows import Bar, Part, Row, bar_chart, dot_chart

__all__ = ["Axes", "Bar", "Figure", "Head", "Legend", "Line", "Part", "Row", "Rule", "Table"]
__all__ += ["area_chart", "bar_chart", "dot_chart", "line_chart"]
