"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int | None = None) -> str:
    """A table without a line break at its end; columns after the first `text_columns` are set to the right.

    A bar within a cell must be escaped already.
    """
    text_columns = len(header) if text_columns is None else text_columns
    rule = ["---" if i < text_columns else "---:" for i in range(len(header))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))
