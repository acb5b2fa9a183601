"""submission.json as it was filed: every value with its line and its own digits, and what each field claims.

Keys differ from submission to submission; they are read by their parts (`artifact_bytes_mean`, `train_time_ms`,
`delta_vs_pr549_nats`, `sliding_bpb_mean`): which figure, of which seed, and whether it is a mean or a spread.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from golf_core.files import open_plain
from orchestrator.verify.figures import BY_KEY, DIMENSIONS, Place, Quantity, quantity

SUBMISSION = "submission.json"
MOST_BYTES = 4 << 20
MOST_LEAVES = 5_000
DEEPEST = 12
LOOKED_AHEAD = 50_000
"""Within how many characters a name is looked for, to give its line."""


class Digits(str):
    """A number of the file in its own digits: 1.0400 is not 1.04."""


@dataclass(frozen=True)
class Leaf:
    """One value."""

    path: tuple[str, ...]
    """Keys, and list positions as [0], from the outside."""
    value: Digits | str | bool | None
    line: int
    """Counted from 1; 0 where it could not be found."""

    @property
    def key(self) -> str:
        """The last name on the path, list positions left out."""
        names = names_on(self.path)
        return names[-1].lower() if names else ""

    @property
    def where(self) -> str:
        """The path as one writes it."""
        return ".".join(self.path).replace(".[", "[")

    @property
    def place(self) -> Place:
        """Its line of the file."""
        return Place(SUBMISSION, self.line)


@dataclass(frozen=True)
class Submission:
    """The file, or why there is none to speak of."""

    present: bool = True
    fault: str = ""
    """Why it could not be read, in one sentence; nothing when it could."""
    notes: tuple[str, ...] = ()
    leaves: tuple[Leaf, ...] = ()


def read_submission(path: Path | None) -> Submission:
    """Read the file at `path`; faults are told, not raised."""
    if path is None:
        return Submission(present=False)
    try:
        with open_plain(path) as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        return Submission(fault=f"it cannot be read ({error.strerror})")
    if len(content) > MOST_BYTES:
        return Submission(fault=f"it is larger than {MOST_BYTES:,} bytes")
    notes: list[str] = []
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("utf-8", "replace")
        notes.append("not all of it is UTF-8; what is not was replaced")
    if not text.strip():
        return Submission(fault="it is empty")

    def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = Counter(name for name, _ in pairs)
            notes.extend(f"'{name[:40]}' is given more than once" for name, times in names.items() if times > 1)
        return found

    try:
        value = json.loads(
            text, parse_float=Digits, parse_int=Digits, parse_constant=Digits, object_pairs_hook=_members
        )
    except json.JSONDecodeError as error:
        return Submission(fault=f"it is not JSON ({error.msg}, line {error.lineno})")
    except RecursionError:
        return Submission(fault="it is nested too deeply")
    if not isinstance(value, dict):
        return Submission(fault=f"it holds {_kind(value)} where an object with named figures belongs")
    leaves = tuple(_numbered(_leaves(value), text, notes))
    return Submission(notes=tuple(notes[:20]), leaves=leaves)


def names_on(path: Sequence[str]) -> list[str]:
    """The keys of a path without list positions."""
    return [part for part in path if not part.startswith("[")]


def _kind(value: Any) -> str:
    return {list: "a list", str: "a text", Digits: "a number", bool: "true or false"}.get(type(value), "nothing")


def _leaves(value: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All values in the order of the file; what is nested deeper than `DEEPEST` is left out."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((), value)]
    while waiting:
        path, found = waiting.pop()
        if isinstance(found, dict) and len(path) < DEEPEST:
            waiting.extend(((*path, str(name)), item) for name, item in reversed(found.items()))
        elif isinstance(found, list) and len(path) < DEEPEST:
            waiting.extend(((*path, f"[{i}]"), item) for i, item in reversed(list(enumerate(found))))
        elif not isinstance(found, (dict, list)):
            yield path, found


def _numbered(leaves: Iterator[tuple[tuple[str, ...], Any]], text: str, notes: list[str]) -> Iterator[Leaf]:
    cursor, line, previous = 0, 1, ""
    for count, (path, value) in enumerate(leaves):
        if count >= MOST_LEAVES:
            notes.append(f"only its first {MOST_LEAVES:,} values were read")
            return
        names = names_on(path)
        if names and ".".join(path[:-1]) + names[-1] != previous:
            quoted = re.escape(json.dumps(names[-1], ensure_ascii=False))
            found = re.compile(rf"{quoted}\s{{0,20}}:").search(text, cursor, cursor + LOOKED_AHEAD)
            if found:
                line += text.count("\n", cursor, found.start())
                cursor = found.start()
            previous = ".".join(path[:-1]) + names[-1]
        yield Leaf(path, value, line)


# --- what the fields claim ----------------------------------------------------------------------------

Aggregate = Literal["", "mean", "sd", "max", "min", "delta", "t", "df", "p", "baseline", "margin"]
Null = Literal["", "margin", "zero"]


@dataclass(frozen=True)
class Claim:
    """One claimed number."""

    subject: str
    """The field's path."""
    figure: str
    """As in `figures.FIGURES`; for a test or a difference the unit: val_bpb, val_loss or nothing."""
    quantity: Quantity
    seed: int | None
    aggregate: Aggregate
    stage: str
    """A hint at the stage (`STAGES`), or nothing."""
    place: Place
    null: Null = ""
    """Hypothesis of a test, where the field says which."""


