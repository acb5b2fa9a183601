"""Charts: scales, thinning, and the exact figures that go with them."""

from __future__ import annotations

import csv
import io
import math
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboards.charts.kinds import (
    Axes,
    Bar,
    Line,
    Part,
    Row,
    Rule,
    area_chart,
    bar_chart,
    dot_chart,
    line_chart,
    thinned,
)
from dashboards.charts.paper import Figure, Head, Scale, Table, bounds, even_ticks, log_ticks, shown
from golf_core.strict_json import printable

HEAD, AXES = Head("i", "t"), Axes("x", "y")
FINITE = st.floats(-1e9, 1e9, allow_nan=False)


def drawn(figure: Figure) -> ElementTree.Element:
    """The picture, parsed: it is well-formed."""
    return ElementTree.fromstring(str(figure.svg))


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e9), st.integers(2, 9))
def test_ticks_are_round_and_within(low: float, width: float, most: int) -> None:
    ticks = even_ticks(low, low + width, most)
    assert len(ticks) <= most + 1
    assert all(low - width * 1e-6 <= tick <= low + width * (1 + 1e-6) for tick in ticks)
    assert ticks == sorted(set(ticks))


@given(st.floats(1e-9, 1e6), st.floats(1.5, 1e9), st.integers(2, 9))
def test_log_ticks_are_within(low: float, factor: float, most: int) -> None:
    ticks = log_ticks(low, low * factor, most)
    assert len(ticks) <= most and all(low <= tick <= low * factor for tick in ticks)


@given(st.lists(FINITE, min_size=2), FINITE)
def test_a_scale_keeps_order_and_stays_on_the_paper(values: list[float], other: float) -> None:
    scale = Scale(*bounds(values), 10, 90)
    places = [scale(value) for value in sorted(values)]
    assert places == sorted(places)
    assert all(10 - 1e-9 <= scale(value) <= 90 + 1e-9 for value in [*values, other])


@given(st.lists(st.tuples(st.integers(0, 10**6), FINITE), min_size=1, max_size=3000, unique_by=lambda p: p[0]))
def test_thinning_loses_no_peak(points: list[tuple[float, float]]) -> None:
    points = sorted(points)
    kept = thinned(points, 100)
    assert len(kept) <= 102 and set(kept) <= set(points) and kept == sorted(kept)
    assert kept[-1] == points[-1]
    for end in (min, max):
        assert end(y for _, y in kept) == end(y for _, y in points)


@given(st.lists(st.tuples(FINITE, st.text(max_size=20)), max_size=20))
def test_the_data_are_exact(rows: list[tuple[float, str]]) -> None:
    table = Table(("figure", "word, quoted"), rows)
    text = unquote(table.href.partition(",")[2])
    read = list(csv.reader(io.StringIO(text, newline="")))
    assert read[0] == ["figure", "word, quoted"]
    assert [float(row[0]) for row in read[1:]] == [value for value, _ in rows]
    assert [row[1].removeprefix("'") for row in read[1:]] == [printable(word).removeprefix("'") for _, word in rows]
    assert '"' not in table.href and "<" not in table.href, "it stands in an attribute"


@pytest.mark.parametrize("word", ["=1+1", "+1", "-1", "@x", "\tx"])
def test_a_text_is_no_formula(word: str) -> None:
    assert Table(("a",), [[word]]).csv.splitlines()[1].strip('"') == "'" + printable(word)


def test_missing_figures_are_empty_cells() -> None:
    assert Table(("a", "b"), [[None, math.nan]]).csv == "a,b\n,\n"


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (1.5, "1.5"), (20000, "20k"), (1.6e7, "16M"), (1e-7, "1e-7")])
def test_figures_beside_an_axis_are_short(value: float, text: str) -> None:
    assert shown(value) == text


def test_curves_leave_out_what_is_not_finite() -> None:
    figure = line_chart(HEAD, AXES, [Line("a", [1, 2, 3], [1.0, math.nan, 2.0], "s0")])
    (path,) = [e for e in drawn(figure).iter() if e.get("class") == "curve s0"]
    assert path.get("d", "").count("L") == 1 and "nan" not in str(figure.svg)
    assert figure.table.csv.splitlines() == ["x,a", "1,1", "2,", "3,2"]


def test_the_beginning_does_not_decide_the_range() -> None:
    curve = Line("a", list(range(101)), [1000.0, *[2.0] * 99, 3.0], "s0")
    plain = line_chart(HEAD, AXES, [curve])
    skipped = line_chart(HEAD, Axes("x", "y", skip=0.05), [curve])
    ends = [[float(e.text or 0) for e in drawn(f).iter() if e.get("class") == "tick end"] for f in (plain, skipped)]
    assert max(ends[0]) >= 800 and max(ends[1]) <= 3.1


def test_a_rule_far_away_is_left_out() -> None:
    curve = Line("a", [0, 1], [1.0, 1.1], "s0")
    texts = [str(line_chart(HEAD, AXES, [curve], rules=[Rule(v, "goal")]).svg) for v in (1.2, 50.0)]
    assert "goal" in texts[0] and "goal" not in texts[1]


def test_parts_of_a_bar_lie_side_by_side() -> None:
    figure = bar_chart(HEAD, [Bar("seed", (Part("a", 30, "a0"), Part("b", 10, "a1")))], "s", limit=80)
    boxes = [(float(e.get("x", 0)), float(e.get("width", 0))) for e in drawn(figure).iter() if e.tag.endswith("rect")]
    assert boxes[0][0] + boxes[0][1] == pytest.approx(boxes[1][0], abs=0.1)
    assert boxes[0][1] == pytest.approx(3 * boxes[1][1], abs=0.1)
    assert figure.table.rows == [["seed", "a", 30], ["seed", "b", 10]]
    assert "80" in str(figure.legend)


def test_an_interval_without_end_is_an_arrow() -> None:
    figure = dot_chart(HEAD, [Row("gain", (1.0,), "s0", (0.5, math.inf))], "BPB", [Rule(0.0, "none")])
    assert any(e.get("class") == "arrow s0" for e in drawn(figure).iter())
    assert "inf" not in str(figure.svg)


def test_shares_fill_the_height() -> None:
    figure = area_chart(HEAD, "x", [1, 2], {"a": [0.25, 0.5], "b": [0.75, 0.5]})
    areas = [e.get("d", "") for e in drawn(figure).iter() if (e.get("class") or "").startswith("area")]
    tops = [float(point.split()[1]) for point in areas[1].strip("MZ").split("L")[:2]]
    assert tops == [12.0, 12.0], "the uppermost edge is at the top of the frame"


@pytest.mark.parametrize("word", ["<script>alert(1)</script>", "a' onload='x", '"&<>'])
def test_words_are_shown_and_not_obeyed(word: str) -> None:
    figure = line_chart(Head("i", word), Axes(word, word), [Line(word, [0, 1], [1.0, 1.1], "s0")], [Rule(1.05, word)])
    root = drawn(figure)
    assert not [e for e in root.iter() if e.tag.endswith("script") or "onload" in e.attrib]
    assert any(e.text == word for e in root.iter())


def test_nothing_to_draw() -> None:
    """An empty chart is still a picture."""
    drawn(line_chart(HEAD, AXES, []))
    drawn(area_chart(HEAD, "x", [], {"a": []}))
    drawn(bar_chart(HEAD, [], "s"))
    drawn(dot_chart(HEAD, [], "s"))
