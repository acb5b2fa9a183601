"""What the tests of MLflow share: copying a run, seeing what arrived, and an MLflow that breaks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from golf_core import strict_json
from golf_core.files import sha256
from golf_core.results import DataRecord
from orchestrator.folder.redaction import Redactor
from orchestrator.tracking.store import Store, default_uri
from orchestrator.tracking.sync import Mirror

EXPERIMENT = "parameter-golf"
PLAIN = Redactor.from_environment({})


def copied(folder: Path, output: Path | None = None, alive: bool = False, redactor: Redactor = PLAIN) -> list[str]:
    """One pass of a copier of its own, into the store of `output`; its complaints."""
    said: list[str] = []
    Mirror(folder, Store(default_uri(output or folder.parent), EXPERIMENT), redactor, said.append).run(alive)
    return said


def add_data(folder: Path, tokenizer: Path, seeds: tuple[int, ...] = (42,), path: str = "data/sp1024") -> DataRecord:
    """What the stages write down of the data, with a tokenizer that is there."""
    tokenizer.write_bytes(b"a tokenizer")
    checksums = {"fineweb_train_000000.bin": "a" * 64, "fineweb_train_000001.bin": "b" * 64}
    checksums["fineweb_val_000000.bin"] = "c" * 64
    record = DataRecord(path, str(tokenizer), sha256(tokenizer), 200_000, 1000, checksums)
    for seed in seeds:
        strict_json.save(record, folder / f"seed-{seed}" / "data.json")
    return record


class Seen:
    """What MLflow has of the runs in `output`."""

    def __init__(self, output: Path) -> None:
        from mlflow import MlflowClient

        self.client = MlflowClient(default_uri(output))
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        found = self.client.search_runs([experiment.experiment_id])
        self.runs = {run.info.run_name: run for run in found}
        assert len(self.runs) == len(found), "a run is there twice"

    def points(self, run: str, name: str) -> list[tuple[int, float]]:
        history = self.client.get_metric_history(self.runs[run].info.run_id, name)
        return sorted((point.step, point.value) for point in history)

    def files(self, run: str) -> set[str]:
        """Files and folders at the top of a run's artifacts."""
        return {file.path for file in self.client.list_artifacts(self.runs[run].info.run_id)}

    def summary(self) -> dict[str, Any]:
        """All that matters, by run."""
        return {
            name: (
                run.info.status,
                dict(run.data.metrics),
                dict(run.data.params),
                {key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")},
                {metric: self.points(name, metric) for metric in run.data.metrics},
                self.files(name),
                sorted((item.dataset.name, item.dataset.digest) for item in run.inputs.dataset_inputs),
            )
            for name, run in self.runs.items()
        }


CALLS = (
    "create_experiment",
    "create_run",
    "log_batch",
    "log_inputs",
    "log_artifact",
    "log_artifacts",
    "log_text",
    "set_terminated",
    "set_tag",
)


@contextmanager
def breaking(at: int, late: bool) -> Iterator[None]:
    """All calls of MLflow fail from the one with number `at` on; `late`: that one is obeyed first."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    count = [0]
    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            real = getattr(MlflowClient, name)

            def flaky(self: Any, *given: Any, real: Any = real, **named: Any) -> Any:
                count[0] += 1
                if count[0] - 1 == at and late:
                    real(self, *given, **named)
                if count[0] - 1 >= at:
                    raise MlflowException("bad gateway")
                return real(self, *given, **named)

            patch.setattr(MlflowClient, name, flaky)
        yield
