"""`golf schema`."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def schema_command(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the reference of all fields (docs/job.md) instead.")
    ] = False,
) -> None:
    """Print the JSON Schema of job files, which gives editors completion and checks."""
    if markdown:
        from orchestrator.job_reference import job_reference

        typer.echo(job_reference(), nl=False)
        return
    from orchestrator.job_schema import job_schema

    typer.echo(json.dumps(job_schema(), indent=2))
