"""Signs of life, with a clock and ranks made up."""

from __future__ import annotations

import pytest

from golf_core.errors import ConfigError, LostError, NumericsError, RunError
from golf_core.events import Note, PhaseStarted, TrainStep
from orchestrator.run.failures import (
    HEARTBEAT_EVERY_S,
    DeviceMemoryError,
    Heartbeat,
    LimitError,
    StallWatch,
    kind_of,
    of_rank,
)


class World:
    """A clock, and ranks of which some do not answer."""

    def __init__(self, *silent: int) -> None:
        self.now, self.silent, self.asked = 0.0, set(silent), 0

    def ask(self, rank: int) -> tuple[int, int]:
        self.asked += 1
        return rank, self.asked

    def answered(self, questions: list[tuple[int, int]]) -> list[tuple[int, int]]:
        return [question for question in questions if question[0] not in self.silent]

    def heartbeat(self, stall_seconds: float = 45.0) -> Heartbeat:
        return Heartbeat(4, self.ask, self.answered, stall_seconds, lambda: self.now)

    def pass_time(self, heartbeat: Heartbeat, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += 0.5
            heartbeat.check()


def test_ranks_that_answer_are_asked_again() -> None:
    world = World()
    world.pass_time(world.heartbeat(), 1000)
    assert world.asked == pytest.approx(4 * 1000 / HEARTBEAT_EVERY_S, rel=0.2)


def test_a_silent_rank_is_named_in_time() -> None:
    world = World()
    heartbeat = world.heartbeat()
    world.pass_time(heartbeat, 100)
    world.silent = {2}
    with pytest.raises(LostError, match=r"rank 2 showed no sign of life for 45 s"):
        world.pass_time(heartbeat, 60)
    assert world.now < 100 + 60


def test_a_pause_is_forgiven() -> None:
    world = World()
    heartbeat = world.heartbeat()
    world.pass_time(heartbeat, 100)
    world.silent = {1, 3}
    world.pass_time(heartbeat, 40)
    world.silent = set()
    world.pass_time(heartbeat, 500)


def test_several_silent_ranks() -> None:
    world = World(0, 3)
    with pytest.raises(LostError, match=r"ranks 0, 3 showed"):
        world.pass_time(world.heartbeat(8.0), 60)


def steps(stalls: StallWatch, clock: list[float], count: int, seconds: float, first: int = 1) -> None:
    for step in range(first, first + count):
        clock[0] += seconds
        stalls.check()
        stalls.saw(TrainStep(step, 1000))


def test_work_that_comes_to_rest_is_noticed() -> None:
    clock = [0.0]
    stalls = StallWatch(45.0, lambda: clock[0])
    steps(stalls, clock, 20, 1.0)
    clock[0] += 44
    stalls.check()
    clock[0] += 2
    with pytest.raises(LostError, match=r"no training step for 45 s, though all ranks are alive"):
        stalls.check()


def test_slow_work_has_time() -> None:
    clock = [0.0]
    stalls = StallWatch(45.0, lambda: clock[0])
    steps(stalls, clock, 3, 60.0)
    clock[0] += 590
    stalls.check()
    clock[0] += 20
    with pytest.raises(LostError):
        stalls.check()


def test_nothing_is_expected_of_what_is_not_known() -> None:
    """The first step may compile for minutes; after the last, or a validation, something else comes."""
    clock = [0.0]
    stalls = StallWatch(45.0, lambda: clock[0])
    stalls.saw(PhaseStarted("train", 1000))
    steps(stalls, clock, 1, 3000.0)
    clock[0] += 3000
    stalls.check()
    steps(stalls, clock, 20, 1.0, first=2)
    stalls.saw(Note("validating at step 21"))
    clock[0] += 3000
    stalls.check()
    steps(stalls, clock, 20, 1.0, first=981)
    clock[0] += 3000
    stalls.check()  # that was step 1000 of 1000


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConfigError("x"), "user"),
        (NumericsError("x"), "numerics"),
        (LostError("x"), "infrastructure"),
        (LimitError("x"), "limit"),
        (RunError("x"), "run"),
        (ValueError("x"), "bug"),
        (of_rank(ConfigError("x")), "user"),
        (of_rank(NumericsError("x")), "numerics"),
        (of_rank(RuntimeError("CUDA out of memory. Tried to allocate 20 GiB")), "memory"),
        (of_rank(MemoryError()), "memory"),
        (of_rank(RuntimeError("[/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1")),
         "infrastructure"),
        (of_rank(RuntimeError("Watchdog caught collective operation timeout: NCCL")), "infrastructure"),
        (of_rank(RuntimeError("shape '[2]' is invalid for input of size 3")), "run"),
        (of_rank(ValueError("NCCL")), "run"),
    ],
)  # fmt: skip
def test_kinds_of_failures(error: Exception, kind: str) -> None:
    assert kind_of(error) == kind


def test_memory_has_a_remedy() -> None:
    error = of_rank(RuntimeError("CUDA out of memory. Tried to allocate 20 GiB\nmore lines"))
    assert isinstance(error, DeviceMemoryError) and "lower train.batch_tokens" in str(error) and "\n" not in str(error)
