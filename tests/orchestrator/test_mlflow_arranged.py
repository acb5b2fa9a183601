"""How a run is arranged in MLflow: groups of figures, tags for the table, descriptions, data, the machine's series."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from claim_builders import CANDIDATE, audit_record, export_result, finished, job
from drawing import examples
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mlflow_tools import EXPERIMENT, PLAIN, Seen, add_data, copied
from run_builders import (
    T0,
    add_events,
    begin_run,
    begin_seed,
    chunks,
    fail_seed,
    finish_run,
    finish_seed,
    steps,
    whole_run,
)

from golf_core import strict_json
from golf_core.events import PhaseFinished, Validation
from orchestrator.claim.columns import seed_frame, seed_metrics
from orchestrator.folder.event_log import event_of
from orchestrator.folder.results import RunResult
from orchestrator.folder.view import view_of
from orchestrator.tracking.content import (
    attempt_ending,
    claim_metrics,
    claim_note,
    digest_of,
    escaped,
    parent_ending,
    points_of,
    running_note,
    series,
)
from orchestrator.tracking.model import model_of
from orchestrator.tracking.store import COLUMNS, MAX_TAG_CHARS, VIEW_TAG, Store, default_uri
from orchestrator.tracking.sync import Mirror

NOTE = "mlflow.note.content"
GPU = {
    "index": 3,
    "name": "NVIDIA H100 80GB HBM3",
    "memory_mib": 22016.0,
    "memory_total_mib": 81559.0,
    "utilisation_percent": 98.0,
    "power_w": 655.5,
    "temperature_c": 61.0,
}
SYSTEM = {
    "time": T0,
    "kind": "system",
    "elapsed_s": 12.7,
    "cpu_percent": 31.5,
    "memory_mib": 9000.0,
    "memory_total_mib": 120000.0,
    "process_memory_mib": 3000.0,
    "gpus": [GPU, {"index": 4}],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture(scope="module")
def arranged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], RunResult]:
    folder = tmp_path_factory.mktemp("out") / "run"
    result = whole_run(folder, train=3)
    add_data(folder, folder.parent / "tokenizer.model", (42, 1337, 2024))
    add_events(folder / "seed-42", [event_of({**SYSTEM, "time": T0 + 30})])
    assert copied(folder) == []
    (folder / "report.html").write_text("<html></html>")
    (folder / "seed-42" / "breakdown.json").write_text("{}")
    with pytest.MonkeyPatch.context() as patch:  # the rest changes, and a model is not sent again
        patch.setattr(Store, "_send_folder", lambda *_: pytest.fail("sent again"))
        assert copied(folder) == []
    return folder, Seen(folder.parent).runs, result


# --- figures ------------------------------------------------------------------------------------------


def test_final_figures_are_grouped_and_no_series() -> None:
    """One name is either a series or a figure: MLflow would draw the figure as the series' last point."""
    export = export_result(bytes_by_group={"mlp": 9.0}, bits_per_weight={"mlp": 2.5}, zero_share=0.2)
    figures = seed_metrics(replace(finished(42, 1.1), audit=audit_record(), export=export))
    groups = {"bpb", "train", "artifact", "eval", "kraft", "audit"}
    assert {name.split("/")[0] for name in figures} == groups and all(name.count("/") == 1 for name in figures)
    assert figures["bpb/mixture"] == 1.1 and figures["artifact/total_bytes"] == 15_800_050
    assert figures["train/mean_ms_per_step"] == 98.01 and figures["eval/mean_log_z"] == 2.0123
    assert figures["artifact/bytes_mlp"] == 9.0 and figures["artifact/bits_mlp"] == 2.5
    validation = Validation(1, 1.0, 1.0, time=T0)
    phases = [PhaseFinished(name, 1.0, time=T0) for name in ("train", "export", "evaluate")]
    events = [*steps(1), *chunks(1), validation, event_of(SYSTEM), *phases]
    running = {name for event in events for name in series(event)[1]}
    assert len(running) > 20 and not running & figures.keys()


