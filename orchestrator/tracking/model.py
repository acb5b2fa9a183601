"""A seed's artifact as a model of MLflow: a folder that scores text wherever it is loaded, without this project.

No pickle is in it: MLflow runs the file `mlflow_scorer.py`, which is saved in it, on the package `golf_core`, a copy of
which is saved in it as well.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from shutil import copyfile
from typing import Any

from golf_core import files
from golf_core.files import sha256, write_text
from golf_core.results import DataRecord
from orchestrator.tracking.store import Folder

MODEL = "model"
"""Name of the folder among a run's artifacts."""
FORMAT = 1
"""Counted up when the folder's content changes, so that it is sent anew."""
REQUIRED = ("mlflow", "numpy", "pandas", "sentencepiece", "torch")
FILES = {"artifact": "model.golf", "tokenizer": "tokenizer.model", "config": "config.json"}
"""What the scorer finds, and the names of the files."""
SCORER = Path(__file__).with_name("mlflow_scorer.py")


def model_of(
    artifact: Path, data: DataRecord, config: Mapping[str, Any], complain: Callable[[str], None]
) -> Folder | None:
    """The model of the seed whose artifact is given, trained on `data`; `config`: the run's, as a record.

    None where the tokenizer is not there any more, or is another: `complain` is told so in a sentence.
    """
    tokenizer = Path(data.tokenizer)
    try:
        found = sha256(tokenizer)
    except OSError:
        complain(f"MLflow gets no model that scores text: the tokenizer {tokenizer} is not there any more")
        return None
    if found != data.tokenizer_sha256:
        complain(f"MLflow gets no model that scores text: the tokenizer {tokenizer} is not the run's any more")
        return None
    parts = (FORMAT, sha256(artifact), found, config)
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return Folder(MODEL, digest, lambda place: save_model(place, artifact, tokenizer, config))


def save_model(place: Path, artifact: Path, tokenizer: Path, config: Mapping[str, Any]) -> None:
    """Write the model into the folder `place`, which must be empty or absent."""
    from mlflow import pyfunc

    # It asks for an example, with which it would score at once. (No block that undoes this: those are not for threads.)
    warnings.filterwarnings("ignore", message=".*An input example was not provided")
    # MLflow writes down where the files came from: this folder's name, which says nothing of the machine.
    parts = place.with_name(f"{place.name}-parts")
    parts.mkdir()
    copyfile(artifact, parts / FILES["artifact"])
    copyfile(tokenizer, parts / FILES["tokenizer"])
    copyfile(SCORER, parts / SCORER.name)
    write_text(parts / FILES["config"], json.dumps(config, indent=2) + "\n")
    pyfunc.save_model(
        path=str(place),
        python_model=str(parts / SCORER.name),
        artifacts={name: str(parts / file) for name, file in FILES.items()},
        code_paths=[str(Path(files.__file__).parent)],
        signature=_signature(),
        pip_requirements=requirements(),
    )


def requirements() -> list[str]:
    """What the model needs, at the versions that are installed here. A build's own label (2.13.0+cpu) is left out."""
    return [f"{name}=={metadata.version(name).partition('+')[0]}" for name in REQUIRED]


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    outputs = [("bytes", DataType.long), ("tokens", DataType.long), ("nats", DataType.double)]
    columns = [ColSpec(kind, name) for name, kind in (*outputs, ("bpb", DataType.double))]
    return ModelSignature(Schema([ColSpec(DataType.string, "text")]), Schema(columns))
