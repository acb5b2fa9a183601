"""Figures that nothing has measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**25), 10**25)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["finished", "failed", "train", "neural", 42, 1e300, -1.0, 0]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)


def spoil(content: Any, data: st.DataObject) -> None:
    """Replace something in a record, at any depth."""
    places = range(len(content)) if isinstance(content, list) else sorted(content)
    at = data.draw(st.sampled_from(places))
    inside = content[at]
    if isinstance(inside, (dict, list)) and inside and data.draw(st.integers(0, 3)):
        spoil(inside, data)
    else:
        content[at] = data.draw(VALUES)


def spoil_file(path: Path, data: st.DataObject) -> None:
    """Replace up to three things in a record, or in the lines of a log."""
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.suffix == ".jsonl" else None
    content = lines or json.loads(path.read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        spoil(content, data)
    path.write_text("".join(json.dumps(line) + "\n" for line in (content if lines else [content])))