STAGES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "before": (
        r"before_quant|pre_?quant|post_ema|unquantized",
        ("pre_quant", "pre-quant", "post_ema", "post-ema", "train"),
        ("quantized", "int6", "int8"),
    ),
    "sliding": (r"sliding", ("sliding",), ("ttt",)),
    "ttt": (r"(?<!pre_)(?<!no_)(?<!without_)ttt", ("ttt",), ()),
    "roundtrip": (r"round_?trip|int6|quantized", ("roundtrip", "round_trip", "quantized"), ("sliding", "ttt", "pre")),
    "neural": (r"neural", ("neural",), ()),
    "mixture": (r"mixture", ("mixture",), ()),
    "published": (r"published", ("published",), ()),
}
"""Hints: the pattern of the fields that give them; words that a stage's label must, and must not, have for them."""
_TIME = re.compile(r"(.{1,60}?)_(ms|s|sec|secs|seconds|min|minutes)")
_AGGREGATES: tuple[tuple[Aggregate, re.Pattern[str]], ...] = (
    ("mean", re.compile(r"(?:mean|avg|average)_(.+)|(.+)_(?:mean|avg|average)")),
    ("sd", re.compile(r"(?:std|stdev|sd)_(.+)|(.+)_(?:std|stdev|stddev|sd)")),
    ("max", re.compile(r"(?:max|largest)_(.+)|(.+)_(?:max|largest)")),
    ("min", re.compile(r"(?:min|smallest|best)_(.+)|(.+)_(?:min|smallest)")),
)
_TEST = re.compile(r"(?:welch_)?(t|df|p)(?:_stat(?:istic)?|_value)?(?:_(margin|zero))?|(degrees_of_freedom)")
_SEED = re.compile(r"seed_?(\d{1,12})")
_PLAIN = {
    "total_bytes": "artifact_size artifact_size_bytes total_size total_size_bytes submission_size size",
    "code_bytes": "code_size code_size_bytes",
    "weight_bytes": "bytes_weights model_size model_size_bytes weights_bytes compressed_model_bytes",
    "val_loss": "loss nats",
    "parameters": "params n_parameters",
    "train_seconds": "train training wallclock train_wallclock training_wallclock train_clock",
    "eval_seconds": "eval evaluation ttt ttt_time ttt_eval eval_wallclock ttt_eval_time",
    "ms_per_step": "step step_time avg_step",
}
_BY_PLAIN = {name: figure for figure, names in _PLAIN.items() for name in names.split()}
"""Further names, which fields have and logs have not."""
_OF_OTHERS = re.compile(r"baseline|previous|prior|compar|reference|sota|record_to_beat")
_NOT_CLAIMS = re.compile(r"(?:.*_)?(?:pr|prs|issue|year|version|date|github_id|author|id)")


def read_claims(submission: Submission, known: Collection[int]) -> tuple[list[Claim], list[Leaf], list[Leaf]]:
    """The claimed numbers; the numbers that stand for something else; those that are not numbers at all (NaN).

    `known` are the seeds of the logs: a key that is one of them names a seed.
    """
    claims, others, broken = [], [], []
    for leaf in submission.leaves:
        if not isinstance(leaf.value, Digits) or _NOT_CLAIMS.fullmatch(leaf.key) or _lists_seeds(leaf):
            continue
        if quantity(leaf.value) is None:
            broken.append(leaf)
        elif (claim := _claim(leaf, submission.leaves, known)) is not None:
            claims.append(claim)
        else:
            others.append(leaf)
    return claims, others, broken


def claimed_seeds(submission: Submission, known: Collection[int]) -> dict[int, Place]:
    """Seeds that the file names, with the line of each."""
    found: dict[int, Place] = {}
    for leaf in submission.leaves:
        if _lists_seeds(leaf) and str(leaf.value).isdecimal() and len(str(leaf.value)) < 15:
            found.setdefault(int(str(leaf.value)), leaf.place)
        for seed in _seeds_on(leaf.path, known):
            found.setdefault(seed, leaf.place)
    return found


def headline(claims: Sequence[Claim], figure: str) -> Claim | None:
    """The one claim of the whole submission about `figure`: that which is not said to be a mean, if there is one."""
    own = [claim for claim in claims if claim.figure == figure and claim.seed is None and not claim.stage]
    return next((claim for aggregate in ("", "mean") for claim in own if claim.aggregate == aggregate), None)


