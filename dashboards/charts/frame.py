"""The frame of a chart: paper, axes, grid, labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from dashboards.charts.scale import Scale, shown

WIDTH, HEIGHT = 640, 280
LEFT, RIGHT, TOP, BOTTOM = 78, 26, 12, 52


@dataclass(frozen=True)
class Frame:
    """Both scales of a chart and the words beside them."""

    x: Scale
    y: Scale
    x_label: str
    y_label: str

    def axes(self, y_text: Callable[[float], str] = shown) -> Markup:
        """Grid lines, figures and labels."""
        parts = [Markup("<g class='axes' aria-hidden='true'>")]
        for value in self.y.ticks(6):
            at = self.y(value)
            parts.append(line(self.x.begin, at, self.x.end, at, "grid"))
            parts.append(text(self.x.begin - 8, at + 4, y_text(value), "tick end"))
        for value in self.x.ticks(6):
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


def svg(
    ident: str,
    title: str,
    summary: str,
    parts: Sequence[Markup],
    height: int = HEIGHT,
    x: Scale | None = None,
) -> Markup:
    """The whole picture, with what a screen reader says of it; `x` lets figures be looked up along the axis."""
    head = Markup(
        "<svg class='chart' role='img' viewBox='0 0 {w} {h}' aria-labelledby='{i}-t {i}-d'{axis}>"
        "<title id='{i}-t'>{t}</title><desc id='{i}-d'>{d}</desc>"
    )
    axis = Markup("")
    if x is not None:
        axis = Markup(" data-low='{!r}' data-high='{!r}' data-log='{:d}'").format(x.low, x.high, x.log)
    opened = head.format(w=WIDTH, h=height, i=ident, t=title, d=summary, axis=axis)
    return join([opened, *parts, Markup("</svg>")])


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """A straight line of class `kind`."""
    return Markup("<line x1='{:.1f}' y1='{:.1f}' x2='{:.1f}' y2='{:.1f}' class='{}'/>").format(x1, y1, x2, y2, kind)


def text(x: float, y: float, words: str, kind: str) -> Markup:
    """Words of class `kind`."""
    return Markup("<text x='{:.1f}' y='{:.1f}' class='{}'>{}</text>").format(x, y, kind, words)


def rect(x: float, y: float, width: float, height: float, kind: str, tip: str = "") -> Markup:
    """A box of class `kind`; `tip` is shown when it is pointed at."""
    inner = Markup("<title>{}</title>").format(tip) if tip else Markup("")
    return Markup("<rect x='{:.1f}' y='{:.1f}' width='{:.2f}' height='{:.1f}' class='{}'>{}</rect>").format(
        x, y, max(width, 0.0), height, kind, inner
    )


def join(parts: Sequence[Markup]) -> Markup:
    """One after another."""
    return Markup("").join(escape(part) for part in parts)
