"""Charts as SVG, drawn on the server: they print, follow light and dark, and need no script to be read."""

from dashboards.charts.kinds import Axes, Bar, Line, Part, Row, Rule, area_chart, bar_chart, dot_chart, line_chart
from dashboards.charts.paper import Figure, Head, Legend, Table

__all__ = ["Axes", "Bar", "Figure", "Head", "Legend", "Line", "Part", "Row", "Rule", "Table"]
__all__ += ["area_chart", "bar_chart", "dot_chart", "line_chart"]
