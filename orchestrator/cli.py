"""The command `golf`. Heavy modules are imported by the commands that need them: `golf --help` is instant."""

from __future__ import annotations

import json
import os
import sys
from functools import cache
from pathlib import Path
from typing import Annotated

import typer

from golf_core.errors import GolfError, RunError, UserError
from orchestrator.audit.command import audit_command
from orchestrator.data.command import fetch_command
from orchestrator.folder.redaction import Redactor
from orchestrator.preflight.command import AllowDirty, Changes, JobFile, MaxCost, Places, plan_command, preflight
from orchestrator.submit.command import export_app, submit_command

app = typer.Typer(
    name="golf",
    help="Multi-seed Parameter Golf experiments: train, compress, evaluate, and claim what the numbers carry.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Make or fetch data in the challenge's format.", no_args_is_help=True)
app.add_typer(data_app, name="data")

RunFolder = Annotated[Path, typer.Argument(help="The folder of a run, such as runs/smoke-…", show_default=False)]
Address = Annotated[
    str | None,
    typer.Option(help="A Ray cluster, or 'local' to start one here. Default: a running cluster, else local."),
]


@app.command()
def run(
    job: Annotated[Path | None, typer.Argument(help="A job file, in YAML.", show_default=False)] = None,
    set_: Changes = None,
    address: Address = None,
    resume: Annotated[
        Path | None, typer.Option(help="The folder of a run to go on with; what it finished is kept.")
    ] = None,
    allow_dirty: AllowDirty = False,
    max_cost: MaxCost = None,
) -> None:
    """Run all seeds of a job: train, export, evaluate; then print the claim."""
    from orchestrator.job.load import load_job, parse_changes
    from orchestrator.preflight.findings import sentence
    from orchestrator.run.cluster import where
    from orchestrator.run.driver import resume_job, run_job

    if resume is not None:
        if job is not None or set_:
            raise UserError("--resume goes on with a run's own job: leave out the job file and --set")
        _show(*resume_job(resume, address, _say, _redactor()))
        return
    if job is None:
        raise UserError("name a job file, or --resume RUN")
    resolved = load_job(job, parse_changes(set_ or []))
    found = preflight(resolved, where(address), allow_dirty, max_cost)
    for finding in found.warnings:
        _say(f"warning: {sentence(finding)}")
    found.refuse_errors()
    _show(*run_job(resolved, address, _say, redactor=_redactor()))


@app.command()
def evaluate(run_folder: RunFolder, set_: Changes = None, address: Address = None) -> None:
    """Evaluate the artifacts of an earlier run again, on any number of ranks; nothing is trained."""
    from orchestrator.folder.earlier import earlier_seed, job_of_run
    from orchestrator.job.load import parse_changes
    from orchestrator.run.driver import run_job

    job = job_of_run(run_folder, parse_changes(set_ or []))
    earlier = {seed: earlier_seed(run_folder / f"seed-{seed}", seed) for seed in job.seeds}
    _show(*run_job(job, address, _say, earlier, _redactor()))


@app.command()
def show(
    run_folder: RunFolder,
    csv: Annotated[Path | None, typer.Option(help="Also write one line of figures per seed to this file.")] = None,
) -> None:
    """Print the claim table of a finished run, judged anew from its seeds' results."""
    from orchestrator.claim.columns import seed_frame
    from orchestrator.claim.rebuild import judged_anew

    result = judged_anew(run_folder)
    if csv is not None:
        seed_frame(result).to_csv(csv, index=False)
    _show(result, run_folder)


@app.command()
def sync(
    run_folder: RunFolder,
    uri: Annotated[str | None, typer.Option(help="Another MLflow address than the job's.")] = None,
) -> None:
    """Send MLflow what it lacks of a run: after an outage, or into a new store. Nothing is sent twice."""
    from orchestrator.tracking.sync import sync as send

    send(run_folder, uri, _redactor(), _say)


@app.command()
def rebuild(run_folder: RunFolder) -> None:
    """Write a run's results anew from its ledger, judge them, and send MLflow what it lacks."""
    from orchestrator.claim.rebuild import rebuild as write
    from orchestrator.plugins import run_written
    from orchestrator.tracking.sync import sync as send

    result, notes = write(run_folder, _redactor())
    for note in notes:
        _say(f"note: {note}")
    run_written(run_folder.absolute(), _say)
    try:
        send(run_folder, None, _redactor(), _say)
    except RunError as error:
        _say(f"warning: {error}")
    _show(result, run_folder)


@app.command()
def package(
    run_folder: RunFolder,
    out: Annotated[Path | None, typer.Option(help="Folder to make. Default: the run's folder/package.")] = None,
    weights: Annotated[bool, typer.Option(help="Include each seed's weights.")] = True,
    author: Annotated[str | None, typer.Option(help="For submission.json.")] = None,
    github_id: Annotated[str | None, typer.Option(help="For submission.json.")] = None,
) -> None:
    """Make the folder that the challenge asks for: program, weights, logs, README, submission.json."""
    from orchestrator.package.package import package as write_package
    from orchestrator.package.submission import Author

    place = write_package(run_folder, out, weights, Author(author, github_id), _redactor())
    _say(f"package: {place}")


