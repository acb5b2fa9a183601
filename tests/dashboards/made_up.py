"""Figures that nothing has measured."""

from __future__ import annotations

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
