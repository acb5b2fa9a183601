"""Figures: numbers as somebody wrote them, whether two of them agree, the names that logs give them, and their runs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

Agreement = Literal["confirmed", "rounding", "differs"]
Dimension = Literal["score", "time", "bytes", "memory", "count"]
"""What is measured: nats or bits, seconds, bytes, MiB, or a whole number of things."""

NUMBER = r"[-+]?(?:\d{1,3}(?:,\d{3}){1,5}|\d{1,24}(?:_\d{3}){0,5})(?:\.\d{0,20})?(?:[eE][-+]?\d{1,3})?"
"""A number, perhaps with thousands separators; `NOT_MORE` must follow, so that no part of a longer word is taken."""
UNIT = r"(?:ms|secs?|seconds?|s|mins?|minutes?|m|hours?|h|[Bb]ytes?|[KMGkmg]i?[Bb]|B)"
NOT_MORE = r"(?!\w|[.,]\d|\s?[:=])"
LONGEST = 48
"""Characters of a number; what is longer is no figure of a run."""
LARGEST = 1e15
"""What is larger is none either."""

_SECONDS = {
    "ms": 1e-3,
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hour", "hours"), 3600.0),
}
_BYTES = dict.fromkeys(("b", "byte", "bytes"), 1.0)
_BYTES |= {"kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30}
_FACTORS: Mapping[Dimension, Mapping[str, float]] = {
    "time": _SECONDS,
    "bytes": _BYTES,
    "memory": {unit: factor / 2.0**20 for unit, factor in _BYTES.items()},
}
"""What each unit is worth in the dimension's own."""
_PARTS = re.compile(r"[-+]?(\d*)(?:\.(\d*))?(?:[eE]([-+]?\d{1,3}))?", re.ASCII)


@dataclass(frozen=True)
class Quantity:
    """A number in the unit of its dimension (seconds, bytes, MiB, nats, bits per byte)."""

    value: float
    resolution: float
    """What one more in the last digit given would add; 0 for a whole number of things, which is exact."""
    text: str
    """As it was written, its unit included."""


def quantity(text: str, unit: str = "", dimension: Dimension = "score") -> Quantity | None:
    """Read `text`; None for what is not a number, is too long or too large, or has a unit of another dimension."""
    plain = text.strip().replace(",", "").replace("_", "").replace("\u2212", "-")
    parts = _PARTS.fullmatch(plain)
    factor = _FACTORS.get(dimension, {}).get(unit.strip().lower()) if unit.strip() else 1.0
    if parts is None or len(plain) > LONGEST or factor is None or not (parts[1] or parts[2]):
        return None
    value = float(plain) if factor == 1 else float(Decimal(plain) * Decimal(str(factor)))
    if not abs(value) < LARGEST:
        return None
    exponent = int(parts[3] or 0) - len(parts[2] or "")
    exact = exponent >= 0 and factor == 1 and dimension in ("count", "bytes") and parts[3] is None
    return Quantity(value, 0.0 if exact else factor * 10.0**exponent, (text.strip() + unit).strip())


def agreement(claimed: Quantity, found: Quantity, computed: bool = False) -> Agreement:
    """Whether a claim says what was found, at the digits that both give.

    "rounding": the claim has fewer digits than were logged, and is the logged figure rounded. A figure `computed`
    from logged ones (a mean) carries their rounding as well as its own.
    """
    gap = abs(claimed.value - found.value)
    # Decimal fractions are not exact in binary; far below any digit that was written.
    slack = 1e-12 * max(abs(claimed.value), abs(found.value)) + 1e-9 * max(claimed.resolution, found.resolution)
    if gap <= slack and (claimed.resolution <= found.resolution or claimed.resolution <= 1):
        return "confirmed"
    coarse = claimed.resolution > found.resolution * (1 + 1e-9)
    allowed = claimed.resolution / 2 if coarse else found.resolution / 2
    if computed or (coarse and found.resolution):
        allowed = (claimed.resolution + found.resolution) / 2
    if gap > allowed + slack:
        return "differs"
    return "rounding" if coarse else "confirmed"


def shown(value: float, resolution: float = 0.0) -> str:
    """A figure with the digits it has, thousands separated."""
    if not math.isfinite(value):
        return str(value)
    decimals = min(12, round(-math.log10(resolution))) if 0 < resolution < 1 else 0
    return f"{value:,.{decimals}f}"


# --- the names of figures -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Named:
    """A figure by the names that logs give it."""

    name: str
    dimension: Dimension
    keys: str = ""
    """The single words that may stand before the value, in lower case."""
    phrase: str = ""
    """A pattern for all words before the value, where one word does not tell."""
    unit: str = ""
    """The unit where the log writes none."""


