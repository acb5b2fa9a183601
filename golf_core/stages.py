"""The stages of one seed, each from files to files: train, export, evaluate.

Every rank calls a stage; rank 0 writes. A stage's output is on disk before the next stage begins:
`checkpoint.pt` and `train.json`, `model.golf` and `export.json`, `evaluate.json`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from golf_core.artifact.codec import load_artifact
from golf_core.artifact.export import CHECKPOINT_NAME, export, load_checkpoint, save_checkpoint
from golf_core.config import GolfConfig
from golf_core.data.shards import TokenStream, train_shards, validation_tokens
from golf_core.data.tokenizer import byte_table, load_tokenizer
from golf_core.distributed import Ranks
from golf_core.errors import ArtifactError, ConfigError
from golf_core.evaluate.score import Evaluator, Losses
from golf_core.evaluate.text import ValidationText, validation_text
from golf_core.events import Listener, Note, PhaseFinished, PhaseStarted, ignore
from golf_core.model.gpt import should_compile
from golf_core.results import EvalResult, ExportResult, TrainResult
from golf_core.strict_json import save
from golf_core.train.loop import Trainer
from golf_core.train.state import Keeper

TRAIN_RECORD, EXPORT_RECORD, EVALUATE_RECORD = "train.json", "export.json", "evaluate.json"


@dataclass(frozen=True)
class DataPaths:
    """A folder of shards and the tokenizer that made them."""

    folder: Path
    tokenizer: Path


def open_text(paths: DataPaths, config: GolfConfig, max_tokens: int | None, device: torch.device) -> ValidationText:
    """The validation text, in whole rows of the evaluation's `seq_len`, at most `max_tokens` targets of it."""
    table = byte_table(load_tokenizer(paths.tokenizer, config.model.vocab_size))
    tokens = validation_tokens(paths.folder, config.evaluate.seq_len)
    if max_tokens is not None:
        if max_tokens < config.evaluate.seq_len:
            raise ConfigError(f"evaluate.max_tokens: {max_tokens} is less than one row ({config.evaluate.seq_len})")
        tokens = tokens[: max_tokens // config.evaluate.seq_len * config.evaluate.seq_len + 1]
    return validation_text(tokens, table, device)


def train_stage(
    config: GolfConfig,
    paths: DataPaths,
    ranks: Ranks,
    seed: int,
    out: Path,
    listener: Listener = ignore,
    keeper: Keeper | None = None,
) -> TrainResult:
    """Train `seed`; write the averaged weights and the stage's record into `out`.

    A `keeper` (`golf_core.train.snapshot.Snapshots`) lets the training be resumed.
    """
    if keeper is None and config.train.snapshot_seconds is not None and ranks.is_first:
        listener(Note("train.snapshot_seconds is set, but no snapshots are written here"))
    stream = TokenStream(train_shards(paths.folder))
    text = open_text(paths, config, config.evaluate.max_tokens, ranks.device)
    trainer = Trainer(config, stream, text, ranks, seed, listener, keeper)
    result = trainer.run()
    if ranks.is_first:
        save_checkpoint(trainer.model, out / CHECKPOINT_NAME)
        save(result, out / TRAIN_RECORD)
    ranks.barrier()
    return result


def export_stage(
    config: GolfConfig, checkpoint: Path, ranks: Ranks, out: Path, listener: Listener = ignore
) -> ExportResult | None:
    """Turn a checkpoint into the artifact, in `out`. Rank 0 works and returns the figures, the others wait."""
    result = None
    if ranks.is_first:
        listener(PhaseStarted("export"))
        result = export(load_checkpoint(checkpoint, config.model), config, out)
        save(result, out / EXPORT_RECORD)
        figures = {"weight_bytes": result.weight_bytes, "code_bytes": result.code_bytes, "method": result.method}
        listener(PhaseFinished("export", result.export_seconds, more=figures))
    ranks.barrier()
    return result


def evaluate_stage(
    config: GolfConfig,
    artifact: Path,
    paths: DataPaths,
    ranks: Ranks,
    out: Path,
    listener: Listener = ignore,
    keep: Callable[[list[Losses]], None] | None = None,
) -> EvalResult:
    """Evaluate the model read back from `artifact`; write the record into `out`.

    The stage's time includes reading the artifact and the text, and any compilation. `keep` is shown every loss.
    """
    began = time.perf_counter()
    model = load_artifact(artifact).to(ranks.device)
    if model.config.vocab_size != config.model.vocab_size:
        raise ArtifactError(
            f"{artifact}: has a vocabulary of {model.config.vocab_size}, the configuration one of "
            f"{config.model.vocab_size}; set model.vocab_size"
        )
    text = open_text(paths, config, config.evaluate.max_tokens, ranks.device)
    compiled = should_compile(config.compile, ranks.device)
    result = Evaluator(model, config.evaluate, text, ranks, listener, compiled, keep).run(began)
    if ranks.is_first:
        save(result, out / EVALUATE_RECORD)
    ranks.barrier()
    return result
