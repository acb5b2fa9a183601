"""Which published data to fetch, and from where: `fetch` in a job's data, and the options of `golf data fetch`.

A field's description completes the sentence "give ...", as in the other sections of a job file.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator

from golf_core.errors import ConfigError
from orchestrator.job_sections import MistakeError, Section, own_sentence

HUB = "https://huggingface.co"
REPO = "willdepueoai/parameter-golf"
"""The challenge's own export."""


class Fetch(Section):
    """The first training shards and all validation shards of one variant of a published export."""

    variant: str = Field(
        default="sp1024",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$",
        description="the name of an export such as sp1024, or its whole folder such as fineweb10B_sp1024",
    )
    train_shards: int = Field(
        default=80, ge=1, le=10_000, description="a whole number from 1 to 10000, how many training shards to fetch"
    )
    repo: str = Field(
        default=REPO,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}$",
        description="a dataset's name on the hub, such as willdepueoai/parameter-golf",
    )
    prefix: str = Field(
        default="datasets",
        pattern=r"^(?:[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}(?:/[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}){0,7})?$",
        description="the folder in the repo that holds manifest.json, or an empty text for its root",
    )
    revision: str = Field(
        default="main",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$",
        description="a branch, tag or commit of the repo, such as main",
    )
    endpoint: str | None = Field(
        default=None,
        max_length=300,
        description="the http(s) address of a hub or mirror, or null for the usual one",
    )

    @field_validator("endpoint")
    @classmethod
    def _address(cls, endpoint: str | None) -> str | None:
        if endpoint is None:
            return None
        if not re.fullmatch(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._/-]*)?", endpoint) or not _port(
            endpoint
        ):
            raise MistakeError(
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


def fetch_of_options(**options: object) -> Fetch:
    """A `Fetch` from the options of a command line. Raises `ConfigError`, a sentence that names the option."""
    try:
        return Fetch.model_validate({name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        entry = error.errors(include_url=False)[0]
        name = str(entry["loc"][0])
        option = f"--{name.replace('_', '-')}"
        if (sentence := own_sentence(entry)) is not None:
            raise ConfigError(f"{option}: {sentence}") from None
        given = ascii(entry["input"])[:60]
        raise ConfigError(f"{option}: got {given}; give {Fetch.model_fields[name].description}") from None


def _port(endpoint: str) -> bool:
    try:
        return urlsplit(endpoint).port != 0
    except ValueError:
        return False
