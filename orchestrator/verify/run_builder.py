"""The lines of a log, one after the other, to the runs that they tell of. Memory is bounded, whatever the log."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from orchestrator.verify.figures import Figure, Kind, LossPoint, Place, Run, SeedSource, Stage, seed_in_name
from orchestrator.verify.patterns import DIMENSIONS, Line, Pair, read_line, work_in, xsa_layers
from orchestrator.verify.quantities import agreement, quantity

LAST_VALIDATION = "last validation"
MOST_POINTS = 10_000
MOST_LABELS = 2_000
MOST_SETTINGS = 2_000
MOST_VALUES = 4
MOST_WORK = 200
MOST_HEADERS = 20
_HEADERS = frozenset({"world_size", "parameters", "train_cap_seconds"})
"""Said at the head of a run; what a log says of them later is about something else."""
_SEED_LABELS = ("run ", "train", "config", "args", "setting", "using", "hyperparameters")
_FINAL = re.compile(r"final|legal|quantized|roundtrip|sliding|ttt|eval_only|mixture", re.IGNORECASE)
"""A score of this name is the end of something, so it cannot come twice; others may be given on the way."""
_LOSSES = ("train_loss", "val_loss", "val_bpb")


class RunBuilder:
    """Collects one run of the file `name`."""

    def __init__(self, name: str, part: int) -> None:
        self._name, self._part = name, part
        self._first_line = 0
        self._seed: Figure | None = None
        self._figures: dict[str, Figure] = {}
        self._stages: dict[str, dict[str, Figure]] = {}
        self._conflicts: dict[str, str] = {}
        self._again: list[tuple[int, str]] = []
        self._settings: dict[str, list[Figure]] = {}
        self._work: list[Figure] = []
        self._points: dict[int, LossPoint] = {}
        self._points_cut = False
        self._last: dict[str, Figure] = {}
        self._last_step: dict[str, int] = {}
        self._mixed = ""
        self._eval_only = False
        self._training_data: Place | None = None

    # --- where a run begins ---------------------------------------------------------------------------

    def starts_another(self, line: Line) -> bool:
        """Whether this line can no longer be of the run collected so far."""
        seed = next((pair for pair in line.pairs if _is_seed(pair, line)), None)
        if seed is not None and self._seed is not None:
            value = quantity(seed.number, dimension="count")
            if value is not None and value.value != self._seed.value:
                return True
            # The same seed, said alone on a line as programs do when they begin.
            return not line.label and len(line.pairs) == 1 and bool(self._points or self._stages)
        begins = line.step in ("0", "1") and any(p.named and p.named.name in _LOSSES for p in line.pairs)
        return begins and max(self._last_step.values(), default=0) > 1

    # --- lines ----------------------------------------------------------------------------------------

    def take(self, line: Line, number: int, text: str) -> None:
        """Add one line that was read from `text`."""
        if not self._first_line and line.pairs:
            self._first_line = number
        lower = text.lower()
        self._eval_only |= "eval_only" in lower or "eval-only" in lower
        place = Place(self._name, number)
        if self._training_data is None and self._points and "training data" in lower:
            self._training_data = place
        if line.progress:
            return
        if self._stages and not line.label and any(p.named and p.named.name in _HEADERS for p in line.pairs):
            self._again = [*self._again, (number, text)][:MOST_HEADERS]
        figures = [figure for pair in line.pairs if (figure := _figure(pair, line, place)) is not None]
        if line.step and any(figure.name in (*_LOSSES, "train_seconds") for figure in figures):
            self._take_step(line, number, figures)
        else:
            self._take_plain(line, figures)
        if not figures and (work := work_in(text)) is not None and len(self._work) < MOST_WORK:
            words, digits, unit = work
            spent = quantity(digits, unit, "time")
            if spent is not None:
                self._work.append(Figure("work", spent.value, spent.resolution, spent.text, words, place))
        if (layers := xsa_layers(text)) is not None:
            self._set("xsa_last_n", Figure("xsa_last_n", float(layers[0]), 0.0, layers[0], "XSA", place))
            if layers[1]:
                self._set("num_layers", Figure("num_layers", float(layers[0]), 0.0, layers[0], "XSA", place))

    def _take_step(self, line: Line, number: int, figures: Iterable[Figure]) -> None:
        digits = line.step.replace(",", "").replace("_", "")
        if not digits.isdecimal():
            return
        step = int(digits)
        for figure in figures:
            if figure.name in _LOSSES:
                self._point(step, figure)
            elif figure.name in ("train_seconds", "ms_per_step"):
                self._keep(figure)
        reached = self._figures.get("steps")
        if reached is None or (step >= reached.value and reached.name == "step"):
            place = Place(self._name, number)
            self._figures["steps"] = Figure("step", float(step), 0.0, line.step, line.label, place)

    def _point(self, step: int, figure: Figure) -> None:
        before, last = self._last_step.get(figure.name), self._last.get(figure.name)
        if before is not None and last is not None and not self._mixed:
            if step < before:
                self._mixed = f"step {step} (line {figure.place.line}) comes after step {before}"
            elif step == before and figure.value != last.value:
                self._mixed = f"step {step} has {figure.name} {last.text} and {figure.text} (line {figure.place.line})"
        self._last_step[figure.name], self._last[figure.name] = step, figure
        if step not in self._points and len(self._points) >= MOST_POINTS:
            self._points_cut = True
            return
        old = self._points.get(step, LossPoint(step, None, None, None, figure.place.line))
        values = {name: getattr(old, name) for name in _LOSSES} | {figure.name: figure.value}
        self._points[step] = LossPoint(step, line=old.line, **values)

    def _take_plain(self, line: Line, figures: Iterable[Figure]) -> None:
        named = list(figures)
        scored = any(figure.name in ("val_bpb", "val_loss") for figure in named)
        for figure in named:
            if figure.name == "seed":
                self._seed = self._seed or figure
            elif figure.name in ("val_bpb", "val_loss") or (scored and figure.name in ("eval_seconds", "elapsed")):
                self._stage(line.label, figure)
            elif figure.name == "seconds":
                if line.label == "evaluate":
                    self._keep(_renamed(figure, "eval_seconds"))
            elif figure.name in DIMENSIONS and figure.name not in ("step", "elapsed", "train_loss"):
                self._keep(figure)
            elif figure.name not in DIMENSIONS:
                self._set(figure.name, figure)

    def _stage(self, label: str, figure: Figure) -> None:
        if label not in self._stages and len(self._stages) >= MOST_LABELS:
            return
        stage = self._stages.setdefault(label, {})
        name = "eval_seconds" if figure.name == "elapsed" else figure.name
        old = stage.get(name)
        if old is not None and _disagree(old, figure):
            if name != "eval_seconds" and _FINAL.search(label):
                self._conflicts.setdefault(label, f"{old.text} and {figure.text}, line {figure.place.line}")
        elif old is not None and old.resolution <= figure.resolution:
            return  # the same figure with fewer digits
        stage[name] = _renamed(figure, name)
        self._again.clear()

    def _keep(self, figure: Figure) -> None:
        old = self._figures.get(figure.name)
        if old is not None and old.name == figure.name:
            if figure.name in _HEADERS or figure.value == old.value:
                return
            finer = figure.resolution <= old.resolution
            if figure.name == "train_seconds" and not finer and figure.value - old.value <= figure.resolution:
                return  # "9.6m" after or before 588015ms
            if figure.name.endswith("_bytes") and figure.value != old.value:
                self._set(figure.name, old)
        self._figures[figure.name] = figure

    def _set(self, name: str, figure: Figure) -> None:
        if name not in self._settings and len(self._settings) >= MOST_SETTINGS:
            return
        values = self._settings.setdefault(name, [])
        if len(values) < MOST_VALUES and all(value.value != figure.value for value in values):
            values.append(figure)

    # --- the run --------------------------------------------------------------------------------------

    @property
    def empty(self) -> bool:
        """Whether nothing of use was found."""
        return not (self._figures or self._stages or self._points)

    def forget(self) -> RunBuilder:
        """A new builder in place of this one, for lines that turned out to be a program's listing."""
        return RunBuilder(self._name, self._part)

    def cut(self) -> None:
        """Losses of steps between the first and the last were left out."""
        self._points_cut = True

    @property
    def header_of_next(self) -> list[tuple[int, str]]:
        """Lines after the last score that are said at the head of a run: of the next one, if one follows."""
        return list(self._again)

    def finish(self) -> Run:
        """Everything that was collected."""
        seed, source = (None, "unknown") if self._seed is None else (int(self._seed.value), "log")
        if seed is None and (named := seed_in_name(self._name)) is not None:
            seed, source = named, "file name"
        figures = {name: _renamed(figure, name) for name, figure in self._figures.items()}
        return Run(
            file=self._name,
            part=self._part,
            first_line=self._first_line,
            seed=seed,
            seed_source=_source(source),
            seed_place=self._seed.place if self._seed else None,
            kind=self._kind(),
            figures=figures,
            stages=(*self._last_validation(), *_stages(self._stages)),
            work=tuple(self._work),
            training_data=self._training_data,
            settings={name: tuple(values) for name, values in self._settings.items()},
            losses=tuple(self._points.values()),
            losses_cut=self._points_cut,
            mixed=self._mixed or self._conflict(),
        )

    def _kind(self) -> Kind:
        trained = max(self._last_step.values(), default=0) > 1 or "train_seconds" in self._figures
        if trained:
            return "training"
        if any(_scores(stage) for stage in self._stages.values()):
            return "evaluation only" if self._eval_only or self._name.lower().startswith("eval") else "figures only"
        return "no figures"

    def _last_validation(self) -> Iterator[Stage]:
        """The validation at the last step, which some claim."""
        bpb, loss = self._last.get("val_bpb"), self._last.get("val_loss")
        if bpb is not None and self._last_step["val_bpb"] > 0:
            same = loss is not None and self._last_step["val_loss"] == self._last_step["val_bpb"]
            yield Stage(LAST_VALIDATION, bpb, loss if same else None, None)

    def _conflict(self) -> str:
        return next((f"'{label}' is given twice, as {values}" for label, values in self._conflicts.items()), "")


