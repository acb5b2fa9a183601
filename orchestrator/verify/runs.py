"""The lines of a log, one after the other, to the runs that they tell of. Memory is bounded, whatever the log.

A line is cut into pairs, `key:value`, `key=value`, `"key": value` or, for the known keys, `key value`. The key, or the
words before the value, are looked up in `figures.FIGURES`. All patterns are linear: every part has a bound, and a word
is tried from its beginning alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

from orchestrator.verify.figures import (
    BY_KEY,
    DIMENSIONS,
    FIGURES,
    NOT_MORE,
    NUMBER,
    UNIT,
    Figure,
    Kind,
    LossPoint,
    Named,
    Place,
    Run,
    SeedSource,
    Stage,
    agreement,
    quantity,
    seed_in_name,
)

_BY_PHRASE = tuple((re.compile(figure.phrase), figure) for figure in FIGURES if figure.phrase)

CORE_WORDS = (b"bpb", b"seed", b"byte", b"loss", b"time", b"steps", b"nats", b"training data")
"""A line without any of these, in lower case, holds no figure that a verdict hangs on."""
WORDS = (*CORE_WORDS, b"=", b": ", b"step", b"size", b"param", b"memory", b"second", b"elapsed", b" in ", b"xsa", b"_")
"""A line without any of these holds nothing for the table at all."""

_PAIR = re.compile(
    r"(?<![\w./+-])(?P<key>[A-Za-z][\w./+-]{0,63})[\"']?"
    rf"(?:(?P<sep>\s{{0,8}}[:=]\s{{0,20}})|\s)(?P<number>{NUMBER})"
    rf"(?:/(?P<of>\d{{1,12}}))?(?:\s?(?P<unit>{UNIT}){NOT_MORE})?(?!\w|[.,]\d)",
    re.ASCII,
)
_BARE_STEP = re.compile(r"\s{0,8}(\d{1,12})/\d{1,12}\s", re.ASCII)
_STAMP = re.compile(
    r"\s{0,8}(?:(?:time:[\d.]{1,20}|\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[\d.,]{0,10}Z?\]?|\[?\d\d:\d\d:\d\d\]?"
    r"|(?:INFO|DEBUG|WARNING):?|\[rank ?0\]:?)\s{1,4}){1,4}",
    re.ASCII,
)
_SECONDS = re.compile(r"(\d{1,9}(?:\.\d{1,9})?) ?(ms|secs?|seconds|s|min)\b", re.ASCII)
_XSA = re.compile(r"\bXSA:last_(\d{1,4})\b(?: active_layers:\[(\d))?", re.ASCII)
"""On how many last layers XSA works, in the words of the published programs, and which is the first of them."""
_PROGRESS = re.compile(r"\[\s{0,8}\d{1,12}/\d{1,12}\s?\]|\bchunk:\d{1,12}/", re.ASCII)
_CODE = re.compile(r"(?:import|from|def|class|return|self\.|print\(|log0?\(|@|#)", re.ASCII)
_BLOCK = re.compile(r"(?:if|elif|else|for|while|with|try|except)\b", re.ASCII)
MOST_PAIRS = 400
PHRASE = 160
"""Characters before a value that may be its name."""
SEPARATOR = re.compile(rb"\s{0,8}={50,}\s{0,8}", re.ASCII)
"""The line that ends the listing of a program at the head of a log."""


@dataclass(frozen=True)
class Pair:
    """One value of a line with what stands before it."""

    named: Named | None
    key: str
    number: str
    unit: str
    start: int
    """Where its words begin on the line."""


@dataclass(frozen=True)
class Line:
    """A log line, read."""

    label: str
    """The words before its first value."""
    step: str
    """The training step that the line is about, or nothing."""
    pairs: tuple[Pair, ...]
    progress: bool
    """Whether it reports a pass that is still going on."""


def looks_like_code(text: str) -> bool:
    """Whether a line is one of a program, not of its output."""
    words = text.strip()
    signs = ("os.environ", 'f"', "f'", ": int = ", ": float = ", ": bool = ", ": str = ")
    if _CODE.match(words) or any(sign in words for sign in signs):
        return True
    return words.endswith(":") and _BLOCK.match(words) is not None


def read_line(text: str) -> Line:
    """Cut a line into its values. Time and memory are bounded by the line's length."""
    stamp = _STAMP.match(text)
    begin = stamp.end() if stamp else 0
    bare = _BARE_STEP.match(text, begin)
    pairs = tuple(_pairs(text, begin))
    step = bare[1] if bare else next((pair.number for pair in pairs if pair.key == "step"), "")
    label = "" if bare or not pairs else text[begin : pairs[0].start]
    return Line(_label(label), step, pairs, _PROGRESS.search(text) is not None)


def _work(text: str, place: Place) -> Figure | None:
    """What took how long, in seconds: "gptq:generated 64 sequences in 198.3s"."""
    end = text.rfind(" in ")
    found = _SECONDS.match(text, end + 4) if end > 0 else None
    spent = quantity(found[1], found[2], "time") if found else None
    return Figure("work", spent.value, spent.resolution, spent.text, _label(text[:end]), place) if spent else None


def _pairs(text: str, begin: int) -> Iterator[Pair]:
    previous = begin
    for found in islice(_PAIR.finditer(text, begin), MOST_PAIRS):
        key = found["key"].lower()
        named, start = BY_KEY.get(key), found.start("key")
        if named is None and found["sep"] is None:
            continue  # "rank 0", "all 8": words and numbers of ordinary speech
        if named is None:
            phrase = " ".join(text[max(previous, found.end("key") - PHRASE) : found.end("key")].lower().split())
            named = next((figure for pattern, figure in _BY_PHRASE if pattern.search(phrase)), None)
            start = previous if named is not None else start
        yield Pair(named, key, found["number"], found["unit"] or "", start)
        previous = found.end()


