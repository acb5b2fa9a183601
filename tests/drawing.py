"""How many inputs a property test draws."""

from __future__ import annotations

from hypothesis import settings


def examples(count: int) -> int:
    """`count` in `make test-all`, by hypothesis' thorough profile; a quarter of it otherwise, and five at least."""
    return max(min(count, 5), count * settings.default.max_examples // 100)
