"""Valid files, damaged ones, and what a reader may answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from drawing import examples
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from watchdog import bounded

from golf_core.errors import GolfError

EXTREME = (0, 1, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**60, 2**63 - 1, 2**64 - 1)


def fuzz(count: int) -> Any:
    """The same inputs on every run, on any machine."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(
        max_examples=examples(count), deadline=None, derandomize=True, database=None, suppress_health_check=checks
    )


@st.composite
def damage(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """A change to any bytes: flipped bits, a cut, an insertion, an extreme number, or something else altogether."""
    at, kind = draw(st.floats(0, 1)), draw(st.sampled_from(["flip", "cut", "insert", "number", "other"]))
    # Headers, where a change does most, are short and lie in front.
    near, first = draw(st.booleans()), draw(st.integers(0, 200))
    piece, bits = draw(st.binary(max_size=40)), draw(st.integers(1, 255))
    width, number = draw(st.sampled_from([2, 4, 8])), draw(st.sampled_from(EXTREME))

    def change(valid: bytes) -> bytes:
        i = min(first, len(valid) - 1) if near else int(at * (len(valid) - 1))
        if kind == "flip":
            return valid[:i] + bytes([valid[i] ^ bits]) + valid[i + 1 :]
        if kind == "cut":
            return valid[:i]
        if kind == "insert":
            return valid[:i] + piece + valid[i:]
        if kind == "number":
            written = (number % 256**width).to_bytes(width, "little")
            return valid[:i] + written + valid[i + width :]
        return piece

    return change


# Values that JSON can hold where others belong.
ODD_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([*EXTREME, -1, 10**400, 1e308, 0.5]),
    st.text(max_size=30),
    st.just("x" * 5000),
    st.lists(st.integers(-2, 2**40), max_size=4),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
)


@st.composite
def odd_json(draw: st.DrawFn, value: Any) -> Any:
    """`value` with one thing in it, at any depth, replaced, removed or renamed."""
    if isinstance(value, dict) and value and draw(st.integers(0, 5)):
        name = draw(st.sampled_from(sorted(value)))
        changed = dict(value)
        act = draw(st.integers(0, 7))
        if act == 0:
            del changed[name]
        elif act == 1:
            changed[draw(st.text(max_size=200))] = changed.pop(name)
        else:
            changed[name] = draw(odd_json(value[name]))
        return changed
    if isinstance(value, list) and value and draw(st.integers(0, 5)):
        i = draw(st.integers(0, min(len(value), 50) - 1))
        act = draw(st.integers(0, 5))
        if act == 0:
            return value[:i] + value[i + 1 :]
        if act == 1:
            return [*value, value[i]]
        return [*value[:i], draw(odd_json(value[i])), *value[i + 1 :]]
    return draw(ODD_VALUES)


def answer(read: Callable[[], object], path: Path, seconds: float = 20.0) -> str | None:
    """None where `read` succeeds, else its sentence: one line that names the file."""

    try:
        with bounded(seconds):
            read()
        return None
    except GolfError as error:
        text = str(error)
        assert path.name in text and text.isprintable() and len(text) < 1000, text
        return text