def test_figures_of_the_claim(arranged: tuple[Path, dict[str, Any], RunResult]) -> None:
    _, runs, result = arranged
    metrics = runs["run"].data.metrics
    mean = sum(CANDIDATE) / 3
    baseline = job().baseline
    assert baseline is not None
    assert metrics["claim/bpb_mixture_mean"] == pytest.approx(mean)
    assert metrics["claim/gain_bpb"] == pytest.approx(baseline.mean_bpb - mean)
    assert 0 < metrics["claim/p_margin"] < 0.01 and metrics["claim/bpb_mixture_sd"] > 0
    assert metrics["claim/seeds_finished"] == 3 and metrics["run/wall_seconds"] == 4000.0
    assert metrics["run/node_hours"] >= 0 and ("run/cost" in metrics) == (job().cost.per_node_hour is not None)
    assert {name.split("/")[0] for name in metrics} == {"claim", "run"}
    assert claim_metrics(result).items() <= metrics.items()


def test_price_of_a_run_and_description_of_a_failure(folder: Path) -> None:
    """Two attempts of half an hour and of an hour, on one node, at 10 an hour."""
    ledger = begin_run(folder, cost__per_node_hour=10.0)
    begin_seed(folder, ledger, 42)
    fail_seed(ledger, 42, 1)
    begin_seed(folder, ledger, 42, attempt=2)
    finish_run(folder, ledger, (finish_seed(folder, ledger, 42, 1.1, attempt=2),))
    view = view_of(folder)
    first, second = view.attempts
    note = attempt_ending(view, first, PLAIN).tags[NOTE]
    assert note == "Seed 42, attempt 1 failed: a rank's process was lost"
    first = replace(first, started=T0, ended=T0 + 1800)
    second = replace(second, started=T0 + 1800, ended=T0 + 5400)
    metrics = parent_ending(replace(view, attempts=(first, second)), PLAIN).metrics
    assert metrics["run/node_hours"] == pytest.approx(1.5) and metrics["run/cost"] == pytest.approx(15.0)


def test_the_same_names_in_tables(arranged: tuple[Path, dict[str, Any], RunResult]) -> None:
    _, runs, result = arranged
    columns = set(seed_frame(result).columns) - {"seed", "status", "error"}
    assert columns == seed_metrics(result.seeds[0]).keys() <= runs["seed 42"].data.metrics.keys()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (12, 7)),
        ({"elapsed_s": None}, (0, 7)),
        ({"elapsed_s": -3.0}, (0, 7)),
        ({"gpus": None}, (12, 3)),
        ({"cpu_percent": float("nan")}, (12, 6)),
        ({"gpus": [{**GPU, "index": number} for number in range(1000)]}, (12, 3 + 4 * 64)),
    ],
)
def test_series_of_the_machine(
    changes: dict[str, Any], expected: tuple[int, int], arranged: tuple[Path, dict[str, Any], RunResult]
) -> None:
    points = points_of(event_of(SYSTEM | changes))
    assert ({p.step for p in points}, len(points)) == ({expected[0]}, expected[1])
    if not changes:
        values = {f"system/{name}": SYSTEM[name] for name in ("cpu_percent", "memory_mib", "process_memory_mib")}
        measured = ("utilisation_percent", "memory_mib", "power_w", "temperature_c")
        values |= {f"system/gpu_3_{name}": GPU[name] for name in measured}
        assert series(event_of(SYSTEM)) == (12, values)
        assert values.items() <= arranged[1]["seed 42"].data.metrics.items()


# --- tags, descriptions, files --------------------------------------------------------------------------


