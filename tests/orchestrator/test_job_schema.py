"""The schema of job files: published as it is made, and never stricter than the reader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from drawing import examples
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from golf_core.config import leaves
from golf_core.errors import ConfigError
from orchestrator.cli import app
from orchestrator.job.load import Job, load_job
from orchestrator.job.schema import job_reference, job_schema

PROJECT = Path(__file__).parents[2]
JOBS = sorted((PROJECT / "jobs").glob("*.yaml"))
MODELINE = "# yaml-language-server: $schema="
SCHEMA = job_schema()
CHECK = Draft202012Validator(SCHEMA)
LEAST: dict[str, Any] = {"name": "x", "preset": "small", "seeds": [1], "data": "sample"}
FILES = {"path": "a", "tokenizer": "b", "fetch": {}}
BASELINE = {"name": "b", "bytes_per_token": 2.0}


def read(folder: Path, document: Any) -> Job | None:
    """The job in a file with this content, or None where the reader refuses it."""
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    try:
        return load_job(path)
    except ConfigError:
        return None


# --- what is published ---


@pytest.mark.parametrize(("page", "options"), [("job.schema.json", []), ("job.md", ["--markdown"])])
def test_what_is_published_is_what_the_command_prints(page: str, options: list[str]) -> None:
    published = (PROJECT / "docs" / page).read_text(encoding="utf-8")
    assert CliRunner().invoke(app, ["schema", *options]).stdout == published, f"write docs/{page} anew with golf schema"


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_job_files_keep_to_the_schema_and_tell_editors_of_it(path: Path) -> None:
    Draft202012Validator.check_schema(SCHEMA)
    text = path.read_text(encoding="utf-8")
    CHECK.validate(yaml.safe_load(text))
    told = [line.removeprefix(MODELINE) for line in text.splitlines() if line.startswith(MODELINE)]
    assert [(path.parent / place).resolve() for place in told] == [PROJECT / "docs" / "job.schema.json"]


def test_every_value_of_the_configuration_has_a_place_in_schema_and_reference() -> None:
    page = job_reference()
    overrides = SCHEMA["$defs"]["overrides"]["properties"]

    names = [name for name, _ in leaves(load_job(JOBS[0]).to_dict()["config"])]
    assert len(names) > 80
    for name in names:
        assert name in overrides
        assert f"| `{name}` |" in page


# --- schema and reader ---


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"overrides": None, "resources": None, "budgets": None, "mlflow": None, "baseline": None},
        {"overrides": {}, "limits": {}, "cost": {}, "seeds": [0, 2**32 - 1], "data": {"path": "a", "tokenizer": "b"}},
        {"overrides": {"train": {"muon_lr": 1, "iterations": 7}, "train.log_every": 2, "compile": False}},
        {"overrides": {"evaluate": {"mixer.tilt": False}, "evaluate.mixer": {"orders": 2}}},
        {"overrides": {"evaluate": {"mixer": {"orders": 2}}, "evaluate.mixer.tilt": False}},
        {"overrides": {"model.ve_layers": [3], "train.wallclock_seconds": None, "model.table_dtype": "bfloat16"}},
        {"data": {**FILES, "fetch": None}, "resources": {"nodes": 1, "ranks": 3}, "output": "o"},
        {"data": {**FILES, "fetch": {"train_shards": 1, "prefix": ""}}, "baseline": {**BASELINE, "bpb": [1.1, 1]}},
        {
            "baseline": {**BASELINE, "mean": 1.1, "bpb": None},
            "resources": {"ranks": 2, "nodes": 2, "cpus_per_rank": 0.5, "accelerator": "H100"},
            "audit": {"positions": 0},
            "cost": {"per_node_hour": 25, "stop_when_hopeless": True},
            "limits": {"train_seconds": None, "eval_seconds": 601, "retries": 0},
            "budgets": {"train_seconds": 1, "eval_seconds": 0.5, "artifact_bytes": 10_000},
            "mlflow": {"tracking_uri": None, "experiment": "e"},
            "min_seeds_for_claim": 2,
        },
    ],
)
def test_both_take_these(tmp_path: Path, fields: dict[str, Any]) -> None:
    document = {**LEAST, **fields}
    assert [error.message for error in CHECK.iter_errors(document)] == []
    assert read(tmp_path, document) is not None


def test_numbers_with_underscores_pass_as_text_because_editors_read_them_so(tmp_path: Path) -> None:
    assert CHECK.is_valid({**LEAST, "budgets": {"artifact_bytes": "16_000_000"}, "seeds": ["1_000"]})
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(LEAST) + "budgets: {artifact_bytes: 16_000_000}\n", encoding="utf-8")
    assert load_job(path).budgets.artifact_bytes == 16_000_000
    for text in ("16000", "1_0", "_1", "0_000", "1_000 "):
        assert not CHECK.is_valid({**LEAST, "budgets": {"artifact_bytes": text}}), text


def places(schema: dict[str, Any], prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The way to every field of a schema, sections and groups included."""
    found = []
    for name, field in schema["properties"].items():
        found.append((*prefix, name))
        for option in (field, *field.get("anyOf", ())):
            if "$ref" in option and "/properties/" not in option["$ref"]:
                found += places(SCHEMA["$defs"][option["$ref"].rpartition("/")[2]], (*prefix, name))
    return found


VALUES = (None, True, 0, 2, 4, 64, 0.5, "x", "sample", "float32", [1, 2], [0.5, 0.9])


def changed(changes: dict[tuple[str, ...], Any]) -> dict[str, Any]:
    """A sound job with some fields replaced."""
    document = json.loads(json.dumps({**LEAST, "baseline": {**BASELINE, "bpb": [1.5, 2]}}))
    for place, value in changes.items():
        node = document
        for name in place[:-1]:
            if not isinstance(node.get(name), dict):
                node[name] = dict(FILES) if name == "data" else {}
            node = node[name]
        # An empty mapping among the overrides sets nothing, and the reader passes it over.
        node[place[-1]] = None if value == {} and place[0] == "overrides" else value
    return document


def test_one_field_that_the_schema_refuses_the_reader_refuses(tmp_path: Path) -> None:
    for name in LEAST:
        document = {field: value for field, value in LEAST.items() if field != name}
        assert not CHECK.is_valid(document) and read(tmp_path, document) is None, name
    taken = 0
    for place in places(SCHEMA):
        # Under a dotted name a field is what it is under its own.
        for value in VALUES if "." not in place[-1] else (None, True, 4):
            document = changed({place: value})
            if CHECK.is_valid(document):
                taken += 1
            else:
                assert read(tmp_path, document) is None, (place, value)
    assert taken > 500, "the schema must take something, or this shows nothing"


@settings(max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.sampled_from(places(SCHEMA)),
        st.sampled_from([*VALUES, {}, {"ranks": 2}, {"mean": 1.5}, {"orders": 1}])
        | st.integers(-5, 5000)
        | st.floats(0, 2),
        max_size=4,
    )
)
@example({("resources", "ranks"): 2, ("resources", "nodes"): 2})
@example({("baseline", "mean"): 1.5, ("baseline", "bpb"): None})
def test_fields_together_that_the_schema_refuses_the_reader_refuses(
    tmp_path: Path, changes: dict[tuple[str, ...], Any]
) -> None:
    document = changed(changes)
    if not CHECK.is_valid(document):
        assert read(tmp_path, document) is None
