"""The sections of a job file, each a strict pydantic model, and what pydantic finds wrong with one in our words.

The docstring under a field completes the sentence "give ...", the remedy in error messages about that field; the
schema and the reference have it too. A `ValueError` that a section raises is a sentence of its own.
"""

from __future__ import annotations

import math
import re
import typing
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from golf_core.errors import ConfigError
from golf_core.strict_json import nearest
from orchestrator.job.document import inside, shown


class Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Resources(Section):
    """What each seed occupies."""

    ranks: int = Field(default=1, ge=1, le=8)
    """a whole number from 1 to 8, the processes that train one seed together"""
    nodes: int = Field(default=1, ge=1, le=2)
    """1, or 2 where each seed may be shared out evenly between two nodes"""
    cpus_per_rank: float = Field(default=1.0, gt=0, le=1024)
    """a number above 0, the CPUs of each rank"""
    accelerator: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """a GPU's name such as H100 (each rank then takes one), or null for CPUs alone"""

    @model_validator(mode="after")
    def _even(self) -> Resources:
        if self.ranks % self.nodes:
            raise ValueError("an odd number of ranks cannot be shared out between 2 nodes; give an even number")
        return self

    @property
    def gpus_per_rank(self) -> int:
        """One with an accelerator, none without."""
        return 0 if self.accelerator is None else 1


class Budgets(Section):
    """What a claim may use; the defaults are the challenge's."""

    train_seconds: float = Field(default=600.0, gt=0)
    """a number above 0, the seconds of the training clock"""
    eval_seconds: float = Field(default=600.0, gt=0)
    """a number above 0, the seconds of the evaluation"""
    artifact_bytes: int = Field(default=16_000_000, gt=0)
    """a whole number above 0, the bytes of code and compressed weights together"""


class Baseline(Section):
    """The earlier result that a claim must beat: its BPB for each seed, or only their mean."""

    name: str = Field(min_length=1, max_length=200)
    """a text that says which result this is"""
    bpb: tuple[Annotated[float, Field(gt=0, strict=True)], ...] | None = Field(default=None, min_length=2, strict=False)
    """a list of two or more BPBs above 0, one for each of its seeds"""
    mean: float | None = Field(default=None, gt=0)
    """a number above 0, the mean BPB over its seeds"""
    bytes_per_token: float = Field(gt=0)
    """a number above 0, the bytes per token of its validation text: without this ratio the margin of 0.005 nats a token
    cannot be turned into BPB"""
    tokenizer: str | None = Field(default=None, min_length=1)
    """a text that names its tokenizer, or null"""

    @model_validator(mode="after")
    def _one_figure(self) -> Baseline:
        if (self.bpb is None) == (self.mean is None):
            found = "neither is" if self.bpb is None else "both are"
            raise ValueError(
                f"wants either bpb (a list, one for each seed) or mean (their mean alone), but {found} there; "
                "give exactly one"
            )
        return self

    @property
    def mean_bpb(self) -> float:
        """The mean, given or computed from the seeds."""
        if self.mean is not None:
            return self.mean
        assert self.bpb is not None
        return math.fsum(self.bpb) / len(self.bpb)


class AuditPlan(Section):
    """How closely each seed's evaluation is audited before a claim: as a black box, after it has scored the text."""

    positions: int = Field(default=3, ge=0, le=10_000, strict=True)
    """at how many positions every token of the vocabulary is tried, a whole number; 0 audits nothing, and without an
    audit there is no claim"""


class Tracking(Section):
    """Where MLflow keeps the figures."""

    tracking_uri: str | None = Field(default=None, min_length=1)
    """an MLflow address, or null for a SQLite file in the output folder"""
    experiment: str = Field(default="parameter-golf", min_length=1)
    """the name of an MLflow experiment"""

    @model_validator(mode="after")
    def _no_password(self) -> Tracking:
        # A job is written down wherever its run is: a password in it could not be kept out of everything.
        if self.tracking_uri is not None and re.search(r"://[^/\s@]*:[^/\s@]+@", self.tracking_uri):
            raise ValueError(
                "holds a password, and a job file is no place for one; take it out of tracking_uri and set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead",
            )
        return self


class Limits(Section):
    """After how many seconds a phase is ended that should have been over long ago, and what is then tried."""

    start_seconds: float = Field(default=600.0, gt=0)
    """a number above 0, the seconds for a gang to start and to check its data"""
    train_seconds: float | None = Field(default=None, gt=0)
    """a number above 0, the seconds of the whole training phase, warm-up and compilation included, or null for the
    training clock and 15 minutes"""
    export_seconds: float = Field(default=1800.0, gt=0)
    """a number above 0, the seconds of the export"""
    eval_seconds: float | None = Field(default=None, gt=0)
    """a number above 0, the seconds of the evaluation phase, or null for three times budgets.eval_seconds"""
    audit_seconds: float = Field(default=3600.0, gt=0)
    """a number above 0, the seconds of a seed's audit"""
    stall_seconds: float = Field(default=45.0, ge=2)
    """a number of at least 2, the seconds without a sign of life after which a rank counts as stuck"""
    retries: int = Field(default=1, ge=0, le=100)
    """a whole number, how often a seed is run again after a failure of the machines, never after one of its own"""


