"""Sections as one HTML file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from markupsafe import Markup

from dashboards.assets import base_css
from dashboards.report.sections.parts import Section

FILES = "dashboards.report"


@dataclass(frozen=True)
class Header:
    """The top of a page."""

    title: str
    name: str
    verdict: str
    sentence: str
    facts: tuple[tuple[str, str], ...]

    @property
    def kind(self) -> str:
        """Class of its colour."""
        return {"claim": "is-holds", "no claim": "is-fails"}.get(self.verdict, "is-unknown")


def render(header: Header, sections: Sequence[Section]) -> str:
    """The page: no network, no frame, no script but its own (a policy in its head says so to the browser)."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(FILES, "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script, style = _text("page.js"), base_css() + _text("page.css")
    return environment.get_template("page.html.j2").render(
        header=header,
        sections=sections,
        # They are our own files, and hold no end of their element.
        script=Markup(script),
        style=Markup(style),
        policy=f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; img-src data:",
    )


def _text(name: str) -> str:
    return resources.files(FILES).joinpath("templates", name).read_text(encoding="utf-8")


def _digest(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