def _claim(leaf: Leaf, leaves: Sequence[Leaf], known: Collection[int]) -> Claim | None:
    assert isinstance(leaf.value, Digits)
    key, above = leaf.key, [part.lower() for part in leaf.path[:-1]]
    seed = next(iter(_seeds_on(leaf.path, known)), None)
    if seed is None:
        seed = _seed_beside(leaf, leaves)
    if seed is None and any(part.isdecimal() for part in above):
        return None  # runs: {1: …}: of which seed, nobody says
    key = _SEED.sub("", key).strip("_") or key
    plain = quantity(leaf.value)
    assert plain is not None
    test = _TEST.fullmatch(key)
    if test is not None:
        statistic, null = cast(Aggregate, test[1] or "df"), cast(Null, test[2] or "")
        return Claim(leaf.where, "", plain, seed, statistic, "", leaf.place, null)
    if re.match(r"delta|gain|improvement|margin", key) or "baseline" in key:
        against: Aggregate = "baseline" if "baseline" in key and not key.startswith("delta") else "delta"
        unit = "val_loss" if re.search(r"nats|loss", key) else "val_bpb" if "bpb" in key else ""
        if key.startswith("margin"):
            against = "margin"
        return Claim(leaf.where, unit, plain, seed, against, "", leaf.place) if unit else None
    aggregate, base = _aggregate(key)
    stage = next(
        (hint for hint, (field, *_) in STAGES.items() if any(re.search(field, part) for part in (base, *above))), ""
    )
    figure, unit = _figure(base)
    if any(_OF_OTHERS.search(part) for part in above):
        aggregate, figure = "baseline", figure if figure in ("val_bpb", "val_loss") else ""
    if not figure and stage and aggregate == "mean":
        figure = "val_bpb"
    if not figure:
        return None
    value = quantity(leaf.value, unit, DIMENSIONS[figure])
    if value is None:
        return None
    written = Quantity(value.value, value.resolution, str(leaf.value))
    return Claim(leaf.where, figure, written, seed, aggregate, stage, leaf.place)


def _aggregate(key: str) -> tuple[Aggregate, str]:
    """Whether a key asks for a mean or a spread, and of what; `step_avg` is a name of its own."""
    if not _exact(key)[0]:
        for name, pattern in _AGGREGATES:
            if (found := pattern.fullmatch(key)) is not None:
                return name, found[1] or found[2]
    return "", key


def _figure(base: str) -> tuple[str, str]:
    """Figure and unit of a key without its mean, spread or seed."""
    figure, unit = _exact(base)
    if figure:
        return figure, unit
    # A score with the name of its stage: val_bpb_neural, pre_quant_val_bpb, sliding_bpb.
    scored = re.search(r"(?:^|_)(bpb|loss|nats)(?:_|$)", base)
    if scored is not None and "train_loss" not in base:
        return ("val_bpb" if scored[1] == "bpb" else "val_loss"), ""
    return "", ""


def _exact(base: str) -> tuple[str, str]:
    """Figure and unit of a key that is a figure's own name, with a unit behind it or not; nothing for others."""
    if base in BY_KEY:
        named = BY_KEY[base]
        return ("steps" if named.name == "step" else named.name), named.unit
    if base == "train_cap_seconds":
        return "train_seconds", ""
    timed = _TIME.fullmatch(base)
    if timed is not None:
        name = BY_KEY[timed[1]].name if timed[1] in BY_KEY else _BY_PLAIN.get(timed[1], "")
        name = "ms_per_step" if name == "step" else name
        return (name, timed[2]) if DIMENSIONS.get(name) == "time" else ("", "")
    sized = re.fullmatch(r"(.{1,60}?)_(kb|mb|kib|mib)", base)
    if sized is not None:
        name = _BY_PLAIN.get(sized[1], "") or _BY_PLAIN.get(f"{sized[1]}_size", "")
        return (name, sized[2]) if DIMENSIONS.get(name) == "bytes" else ("", "")
    if base.startswith("bytes_model"):
        return "weight_bytes", ""
    if base in _BY_PLAIN and DIMENSIONS[_BY_PLAIN[base]] != "time":
        return _BY_PLAIN[base], ""
    return "", ""


def _seeds_on(path: Sequence[str], known: Collection[int]) -> Iterator[int]:
    """Seeds that a path names: seed_results.42.val_bpb, seed_42.steps, val_bpb_seed42."""
    for i, part in enumerate(path):
        above = path[i - 1].lower() if i else ""
        if part.isdecimal() and part.isascii() and len(part) < 15:
            if "seed" in above or int(part) in known:
                yield int(part)
        elif (found := _SEED.search(part.lower())) is not None:
            yield int(found[1])


def _lists_seeds(leaf: Leaf) -> bool:
    """Whether the value is itself a seed: seeds: [42, 314], seed: 42."""
    return leaf.key in ("seed", "seeds") and isinstance(leaf.value, Digits)


def _seed_beside(leaf: Leaf, leaves: Sequence[Leaf]) -> int | None:
    """The seed given beside a value, as in runs: [{seed: 42, val_bpb: …}]."""
    above = leaf.path[:-1]
    if not above or not above[-1].startswith("["):
        return None
    for other in leaves:
        if other.path == (*above, "seed") and isinstance(other.value, Digits) and other.value.isdecimal():
            return int(other.value[:15])
    return None