class Cost(Section):
    """What the machines cost, and when to stop spending."""

    per_node_hour: float | None = Field(default=None, gt=0)
    """a number above 0, the price of one node for an hour in any currency, or null"""
    stop_when_hopeless: bool = False
    """true, so that a run ends as soon as its seeds can no longer carry the claim, or false"""


# --- data: where the shards lie, and where they are fetched from ---

HUB = "https://huggingface.co"
REPO = "willdepueoai/parameter-golf"
"""The challenge's own export."""


class Fetch(Section):
    """The first training shards and all validation shards of one variant of a published export."""

    variant: str = Field(default="sp1024", pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
    """the name of an export such as sp1024, or its whole folder such as fineweb10B_sp1024"""
    train_shards: int = Field(default=80, ge=1, le=10_000)
    """a whole number from 1 to 10000, how many training shards to fetch"""
    repo: str = Field(default=REPO, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}$")
    """a dataset's name on the hub, such as willdepueoai/parameter-golf"""
    prefix: str = Field(
        default="datasets",
        pattern=r"^(?:[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}(?:/[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}){0,7})?$",
    )
    """the folder in the repo that holds manifest.json, or an empty text for its root"""
    revision: str = Field(default="main", pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$")
    """a branch, tag or commit of the repo, such as main"""
    endpoint: str | None = Field(default=None, max_length=300)
    """the http(s) address of a hub or mirror, or null for the usual one"""

    @field_validator("endpoint")
    @classmethod
    def _address(cls, endpoint: str | None) -> str | None:
        if endpoint is None:
            return None
        if not re.fullmatch(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._/-]*)?", endpoint) or not _port(
            endpoint
        ):
            raise ValueError(
                f"got {endpoint[:60]!r}, which is no address of a hub; give one such as https://huggingface.co, "
                "without a user name, or null"
            )
        return endpoint.rstrip("/")

    @property
    def vocab_size(self) -> int | None:
        """The number of pieces that a name such as sp1024 or fineweb10B_sp1024 states; None for other names."""
        stated = re.fullmatch(r"(?:.*_)?sp([1-9][0-9]{0,5})", self.variant)
        return int(stated[1]) if stated else None

    def inside(self, path: str) -> str:
        """A path of the repo, given one below the prefix."""
        return f"{self.prefix}/{path}" if self.prefix else path


def _port(endpoint: str) -> bool:
    try:
        return urlsplit(endpoint).port != 0
    except ValueError:
        return False


class DataFiles(Section):
    """Shards and tokenizer; paths are relative to the folder where the command runs."""

    path: str = Field(min_length=1)
    """the folder of the *_train_*.bin and *_val_*.bin shards"""
    tokenizer: str = Field(min_length=1)
    """the SentencePiece .model file that made the shards"""
    fetch: Fetch | None = None
    """where a node that has not got the data fetches them (variant, train_shards, repo, prefix, revision, endpoint), or
    null"""


# --- mistakes in our words ------------------------------------------------------------------------


def fetch_of_options(**options: object) -> Fetch:
    """A `Fetch` from the options of a command line. Raises `ConfigError`, a sentence that names the option."""
    try:
        return Fetch.model_validate({name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        field, sentence = mistakes_in(Fetch, error)[0]
        raise ConfigError(f"--{field.replace('_', '-')}: {sentence}") from None


def mistakes_in(model: type[Section], error: ValidationError) -> list[tuple[str, str]]:
    """Field and sentence of each of pydantic's findings in the values of a `model`."""
    found: list[tuple[str, str]] = []
    entries = error.errors(include_url=False)
    locations = [entry["loc"] for entry in entries]
    for entry, location in zip(entries, locations, strict=True):
        if any(len(other) > len(location) and other[: len(location)] == location for other in locations):
            continue  # a list is "too short" when its elements are wrong: those are the news
        field, section, remedy = "", model, ""
        for part in location:
            field = f"{field}[{part}]" if isinstance(part, int) else inside(field, part)
            if part in section.model_fields:
                info = section.model_fields[part]
                remedy = " ".join((info.description or "").split())
                section = next(filter(_is_section, (info.annotation, *typing.get_args(info.annotation))), section)
        if entry["type"] == "value_error":
            sentence = str(entry["ctx"]["error"])
        elif entry["type"] == "extra_forbidden":
            sentence = f"no such field{nearest(str(location[-1]), section.model_fields)}"
        elif entry["type"] == "missing":
            sentence = f"missing; give {remedy}"
        else:
            sentence = f"got {shown(entry['input'])}; give {remedy}"
        found.append((field, sentence))
    return found


def _is_section(hint: object) -> typing.TypeGuard[type[Section]]:
    return isinstance(hint, type) and issubclass(hint, Section)
