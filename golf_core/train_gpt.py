"""Trains, exports and evaluates one seed of Parameter Golf, from the challenge's shards to the final BPB.

    torchrun --standalone --nproc_per_node=8 train_gpt.py --seed 42
    torchrun --standalone --nproc_per_node=8 train_gpt.py --evaluate model.golf

Needs torch, numpy and sentencepiece. The environment variables DATA_PATH, TOKENIZER_PATH and SEED stand in for
the options of that meaning. Rank 0 prints the log.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import sentencepiece
import torch

from golf_core.artifact.export import ARTIFACT_NAME, CHECKPOINT_NAME, program_bytes
from golf_core.config import GolfConfig
from golf_core.distributed import Ranks, device_name, end_process, join_from_environment, leave
from golf_core.errors import ConfigError, GolfError, UserError
from golf_core.events import Event, Listener, ignore
from golf_core.log_text import config_lines, event_line, result_lines
from golf_core.stages import DataPaths, evaluate_stage, export_stage, train_stage
from golf_core.strict_json import from_dict

DATA_FOLDER = "data/datasets/fineweb10B_sp1024"
TOKENIZER_FILE = "data/tokenizers/fineweb_1024_bpe.model"


def main(argv: Sequence[str] | None = None, config: Mapping[str, Any] | None = None) -> int:
    """Run the stages that were asked for; returns the exit code: 0, 1 for a failed run, 2 for a mistake.

    `config` holds every field that decides the run, as its job resolved them; left out, they are the record's.
    """
    # What is wrong with the input is so on every rank; one of them says it.
    is_first = os.environ.get("RANK", "0") == "0"
    try:
        arguments = _parser().parse_args(argv)
        resolved, seed = from_dict(GolfConfig, config or {}), _seed(arguments.seed)
        paths = DataPaths(
            Path(arguments.data or os.environ.get("DATA_PATH") or DATA_FOLDER),
            Path(arguments.tokenizer or os.environ.get("TOKENIZER_PATH") or TOKENIZER_FILE),
        )
        ranks = join_from_environment()
        try:
            _run(arguments, resolved, paths, seed, ranks)
        finally:
            leave()
    except UserError as error:
        if is_first:
            print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except GolfError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _run(arguments: argparse.Namespace, config: GolfConfig, paths: DataPaths, seed: int, ranks: Ranks) -> None:
    whole = not (arguments.train or arguments.export or arguments.evaluate)
    out: Path = arguments.out
    listener: Listener = ignore
    if ranks.is_first:
        out.mkdir(parents=True, exist_ok=True)
        listener = _print_event
        _print(_header(config, paths, seed, ranks))
    ranks.barrier()
    trained = exported = evaluated = None
    if whole or arguments.train:
        trained = train_stage(config, paths, ranks, seed, out, listener)
    if whole or arguments.export:
        exported = export_stage(config, arguments.export or out / CHECKPOINT_NAME, ranks, out, listener)
    if whole or arguments.evaluate:
        artifact = arguments.evaluate or out / ARTIFACT_NAME
        evaluated = evaluate_stage(config, artifact, paths, ranks, out, listener)
        if ranks.is_first and exported is None:
            weights, code = artifact.stat().st_size, len(program_bytes(config))
            _print([f"artifact weight_bytes:{weights} code_bytes:{code} total_bytes:{weights + code}"])
    if ranks.is_first:
        _print(result_lines(trained, exported, evaluated))


def _header(config: GolfConfig, paths: DataPaths, seed: int, ranks: Ranks) -> list[str]:
    """Everything that the figures depend on."""
    return [
        f"seed:{seed} world_size:{ranks.world_size} device:{device_name(ranks.device)}",
        f"python:{platform.python_version()} torch:{torch.__version__} cuda:{torch.version.cuda} "
        f"numpy:{np.__version__} sentencepiece:{sentencepiece.__version__}",
        f"data:{paths.folder} tokenizer:{paths.tokenizer}",
        *config_lines(config),
    ]


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        print(line, flush=True)  # noqa: T201


def _print_event(event: Event) -> None:
    _print([event_line(event)])


class _Parser(argparse.ArgumentParser):
    """Mistakes on the command line are worded like all others."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; --help lists the options")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="train_gpt.py", description="Train, export and evaluate one seed.", allow_abbrev=False)
    parser.add_argument("--data", help=f"folder of shards; default: DATA_PATH, then {DATA_FOLDER}")
    parser.add_argument("--tokenizer", help=f"SentencePiece model; default: TOKENIZER_PATH, then {TOKENIZER_FILE}")
    parser.add_argument("--seed", help="default: SEED, then 42")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for results; default: the current one")
    stage = parser.add_mutually_exclusive_group()
    stage.add_argument("--train", action="store_true", help="train alone: write OUT/checkpoint.pt")
    stage.add_argument("--export", type=Path, metavar="CHECKPOINT", help="export alone: write OUT/model.golf")
    stage.add_argument("--evaluate", type=Path, metavar="ARTIFACT", help="evaluate an artifact alone")
    return parser


def _seed(option: str | None) -> int:
    text = option or os.environ.get("SEED") or "42"
    if not text.isascii() or not text.isdigit() or int(text) >= 2**32:
        raise ConfigError(f"{'--seed' if option else 'SEED'}: {text!r} is not a whole number from 0 to {2**32 - 1}")
    return int(text)


def entry(config: Mapping[str, Any] | None = None) -> None:
    """Run and end the process; `config` as for `main`."""
    end_process(main(config=config))


if __name__ == "__main__":
    entry()
