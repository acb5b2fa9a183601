"""Job files: YAML, read strictly, resolved into one frozen `Job` that decides everything a run does.

A mistake of the user is a `ConfigError` of one sentence (one line each, when there are several) that names
the file, the field, what was found there and what belongs there.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from golf_core import records
from golf_core.config import GolfConfig, override, preset, with_clock
from golf_core.errors import ConfigError

MAX_FILE_BYTES = 1_000_000
MAX_SEED = 2**32 - 1  # what every random generator in use accepts
_OWN_SENTENCE = "job_file"
"""Type of the validation errors whose message is ours already."""

# A field's description completes the sentence "give ...": the remedy in error messages about that field.


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class DataFiles(_Section):
    """Shards and tokenizer of the user's own; paths are relative to the folder where the command runs."""

    path: str = Field(min_length=1, description="the folder of the *_train_*.bin and *_val_*.bin shards")
    tokenizer: str = Field(min_length=1, description="the SentencePiece .model file that made the shards")


class Resources(_Section):
    """What each seed occupies."""

    ranks: int = Field(
        default=1,
        ge=1,
        le=8,
        description="a whole number from 1 to 8, the processes that train one seed together",
    )
    cpus_per_rank: float = Field(default=1.0, gt=0, le=1024, description="a number above 0, the CPUs of each rank")
    accelerator: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="a GPU's name such as H100 (each rank then takes one), or null for CPUs alone",
    )

    @property
    def gpus_per_rank(self) -> int:
        """One with an accelerator, none without."""
        return 0 if self.accelerator is None else 1


class Budgets(_Section):
    """What a claim may use; the defaults are the challenge's."""

    train_seconds: float = Field(default=600.0, gt=0, description="a number above 0, the seconds of the training clock")
    eval_seconds: float = Field(default=600.0, gt=0, description="a number above 0, the seconds of the evaluation")
    artifact_bytes: int = Field(
        default=16_000_000,
        gt=0,
        description="a whole number above 0, the bytes of code and compressed weights together",
    )


class Baseline(_Section):
    """The earlier result that a claim must beat: its BPB for each seed, or only their mean."""

    name: str = Field(min_length=1, max_length=200, description="a text that says which result this is")
    bpb: tuple[Annotated[float, Field(gt=0, strict=True)], ...] | None = Field(
        default=None,
        min_length=2,
        strict=False,
        description="a list of two or more BPBs above 0, one for each of its seeds",
    )
    mean: float | None = Field(default=None, gt=0, description="a number above 0, the mean BPB over its seeds")
    bytes_per_token: float = Field(
        gt=0,
        description="a number above 0, the bytes per token of its validation text: without this ratio the "
        "margin of 0.005 nats a token cannot be turned into BPB",
    )
    tokenizer: str | None = Field(default=None, min_length=1, description="a text that names its tokenizer, or null")

    @model_validator(mode="after")
    def _one_figure(self) -> Baseline:
        if (self.bpb is None) == (self.mean is None):
            found = "neither is" if self.bpb is None else "both are"
            raise PydanticCustomError(
                _OWN_SENTENCE,
                "wants either bpb (a list, one for each seed) or mean (their mean alone), but {found} there; "
                "give exactly one",
                {"found": found},
            )
        return self

    @property
    def mean_bpb(self) -> float:
        """The mean, given or computed from the seeds."""
        if self.mean is not None:
            return self.mean
        assert self.bpb is not None
        return math.fsum(self.bpb) / len(self.bpb)


class Tracking(_Section):
    """Where MLflow keeps the figures."""

    tracking_uri: str | None = Field(
        default=None,
        min_length=1,
        description="an MLflow address, or null for a SQLite file in the output folder",
    )
    experiment: str = Field(default="parameter-golf", min_length=1, description="the name of an MLflow experiment")


def _sample_or_files(value: Any) -> Literal["sample"] | DataFiles:
    if value == "sample":
        return "sample"
    if isinstance(value, str):
        raise ValueError(value)
    return DataFiles.model_validate(value)


