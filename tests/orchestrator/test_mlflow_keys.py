"""Under which names a finished run's figures lie in MLflow: those of tests/data/mlflow_keys.txt, no more and no fewer.

After a change on purpose the file is written anew, from the repository's folder, by:
python tests/orchestrator/test_mlflow_keys.py > tests/data/mlflow_keys.txt
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from old_runs import OLD_RUNS, copy_of
from tiny import golf

FROZEN = OLD_RUNS.parent / "mlflow_keys.txt"
NOT_EVERYWHERE = {"mlflow.user"}
"""A tag that wants the user to have a name."""


def keys_in(folder: Path) -> list[str]:
    """The lines for the finished run, sent to a new store in `folder`: whose, of what kind, and the name."""
    from mlflow import MlflowClient

    done = golf("rebuild", str(copy_of("finished", folder)))  # which writes the report as well, as a run does
    assert done.returncode == 0, done.stdout + done.stderr
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    (experiment,) = (one for one in client.search_experiments() if one.name == "parameter-golf")
    parents, children = [], []
    for run in client.search_runs([experiment.experiment_id]):
        (children if "mlflow.parentRunId" in run.data.tags else parents).append(set(names_of(client, run)))
    assert len(parents) == 1 and len(children) == 3
    assert children[0] == children[1] == children[2]
    names = {f"experiment tag {name}" for name in experiment.tags}
    names |= {f"run {name}" for name in parents[0]} | {f"seed {name}" for name in children[0]}
    return sorted(names)


def names_of(client: Any, run: Any) -> Iterator[str]:
    """Everything that a run of MLflow has a name for."""
    yield from (f"parameter {name}" for name in run.data.params)
    yield from (f"metric {name}" for name in run.data.metrics)
    yield from (f"tag {name}" for name in run.data.tags if name not in NOT_EVERYWHERE)
    for used in run.inputs.dataset_inputs:
        yield from (f"dataset {used.dataset.name}, {tag.key}={tag.value}" for tag in used.tags)
    yield f"name {re.sub(r'[0-9]+', 'N', run.info.run_name)}"
    yield from (f"artifact {path}" for path in files_of(client, run.info.run_id))


def files_of(client: Any, run_id: str, folder: str | None = None) -> Iterable[str]:
    """Paths of a run's files. The program's own modules, which the model carries along, are left out."""
    for found in client.list_artifacts(run_id, folder):
        if found.path == "model/code":
            yield "model/code/..."
        elif found.is_dir:
            yield from files_of(client, run_id, found.path)
        else:
            yield found.path


def test_mlflow_has_the_names_that_it_had(tmp_path: Path) -> None:
    found = keys_in(tmp_path)
    frozen = FROZEN.read_text(encoding="utf-8").splitlines()
    assert found == frozen, "a change on purpose? See the first lines of this file for how the list is written anew"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        sys.stdout.writelines(f"{line}\n" for line in keys_in(Path(place)))