FIGURES = (
    Named("val_bpb", "score", "val_bpb bpb val/bpb valid_bpb validation_bpb eval_bpb test_bpb final_bpb bits_per_byte"),
    Named("val_loss", "score", "val_loss val/loss valid_loss validation_loss eval_loss val_nll nll nats_per_token"),
    Named("train_loss", "score", "train_loss train/loss training_loss loss"),
    Named("step", "count", "step"),
    Named("steps", "count", "steps total_steps num_steps train_steps"),
    Named("train_seconds", "time", "train_time train_seconds training_time training_seconds training_time_seconds"),
    Named("train_seconds", "time", "train_time_ms", unit="ms"),
    Named("eval_seconds", "time", "eval_time eval_seconds evaluation_seconds evaluation_time"),
    Named("eval_seconds", "time", "eval_time_ms", unit="ms"),
    Named("elapsed", "time", "elapsed"),
    Named("seconds", "time", "seconds"),
    Named("ms_per_step", "time", "step_avg ms_per_step step_avg_ms avg_step_ms ms/step", unit="ms"),
    Named("seed", "count", "seed random_seed"),
    Named("world_size", "count", "world_size num_gpus n_gpus nproc_per_node"),
    Named("parameters", "count", "model_params parameters num_params n_params total_params"),
    Named("train_cap_seconds", "time", "max_wallclock_seconds wallclock_seconds"),
    Named("code_bytes", "bytes", "code_bytes bytes_code", r"\bcode size"),
    Named(
        "total_bytes",
        "bytes",
        "total_bytes bytes_total artifact_bytes submission_bytes",
        r"(?:submission|artifact) size",
    ),
    Named(
        "weight_bytes",
        "bytes",
        "weight_bytes model_bytes compressed_bytes bytes_model bytes_model_compressed",
        r"^serialized model .|quantized model size|compressed (?:model|weights)",
    ),
    Named("raw_bytes", "bytes", "", r"^serialized model$"),
    Named("peak_memory_mib", "memory", "peak_memory_mib", r"peak[ _]memory|max memory allocated"),
)
BY_KEY = {key: figure for figure in FIGURES for key in figure.keys.split()}
DIMENSIONS = {figure.name: figure.dimension for figure in FIGURES}
_UNITS = {"score": "", "time": " s", "bytes": " bytes", "memory": " MiB", "count": ""}


def unit_of(figure: str) -> str:
    """The unit of a figure as it is printed, with the space before it."""
    return _UNITS[DIMENSIONS.get(figure, "score")]


def value_text(value: Quantity, figure: str) -> str:
    """A figure in its unit."""
    dimension = DIMENSIONS.get(figure, "score")
    if figure == "ms_per_step":
        return f"{shown(1000 * value.value, max(1000 * value.resolution, 0.01))} ms"
    if dimension == "time":
        return f"{shown(value.value, max(value.resolution, 0.001))} s"
    fine = value.resolution or (0.0 if value.value == int(value.value) else 0.001)
    return shown(value.value, fine) + unit_of(figure)


# --- what a log says ----------------------------------------------------------------------------------

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
    """As in `FIGURES`, whatever the log calls it."""
    value: float
    """Seconds, bytes, MiB, nats a token, bits per byte, or a count."""
    resolution: float
    """Unit of the last digit given; 0 for a count."""
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
class RunReport:
    """One run of a log file, with every figure that was read; most files hold one."""

    file: str
    part: int
    """Which run of the file, from 1."""
    seed: int | None
    seed_source: SeedSource
    kind: Kind
    figures: Mapping[str, Figure]
    """The final figure of each name: steps, train_seconds, weight_bytes, …"""
    stages: tuple[Stage, ...]
    """In the order of the log."""
    losses: tuple[LossPoint, ...]
    losses_cut: bool
    """Whether there were more points than are kept."""
    mixed: str
    """Why the run's lines cannot be one run's, or nothing."""


@dataclass(frozen=True)
class Run(RunReport):
    """The same with what only the checks need."""

    first_line: int
    seed_place: Place | None
    work: tuple[Figure, ...]
    """Other work that the log times ("… in 198.3s"), seconds."""
    training_data: Place | None
    """Where the log speaks of training data after its last training step."""
    settings: Mapping[str, tuple[Figure, ...]]
    """All other named numbers, with the different values that each was given."""

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
    lines: int = 0
    fault: str = ""
    """Why it could not be read, in one sentence; nothing when it could."""
    notes: tuple[str, ...] = ()
    runs: tuple[Run, ...] = ()
    same_as: str = ""
    """The file, named before, to which it is byte-identical; or nothing."""


_SEED_NAME = re.compile(r"seed[-_=]?(\d{1,12})", re.IGNORECASE | re.ASCII)


def seed_in_name(name: str) -> int | None:
    """The seed that a file's name gives, as in train_seed42.log."""
    found = _SEED_NAME.search(name)
    return int(found[1]) if found else None
