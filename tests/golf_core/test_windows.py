"""Every position is scored once, with the context that the recipe gives it."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from golf_core.evaluate.text import chunk_windows, sliding_windows


@given(
    stride=st.integers(1, 40),
    extra=st.integers(0, 200),
    num_targets=st.integers(1, 2000),
)
def test_every_position_exactly_once_and_in_order(stride: int, extra: int, num_targets: int) -> None:
    windows = sliding_windows(num_targets, stride + extra, stride)
    scored = np.concatenate([np.arange(a, b) for a, b in zip(windows.first, windows.last, strict=True)])
    np.testing.assert_array_equal(scored, np.arange(num_targets))
    assert (windows.first >= windows.start).all()
    assert (windows.last <= windows.start + stride + extra).all()


def test_all_but_the_first_window_give_full_context() -> None:
    windows = sliding_windows(62_021_632, 2048, 64)
    assert len(windows) == 969_088 - 31  # the published count less the 31 that score the tail again
    np.testing.assert_array_equal(windows.first[1:] - windows.start[1:], 2048 - 64)


def test_published_repetition_scores_the_tail_32_times() -> None:
    windows = sliding_windows(62_021_632, 2048, 64, repeat_tail=True)
    assert len(windows) == 969_088
    tail = windows.first == 62_021_632 - 64
    assert tail.sum() == 32


def test_chunks_partition_the_windows() -> None:
    windows = sliding_windows(10_000, 256, 64)
    chunks = [chunk_windows(windows, chunk, 1024) for chunk in range(-(-10_000 // 1024))]
    np.testing.assert_array_equal(np.concatenate([c.start for c in chunks]), windows.start)
    for chunk, part in enumerate(chunks):
        assert (part.first // 1024 == chunk).all()
    assert chunks[0].first[0] == 0 and chunks[0].last[0] == 256
