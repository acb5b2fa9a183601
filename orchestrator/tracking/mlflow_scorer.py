"""The file that MLflow runs when it loads a model: nothing else imports it, because it imports MLflow itself.

It uses only what is saved beside it: `golf_core`, the artifact, the tokenizer and the run's configuration.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class TextScorer(PythonModel):
    """Bits per byte of texts under the model alone: sliding windows, no test-time training, no mixture."""

    def load_context(self, context: Any) -> None:
        """Read artifact, tokenizer and configuration."""
        from golf_core.artifact.codec import load_artifact
        from golf_core.config import GolfConfig
        from golf_core.data.tokenizer import byte_table, load_tokenizer
        from golf_core.distributed import default_device, single
        from golf_core.strict_json import load

        places = {name: Path(path) for name, path in context.artifacts.items()}
        self._ranks = single(default_device(0))
        self._model = load_artifact(places["artifact"]).to(self._ranks.device).eval()
        self._tokenizer = load_tokenizer(places["tokenizer"], self._model.config.vocab_size)
        self._bytes = byte_table(self._tokenizer)
        self._config = replace(
            load(GolfConfig, places["config"]).evaluate, ttt=False, hedge=False, kraft_positions=0, repeat_tail=False
        )

    def predict(self, context: Any, model_input: pandas.DataFrame, params: dict[str, Any] | None = None) -> Any:
        """One row for each text: bytes, tokens, nats, and bpb (NaN for an empty text), each text by itself."""
        rows = [self._score(text) for text in model_input["text"]]
        frame = pandas.DataFrame(rows, columns=["bytes", "tokens", "nats", "bpb"], index=model_input.index)
        return frame.astype({"bytes": "int64", "tokens": "int64", "nats": "float64", "bpb": "float64"})

    def _score(self, text: str) -> tuple[int, int, float, float]:
        import numpy as np

        from golf_core.data.tokenizer import BOS
        from golf_core.evaluate.score import Evaluator
        from golf_core.evaluate.text import validation_text

        tokens = np.array([BOS, *self._tokenizer.encode(text, out_type=int)], dtype=np.int64)
        if len(tokens) == 1:
            return 0, 0, 0.0, math.nan
        told = validation_text(tokens, self._bytes, self._ranks.device)
        result = Evaluator(self._model, self._config, told, self._ranks).run()
        nats = result.neural.nats_per_token * result.tokens
        return round(result.bytes), result.tokens, nats, result.neural.bpb


set_model(TextScorer())