def _label(text: str) -> str:
    """A stage's name: without the endings that mark the same figures with more digits, or the end of a phase."""
    plain = "".join(c if c.isprintable() else " " for c in text[-120:])
    words = " ".join(plain.split()).strip(" :=-|,;[]{}\"'")
    return words.removesuffix("_exact").removesuffix(" ends")


# --- runs ---------------------------------------------------------------------------------------------

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
        self._conflict = ""
        self.header_of_next: list[tuple[int, str]] = []
        """Lines after the last score that are said at the head of a run: of the next one, if one follows."""
        self._settings: dict[str, list[Figure]] = {}
        self._work: list[Figure] = []
        self._points: dict[int, LossPoint] = {}
        self.losses_cut = False
        """Whether losses of steps between the first and the last were left out."""
        self._last: dict[str, Figure] = {}
        self._last_step: dict[str, int] = {}
        self._mixed = ""
        self._eval_only = False
        self._training_data: Place | None = None

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

    def take(self, number: int, text: str, line: Line | None = None) -> None:
        """Add the line `text`, which was read as `line`; without that, whatever run it begins."""
        line = line or read_line(text)
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
            self.header_of_next = [*self.header_of_next, (number, text)][:MOST_HEADERS]
        figures = [figure for pair in line.pairs if (figure := _figure(pair, line, place)) is not None]
        if line.step and any(figure.name in (*_LOSSES, "train_seconds") for figure in figures):
            self._take_step(line, number, figures)
        else:
            self._take_plain(line, figures)
        if not figures and len(self._work) < MOST_WORK and (work := _work(text, place)) is not None:
            self._work.append(work)
        if (layers := _XSA.search(text)) is not None:
            for name in ("xsa_last_n", "num_layers") if layers[2] == "0" else ("xsa_last_n",):
                self._set(name, Figure(name, float(layers[1]), 0.0, layers[1], "XSA", place))

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
            self.losses_cut = True
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
                    self._keep(replace(figure, name="eval_seconds"))
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
            if name != "eval_seconds" and _FINAL.search(label) and not self._conflict:
                twice = f"{old.text} and {figure.text}, line {figure.place.line}"
                self._conflict = f"'{label}' is given twice, as {twice}"
        elif old is not None and old.resolution <= figure.resolution:
            return  # the same figure with fewer digits
        stage[name] = replace(figure, name=name)
        self.header_of_next.clear()

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

    @property
    def empty(self) -> bool:
        """Whether nothing of use was found."""
        return not (self._figures or self._stages or self._points)

    def finish(self) -> Run:
        """Everything that was collected."""
        seed, source = _seed_of(self._name, self._seed)
        return Run(
            file=self._name,
            part=self._part,
            first_line=self._first_line,
            seed=seed,
            seed_source=source,
            seed_place=self._seed.place if self._seed else None,
            kind=self._kind(),
            figures={name: replace(figure, name=name) for name, figure in self._figures.items()},
            stages=tuple(self._all_stages()),
            work=tuple(self._work),
            training_data=self._training_data,
            settings={name: tuple(values) for name, values in self._settings.items()},
            losses=tuple(self._points.values()),
            losses_cut=self.losses_cut,
            mixed=self._mixed or self._conflict,
        )

    def _kind(self) -> Kind:
        trained = max(self._last_step.values(), default=0) > 1 or "train_seconds" in self._figures
        if trained:
            return "training"
        if any("val_bpb" in stage or "val_loss" in stage for stage in self._stages.values()):
            return "evaluation only" if self._eval_only or self._name.lower().startswith("eval") else "figures only"
        return "no figures"

    def _all_stages(self) -> Iterator[Stage]:
        """The validation at the last step, which some claim, and all passes that have a score."""
        bpb, loss = self._last.get("val_bpb"), self._last.get("val_loss")
        if bpb is not None and self._last_step["val_bpb"] > 0:
            same = loss is not None and self._last_step["val_loss"] == self._last_step["val_bpb"]
            yield Stage(LAST_VALIDATION, bpb, loss if same else None, None)
        for label, stage in self._stages.items():
            if "val_bpb" in stage or "val_loss" in stage:
                yield Stage(label, stage.get("val_bpb"), stage.get("val_loss"), stage.get("eval_seconds"))


def _seed_of(name: str, figure: Figure | None) -> tuple[int | None, SeedSource]:
    """The seed of a run by its log, else by the log's name."""
    if figure is not None:
        return int(figure.value), "log"
    named = seed_in_name(name)
    return named, "unknown" if named is None else "file name"


def _is_seed(pair: Pair, line: Line) -> bool:
    if pair.named is None or pair.named.name != "seed":
        return False
    return not line.label or line.label.lower().startswith(_SEED_LABELS)


def _figure(pair: Pair, line: Line, place: Place) -> Figure | None:
    text = f"{pair.number} {pair.unit}" if len(pair.unit) > 2 else pair.number + pair.unit
    if pair.named is None:
        value, name = quantity(pair.number), pair.key
    else:
        value, name = quantity(pair.number, pair.unit or pair.named.unit, pair.named.dimension), pair.named.name
    if value is None or (name == "seed" and not _is_seed(pair, line)):
        return None
    return Figure(name, value.value, value.resolution, text, line.label, place)


def _disagree(one: Figure, other: Figure) -> bool:
    coarse, fine = (one, other) if one.resolution > other.resolution else (other, one)
    return agreement(coarse.quantity, fine.quantity) == "differs"
