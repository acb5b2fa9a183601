"""The command `golf`. Heavy modules are imported by the commands that need them: `golf --help` is instant."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from golf_core.errors import GolfError, UserError

app = typer.Typer(
    name="golf",
    help="Multi-seed Parameter Golf experiments: train, compress, evaluate, and claim what the numbers carry.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Make data in the challenge's format.", no_args_is_help=True)
app.add_typer(data_app, name="data")

JobFile = Annotated[Path, typer.Argument(help="A job file, such as jobs/smoke.yaml.", show_default=False)]
RunFolder = Annotated[Path, typer.Argument(help="The folder of a run, such as runs/smoke-…", show_default=False)]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Replace a field of the job, e.g. resources.ranks=2."),
]
Address = Annotated[
    str | None,
    typer.Option(help="A Ray cluster, or 'local' to start one here. Default: a running cluster, else local."),
]


@app.command()
def run(job: JobFile, set_: Changes = None, address: Address = None) -> None:
    """Run all seeds of a job: train, export, evaluate; then print the claim."""
    from orchestrator.driver import run_job
    from orchestrator.spec import load_job, parse_changes

    resolved = load_job(job, parse_changes(set_ or []))
    _show(*run_job(resolved, address, _say))


@app.command()
def evaluate(run_folder: RunFolder, set_: Changes = None, address: Address = None) -> None:
    """Evaluate the artifacts of an earlier run again, on any number of ranks; nothing is trained."""
    from orchestrator.driver import run_job
    from orchestrator.rerun import earlier_seed, job_of_run
    from orchestrator.spec import parse_changes

    job = job_of_run(run_folder, parse_changes(set_ or []))
    earlier = {seed: earlier_seed(run_folder / f"seed-{seed}", seed) for seed in job.seeds}
    _show(*run_job(job, address, _say, earlier))


@app.command()
def show(
    run_folder: RunFolder,
    csv: Annotated[Path | None, typer.Option(help="Also write one line of figures per seed to this file.")] = None,
) -> None:
    """Print the claim table of a finished run, judged anew from its seeds' results."""
    from orchestrator.rerun import judged_anew, seed_frame

    result = judged_anew(run_folder)
    if csv is not None:
        seed_frame(result).to_csv(csv, index=False)
    _show(result, run_folder)


@app.command()
def ui(
    run_folder: Annotated[Path, typer.Argument(help="The folder that holds the runs.")] = Path("runs"),
    uri: Annotated[str | None, typer.Option(help="An MLflow address instead of the folder's own store.")] = None,
    port: Annotated[int | None, typer.Option(help="Default: 5000, or a free one.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Open MLflow on the results."""
    from orchestrator.mlflow_store import default_uri
    from orchestrator.ui import serve

    serve(uri or default_uri(run_folder.absolute()), port, host)


@data_app.command()
def sample(
    out: Annotated[Path | None, typer.Option(help="Folder to make. Default: in the user's cache.")] = None,
) -> None:
    """Build a small corpus from the text that every Python installation carries."""
    from golf_core.data.sample import build_sample, default_sample_folder

    folder = build_sample(out or default_sample_folder(), progress=_say)
    _say(f"sample corpus: {folder}")


@data_app.command()
def export(
    text: Annotated[Path, typer.Option(help="Documents: .jsonl, .jsonl.gz or .jsonl.xz, a 'text' on every line.")],
    tokenizer: Annotated[Path, typer.Option(help="SentencePiece model.")],
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    val_fraction: Annotated[float, typer.Option(help="Share of the documents for validation.")] = 0.05,
    shard_tokens: Annotated[int, typer.Option(help="Tokens of a shard at the most.")] = 100_000_000,
) -> None:
    """Turn your own documents into shards."""
    from golf_core.data.export import export_file

    export_file(text, tokenizer, out, val_fraction=val_fraction, shard_tokens=shard_tokens, progress=_say)
    _say(f"shards: {out}")


def main() -> None:
    """Entry point: the user's mistakes end with a sentence and code 2, failed runs with code 1."""
    try:
        app()
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except GolfError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)


def _say(line: str) -> None:
    typer.echo(line)
    sys.stdout.flush()


def _show(result: object, folder: Path) -> None:
    from rich.console import Console

    from orchestrator.claim import RunResult
    from orchestrator.table import claim_table

    assert isinstance(result, RunResult)
    console = Console()
    if not console.is_terminal:  # a file has room for whole lines
        console = Console(width=120)
    console.print(claim_table(result))
    _say(f"results: {folder}   (golf ui {folder.parent} opens MLflow)")
    if any(seed.status != "finished" for seed in result.seeds):
        sys.exit(1)
