"""`golf audit`: its options, and what it does with them. Nothing heavy is imported before it runs."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import shlex
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from golf_core.errors import UserError

if TYPE_CHECKING:
    from golf_core.audit.isolation import Surroundings
    from golf_core.audit.report import AuditOptions, AuditReport
    from golf_core.audit.scorer import ScorerSpec, Tokens

A = TypeVar("A")
MADE_UP_TOKENS = 512
THREADS = 2
"""CPU threads of an audit of a run."""


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
        list[str], typer.Option(metavar="NAME=VALUE", help="Of the factory or class; may be repeated.")
    ] = field(default_factory=list)
    tokens: Annotated[Path | None, typer.Option(help="Text: a shard (.bin) or an array (.npy).")] = None
    text: Annotated[Path | None, typer.Option(help="Text: JSON lines or .txt, encoded with --tokenizer.")] = None
    tokenizer: Annotated[Path | None, typer.Option(help="SentencePiece model; with it bytes are recounted.")] = None
    max_tokens: Annotated[int | None, typer.Option(help="Use the beginning of the text alone.")] = None
    vocab: Annotated[int | None, typer.Option(help="Size of the alphabet. Default: as the scorer declares.")] = None
    chunk: Annotated[int | None, typer.Option(help="Tokens of a chunk. Default: as the scorer declares.")] = None
    bos: Annotated[int, typer.Option(help="The token that begins a document.")] = 1
    part: Annotated[
        list[str],
        typer.Option(
            help="Measure this part only; may be repeated: repeat, prefix, causal, kraft, distributions, documents."
        ),
    ] = field(default_factory=list)
    claim: Annotated[
        list[str], typer.Option(help="Of several scores, one that the verdict goes by; may be repeated.")
    ] = field(default_factory=list)
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
    artifact: Annotated[list[Path], typer.Option(help="A file as it is shipped, code or weights; may be repeated.")] = (
        field(default_factory=list)
    )
    train_seconds: Annotated[float | None, typer.Option(help="Claimed seconds of training.")] = None
    eval_seconds: Annotated[float | None, typer.Option(help="Claimed seconds of evaluation.")] = None
    forbid: Annotated[
        list[Path], typer.Option(help="Training data: a path that evaluation must not read; may be repeated.")
    ] = field(default_factory=list)
    isolate: Annotated[bool, typer.Option(help="Run the scorer once more, cut off from network and --forbid.")] = True
    out: Annotated[Path | None, typer.Option(help="Write the report, with all evidence, to this JSON file.")] = None
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where a scorer failed.")] = False


def taking(arguments: type[A]) -> Callable[[Callable[[A], None]], Callable[..., None]]:
    """Turn a function of one dataclass into one whose parameters are its fields, as typer reads them."""
    hints = typing.get_type_hints(arguments, include_extras=True)
    assert dataclasses.is_dataclass(arguments)

    def decorate(function: Callable[[A], None]) -> Callable[..., None]:
        def command(**values: Any) -> None:
            # An option that may be repeated, and was not given, comes as None: the field's own default serves.
            function(arguments(**{name: value for name, value in values.items() if value is not None}))

        parameters = []
        for f in dataclasses.fields(arguments):
            default = f.default if f.default is not dataclasses.MISSING else None
            parameters.append(
                inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[f.name])
            )
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = hints
        command.__doc__ = function.__doc__
        command.__name__ = function.__name__
        return command

    return decorate


@taking(AuditArguments)
def audit_command(given: AuditArguments) -> None:
    """Measure a scorer from outside against the conditions of a valid score. Exit code 1: one does not hold."""
    from golf_core import strict_json
    from golf_core.audit.scorer import ScorerError
    from orchestrator.audit.table import show_report

    try:
        report = _report(given)
    except ScorerError:
        if given.traceback:
            import traceback

            traceback.print_exc()
        raise
    if given.out is not None:
        strict_json.save(report, given.out)
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
    spec = ScorerSpec(given.scorer, given.factory, parse_arguments(given.argument))
    tokens, original = _tokens(given, given.vocab or _declared_vocab(spec, declared))
    return audit_named(spec, tokens, _options(given), _surroundings(given, original), _progress)


def _report_of_run(given: AuditArguments, folder: Path) -> AuditReport:
    # OpenMP reads this when PyTorch is loaded. Threads that wait for each other by spinning take seven times as long
    # on a machine that has something else to do.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import torch

    from orchestrator.audit.run import CHECKS, CUTS, POSITIONS, audit_run

    torch.set_num_threads(min(THREADS, torch.get_num_threads()))
    options = _options(given, (POSITIONS, CUTS, CHECKS))
    return audit_run(folder, given.of_seed, options, given.isolate, _command_line(given), _progress)


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
        parts=tuple(given.part) or PARTS,
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
        claims=tuple(given.claim),
    )


def _surroundings(given: AuditArguments, original_bytes: int | None) -> Surroundings:
    from golf_core.audit.isolation import Surroundings

    return Surroundings(
        isolate=given.isolate,
        forbidden=tuple(given.forbid),
        tokenizer=given.tokenizer,
        claimed_bytes=_claimed_bytes(given.bytes_),
        original_bytes=original_bytes,
        artifact=tuple(given.artifact),
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
        default = f.default if f.default_factory is dataclasses.MISSING else []
        if f.name in ("scorer", "out", "traceback") or (value == default and f.name != "seed"):
            continue
        if isinstance(value, bool):
            words.append(name if value else f"--no{name[1:]}")
        else:
            for item in value if isinstance(value, list) else [value]:
                words += [name, str(item)]
    return shlex.join(words)


def _progress(line: str) -> None:
    typer.echo(line, err=True)
