"""Job files: YAML, read strictly, resolved into one frozen `Job` that decides everything a run does.

A mistake of the user is a `ConfigError` of one sentence (one line each, when there are several) that names
the file, the field, what was found there and what belongs there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, WrapValidator, field_validator

from golf_core import strict_json
from golf_core.config import GolfConfig, override, preset
from golf_core.errors import ConfigError
from orchestrator.job.document import (
    all_of,
    apply_changes,
    parse_yaml,
    read_document,
    shown,
    size_fault,
    unplain,
    was_set,
)
from orchestrator.job.sections import (
    AuditPlan,
    Baseline,
    Budgets,
    Cost,
    DataFiles,
    Limits,
    Resources,
    Section,
    Tracking,
    mistakes_in,
)


def _sample_or_files(value: Any, _: object) -> Literal["sample"] | DataFiles:
    """By hand, since pydantic's errors about a union are those of all its parts."""
    return "sample" if value == "sample" else DataFiles.model_validate(value)


class JobFields(Section):
    """What a job file says and its job keeps as it is."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """a name of up to 64 letters, digits, '.', '_' and '-', beginning with a letter or digit, in quotes where YAML
    would read a number or date"""
    preset: Literal["record", "small"]
    """record or small"""
    # Every random generator in use accepts these.
    seeds: tuple[Annotated[int, Field(ge=0, le=2**32 - 1, strict=True)], ...] = Field(min_length=1, strict=False)
    """a list of one or more different whole numbers from 0 to 4294967295"""
    min_seeds_for_claim: int = Field(default=3, ge=2)
    """a whole number of at least 2: one seed has no spread"""
    data: Annotated[Literal["sample"] | DataFiles, WrapValidator(_sample_or_files)]
    """the word sample, or a mapping with path, tokenizer and, where a node may fetch them, fetch"""
    resources: Resources = Field(default_factory=Resources)
    """a mapping with ranks, cpus_per_rank, accelerator"""
    budgets: Budgets = Field(default_factory=Budgets)
    """a mapping with train_seconds, eval_seconds, artifact_bytes"""
    baseline: Baseline | None = None
    """a mapping with name, bytes_per_token and one of bpb and mean, or null"""
    audit: AuditPlan = Field(default_factory=AuditPlan)
    """a mapping with positions"""
    limits: Limits = Field(default_factory=Limits)
    """a mapping with seconds for each phase, and retries"""
    cost: Cost = Field(default_factory=Cost)
    """a mapping with per_node_hour and stop_when_hopeless"""
    mlflow: Tracking = Field(default_factory=Tracking)
    """a mapping with tracking_uri and experiment"""
    output: str = Field(default="runs", min_length=1)
    """the folder in which each run makes its own"""

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
        if twice:
            which = f"{'seed' if len(twice) == 1 else 'seeds'} {', '.join(map(str, twice))}"
            raise ValueError(f"{which} given more than once; a repeated seed is no new evidence, so give each once")
        return seeds


class JobFile(JobFields):
    """What `golf run` takes; docs/job.md says it in full."""

    overrides: dict[str, Any] = Field(default_factory=dict)
    """a mapping of configuration fields to values, such as train.iterations: 100"""


class Job(JobFields):
    """A job with every default filled in: equal jobs do equal work."""

    config: GolfConfig
    """the preset's configuration with the overrides, every value of it"""

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON-ready values, which `from_dict` reads back."""
        return {**self.model_dump(mode="json", exclude={"config"}), "config": strict_json.to_dict(self.config)}

    @classmethod
    def from_dict(cls, values: Any, where: str = "job") -> Job:
        """The job that `to_dict` wrote. Raises `ConfigError`, prefixed with `where`, for anything else."""
        if not isinstance(values, dict):
            raise ConfigError(f"{where}: expected a mapping of fields, got {strict_json.printable(shown(values))}")
        if fault := size_fault(values):
            raise ConfigError(f"{where}: {fault}")
        if mistakes := list(unplain(values)):
            raise all_of((where, *mistake) for mistake in mistakes)
        try:
            config = strict_json.from_dict(GolfConfig, values.get("config"), where=f"{where}.config")
            return cls.model_validate({**values, "config": config})
        except ValidationError as error:
            raise all_of((where, *mistake) for mistake in mistakes_in(cls, error)) from None
        except (ArithmeticError, ValueError) as error:
            raise ConfigError(f"{where}: holds a value that cannot be ({strict_json.printable(error)})") from None

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
        spec = JobFile.model_validate(document)
    except ValidationError as error:
        mistakes += mistakes_in(JobFile, error)
    name, overrides = document.get("preset"), document.get("overrides", {})
    # Overrides are checked even when other fields are wrong, so that one attempt shows every mistake.
    if name not in ("record", "small") or not isinstance(overrides, dict):
        return None
    base = preset(name)
    if spec is not None:
        budgets: dict[str, float] = {"artifact.cap_bytes": spec.budgets.artifact_bytes}
        if base.train.wallclock_seconds is not None:
            budgets["train.wallclock_seconds"] = spec.budgets.train_seconds
        base = override(base, budgets)
    config = _override_all(base, overrides, mistakes)
    if spec is None or config is None:
        return None
    job = Job(**{name: getattr(spec, name) for name in JobFields.model_fields}, config=config)
    mistakes += _contradictions(job)
    return None if mistakes else job


def _override_all(base: GolfConfig, overrides: Mapping[str, Any], mistakes: list[tuple[str, str]]) -> GolfConfig | None:
    """`base` with all overrides, or None and what is wrong with each."""
    left, config = dict(overrides), None
    found: list[tuple[str, str]] = []
    while config is None:
        try:
            config = override(base, left, where="overrides.")
        except ConfigError as error:
            field, _, problem = str(error).partition(": ")
            named = field.removeprefix("overrides.").partition("[")[0]
            culprits = [name for name in left if name == named or name.startswith(f"{named}.")]
            # Without the wrong value others may clash with a default: later on only fields that were set count.
            if culprits or not found:
                found.append((field, problem))
            if not culprits:
                break
            for name in culprits:
                del left[name]
    if config is not None:
        nulls = [field for field, value in left.items() if value is None and attrgetter(field)(config) is not None]
        found += [(f"overrides.{field}", "got null; give a number") for field in nulls]  # read as NaN
    mistakes += found
    return None if found else config


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


# --- how long each phase may take ---

COMPILE_S = 900.0
"""Warm-up and compilation, which the training clock leaves out, and validation."""
EVAL_BUDGETS = 3.0
UNCLOCKED_S = 86_400.0
TRANSFER_S = 300.0
FETCH_S = 7200.0
"""For a node that may have to fetch its data first: 16 GB over a line of 20 Mbit/s."""


@dataclass(frozen=True)
class PhaseLimits:
    """Seconds."""

    start: float
    train: float
    export: float
    evaluate: float
    audit: float
    transfer: float
    """Seconds for one file between a rank and the driver."""


def phase_limits(job: Job) -> PhaseLimits:
    """The limits of `job`: as given, else by its budgets; a training without a clock is given a day."""
    given, clock = job.limits, job.config.train.wallclock_seconds
    train = given.train_seconds or (UNCLOCKED_S if clock is None else clock + COMPILE_S)
    evaluate = given.eval_seconds or (UNCLOCKED_S if clock is None else EVAL_BUDGETS * job.budgets.eval_seconds)
    fetched = job.data != "sample" and job.data.fetch is not None
    start = given.start_seconds + (FETCH_S if fetched else 0.0)
    return PhaseLimits(start, train, given.export_seconds, evaluate, given.audit_seconds, TRANSFER_S)
