"""The commands that show things: `golf report`, `golf board`, `golf watch`, `golf ls`; and the report of every run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RunFolder = Annotated[Path, typer.Argument(help="The folder of a run, such as runs/smoke-…", show_default=False)]
Runs = Annotated[Path, typer.Argument(help="The folder that holds the runs.")]
REPORT = "report.html"


def add_commands(app: typer.Typer) -> None:
    """Add them to the command `golf`."""
    for name, command in (("report", report), ("board", board), ("watch", watch), ("ls", ls)):
        app.command(name=name)(command)


def write_report(folder: Path) -> None:
    """Write the report of the run in `folder` into it."""
    from dashboards.report import write_run_report

    write_run_report(folder, folder / REPORT)


def report(
    runs: Annotated[
        list[Path], typer.Argument(help="The folder of a run; or of two, to compare them.", show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option(help=f"File to write. Default: {REPORT} (compare.html for two) in the last folder.")
    ] = None,
) -> None:
    """Write a run's report as one HTML file; of two runs, a comparison."""
    from dashboards.report import write_comparison, write_run_report
    from golf_core.errors import UserError

    if len(runs) > 2:
        raise UserError(f"golf report takes one run or two to compare, not {len(runs)}")
    if len(runs) == 1:
        path = write_run_report(runs[0], out or runs[0] / REPORT)
    else:
        path = write_comparison(runs[0], runs[1], out or runs[1] / "compare.html")
    typer.echo(f"report: {path}")


def board(
    runs: Runs = Path("runs"),
    port: Annotated[int | None, typer.Option(help="Default: 8080, or a free one.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Serve a live page of running and past runs."""
    from dashboards.board import serve

    serve(runs.absolute(), host, port)


def watch(
    run_folder: RunFolder,
    once: Annotated[bool, typer.Option("--once", help="Show how it stands, and end.")] = False,
) -> None:
    """Watch a run in the terminal until it ends; without a terminal, a line for each thing that happens."""
    from dashboards.terminal import watch_run

    raise typer.Exit(watch_run(run_folder.absolute(), once))


def ls(runs: Runs = Path("runs")) -> None:
    """List the runs in a folder: how they stand, scores, verdict, cost."""
    from dashboards.terminal import list_runs

    list_runs(runs.absolute())
