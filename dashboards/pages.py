"""What the pages of reports and of the board share: the style sheet, how templates are read, the colours of seeds."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment

SEED_COLOURS = 6
MADE_UP = (ArithmeticError, ValueError, TypeError, LookupError, AttributeError, RecursionError, OSError)
"""What a figure that was never measured can raise: a time that no clock shows, a number without end."""
SKIP = 0.03
"""Share of a curve whose steep beginning does not decide the vertical range."""


def base_css() -> str:
    """The common style sheet."""
    return text_of("dashboards", "assets", "base.css")


def text_of(package: str, *path: str) -> str:
    """The text of a file that comes with `package`."""
    return resources.files(package).joinpath(*path).read_text(encoding="utf-8")


def templates_of(package: str) -> Environment:
    """The templates of `package`: texts are escaped, and a name that is not known is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader(package, "templates")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def seed_colour(index: int) -> str:
    """Class of colour of the seed at `index`, the same in every chart."""
    return f"s{index % SEED_COLOURS}"
