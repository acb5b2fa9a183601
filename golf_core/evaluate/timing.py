"""Where the evaluation's time goes, measured without making the device wait."""

from __future__ import annotations

import time
from collections import defaultdict
from itertools import pairwise

import torch

Moment = float | torch.cuda.Event


class PhaseTimes:
    """Seconds of this rank by phase. On CUDA a phase ends with an event in the stream: nothing waits for it."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._ends: list[tuple[str, Moment]] = []

    def start(self) -> None:
        """Begin the first phase."""
        self._ends = [("", self._now())]

    def ended(self, phase: str) -> None:
        """What was done since the phase before it ended, or since the start, was `phase`. Nothing before `start`."""
        if self._ends:
            self._ends.append((phase, self._now()))

    def seconds(self) -> dict[str, float]:
        """By phase, in the order in which they first ended. Waits for the device."""
        if self._cuda:
            torch.cuda.synchronize()
        sums: defaultdict[str, float] = defaultdict(float)
        for (_, begin), (phase, end) in pairwise(self._ends):
            sums[phase] += _between(begin, end)
        return dict(sums)

    def _now(self) -> Moment:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def _between(begin: Moment, end: Moment) -> float:
    if isinstance(begin, float) or isinstance(end, float):
        assert isinstance(begin, float) and isinstance(end, float)
        return end - begin
    return begin.elapsed_time(end) / 1000.0
