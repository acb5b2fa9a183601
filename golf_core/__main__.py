"""The stages from the command line, alone or under torchrun:

python -m golf_core run --preset small --data DIR --seed 42 --out DIR
torchrun --standalone --nproc_per_node=8 -m golf_core run --preset record --data DIR --tokenizer MODEL --out DIR
python -m golf_core evaluate OUT/model.golf --preset small --data DIR --out DIR
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from golf_core.artifact.export import ARTIFACT_NAME, CHECKPOINT_NAME
from golf_core.artifact.program import require_minifier
from golf_core.config import PRESETS, GolfConfig, override, preset
from golf_core.data.sample import build_sample, default_sample_folder
from golf_core.distributed import Ranks, end_process, join_from_environment, leave
from golf_core.errors import ConfigError, GolfError, UserError
from golf_core.evaluate.breakdown import TokenLosses, breakdown_stage, scorers_of
from golf_core.events import Event, JsonLinesLog, Listener, broadcast, ignore
from golf_core.log_text import describe
from golf_core.stages import DataPaths, evaluate_stage, export_stage, train_stage
from golf_core.strict_json import load, save
from golf_core.train.snapshot import Snapshots

LOG_NAME = "log.jsonl"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a stage; returns the exit code: 0, 1 for a failed run, 2 for the user's mistake."""
    arguments = _parser().parse_args(argv)
    try:
        config = _config(arguments)
        if arguments.stage == "run":
            require_minifier()  # now, not after the training
        ranks = join_from_environment()
        if arguments.threads:
            torch.set_num_threads(arguments.threads)
        try:
            _run(arguments, config, ranks)
        finally:
            leave()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except GolfError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _run(arguments: argparse.Namespace, config: GolfConfig, ranks: Ranks) -> None:
    out: Path = arguments.out
    listener: Listener = ignore
    if ranks.is_first:
        out.mkdir(parents=True, exist_ok=True)
        save(config, out / "config.json")
        listener = broadcast(JsonLinesLog(out / LOG_NAME), _print)
    ranks.barrier()
    if arguments.stage in ("train", "run"):
        keeper = Snapshots(out, config, ranks, arguments.seed, arguments.resume)
        train_stage(config, _data(arguments), ranks, arguments.seed, out, listener, keeper)
    if arguments.stage in ("export", "run"):
        checkpoint = arguments.checkpoint if arguments.stage == "export" else out / CHECKPOINT_NAME
        export_stage(config, checkpoint, ranks, out, listener)
    if arguments.stage in ("evaluate", "run"):
        artifact = arguments.artifact if arguments.stage == "evaluate" else out / ARTIFACT_NAME
        kept = TokenLosses(ranks)
        evaluated = evaluate_stage(config, artifact, _data(arguments), ranks, out, listener, kept)
        breakdown_stage(kept, scorers_of(evaluated), config, _data(arguments), ranks, out, listener)


def _print(event: Event) -> None:
    print(describe(event), flush=True)  # noqa: T201


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="golf_core", description="Train, export and evaluate one seed.")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--preset", choices=sorted(PRESETS), default="record")
    common.add_argument("--config", type=Path, help="a config.json of an earlier run, instead of a preset")
    common.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="e.g. train.iterations=100")
    common.add_argument("--data", type=Path, help="folder of shards; the built sample corpus when left out")
    common.add_argument("--tokenizer", type=Path, help="SentencePiece model; DATA/tokenizer.model when left out")
    common.add_argument("--seed", type=int, default=42)
    common.add_argument("--out", type=Path, required=True, help="folder for results")
    common.add_argument("--threads", type=int, default=0, help="CPU threads of this process; 0: torch's choice")
    stages = parser.add_subparsers(dest="stage", required=True)
    training = argparse.ArgumentParser(add_help=False)
    training.add_argument(
        "--resume", type=Path, metavar="FILE", help="go on from OUT/snapshot.bin (see train.snapshot_seconds)"
    )
    stages.add_parser("train", parents=[common, training], help="write OUT/checkpoint.pt")
    export = stages.add_parser("export", parents=[common], help="checkpoint to OUT/model.golf")
    export.add_argument("checkpoint", type=Path)
    evaluate = stages.add_parser("evaluate", parents=[common], help="score an artifact")
    evaluate.add_argument("artifact", type=Path)
    stages.add_parser("run", parents=[common, training], help="train, export and evaluate")
    return parser


def _config(arguments: argparse.Namespace) -> GolfConfig:
    config = load(GolfConfig, arguments.config) if arguments.config else preset(arguments.preset)
    return override(config, dict(_change(text) for text in arguments.set), where="--set ")


def _change(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set {text}: write FIELD=VALUE, such as train.iterations=100")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _data(arguments: argparse.Namespace) -> DataPaths:
    """Where the data are; an export, which needs none, does not ask and so builds no sample."""
    folder = arguments.data or build_sample(default_sample_folder())
    return DataPaths(folder, arguments.tokenizer or folder / "tokenizer.model")


def entry() -> None:
    """Run and end the process."""
    end_process(main())


if __name__ == "__main__":
    entry()
