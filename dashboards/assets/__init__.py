"""Files that reports and board share."""

from __future__ import annotations

from importlib import resources


def base_css() -> str:
    """The common style sheet."""
    return resources.files(__name__).joinpath("base.css").read_text(encoding="utf-8")
