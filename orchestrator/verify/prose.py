"""Figures in running text: blurbs, descriptions, README paragraphs. What a number means is told by the words beside it.

Only numbers whose meaning the words settle are read; `Reading.unread` lists those with decimals that no rule reads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from orchestrator.verify.figures import Place
from orchestrator.verify.quantities import NOT_MORE, NUMBER, UNIT, Quantity, quantity

Meaning = Literal[
    "mean",
    "score",
    "sd",
    "t",
    "df",
    "p",
    "seeds",
    "delta",
    "baseline",
    "bytes",
    "steps",
    "ms_per_step",
    "setting",
    "xsa",
]
Unit = Literal["val_bpb", "val_loss", ""]
_TESTS: dict[str, Meaning] = {"t": "t", "df": "df", "p": "p"}
MOST_FIGURES = 300
BEFORE, AFTER = 72, 28
"""Characters of a sentence that are looked at on either side of a number."""


@dataclass(frozen=True)
class Said:
    """One number of a text and what it is said to be."""

    meaning: Meaning
    unit: Unit
    quantity: Quantity
    key: str
    """Of a setting: its name."""
    place: Place
    field: str
    """The field of submission.json, or nothing."""


@dataclass
class Reading:
    """All that was read from a text."""

    said: list[Said] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


_TOKEN = re.compile(
    rf"(?<![\w.,/#^@-])(?P<number>[\u2212-]?{NUMBER})(?:\s?(?P<unit>{UNIT}){NOT_MORE})?(?![\w^]|[.,]\d)", re.ASCII
)
_SETTING = re.compile(r"(?<![\w.])([A-Za-z]\w{0,40})\s?=\s?$", re.ASCII)
_SCORES = frozenset({"bpb", "val_bpb", "nats", "loss", "val_loss", "mean"})
_SD = re.compile(r"(?:\bstd(?:ev)?|\bsd|\bstandard deviation|\u03c3|±|\+/-)(?: of)?[\s:=~≈]{0,3}$", re.IGNORECASE)
_MEAN = re.compile(r"\b(?:mean|average|avg)(?: is| of)?(?: (?:BPB|val_bpb))?[\s:=~≈*]{0,4}$", re.IGNORECASE)
_AGAINST = re.compile(
    r"\b(?:beat(?:s|ing)?|vs\.?|versus|baseline|compared|against|previous|prior|PR ?#?\d{1,6}(?:'s)?"
    r"|(?:improve\w{0,6}|gains?|down|better|lower) (?:over|from|than))\b",
    re.IGNORECASE,
)
_OWN = re.compile(r"\b(?:our|ours|this|we|reaches|mixture)\b", re.IGNORECASE)
_BY = re.compile(r"(?:\bby|=)\s?~?$", re.IGNORECASE)
_LIMIT = re.compile(
    r"(?:under|below|cap|limit|budget|within|at most|than|fits?|<|≤|target|margin)[\s:=]{0,3}$", re.IGNORECASE
)
_BPB = re.compile(r"\s{0,2}(?:\*\*)?\s?(?:val_)?(?:bpb|bits per byte)\b", re.IGNORECASE)
_NATS = re.compile(r"\s{0,2}(?:\*\*)?\s?nats\b", re.IGNORECASE)
_SEEDS = re.compile(
    r"(?<![\w.])(\d{1,3}|one|two|three|four|five|six|seven|eight)[- ]seeds?(?= (?:exact )?mean| average| run)",
    re.IGNORECASE | re.ASCII,
)
_WORDS = {word: i for i, word in enumerate(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight"])}
_XSA = re.compile(r"\bXSA(?:[- ]?(\d{1,3})\b| (?:on the )?last (\d{1,3})\b|-(all)\b| on (all)\b)", re.ASCII)
_STOP = re.compile(r"[;\n]|\.\s(?=[A-Z0-9(])")


def read_text(text: str, place: Place, field_name: str, reading: Reading) -> None:
    """Add what `text` says to `reading`."""
    for sentence in _sentences(text):
        for said in _numbers(sentence, place, field_name, reading):
            if len(reading.said) >= MOST_FIGURES:
                return
            reading.said.append(said)


def read_paragraphs(lines: Iterable[str], file: str, reading: Reading) -> None:
    """Add the paragraphs of a Markdown file; tables and code are left out."""
    code = False
    for number, line in enumerate(lines, start=1):
        if line.lstrip().startswith("```"):
            code = not code
        elif not code and not line.lstrip().startswith("|"):
            read_text(line.replace("`", "").replace("**", ""), Place(file, number), "", reading)


def _sentences(text: str) -> Iterator[str]:
    begin = 0
    for found in _STOP.finditer(text):
        yield text[begin : found.start()]
        begin = found.end()
    yield text[begin:]


def _numbers(sentence: str, place: Place, field_name: str, reading: Reading) -> Iterator[Said]:
    for found in _SEEDS.finditer(sentence):
        value = _WORDS.get(found[1].lower())
        count = quantity(str(value) if value is not None else found[1], dimension="count")
        if count is not None:
            yield Said("seeds", "", count, "", place, field_name)
    for found in _XSA.finditer(sentence):
        last = found[1] or found[2] or "all"
        layers = quantity(last if last != "all" else "0", dimension="count")
        if layers is not None:
            yield Said("xsa", "", layers, last, place, field_name)
    for found in _TOKEN.finditer(sentence):
        before = sentence[max(0, found.start() - BEFORE) : found.start()]
        after = sentence[found.end() : found.end() + AFTER]
        said = _meaning(found, before, after, place, field_name)
        if said is not None:
            yield said
        elif "." in found["number"] and len(reading.unread) < MOST_FIGURES:
            reading.unread.append(found["number"])


def _meaning(found: re.Match[str], before: str, after: str, place: Place, field_name: str) -> Said | None:
    number, unit = found["number"].replace("\u2212", "-"), found["unit"] or ""
    plain = quantity(number)
    if plain is None or _LIMIT.search(before):
        return None

    def _said(meaning: Meaning, of: Unit = "", value: Quantity = plain, key: str = "") -> Said:
        return Said(meaning, of, value, key, place, field_name)

    named = _SETTING.search(before)
    if named is not None and not unit and named[1].lower() not in _SCORES:
        key = named[1].lower()
        return _said(_TESTS[key]) if key in _TESTS else _said("setting", key=key)
    scored: Literal["val_bpb", "val_loss"] | None = None
    if not unit:
        scored = "val_bpb" if _BPB.match(after) else "val_loss" if _NATS.match(after) else None
    if _SD.search(before):
        return _said("sd", scored or "val_bpb")
    if scored is not None and (abs(plain.value) < 0.2 or _BY.search(before)):
        return _said("delta", scored) if _BY.search(before) else None
    likely = scored is not None or (0.3 < plain.value < 5 and plain.resolution <= 1e-3)
    if _of_baseline(before) and (scored is not None or (likely and _MEAN.search(before))):
        return _said("baseline", scored or "val_bpb")
    if likely and (_MEAN.search(before) or re.match(r"\s?(?:±|\+/-)", after)):
        return _said("mean", scored or "val_bpb")
    if scored is not None:
        return _said("mean" if "mean" in before.lower() else "score", scored)
    return _counted(number, unit, after, _said)


def _counted(number: str, unit: str, after: str, said: Callable[..., Said]) -> Said | None:
    """Bytes, steps and times, where the text writes them out."""
    if unit.lower() in ("bytes", "byte", "mb", "mib"):
        value = quantity(number, unit, "bytes")
        return None if value is None or value.value < 1000 else said("bytes", "", value)
    if unit == "ms" and re.match(r"\s?(?:/|per |a )step", after):
        value = quantity(number, unit, "time")
        return None if value is None else said("ms_per_step", "", value)
    if not unit and re.match(r"\s(?:training )?steps\b", after):
        value = quantity(number, dimension="count")
        return None if value is None or value.value < 1000 else said("steps", "", value)
    return None


def _of_baseline(before: str) -> bool:
    """Whether the last words before a figure speak of another's."""
    against = max((found.end() for found in _AGAINST.finditer(before)), default=-1)
    return against >= 0 and not _OWN.search(before, against)
