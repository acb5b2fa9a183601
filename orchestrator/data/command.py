"""`golf data fetch`: its options, and what it shows. Nothing heavy is imported before it runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from orchestrator.data.fetch import Watch
    from orchestrator.data.hub import FetchProgress

LINE_SECONDS = 10.0
"""Between two lines of progress where there is no terminal."""


def fetch_command(
    variant: Annotated[str, typer.Option(help="Which export: sp1024, or its whole folder.")] = "sp1024",
    train_shards: Annotated[int, typer.Option(help="The first so many; validation is always whole.")] = 80,
    out: Annotated[Path | None, typer.Option(help="Folder to make. Default: in the user's cache.")] = None,
    repo: Annotated[str | None, typer.Option(help="A dataset on the hub. Default: the challenge's.")] = None,
    prefix: Annotated[str | None, typer.Option(help="Folder of manifest.json in the repo. Default: datasets.")] = None,
    revision: Annotated[str | None, typer.Option(help="A branch, tag or commit. Default: main.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="A hub or mirror. Default: HF_ENDPOINT, else the hub.")] = None,
    workers: Annotated[int, typer.Option(help="Files that are fetched at once.")] = 4,
    force: Annotated[bool, typer.Option("--force", help="Fetch everything anew, even what is right.")] = False,
) -> None:
    """Fetch the challenge's published shards and tokenizer; what is there and right is kept."""
    from orchestrator.data.fetch import fetch
    from orchestrator.job.sections import fetch_of_options

    spec = fetch_of_options(
        variant=variant, train_shards=train_shards, repo=repo, prefix=prefix, revision=revision, endpoint=endpoint
    )
    try:
        with _progress() as watch:
            fetched = fetch(spec, out, workers=workers, force=force, say=_say, watch=watch)
    except KeyboardInterrupt:
        typer.echo("stopped; what was fetched is kept, and the same command goes on from there", err=True)
        raise typer.Exit(130) from None
    _say(f"fetched {len(fetched.files)} files, {fetched.bytes:,} bytes; {len(fetched.skipped)} were there and right")
    _say(f"data.path: {fetched.folder}")
    _say(f"data.tokenizer: {fetched.tokenizer}")


def progress_line(progress: FetchProgress) -> str:
    """How far, how fast, how long still."""
    from golf_core.log_text import duration

    share = 100 * progress.done_bytes / max(progress.total_bytes, 1)
    eta = "unknown" if progress.eta_seconds is None else duration(progress.eta_seconds)
    return (
        f"fetch {progress.done_bytes / 1e6:,.1f}/{progress.total_bytes / 1e6:,.1f} MB ({share:.0f}%)  "
        f"{progress.bytes_per_second / 1e6:.1f} MB/s  ETA {eta}"
    )


@contextmanager
def _progress() -> Iterator[Watch]:
    """A bar on a terminal; elsewhere a line every now and then."""
    if not sys.stdout.isatty():
        said_at = time.monotonic()

        def watch(progress: FetchProgress) -> None:
            nonlocal said_at
            if time.monotonic() - said_at >= LINE_SECONDS:
                said_at = time.monotonic()
                _say(progress_line(progress))

        yield watch
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task("fetch")
        yield lambda now: bar.update(task, completed=now.done_bytes, total=now.total_bytes)


def _say(line: str) -> None:
    typer.echo(line)
    sys.stdout.flush()
