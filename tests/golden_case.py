"""A golden run: configuration, tensors and expected figures that the published program produced."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from golf_core.config import EvalConfig, ModelConfig, TrainConfig
from golf_core.data.tokenizer import ByteTable, byte_table, load_tokenizer
from golf_core.evaluate.text import ValidationText, validation_text
from golf_core.model.gpt import GPT

HERE = Path(__file__).parent / "golden"


@dataclass(frozen=True)
class GoldenCase:
    """`folder` holds expected.json and tensors.npz; without a tokenizer the byte table is the made-up one."""

    folder: Path
    tokenizer: Path | None = None

    @cached_property
    def expected(self) -> dict[str, Any]:
        return json.loads((self.folder / "expected.json").read_text())

    @cached_property
    def tensors(self) -> dict[str, np.ndarray]:
        with np.load(self.folder / "tensors.npz") as archive:
            return dict(archive)

    @property
    def sizes(self) -> dict[str, Any]:
        return self.expected["config"]

    @property
    def model_config(self) -> ModelConfig:
        names = ("num_layers", "model_dim", "num_heads", "num_kv_heads", "mlp_mult", "bigram_vocab_size")
        names += ("bigram_dim", "xsa_last_n", "rope_dims", "ve_dim")
        layers = tuple(int(i) for i in self.sizes["ve_layers"].split(","))
        return ModelConfig(**{name: self.sizes[name] for name in names}, ve_layers=layers)

    @property
    def train_config(self) -> TrainConfig:
        # One rank and one span a step: what the published program did on its CPU.
        return TrainConfig(
            batch_tokens=self.sizes["train_batch_tokens"],
            seq_len=self.sizes["seq_len"],
            micro_batches=1,
            iterations=self.sizes["train_steps"],
            wallclock_seconds=None,
            warmup_steps=0,
            warmdown_steps=0,
        )

    def eval_config(self, **changes: Any) -> EvalConfig:
        """The published evaluation, which scores the last `stride` tokens repeatedly."""
        values = {
            "seq_len": self.sizes["seq_len"],
            "stride": self.sizes["stride"],
            "chunk_tokens": self.sizes["chunk"],
            "hedge_min_tokens": self.sizes["min_tokens"],
            "repeat_tail": True,
        }
        return EvalConfig(**(values | changes))

    def model(self, weights: str) -> GPT:
        """The model with the weights called 'init', 'random', 'trained', 'ema' or 'dequantised'."""
        model = GPT(self.model_config)
        model.load_state_dict({n: torch.from_numpy(self.tensors[f"{weights}/{n}"]) for n in model.state_dict()})
        return model

    @property
    def tokens(self) -> np.ndarray:
        return self.tensors["tokens"].astype(np.int64)

    @property
    def byte_table(self) -> ByteTable:
        if self.tokenizer is not None:
            return byte_table(load_tokenizer(self.tokenizer, 1024))
        ids = np.arange(1024)
        return ByteTable(np.where(ids < 4, 0, 1 + ids % 7).astype(np.int16), (ids % 3 == 0) & (ids >= 4), ids < 4)

    @property
    def text(self) -> ValidationText:
        start, count = self.sizes["val_start"], self.sizes["val_tokens"]
        return validation_text(self.tokens[start : start + count + 1], self.byte_table, torch.device("cpu"))

    def rows(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The two rows (ids, targets) of the forward and QAT figures."""
        length = self.sizes["seq_len"]
        tokens = torch.from_numpy(self.tokens[: 2 * length + 1])
        return tokens[:-1].view(2, length), tokens[1:].view(2, length)


def small_case() -> GoldenCase:
    return GoldenCase(HERE / "small")


def fineweb_case(shared: Path) -> GoldenCase:
    return GoldenCase(shared / "golden" / "fineweb", shared / "data" / "tokenizers" / "fineweb_1024_bpe.model")
