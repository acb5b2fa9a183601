"""What a log says, as typed values: figures with their places, the stages of an evaluation, the runs of a file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from orchestrator.verify.quantities import Quantity

Kind = Literal["training", "evaluation only", "figures only", "no figures"]
SeedSource = Literal["log", "file name", "unknown"]


@dataclass(frozen=True)
class Place:
    """A line of a file of the folder."""

    file: str
    line: int
    """Counted from 1; 0 for the file as a whole."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True)
class Figure:
    """One number of a log."""

    name: str
    """As in `patterns.FIGURES`, whatever the log calls it."""
    value: float
    """Seconds, bytes, MiB, nats a token, bits per byte, or a count."""
    resolution: float
    """Of the last digit given; 0 for a count."""
    text: str
    """As it stands in the log."""
    label: str
    """What stands before it on its line: the stage that it belongs to."""
    place: Place

    @property
    def quantity(self) -> Quantity:
        """The number alone."""
        return Quantity(self.value, self.resolution, self.text)


@dataclass(frozen=True)
class Stage:
    """Figures that a log reports under one label: a pass over the validation text."""

    label: str
    val_bpb: Figure | None
    val_loss: Figure | None
    """Nats a token."""
    eval_seconds: Figure | None


@dataclass(frozen=True)
class LossPoint:
    """Losses at one training step, as far as the log gives them."""

    step: int
    train_loss: float | None
    val_loss: float | None
    val_bpb: float | None
    line: int


@dataclass(frozen=True)
class Run:
    """One run of a log file; most files hold one."""

    file: str
    part: int
    """Which run of the file, from 1."""
    first_line: int
    seed: int | None
    seed_source: SeedSource
    seed_place: Place | None
    kind: Kind
    figures: Mapping[str, Figure]
    """The final figure of each name: steps, train_seconds, weight_bytes, …"""
    stages: tuple[Stage, ...]
    """In the order of the log."""
    work: tuple[Figure, ...]
    """Other work that the log times ("… in 198.3s"), seconds."""
    training_data: Place | None
    """Where the log speaks of training data after its last training step."""
    settings: Mapping[str, tuple[Figure, ...]]
    """All other named numbers, with the different values that each was given."""
    losses: tuple[LossPoint, ...]
    losses_cut: bool
    """Whether there were more points than are kept."""
    mixed: str
    """Why the run's lines cannot be one run's, or nothing."""

    @property
    def key(self) -> str:
        """How to speak of the run: by its seed where it has one."""
        return self.file if self.seed is None else f"seed {self.seed}"

    def stage(self, label: str) -> Stage | None:
        """The stage of this label."""
        return next((stage for stage in self.stages if stage.label == label), None)


@dataclass(frozen=True)
class LogFile:
    """A log of the folder, whether it could be read or not."""

    name: str
    bytes: int
    lines: int
    fault: str
    """Why it could not be read, in one sentence; nothing when it could."""
    notes: tuple[str, ...]
    runs: tuple[Run, ...]
    same_as: str
    """The file, named before, to which it is byte-identical; or nothing."""


_SEED_NAME = re.compile(r"seed[-_=]?(\d{1,12})", re.IGNORECASE | re.ASCII)


def seed_in_name(name: str) -> int | None:
    """The seed that a file's name gives, as in train_seed42.log."""
    found = _SEED_NAME.search(name)
    return int(found[1]) if found else None
