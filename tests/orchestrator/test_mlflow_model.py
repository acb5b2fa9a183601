"""The model that a seed leaves in MLflow: loaded elsewhere, it scores text as golf_core does."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow_tools import Seen, copied
from run_builders import begin_run, begin_seed, finish_run, finish_seed
from tiny import OVERRIDES, REPO

from golf_core import strict_json
from golf_core.config import GolfConfig
from golf_core.data.sample import build_sample, default_sample_folder
from golf_core.data.shards import write_shard
from golf_core.data.tokenizer import BOS, load_tokenizer
from golf_core.distributed import single
from golf_core.files import sha256
from golf_core.results import DataRecord
from golf_core.stages import DataPaths, evaluate_stage, export_stage, train_stage
from orchestrator.folder.view import view_of
from orchestrator.tracking.store import default_uri

SHORT = "Two cores give about 12,000 tokens a second – naïve, but honest."
LONG = "def mean(values):\n    return sum(values) / len(values)\n\n# It goes on and on.\n" * 40
PROGRAM = """
import json, sys
import mlflow, pandas
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
found = model.predict(pandas.DataFrame({"text": json.loads(sys.argv[3])}))
import golf_core
print(json.dumps([found.to_dict("records"), [str(kind) for kind in found.dtypes], list(golf_core.__path__)]))
"""


class Trained:
    """A seed that was really trained, in MLflow."""

    def __init__(self, output: Path) -> None:
        folder = output / "run"
        ledger = begin_run(folder, preset="small", overrides=OVERRIDES)
        self.place = begin_seed(folder, ledger, 42)
        self.config: GolfConfig = view_of(folder).job.config
        self.data = build_sample(default_sample_folder())
        self.paths = DataPaths(self.data, self.data / "tokenizer.model")
        result = finish_seed(folder, ledger, 42, 1.1)
        ranks = single(torch.device("cpu"))
        train_stage(self.config, self.paths, ranks, 42, self.place)
        export_stage(self.config, self.place / "checkpoint.pt", ranks, self.place)
        tokenizer = self.paths.tokenizer
        record = DataRecord(str(self.data), str(tokenizer), sha256(tokenizer), 10, 10, {"fineweb_val_000000.bin": "0"})
        strict_json.save(record, self.place / "data.json")
        finish_run(folder, ledger, (result,))
        self.uri = default_uri(output)
        assert copied(folder) == []
        seen = Seen(output)
        self.client, self.run_id = seen.client, seen.runs["seed 42"].info.run_id

    @property
    def address(self) -> str:
        return f"runs:/{self.run_id}/model"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    import mlflow

    before = mlflow.get_tracking_uri()
    made = Trained(tmp_path_factory.mktemp("out"))
    mlflow.set_tracking_uri(made.uri)
    yield made
    mlflow.set_tracking_uri(before)


@pytest.fixture(scope="module")
def scored(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], list[str], str]:
    """What a fresh process elsewhere finds: rows, their types, and where its golf_core lies."""
    texts = json.dumps([SHORT, LONG, "", whole_rows(trained, 384)])
    command = [sys.executable, "-c", PROGRAM, trained.uri, trained.address, texts]
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    rows, kinds, (place,) = json.loads(done.stdout.splitlines()[-1])
    return rows, kinds, place


def whole_rows(trained: Trained, count: int) -> str:
    """A text of exactly `count` tokens."""
    processor = load_tokenizer(trained.paths.tokenizer)
    text = next(LONG[:end] for end in range(1, len(LONG)) if len(processor.encode(LONG[:end])) == count)
    return str(text)


def test_each_text_stands_for_itself(trained: Trained, scored: Any) -> None:
    """Of several at once, which keep their index, in another order and another process."""
    import mlflow
    import pandas

    frame = pandas.DataFrame({"text": [LONG, SHORT]}, index=[7, 3])
    found = mlflow.pyfunc.load_model(trained.address).predict(frame)
    assert list(found.index) == [7, 3]
    for index, row in ((7, scored[0][1]), (3, scored[0][0])):
        assert found.loc[index].to_dict() == pytest.approx(row, rel=1e-5)


def test_scores_are_those_of_the_evaluation(trained: Trained, scored: Any, tmp_path: Path) -> None:
    """The text as a validation shard, under the evaluation stage without adaptation and mixture."""
    text = whole_rows(trained, 384)
    processor = load_tokenizer(trained.paths.tokenizer)
    write_shard(tmp_path / "fineweb_val_000000.bin", np.array([BOS, *processor.encode(text)], dtype=np.uint16))
    plain = replace(trained.config.evaluate, ttt=False, hedge=False, max_tokens=None, kraft_positions=0)
    config = replace(trained.config, evaluate=plain)
    paths = DataPaths(tmp_path, trained.paths.tokenizer)
    result = evaluate_stage(config, trained.place / "model.golf", paths, single(torch.device("cpu")), tmp_path)
    row = scored[0][3]
    assert row["tokens"] == result.tokens == 384
    assert row["bpb"] == pytest.approx(result.neural.bpb, rel=1e-5) and row["bytes"] == round(result.bytes)


def test_a_fresh_process_elsewhere(trained: Trained, scored: Any) -> None:
    rows, kinds, place = scored
    assert kinds == ["int64", "int64", "float64", "float64"]
    assert not Path(place).is_relative_to(REPO), "it took golf_core from the project, not from the model"
    assert [row["bytes"] for row in rows[:2]] == [len(SHORT.encode()), len(LONG.encode())]
    assert rows[2] == {"bytes": 0, "tokens": 0, "nats": 0.0, "bpb": pytest.approx(math.nan, nan_ok=True)}
    assert 0 < rows[1]["bpb"] < 8 and rows[1]["nats"] == pytest.approx(
        rows[1]["bpb"] * math.log(2) * rows[1]["bytes"], rel=1e-6
    )


def test_what_is_in_it(trained: Trained, tmp_path: Path) -> None:
    """A signature, pinned requirements, no pickle, and no path of this machine but a temporary one's."""
    import mlflow
    from mlflow.artifacts import download_artifacts

    info = mlflow.models.get_model_info(trained.address)
    assert info.signature.inputs.input_names() == ["text"]
    assert info.signature.outputs.input_names() == ["bytes", "tokens", "nats", "bpb"]
    model = Path(download_artifacts(trained.address, dst_path=str(tmp_path)))
    lines = (model / "requirements.txt").read_text().split()
    pins: Mapping[str, str] = dict(line.split("==") for line in lines)
    assert {"mlflow", "torch", "numpy", "sentencepiece", "pandas"} <= set(pins)
    assert pins["torch"] == torch.__version__.partition("+")[0] and not any("+" in pin for pin in pins.values())
    assert (model / "artifacts" / "model.golf").read_bytes() == (trained.place / "model.golf").read_bytes()
    names = {path.name for path in model.rglob("*")}
    assert {"mlflow_scorer.py", "tokenizer.model", "config.json", "golf_core"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pyc", ".pt"))]
    described = (model / "MLmodel").read_text()
    assert str(REPO) not in described and str(trained.data) not in described and str(trained.place) not in described


@pytest.mark.parametrize("columns", [{"words": ["a"]}, {"text": [3]}])
def test_other_input_is_refused(columns: dict[str, list[Any]], trained: Trained) -> None:
    import mlflow
    import pandas
    from mlflow.exceptions import MlflowException

    model = mlflow.pyfunc.load_model(trained.address)
    with pytest.raises(MlflowException, match=r"text|words"):
        model.predict(pandas.DataFrame(columns))