def test_columns_of_the_table_are_filled(arranged: tuple[Path, dict[str, Any], RunResult]) -> None:
    """Every column has something to show, for the run or for its seeds."""
    from mlflow import MlflowClient

    folder, runs, _ = arranged
    for column in COLUMNS:
        kind, name = re.fullmatch(r"(tags|metrics)\.`(.+)`", column).groups()  # type: ignore[union-attr]
        there = [run for run in runs.values() if getattr(run.data, kind).get(name) not in (None, "")]
        assert there, column
    view = json.loads(MlflowClient(default_uri(folder.parent)).get_experiment_by_name(EXPERIMENT).tags[VIEW_TAG])
    assert (view["name"], json.loads(view["state"])["selectedColumns"]) == ("Claims and seeds", list(COLUMNS))


def test_an_experiment_that_was_there_gets_the_view_once(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    (tmp_path / "run").mkdir()
    uri = default_uri(tmp_path)
    Store(uri, "another").connect()
    client = MlflowClient(uri)
    number = client.create_experiment(EXPERIMENT)
    Store(uri, EXPERIMENT).connect()
    first = client.get_experiment(number).tags[VIEW_TAG]
    assert json.loads(first)["name"] == "Claims and seeds"
    client.set_experiment_tag(number, VIEW_TAG, "mine")
    Store(uri, EXPERIMENT).connect()
    assert client.get_experiment(number).tags[VIEW_TAG] == "mine"


def test_description_and_files_of_the_run(arranged: tuple[Path, dict[str, Any], RunResult]) -> None:
    folder, runs, result = arranged
    note = runs["run"].data.tags[NOTE]
    first = note.splitlines()[0]
    assert first.startswith("**Claim") and first.endswith("**")
    rows = [line for line in note.splitlines() if line.startswith("| ✓ |")]
    assert len(rows) == len(result.claim.conditions)
    (row,) = [line for line in note.splitlines() if line.startswith("| 1337 | finished |")]
    assert f"| {CANDIDATE[1]:.5f} |" in row and "15,800,050" in row
    assert f"golf show {folder}" in note and "golf reproduce" in note and "`report.html`" in note
    seen = Seen(folder.parent)
    assert seen.files("run") == {"result.json", "job.json", "report.html"}
    assert {"breakdown.json", "model", "data.json"} <= seen.files("seed 42")
    child = runs["seed 1337"].data.tags[NOTE]
    assert child.startswith("Seed 1337 finished.") and f"{CANDIDATE[1]:.5f}" in child


def test_description_while_it_goes_on(folder: Path, tmp_path: Path) -> None:
    ledger = begin_run(folder, (42, 1337))
    copier = Mirror(folder, Store(default_uri(tmp_path), EXPERIMENT), PLAIN, pytest.fail)
    begin_seed(folder, ledger, 42)
    copier.run(alive=True)
    assert Seen(tmp_path).runs["run"].data.tags[NOTE].startswith("running; 0 of 2 seeds finished")
    finish_seed(folder, ledger, 42, 1.1)
    begin_seed(folder, ledger, 1337)
    copier.run(alive=True)
    tags = Seen(tmp_path).runs["run"].data.tags
    assert tags[NOTE].startswith("running; 1 of 2 seeds finished") and tags["seeds_finished"] == "1 of 2"
    ledger.close()
    copied(folder)
    runs = Seen(tmp_path).runs
    assert runs["run"].data.tags[NOTE].startswith("**The run ended without a word.**")
    assert f"golf run --resume {folder}" in runs["run"].data.tags[NOTE]
    assert "ended without a word" in runs["seed 1337"].data.tags[NOTE]


@given(st.text(max_size=600))
@example("a|b\n<script> **x** [y](z) `c` & d_e")
@settings(max_examples=examples(300))
def test_texts_mean_nothing_in_markdown(text: str) -> None:
    shown = escaped(text)
    assert not re.search(r"[<>|\n\r]", shown) and len(shown) <= 5 * 400
    plain = re.sub(r"&(#124|amp|lt|gt);", "", shown)
    plain = re.sub(r"\\([\\`*_{}\[\]#~!])", "", plain)
    assert not re.search(r"[\\`*_{}\[\]#~!]", plain)


def test_a_hostile_folder_cannot_draw(tmp_path: Path) -> None:
    """Texts of files do not become rows, links or commands; the description fits into a tag."""
    folder = tmp_path / "run ``` | <b>"
    result = whole_run(folder, (42,), train=1, evaluate=1)
    evil = "x | ✓ | <img src=x onerror=alert(1)>\n\n# [click](javascript:alert(1)) ```"
    seeds = tuple(replace(result.seeds[0], seed=n, error=evil * 50, status="failed") for n in range(400))
    bad = tuple(replace(c, name=evil, detail=evil * 50, holds=None) for c in result.claim.conditions)
    claim = replace(result.claim, sentence=evil, conditions=bad)
    note = claim_note(view_of(folder), replace(result, seeds=seeds, claim=claim))
    head, _, rest = note.partition("````\n")
    command, _, _ = rest.partition("\n````")
    assert "golf show '" in command and "<b>" in command
    assert "<img" not in note and not re.search(r"^#", note, re.MULTILINE) and "[click]" not in head
    assert {line.count("|") for line in head.splitlines() if line.startswith("| ?")} == {4}
    assert "… and 375 more" in note
    sound = tuple(replace(seed, error=None, status="finished") for seed in seeds)
    note = claim_note(view_of(folder), replace(result, seeds=sound))
    assert len(note) < MAX_TAG_CHARS and "golf reproduce" in note
    assert len(running_note(view_of(folder))) < 500


# --- data -----------------------------------------------------------------------------------------------


def test_data(arranged: tuple[Path, dict[str, Any], RunResult]) -> None:
    import mlflow

    _, runs, _ = arranged
    for name in ("run", "seed 42", "seed 2024"):
        found = {item.tags[0].value: item.dataset for item in runs[name].inputs.dataset_inputs}
        assert set(found) == {"training", "validation"}, name
        assert found["training"].name == "sp1024, training" and len(found["training"].digest) == 32
        assert found["training"].digest != found["validation"].digest
        assert json.loads(found["training"].profile) == {"num_tokens": 200_000, "num_shards": 2}
        assert json.loads(found["validation"].profile) == {"num_tokens": 1000, "num_shards": 1}
        assert mlflow.data.get_source(found["validation"]).to_dict() == {"uri": "data/sp1024"}


def test_other_data_has_another_digest(folder: Path, tmp_path: Path) -> None:
    whole_run(folder, (42,), train=1)
    record = add_data(folder, tmp_path / "tokenizer.model")
    view = view_of(folder)
    first = parent_ending(view, PLAIN)
    changed = {**record.checksums, "fineweb_train_000001.bin": "d" * 64}
    strict_json.save(replace(record, checksums=changed), folder / "seed-42" / "data.json")
    second = parent_ending(view, PLAIN)
    assert first.data[0].digest != second.data[0].digest
    assert first.data[1] == second.data[1] and digest_of(first) != digest_of(second)


@pytest.mark.parametrize("how", ["gone", "another"])
def test_without_the_tokenizer_there_is_no_model(how: str, tmp_path: Path) -> None:
    """That is said once, and nothing is refused."""
    folder, tokenizer = tmp_path / "run", tmp_path / "tokenizer.model"
    whole_run(folder, (42,), train=1)
    record = add_data(folder, tokenizer)
    tokenizer.unlink()
    if how == "another":
        tokenizer.write_bytes(b"another tokenizer")
    said: list[str] = []
    assert model_of(folder / "seed-42" / "model.golf", record, {}, said.append) is None
    assert copied(folder) == said and len(said) == 1 and str(tokenizer) in said[0]
    assert "model" not in Seen(tmp_path).files("seed 42")