class _JobFile(_Section):
    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="a name of up to 64 letters, digits, '.', '_' and '-', beginning with a letter or digit, "
        "in quotes where YAML would read a number or date",
    )
    preset: Literal["record", "small"] = Field(description="record or small")
    overrides: dict[str, Any] = Field(
        default_factory=dict,
        description="a mapping of configuration fields to values, such as train.iterations: 100",
    )
    seeds: tuple[Annotated[int, Field(ge=0, le=MAX_SEED, strict=True)], ...] = Field(
        min_length=1,
        strict=False,
        description=f"a list of one or more different whole numbers from 0 to {MAX_SEED}",
    )
    min_seeds_for_claim: int = Field(
        default=3, ge=2, description="a whole number of at least 2: one seed has no spread"
    )
    data: Annotated[Literal["sample"] | DataFiles, PlainValidator(_sample_or_files)] = Field(
        description="the word sample, or a mapping with path and tokenizer"
    )
    resources: Resources = Field(
        default_factory=Resources, description="a mapping with ranks, cpus_per_rank, accelerator"
    )
    budgets: Budgets = Field(
        default_factory=Budgets, description="a mapping with train_seconds, eval_seconds, artifact_bytes"
    )
    baseline: Baseline | None = Field(
        default=None, description="a mapping with name, bytes_per_token and one of bpb and mean, or null"
    )
    mlflow: Tracking = Field(default_factory=Tracking, description="a mapping with tracking_uri and experiment")
    output: str = Field(default="runs", min_length=1, description="the folder in which each run makes its own")

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
        if twice:
            raise PydanticCustomError(
                _OWN_SENTENCE,
                "{which} more than once; a repeated seed is no new evidence, so give each once",
                {"which": f"{'seed' if len(twice) == 1 else 'seeds'} {', '.join(map(str, twice))} given"},
            )
        return seeds


@dataclass(frozen=True)
class Job:
    """A job with every default filled in: equal jobs do equal work."""

    name: str
    preset: str
    seeds: tuple[int, ...]
    min_seeds_for_claim: int
    data: Literal["sample"] | DataFiles
    resources: Resources
    budgets: Budgets
    baseline: Baseline | None
    mlflow: Tracking
    output: str
    config: GolfConfig

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON-ready values, which `from_dict` reads back."""
        sections = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "config"}
        plain = {k: v.model_dump(mode="json") if isinstance(v, BaseModel) else v for k, v in sections.items()}
        return {**plain, "seeds": list(self.seeds), "config": records.to_dict(self.config)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "job") -> Job:
        """The job that `to_dict` wrote. Raises `ConfigError`, prefixed with `where`, for anything else."""
        if not isinstance(values, Mapping):
            raise ConfigError(f"{where}: expected a mapping of fields, got {_shown(values)}")
        rest = dict(values)
        config = records.from_dict(GolfConfig, rest.pop("config", None), where=f"{where}.config")
        try:
            return _job(_JobFile.model_validate(rest), config)
        except ValidationError as error:
            raise _all_of((where, *mistake) for mistake in _mistakes(error)) from None

    @property
    def digest(self) -> str:
        """SHA-256 (hexadecimal) of the canonical JSON of `to_dict`: sorted keys, no spaces, ASCII."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def load_job(path: Path, changes: Mapping[str, Any] | None = None) -> Job:
    """Read the job file at `path`, replace fields by `changes`, check it all and resolve the configuration.

    `changes` maps dotted names of the job file's own fields to values ({"resources.ranks": 2,
    "overrides.train.iterations": 10}); `parse_changes` makes it from the command line.
    Raises `ConfigError` with one line for each mistake found.
    """
    changes = changes or {}
    document = _read_document(path)
    mistakes: list[tuple[str, str]] = []
    for field, value in changes.items():
        mistakes += [(field, text) for _, text in _unplain(value, field)]
    if not mistakes:
        mistakes += _apply(document, changes)
    job = None if mistakes else _resolve(document, mistakes)
    if job is None:
        sources = ["--set" if _was_set(field, changes) else path for field, _ in mistakes]
        raise _all_of((source, *mistake) for source, mistake in zip(sources, mistakes, strict=True))
    return job


def parse_changes(texts: Sequence[str]) -> dict[str, Any]:
    """The `changes` of `load_job` from "field=value" texts, with values read as YAML (2, [1, 2], null, text).

    A later text wins over an earlier one for the same field. Raises `ConfigError` naming the text.
    """
    changes: dict[str, Any] = {}
    for text in texts:
        field, equals, value = text.partition("=")
        if not equals or not all(field.strip().split(".")):
            raise ConfigError(f"--set {text}: not of the form field=value, such as resources.ranks=2")
        changes.pop(field.strip(), None)  # the order decides when one change lies inside another
        changes[field.strip()] = _parse_yaml(value, f"--set {text}")
    return changes


# --- from the file to plain values ----------------------------------------------------------------


class _RefusedError(yaml.MarkedYAMLError):
    """Sound YAML that a job file may not hold."""