def read_into(builder: RunBuilder, number: int, text: str) -> None:
    """Add a line without asking whether it begins another run."""
    builder.take(read_line(text), number, text)


def _is_seed(pair: Pair, line: Line) -> bool:
    if pair.named is None or pair.named.name != "seed":
        return False
    return not line.label or line.label.lower().startswith(_SEED_LABELS)


def _figure(pair: Pair, line: Line, place: Place) -> Figure | None:
    text = f"{pair.number} {pair.unit}" if len(pair.unit) > 2 else pair.number + pair.unit
    if pair.named is None:
        value = quantity(pair.number)
        return None if value is None else Figure(pair.key, value.value, value.resolution, text, line.label, place)
    if pair.named.name == "seed" and not _is_seed(pair, line):
        return None
    value = quantity(pair.number, pair.unit or pair.named.unit, pair.named.dimension)
    if value is None:
        return None
    return Figure(pair.named.name, value.value, value.resolution, text, line.label, place)


def _renamed(figure: Figure, name: str) -> Figure:
    return Figure(name, figure.value, figure.resolution, figure.text, figure.label, figure.place)


def _disagree(one: Figure, other: Figure) -> bool:
    coarse, fine = (one, other) if one.resolution > other.resolution else (other, one)
    return agreement(coarse.quantity, fine.quantity) == "differs"


def _scores(stage: dict[str, Figure]) -> bool:
    return "val_bpb" in stage or "val_loss" in stage


def _stages(found: Mapping[str, dict[str, Figure]]) -> Iterator[Stage]:
    for label, stage in found.items():
        if _scores(stage):
            yield Stage(label, stage.get("val_bpb"), stage.get("val_loss"), stage.get("eval_seconds"))


def _source(text: str) -> SeedSource:
    return "log" if text == "log" else "file name" if text == "file name" else "unknown"
