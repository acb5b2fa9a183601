"""How long an audit may take."""

from __future__ import annotations

import time


class Clock:
    """Time since its start against a budget in seconds (None: no end)."""

    def __init__(self, budget_s: float | None) -> None:
        self._began, self._budget = time.perf_counter(), budget_s

    @property
    def seconds(self) -> float:
        """Elapsed."""
        return time.perf_counter() - self._began

    @property
    def left(self) -> float:
        """Until the budget is used up; infinite without one."""
        return float("inf") if self._budget is None else self._budget - self.seconds

    def over(self) -> bool:
        """Whether the budget is used up."""
        return self.left <= 0.0