class _Loader(yaml.SafeLoader):
    """Safe YAML without aliases (a few lines of them can stand for gigabytes) and without repeated keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise _RefusedError(problem="aliases (*name) are not read here; write the value out", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    problem = f"the field '{key.value}' is given twice; keep one of the two"
                    raise _RefusedError(problem=problem, problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


# YAML 1.1 takes 1e-3 (no dot) for text; everyone who writes it means the number.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def _read_document(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give the path of a job file such as jobs/smoke.yaml") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(f"{path}: cannot be read ({reason}); give the path of a job file") from None
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_FILE_BYTES:,} bytes, so it is no job file; check the path")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}: line {line}: not UTF-8 text; save the job file as UTF-8") from None
    document = _parse_yaml(text, str(path))
    if not isinstance(document, dict):
        found = "nothing" if document is None else _shown(document)
        raise ConfigError(f"{path}: holds {found}, not a mapping of fields; begin with lines such as 'name: my-job'")
    mistakes = list(_unplain(document))
    if mistakes:
        raise _all_of((path, *mistake) for mistake in mistakes)
    return document


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)  # a SafeLoader
    except _RefusedError as error:
        raise ConfigError(f"{_at_line(where, error.problem_mark)}: {_printable(error.problem or '')}") from None
    except yaml.MarkedYAMLError as error:
        problem = error.problem or error.context or "it cannot be parsed"
        raise ConfigError(
            f"{_at_line(where, error.problem_mark or error.context_mark)}: not YAML ({problem}); "
            "check the indentation, colons and quotes there"
        ) from None
    except yaml.YAMLError as error:
        first_line = str(error).splitlines()[0]
        raise ConfigError(f"{where}: not YAML ({first_line}); save it as plain text") from None
    except RecursionError:
        raise ConfigError(f"{where}: nested too deeply; a job file has three levels at most") from None
    except (ValueError, OverflowError, LookupError, TypeError, AttributeError) as error:
        # PyYAML lets Python's own errors through: a 13th month, a number of thousands of digits, an odd tag.
        first_line = (str(error).splitlines() or [""])[0][:80]
        raise ConfigError(f"{where}: holds a value that YAML cannot read ({first_line}); put text in quotes") from None


def _at_line(where: str, mark: yaml.Mark | None) -> str:
    return where if mark is None else f"{where}: line {mark.line + 1}"


def _unplain(value: Any, field: str = "") -> Iterator[tuple[str, str]]:
    """What no field can take, whatever it is: dates, bytes, sets, endless numbers, names of no field."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                yield _inside(field, _shown(key)), "is not a field's name; names are words, or text in quotes"
            else:
                yield from _unplain(item, _inside(field, key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _unplain(item, f"{field}[{i}]")
    elif isinstance(value, float) and not math.isfinite(value):
        yield field, f"got {value}; give a finite number"
    elif isinstance(value, int) and value.bit_length() > 63:
        yield field, "got a whole number of more than 63 bits; give a smaller one"
    elif not isinstance(value, (type(None), bool, int, float, str)):
        yield field, f"YAML reads this as a {type(value).__name__}; put text in quotes"


# --- from plain values to the job -----------------------------------------------------------------


def _apply(document: dict[str, Any], changes: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Flatten the overrides and replace fields, in place; the mistakes found on the way."""
    for name in ("overrides", "resources", "budgets", "mlflow"):
        # A heading whose lines are all commented out means the defaults.
        if name in document and document[name] is None:
            del document[name]
    mistakes = []
    overrides = document.get("overrides", {})
    if isinstance(overrides, dict):
        flat: dict[str, Any] = {}
        for field, value in _leaves(overrides):
            if field in flat:
                mistakes.append((f"overrides.{field}", "given twice, nested and dotted; keep one of the two"))
            flat[field] = value
        document["overrides"] = flat
    for field, value in changes.items():
        _replace(document, field, value)
    return mistakes


def _replace(document: dict[str, Any], field: str, value: Any) -> None:
    group, _, rest = field.partition(".")
    overrides = document.get("overrides")
    if group == "overrides" and isinstance(overrides, dict):
        if not rest:
            overrides.clear()
        leaves = _leaves(value, f"{rest}." if rest else "") if isinstance(value, dict) else [(rest, value)]
        if not rest and not isinstance(value, dict):
            document["overrides"] = value
        else:
            overrides.update(leaves)
        return
    node = document
    *parents, last = field.split(".")
    for name in parents:
        if not isinstance(node.get(name), dict):
            node[name] = {}  # `data.path=...` replaces `data: sample`
        node = node[name]
    node[last] = value


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _resolve(document: dict[str, Any], mistakes: list[tuple[str, str]]) -> Job | None:
    """The job, or None with the reasons appended to `mistakes`."""
    spec = None
    try:
        spec = _JobFile.model_validate(document)
    except ValidationError as error:
        mistakes += _mistakes(error)
    name, overrides = document.get("preset"), document.get("overrides", {})
    # Overrides are checked even when other fields are wrong, so that one attempt shows every mistake.
    if name not in ("record", "small") or not isinstance(overrides, dict):
        return None
    base = preset(name)
    if base.train.wallclock_seconds is not None and spec is not None:
        base = with_clock(base, spec.budgets.train_seconds)
    config = _override_all(base, overrides, mistakes)
    if spec is None or config is None:
        return None
    job = _job(spec, config)
    mistakes += _contradictions(job)
    return None if mistakes else job


def _override_all(base: GolfConfig, overrides: Mapping[str, Any], mistakes: list[tuple[str, str]]) -> GolfConfig | None:
    """`base` with all overrides, or None and what is wrong with each."""
    left, first = dict(overrides), True
    while True:
        try:
            config = override(base, left, where="overrides.")
            break
        except ConfigError as error:
            field, _, problem = str(error).partition(": ")
        except ArithmeticError as error:
            field, problem = "overrides", f"a size of zero cannot work ({error}); give sizes of at least 1"
        named = field.removeprefix("overrides.").partition("[")[0]
        culprits = [name for name in left if name == named or name.startswith(f"{named}.")]
        # Without the wrong value others may clash with a default: later on only fields that were set count.
        if first or culprits:
            mistakes.append((field, problem))
        if not culprits:
            return None
        first = False
        for name in culprits:
            del left[name]
    for field, value in left.items():
        if value is None and _field_of(config, field) is not None:  # read as NaN where a number must stand
            mistakes.append((f"overrides.{field}", "got null; give a number"))
            first = False
    return config if first else None


def _field_of(config: GolfConfig, field: str) -> Any:
    value: Any = config
    for name in field.split("."):
        value = getattr(value, name)
    return value


def _contradictions(job: Job) -> Iterator[tuple[str, str]]:
    """Fields that are sound alone and not together."""
    train = job.config.train
    if train.wallclock_seconds is not None and train.wallclock_seconds > job.budgets.train_seconds:
        yield (
            "overrides.train.wallclock_seconds",
            f"{train.wallclock_seconds:g} s is more than budgets.train_seconds allows "
            f"({job.budgets.train_seconds:g} s); shorten the clock or widen the budget",
        )
    if job.resources.ranks > train.micro_batches:
        yield (
            "resources.ranks",
            f"{job.resources.ranks} ranks cannot share a batch of train.micro_batches = "
            f"{train.micro_batches} spans; lower the ranks or override train.micro_batches",
        )


def _job(spec: _JobFile, config: GolfConfig) -> Job:
    fields = {name: getattr(spec, name) for name in type(spec).model_fields if name != "overrides"}
    return Job(**fields, config=config)


# --- validation errors in our words ---------------------------------------------------------------


def _mistakes(error: ValidationError) -> list[tuple[str, str]]:
    """Field and sentence of each of pydantic's findings."""
    found: list[tuple[str, str]] = []
    entries = error.errors(include_url=False, include_context=False)
    locations = [entry["loc"] for entry in entries]
    for entry, location in zip(entries, locations, strict=True):
        if any(len(other) > len(location) and other[: len(location)] == location for other in locations):
            continue  # a list is "too short" when its elements are wrong: those are the news
        field = ""
        for part in location:
            field = f"{field}[{part}]" if isinstance(part, int) else _inside(field, str(part))
        parent, description = _look_up(location)
        if entry["type"] == _OWN_SENTENCE:
            found.append((field, entry["msg"]))
        elif entry["type"] == "extra_forbidden":
            found.append((field, f"no such field{records.nearest(str(location[-1]), parent.model_fields)}"))
        elif entry["type"] == "missing":
            found.append((field, f"missing; give {description}"))
        else:
            found.append((field, f"got {_shown(entry['input'])}; give {description}"))
    return found


def _look_up(location: tuple[int | str, ...]) -> tuple[type[BaseModel], str]:
    """The section that holds the innermost named field, and that field's description."""
    section: type[BaseModel] = _JobFile
    description = ""
    names = [part for part in location if isinstance(part, str)]
    for depth, name in enumerate(names):
        if name not in section.model_fields:
            break
        info = section.model_fields[name]
        description = info.description or ""
        if depth + 1 < len(names):
            section = next(_sections(info.annotation), section)
    return section, description


def _sections(hint: Any) -> Iterator[type[BaseModel]]:
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        yield hint
    for part in typing.get_args(hint):
        yield from _sections(part)


def _was_set(field: str, changes: Mapping[str, Any]) -> bool:
    return any(
        field == name or field.startswith((f"{name}.", f"{name}[")) or name.startswith(f"{field}.") for name in changes
    )


def _inside(field: str, name: str) -> str:
    return f"{field}.{name}" if field else name


def _all_of(mistakes: Iterable[tuple[object, str, str]]) -> ConfigError:
    """One error for many: a line "source: field: sentence" each."""
    return ConfigError("\n".join(_printable(f"{source}: {field}: {text}") for source, field, text in mistakes))


def _printable(text: str) -> str:
    """Names come from the file: a line break or a terminal's control code in one is shown, not obeyed."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _shown(value: Any) -> str:
    """A value as it would look in YAML, on one line and not too long."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
