"""The table of named patterns: which words of a log stand for which figure, in whatever style they are written.

A log line is cut into pairs, `key:value`, `key=value`, `"key": value` or, for the known keys, `key value`. The key, or
the words before the value, are looked up in the table. All patterns are linear: every part has a bound, and a word is
tried from its beginning alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from orchestrator.verify.quantities import NOT_MORE, NUMBER, UNIT, Dimension


@dataclass(frozen=True)
class Named:
    """A figure by the names that logs give it."""

    name: str
    dimension: Dimension
    keys: frozenset[str]
    """The single word before the value, in lower case."""
    phrase: str = ""
    """A pattern for all words before the value, where one word does not tell."""
    unit: str = ""
    """The unit where the log writes none."""


def _named(name: str, dimension: Dimension, keys: str = "", phrase: str = "", unit: str = "") -> Named:
    return Named(name, dimension, frozenset(keys.split()), phrase, unit)


FIGURES = (
    _named(
        "val_bpb", "score", "val_bpb bpb val/bpb valid_bpb validation_bpb eval_bpb test_bpb final_bpb bits_per_byte"
    ),
    _named("val_loss", "score", "val_loss val/loss valid_loss validation_loss eval_loss val_nll nll nats_per_token"),
    _named("train_loss", "score", "train_loss train/loss training_loss loss"),
    _named("step", "count", "step"),
    _named("steps", "count", "steps total_steps num_steps train_steps"),
    _named("train_seconds", "time", "train_time train_seconds training_time training_seconds training_time_seconds"),
    _named("train_seconds", "time", "train_time_ms", unit="ms"),
    _named("eval_seconds", "time", "eval_time eval_seconds evaluation_seconds evaluation_time"),
    _named("eval_seconds", "time", "eval_time_ms", unit="ms"),
    _named("elapsed", "time", "elapsed"),
    _named("seconds", "time", "seconds"),
    _named("ms_per_step", "time", "step_avg ms_per_step step_avg_ms avg_step_ms ms/step", unit="ms"),
    _named("seed", "count", "seed random_seed"),
    _named("world_size", "count", "world_size num_gpus n_gpus nproc_per_node"),
    _named("parameters", "count", "model_params parameters num_params n_params total_params"),
    _named("train_cap_seconds", "time", "max_wallclock_seconds wallclock_seconds"),
    _named("code_bytes", "bytes", "code_bytes bytes_code", r"\bcode size"),
    _named(
        "total_bytes",
        "bytes",
        "total_bytes bytes_total artifact_bytes submission_bytes",
        r"(?:submission|artifact) size",
    ),
    _named(
        "weight_bytes",
        "bytes",
        "weight_bytes model_bytes compressed_bytes bytes_model bytes_model_compressed",
        r"^serialized model .|quantized model size|compressed (?:model|weights)",
    ),
    _named("raw_bytes", "bytes", "", r"^serialized model$"),
    _named("peak_memory_mib", "memory", "peak_memory_mib", r"peak[ _]memory|max memory allocated"),
)
BY_KEY = {key: figure for figure in FIGURES for key in figure.keys}
DIMENSIONS = {figure.name: figure.dimension for figure in FIGURES}
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


def work_in(text: str) -> tuple[str, str, str] | None:
    """What took how long ("gptq:generated 64 sequences in 198.3s"): words, number, unit."""
    place = text.rfind(" in ")
    found = _SECONDS.match(text, place + 4) if place > 0 else None
    return (_label(text[:place]), found[1], found[2]) if found else None


def xsa_layers(text: str) -> tuple[str, bool] | None:
    """On how many last layers XSA works, in the words of the published programs, and whether those are all."""
    found = _XSA.search(text)
    return (found[1], found[2] == "0") if found else None


def _pairs(text: str, begin: int) -> Iterator[Pair]:
    previous = begin
    for found in islice(_PAIR.finditer(text, begin), MOST_PAIRS):
        key = found["key"].lower()
        named = BY_KEY.get(key)
        if named is None and found["sep"] is None:
            continue  # "rank 0", "all 8": words and numbers of ordinary speech
        if named is None:
            phrase = " ".join(text[max(previous, found.end("key") - PHRASE) : found.end("key")].lower().split())
            named = next((figure for pattern, figure in _BY_PHRASE if pattern.search(phrase)), None)
        start = previous if named is not None and key not in named.keys else found.start("key")
        yield Pair(named, key, found["number"], found["unit"] or "", start)
        previous = found.end()


def _label(text: str) -> str:
    """A stage's name: without the endings that mark the same figures with more digits, or the end of a phase."""
    plain = "".join(c if c.isprintable() else " " for c in text[-120:])
    words = " ".join(plain.split()).strip(" :=-|,;[]{}\"'")
    return words.removesuffix("_exact").removesuffix(" ends")
