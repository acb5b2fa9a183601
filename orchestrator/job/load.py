"""Job files: YAML, read strictly, resolved into one frozen `Job` that decides everything a run does.

A mistake of the user is a `ConfigError` of one sentence (one line each, when there are several) that names
the file, the field, what was found there and what belongs there.
"""

from __future__ import annotations

import hashlib
import json
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    Field,
    PlainValidator,
    ValidationError,
    field_validator,
)

from golf_core import strict_json
from golf_core.config import GolfConfig, override, preset, with_clock
from golf_core.errors import ConfigError
from orchestrator.job.document import all_of, apply_changes, inside, parse_yaml, read_document, shown, unplain, was_set
from orchestrator.job.sections import (
    AuditPlan,
    Baseline,
    Budgets,
    Cost,
    DataFiles,
    Limits,
    MistakeError,
    Resources,
    Section,
    Tracking,
    own_sentence,
)

MAX_SEED = 2**32 - 1  # what every random generator in use accepts


def _sample_or_files(value: Any) -> Literal["sample"] | DataFiles:
    if value == "sample":
        return "sample"
    if isinstance(value, str):
        raise ValueError(value)
    return DataFiles.model_validate(value)


class _JobFile(Section):
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
        description="the word sample, or a mapping with path, tokenizer and, where a node may fetch them, fetch"
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
    audit: AuditPlan = Field(default_factory=AuditPlan, description="a mapping with positions")
    limits: Limits = Field(default_factory=Limits, description="a mapping with seconds for each phase, and retries")
    cost: Cost = Field(default_factory=Cost, description="a mapping with per_node_hour and stop_when_hopeless")
    mlflow: Tracking = Field(default_factory=Tracking, description="a mapping with tracking_uri and experiment")
    output: str = Field(default="runs", min_length=1, description="the folder in which each run makes its own")

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
        if twice:
            which = f"{'seed' if len(twice) == 1 else 'seeds'} {', '.join(map(str, twice))}"
            raise MistakeError(f"{which} given more than once; a repeated seed is no new evidence, so give each once")
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
    audit: AuditPlan
    limits: Limits
    cost: Cost
    mlflow: Tracking
    output: str
    config: GolfConfig

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON-ready values, which `from_dict` reads back."""
        sections = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "config"}
        plain = {k: v.model_dump(mode="json") if isinstance(v, BaseModel) else v for k, v in sections.items()}
        return {**plain, "seeds": list(self.seeds), "config": strict_json.to_dict(self.config)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "job") -> Job:
        """The job that `to_dict` wrote. Raises `ConfigError`, prefixed with `where`, for anything else."""
        if not isinstance(values, Mapping):
            raise ConfigError(f"{where}: expected a mapping of fields, got {shown(values)}")
        rest = dict(values)
        config = strict_json.from_dict(GolfConfig, rest.pop("config", None), where=f"{where}.config")
        try:
            return _job(_JobFile.model_validate(rest), config)
        except ValidationError as error:
            raise all_of((where, *mistake) for mistake in _mistakes(error)) from None

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
    document = read_document(path)
    mistakes: list[tuple[str, str]] = []
    for field, value in changes.items():
        mistakes += [(field, text) for _, text in unplain(value, field)]
    if not mistakes:
        mistakes += apply_changes(document, changes)
    job = None if mistakes else _resolve(document, mistakes)
    if job is None:
        sources = ["--set" if was_set(field, changes) else path for field, _ in mistakes]
        raise all_of((source, *mistake) for source, mistake in zip(sources, mistakes, strict=True))
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
        changes[field.strip()] = parse_yaml(value, f"--set {text}")
    return changes


# --- from plain values to the job -----------------------------------------------------------------


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
    if spec is not None:
        base = override(base, {"artifact.cap_bytes": spec.budgets.artifact_bytes})
        if base.train.wallclock_seconds is not None:
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
    cap = job.config.artifact.cap_bytes
    if cap is not None and cap > job.budgets.artifact_bytes:
        yield (
            "overrides.artifact.cap_bytes",
            f"{cap:,} is more than budgets.artifact_bytes allows ({job.budgets.artifact_bytes:,}); "
            "leave it out, and the budget is the cap",
        )
    for phase, limit, least in (
        ("train", job.limits.train_seconds, train.wallclock_seconds),
        ("eval", job.limits.eval_seconds, job.budgets.eval_seconds),
    ):
        if limit is not None and least is not None and limit <= least:
            yield (
                f"limits.{phase}_seconds",
                f"{limit:g} s would end the phase within its budget of {least:g} s; give more, or null",
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
    entries = error.errors(include_url=False)
    locations = [entry["loc"] for entry in entries]
    for entry, location in zip(entries, locations, strict=True):
        if any(len(other) > len(location) and other[: len(location)] == location for other in locations):
            continue  # a list is "too short" when its elements are wrong: those are the news
        field = ""
        for part in location:
            field = f"{field}[{part}]" if isinstance(part, int) else inside(field, str(part))
        parent, description = _look_up(location)
        if (sentence := own_sentence(entry)) is not None:
            found.append((field, sentence))
        elif entry["type"] == "extra_forbidden":
            found.append((field, f"no such field{strict_json.nearest(str(location[-1]), parent.model_fields)}"))
        elif entry["type"] == "missing":
            found.append((field, f"missing; give {description}"))
        else:
            found.append((field, f"got {shown(entry['input'])}; give {description}"))
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
