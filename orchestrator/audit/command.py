"""`golf audit`: its options, what it does with them, and what it prints. Nothing heavy is imported before it runs."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from golf_core.errors import ConfigError, UserError
from orchestrator.options import with_options

if TYPE_CHECKING:
    from rich.table import Table

    from golf_core.audit.isolation import Surroundings
    from golf_core.audit.report import AuditOptions, AuditReport, KraftSum
    from golf_core.audit.scorer import ScorerSpec, Tokens

MADE_UP_TOKENS = 512
THREADS = 2
"""CPU threads of an audit of a run."""
RUN_COUNTS = (4, 0, 1)
"""Positions, cuts and checks by default, for a run: each plain run of an evaluation takes seconds, and a position a
thousand substitutes."""
MARKS = {
    "holds": "[green]✓ holds[/]",
    "violated": "[red]✗ violated[/]",
    "undecided": "[yellow]? undecided[/]",
    "not measured": "[dim]- not measured[/]",
}
SHOWN_SUMS = 8


@dataclass(frozen=True)
class AuditArguments:
    """Every argument of the command, with its help."""

    scorer: Annotated[
        str | None,
        typer.Argument(
            help="module:function that maps tokens to losses, module:Class, or the folder of a run.", metavar="SCORER"
        ),
    ] = None
    of_seed: Annotated[int | None, typer.Option(help="Of a run's folder: the seed to audit. Default: the first.")] = (
        None
    )
    factory: Annotated[bool, typer.Option("--factory", help="The function builds the scorer.")] = False
    argument: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Of the factory or class; may be repeated.")
    ] = None
    tokens: Annotated[Path | None, typer.Option(help="Text: a shard (.bin) or an array (.npy).")] = None
    text: Annotated[Path | None, typer.Option(help="Text: JSON lines or .txt, encoded with --tokenizer.")] = None
    tokenizer: Annotated[Path | None, typer.Option(help="SentencePiece model; with it bytes are recounted.")] = None
    max_tokens: Annotated[int | None, typer.Option(help="Use the beginning of the text alone.")] = None
    vocab: Annotated[int | None, typer.Option(help="Size of the alphabet. Default: as the scorer declares.")] = None
    chunk: Annotated[int | None, typer.Option(help="Tokens of a chunk. Default: as the scorer declares.")] = None
    bos: Annotated[int, typer.Option(help="The token that begins a document.")] = 1
    part: Annotated[
        list[str] | None,
        typer.Option(
            help="Measure this part only; may be repeated: repeat, prefix, causal, kraft, distributions, documents."
        ),
    ] = None
    claim: Annotated[
        list[str] | None, typer.Option(help="Of several scores, one that the verdict goes by; may be repeated.")
    ] = None
    positions: Annotated[
        int | None, typer.Option(help="Positions at which sums are measured. Default: 24, for a run's folder 4.")
    ] = None
    cuts: Annotated[
        int | None, typer.Option(help="More places from which later tokens are changed. Default: 8, for a run 0.")
    ] = None
    checks: Annotated[
        int | None, typer.Option(help="Comparisons of a fast path with plain runs. Default: 16, for a run 1.")
    ] = None
    exact: Annotated[bool, typer.Option("--exact", help="Sum over the whole alphabet, however large.")] = False
    seed: Annotated[int, typer.Option(help="Of positions and changes.")] = 0
    time_budget: Annotated[float | None, typer.Option(help="Seconds after which no new measurement begins.")] = None
    kraft_tolerance: Annotated[float, typer.Option(help="How far a sum may exceed 1.")] = 1e-4
    loss_tolerance: Annotated[float, typer.Option(help="Nats, and share of a loss, by which losses may differ.")] = 1e-5
    bytes_: Annotated[
        str | None, typer.Option("--bytes", help="Claimed bytes: a number, or a JSON file with a field 'bytes'.")
    ] = None
    artifact: Annotated[
        list[Path] | None, typer.Option(help="A file as it is shipped, code or weights; may be repeated.")
    ] = None
    train_seconds: Annotated[float | None, typer.Option(help="Claimed seconds of training.")] = None
    eval_seconds: Annotated[float | None, typer.Option(help="Claimed seconds of evaluation.")] = None
    forbid: Annotated[
        list[Path] | None, typer.Option(help="Training data: a path that evaluation must not read; may be repeated.")
    ] = None
    isolate: Annotated[bool, typer.Option(help="Run the scorer once more, cut off from network and --forbid.")] = True
    out: Annotated[Path | None, typer.Option(help="Write the report, with all evidence, to this JSON file.")] = None
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where a scorer failed.")] = False


@with_options(AuditArguments)
def audit_command(options: AuditArguments) -> None:
    """Measure a scorer from outside against the conditions of a valid score. Exit code 1: one does not hold."""
    from golf_core import strict_json
    from golf_core.audit.scorer import ScorerError

    try:
        report = _report(options)
    except ScorerError:
        if options.traceback:
            import traceback

            traceback.print_exc()
        raise
    if options.out is not None:
        strict_json.save(report, options.out)
    show_report(report)
    if not report.passed:
        raise typer.Exit(1)


def _report(given: AuditArguments) -> AuditReport:
    from golf_core.audit.auditor import empty_report
    from golf_core.audit.isolation import audit_figures, audit_named
    from golf_core.audit.scorer import ScorerSpec, declared, import_from, parse_arguments

    if given.scorer is None:
        if given.tokenizer is None and not (given.artifact or _clocks(given)):
            raise UserError(
                "name a scorer as module:function, or figures to check: --tokenizer, --artifact, --eval-seconds"
            )
        tokens, original = _tokens(given, given.vocab or 256)
        options = _options(given)
        vocab = given.vocab or int(tokens.max(initial=0)) + 1
        return audit_figures(empty_report(tokens, options, vocab), tokens, _surroundings(given, original))
    if Path(given.scorer).is_dir():
        return _report_of_run(given, Path(given.scorer))
    # Modules of the current folder can be named, as with `python -m`.
    import_from(Path.cwd())
    spec = ScorerSpec(given.scorer, given.factory, parse_arguments(given.argument or []))
    tokens, original = _tokens(given, given.vocab or _declared_vocab(spec, declared))
    return audit_named(spec, tokens, _options(given), _surroundings(given, original), _progress)


def _report_of_run(given: AuditArguments, folder: Path) -> AuditReport:
    """Audit the evaluation of one seed of the run in `folder`: the first, or --of-seed.

    Its text is the beginning of the run's validation text, its training data what evaluation must not read; the bytes
    are counted over all that the run scored. Raises `UserError` kinds for a run that lacks something.
    """
    # OpenMP reads this when PyTorch is loaded. Threads that wait for each other by spinning take seven times as long
    # on a machine that has something else to do.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import numpy as np
    import torch

    from golf_core import strict_json
    from golf_core.audit.isolation import Surroundings
    from golf_core.data.shards import train_shards, validation_tokens
    from golf_core.evaluate.auditable import audit_evaluation
    from golf_core.results import DataRecord
    from orchestrator.folder.earlier import job_of_run
    from orchestrator.folder.results import ARTIFACT, DATA, PROGRAM, RESULT, SeedResult

    torch.set_num_threads(min(THREADS, torch.get_num_threads()))
    options = _options(given, RUN_COUNTS)
    job = job_of_run(folder, {})
    seed = job.seeds[0] if given.of_seed is None else given.of_seed
    if seed not in job.seeds:
        raise ConfigError(f"--of-seed {seed}: the run in {folder} has seeds {', '.join(map(str, job.seeds))}")
    place = folder / f"seed-{seed}"
    if not (place / ARTIFACT).is_file():
        raise ConfigError(f"{place / ARTIFACT}: missing; seed {seed} of that run left no artifact to audit")
    data = strict_json.load(DataRecord, place / DATA)
    result = strict_json.load(SeedResult, place / RESULT)
    clocks, claimed_bytes, claimed_tokens = {}, None, None
    if result.train:
        clocks["train"] = result.train.train_seconds
    if result.evaluate:
        clocks["evaluate"] = result.evaluate.seconds
        claimed_bytes = result.evaluate.bytes
        whole = validation_tokens(Path(data.path), job.config.evaluate.seq_len)
        claimed_tokens = whole[: result.evaluate.tokens + 1].astype(np.int64)
    around = Surroundings(
        isolate=given.isolate,
        forbidden=tuple(train_shards(Path(data.path))),
        tokenizer=Path(data.tokenizer),
        claimed_bytes=claimed_bytes,
        claimed_tokens=claimed_tokens,
        artifact=(place / ARTIFACT, place / PROGRAM),
        clocks=clocks,
        reproduce=_command_line(given),
    )
    with tempfile.TemporaryDirectory(prefix="golf-audit-") as scratch:
        config = Path(scratch) / "config.json"
        strict_json.save(job.config, config)
        paths = (place / ARTIFACT, Path(data.path), Path(data.tokenizer), config)
        return audit_evaluation(*paths, options, around, _progress)


def _declared_vocab(spec: ScorerSpec, declared: Callable[[Any, str], Any]) -> int | None:
    found = declared(spec.build()[0], "vocab_size")
    return None if found is None else int(found)


def _tokens(given: AuditArguments, vocab: int | None) -> tuple[Tokens, int | None]:
    from golf_core.audit.text import synthetic_tokens, tokens_of_file, tokens_of_text
    from golf_core.data.tokenizer import load_tokenizer

    if given.max_tokens is not None and given.max_tokens < 1:
        raise UserError(f"--max-tokens: {given.max_tokens} is not a number of tokens")
    if given.tokens is not None and given.text is not None:
        raise UserError("--tokens and --text: give one of them")
    if given.tokens is not None:
        return tokens_of_file(given.tokens, given.max_tokens), None
    if given.text is not None:
        if given.tokenizer is None:
            raise UserError("--text: name the --tokenizer that encodes it")
        return tokens_of_text(given.text, load_tokenizer(given.tokenizer), given.max_tokens, given.bos)
    if vocab is None or vocab < 2:
        raise UserError(
            "--vocab: without --tokens or --text give the size of the alphabet (at least 2) for a made-up text"
        )
    return synthetic_tokens(given.max_tokens or MADE_UP_TOKENS, vocab, given.seed, given.bos), None


def _options(given: AuditArguments, counts: tuple[int, int, int] | None = None) -> AuditOptions:
    """`counts`: of positions, cuts and checks, where the usual ones do not suit."""
    from golf_core.audit.report import PARTS, AuditOptions

    usual = AuditOptions()
    positions, cuts, checks = counts or (usual.positions, usual.cuts, usual.checks)
    return AuditOptions(
        parts=tuple(given.part or PARTS),
        vocab_size=given.vocab,
        chunk_tokens=given.chunk,
        bos=given.bos,
        positions=positions if given.positions is None else given.positions,
        cuts=cuts if given.cuts is None else given.cuts,
        checks=checks if given.checks is None else given.checks,
        seed=given.seed,
        exact=given.exact,
        kraft_tolerance=given.kraft_tolerance,
        loss_tolerance=given.loss_tolerance,
        time_budget_s=given.time_budget,
        claims=tuple(given.claim or ()),
    )


def _surroundings(given: AuditArguments, original_bytes: int | None) -> Surroundings:
    from golf_core.audit.isolation import Surroundings

    return Surroundings(
        isolate=given.isolate,
        forbidden=tuple(given.forbid or ()),
        tokenizer=given.tokenizer,
        claimed_bytes=_claimed_bytes(given.bytes_),
        original_bytes=original_bytes,
        artifact=tuple(given.artifact or ()),
        clocks=_clocks(given),
        reproduce=_command_line(given),
    )


def _clocks(given: AuditArguments) -> dict[str, float]:
    clocks = {"train": given.train_seconds, "evaluate": given.eval_seconds}
    return {name: seconds for name, seconds in clocks.items() if seconds is not None}


def _claimed_bytes(given: str | None) -> float | None:
    if given is None:
        return None
    try:
        return float(given)
    except ValueError:
        pass
    try:
        return float(json.loads(Path(given).read_text(encoding="utf-8"))["bytes"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"--bytes {given}: neither a number nor a JSON file with a field 'bytes'") from None


def _command_line(given: AuditArguments) -> str:
    """The command that repeats this audit: every argument that is not its default, and the seed."""
    words = ["golf", "audit", *([given.scorer] if given.scorer else [])]
    for f in dataclasses.fields(given):
        value, name = getattr(given, f.name), "--" + f.name.strip("_").replace("_", "-")
        if f.name in ("scorer", "out", "traceback") or (value == f.default and f.name != "seed"):
            continue
        if isinstance(value, bool):
            words.append(name if value else f"--no{name[1:]}")
        else:
            for item in value if isinstance(value, list) else [value]:
                words += [name, str(item)]
    return shlex.join(words)


def _progress(line: str) -> None:
    typer.echo(line, err=True)


# --- what it prints ---


def show_report(report: AuditReport) -> None:
    """Conditions, the sums furthest from 1, notes, and the command that repeats the audit."""
    from rich.markup import escape

    from orchestrator.claim.table import terminal

    console = terminal()
    console.print(_conditions(report))
    if report.sums:
        console.print(_sums(report.sums))
    if report.isolation is not None:
        for line in report.isolation.means:
            console.print(f"isolation: {escape(line)}")
        for program in report.isolation.processes:
            console.print(f"isolation: started {escape(program)}, whose doings are not observed")
    if report.fast_path is not None:
        fast = report.fast_path
        found = "agree" if fast.trusted else "do NOT agree"
        console.print(
            f"snapshots {found} with plain runs: {fast.checked} random substitutes, largest difference "
            f"{fast.largest_difference:.1e} nats; {fast.base_difference:.1e} on the unchanged text"
        )
    for note in report.notes:
        console.print(f"note: {escape(note)}")
    losses = ", ".join(f"{name} {value:.5f}" for name, value in report.mean_loss.items())
    scored = f"{report.runs:,} runs in {report.seconds:.1f} s; nats a token: {losses}. " if losses else ""
    console.print(f"{scored}{_verdict(report)}", highlight=False)
    if report.reproduce:
        console.print(f"again: {report.reproduce}", highlight=False, markup=False, soft_wrap=True)


def _verdict(report: AuditReport) -> str:
    """A sentence on what is claimed, and one on each other score that violates something."""
    named = ", ".join(report.named("violated", "undecided"))
    sentence = f"Not met: {named}." if named else "No condition that was measured is violated."
    if report.options.claims:
        sentence = f"Of {', '.join(report.options.claims)}: {sentence[0].lower()}{sentence[1:]}"
    others: dict[str, list[str]] = {}
    for condition in report.conditions:
        if condition.score is not None and condition not in report.judged and condition.verdict == "violated":
            others.setdefault(condition.score, []).append(condition.name)
    return sentence + "".join(f" Not claimed: {score} violates {', '.join(what)}." for score, what in others.items())


def _conditions(report: AuditReport) -> Table:
    from rich.markup import escape

    title = f"{report.scorer or 'figures'}: {report.tokens:,} tokens, alphabet of {report.vocab_size:,}"
    table = _table(title)
    several = len(report.mean_loss) > 1
    for column in ("condition", *(["score"] if several else []), "verdict", ""):
        table.add_column(column, overflow="fold")
    for condition in report.conditions:
        score = [condition.score or ""] if several else []
        table.add_row(condition.name, *score, MARKS[condition.verdict], escape(condition.summary))
    return table


def _sums(sums: Sequence[KraftSum]) -> Table:
    worst = sorted(sums, key=lambda s: -abs(s.total - 1.0))[:SHOWN_SUMS]
    table = _table(f"Sums over the alphabet, {len(worst)} of {len(sums)}")
    for column in ("score", "position", "where", "sum", "99.9 % interval", "formula", "from"):
        table.add_column(column, justify="right" if column in ("position", "sum", "formula") else "left")
    for s in worst:
        interval = "exact" if s.exact else f"{s.low:.4g} to {s.high:.4g} ({s.symbols:,} symbols)"
        formula = "" if s.expected is None else f"{s.expected:.6f}"
        table.add_row(s.score, f"{s.position:,}", ", ".join(s.where), f"{s.total:.6f}", interval, formula, s.method)
    return table


def _table(title: str) -> Table:
    from rich.table import Table

    return Table(box=None, pad_edge=False, title=title, title_justify="left")
