"""The section `data` of a job file: files, and where a node may fetch them."""

from __future__ import annotations

from pydantic import Field

from orchestrator.fetch_spec import Fetch
from orchestrator.job_sections import Section


class DataFiles(Section):
    """Shards and tokenizer; paths are relative to the folder where the command runs."""

    path: str = Field(min_length=1, description="the folder of the *_train_*.bin and *_val_*.bin shards")
    tokenizer: str = Field(min_length=1, description="the SentencePiece .model file that made the shards")
    fetch: Fetch | None = Field(
        default=None,
        description="where a node that has not got the data fetches them (variant, train_shards, repo, prefix, "
        "revision, endpoint), or null",
    )