@app.command()
def reproduce(
    folder: Annotated[Path, typer.Argument(help="A package, as `golf package` makes it.", show_default=False)],
    data: Annotated[Path | None, typer.Option(help="Folder of shards. Default: the packaged job's.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="SentencePiece model that made the shards.")] = None,
    evaluate_only: Annotated[bool, typer.Option("--evaluate-only", help="Train nothing: packaged weights.")] = False,
    set_: Changes = None,
    address: Address = None,
) -> None:
    """Run a package again on this cluster and compare it with its record, figure by figure."""
    from orchestrator.claim.table import terminal
    from orchestrator.job.load import parse_changes
    from orchestrator.package.reproduce import agrees, comparison_table, job_of_record
    from orchestrator.package.reproduce import reproduce as run_again

    changes = parse_changes(set_ or [])
    comparisons, result, place = run_again(
        folder,
        evaluate_only,
        lambda record: job_of_record(record, data, tokenizer, changes),
        address,
        _say,
        _redactor(),
    )
    terminal(140).print(comparison_table(comparisons))
    _say(f"results: {place}")
    if not agrees(comparisons, result):
        _say("not reproduced: a seed failed, or a figure that must agree differs")
        sys.exit(1)
    _say("reproduced: everything that must agree does")


@app.command()
def ui(
    run_folder: Annotated[Path, typer.Argument(help="The folder that holds the runs.")] = Path("runs"),
    uri: Annotated[str | None, typer.Option(help="An MLflow address instead of the folder's own store.")] = None,
    port: Annotated[int | None, typer.Option(help="Default: 5000, or a free one.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Open MLflow on the results."""
    from orchestrator.tracking.ui import serve, store_in

    serve(uri or store_in(run_folder.absolute()), port, host)


@app.command()
def verify(
    folders: Annotated[
        list[Path], typer.Argument(help="Record folders: submission.json and logs.", show_default=False)
    ],
    baseline: Annotated[Path | None, typer.Option(help="A record folder to test the others against.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the report, with all evidence, to this file.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write a page with all folders to this file.")] = None,
) -> None:
    """Check published runs: every figure claimed against the logs, caps, seeds, statistics. Exit code 1: a problem."""
    from orchestrator.verify.verifier import run_verify

    raise typer.Exit(run_verify(folders, baseline, json, markdown))


@app.command()
def check(
    job: JobFile,
    set_: Changes = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="Also start a gang on this Ray cluster ('local': one started here), look there and rehearse."
        ),
    ] = None,
    allow_dirty: AllowDirty = False,
    max_cost: MaxCost = None,
    places: Places = 1,
    json: Annotated[Path | None, typer.Option(help="Write findings, projections and cost to this file.")] = None,
) -> None:
    """Check everything that can fail before it costs anything: code, versions, room, MLflow, data, GPUs, price.

    Exit code 2: something would fail the run.
    """
    from golf_core import strict_json
    from orchestrator.claim.table import terminal
    from orchestrator.job.load import load_job, parse_changes
    from orchestrator.preflight.findings import show_preflight
    from orchestrator.run.seed import check_on_gang

    loaded = load_job(job, parse_changes(set_ or []))
    result = preflight(loaded, address, allow_dirty, max_cost, places, check_on_gang)
    if json is not None:
        strict_json.save(result, json)
    show_preflight(result, terminal())
    raise typer.Exit(result.exit_code)


@app.command()
def schema(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the reference of all fields (docs/job.md) instead.")
    ] = False,
) -> None:
    """Print the JSON Schema of job files, which gives editors completion and checks."""
    from orchestrator.job.schema import job_reference, job_schema

    typer.echo(job_reference() if markdown else json.dumps(job_schema(), indent=2) + "\n", nl=False)


app.command(name="audit")(audit_command)
app.command(name="plan")(plan_command)
app.command(name="submit")(submit_command)
app.add_typer(export_app, name="export")
data_app.command(name="fetch")(fetch_command)


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
    text: Annotated[
        list[Path],
        typer.Option(help="Documents: .jsonl, .jsonl.gz or .jsonl.xz, a 'text' on every line. Can be given again."),
    ],
    tokenizer: Annotated[Path, typer.Option(help="SentencePiece model.")],
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    val_fraction: Annotated[float, typer.Option(help="Share of the documents for validation.")] = 0.05,
    shard_tokens: Annotated[int, typer.Option(help="Tokens of a shard at the most.")] = 100_000_000,
) -> None:
    """Turn your own documents into shards."""
    from golf_core.data.export import export_files

    export_files(text, tokenizer, out, val_fraction=val_fraction, shard_tokens=shard_tokens, progress=_say)
    _say(f"shards: {out}")


def main() -> None:
    """Entry point: the user's mistakes end with a sentence and code 2, failed runs with code 1."""
    try:
        extended()()
    except UserError as error:
        typer.echo(f"error: {_redactor().redact(str(error))}", err=True)
        sys.exit(2)
    except GolfError as error:
        typer.echo(f"error: {_redactor().redact(str(error))}", err=True)
        sys.exit(1)


@cache
def extended() -> typer.Typer:
    """The whole command, with what others add to it."""
    from orchestrator.plugins import add_commands

    add_commands(app)
    return app


@cache
def _redactor() -> Redactor:
    """What knows the secrets of this process's environment."""
    return Redactor.from_environment(os.environ)


def _say(line: str) -> None:
    typer.echo(_redactor().redact(line))
    sys.stdout.flush()


def _show(result: object, folder: Path) -> None:
    from orchestrator.claim.table import claim_table, terminal
    from orchestrator.folder.results import RunResult
    from orchestrator.tracking.ui import command_of

    assert isinstance(result, RunResult)
    terminal(120).print(claim_table(result))
    for page in sorted(folder.glob("report.html")):
        _say(f"report: {page}")
    _say(f"results: {folder}   ({command_of(result.job, folder)} opens MLflow)")
    if any(seed.status != "finished" for seed in result.seeds):
        sys.exit(1)
