"""The report of a run: what a browser shows is what the run's folder says."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from browser import axe_violations, chromium, page  # noqa: F401
from claim_builders import failed, finished, job
from drawing import examples
from full_size import NASTY, as_json, full_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up import spoil_file
from run_builders import begin_run, finish_run, whole_run
from typer.testing import CliRunner

from dashboards.commands import REPORT, write_report
from dashboards.report import write_comparison, write_run_report
from golf_core import strict_json
from golf_core.errors import ConfigError, GolfError
from orchestrator.claim.judge import judge
from orchestrator.cli import extended
from orchestrator.folder.results import RunResult
from orchestrator.plugins import run_written

SCORES = {"neural": 3, "mixture": 4, "published": 5}
"""Columns of the seeds' table, from 1."""
BREAKDOWNS = "seed-*/breakdown.json"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A full-size run."""
    folder = tmp_path_factory.mktemp("output") / "full-20260401"
    full_run(folder)
    return folder


@pytest.fixture(scope="module")
def report(run: Path) -> Path:
    write_report(run)
    return run / REPORT


@pytest.fixture
def opened(page: Any, report: Path) -> Any:
    """The report in a browser."""
    page.goto(report.as_uri())
    return page


def figure(page: Any, selector: str) -> float:
    return float(page.text_content(selector).replace(",", ""))


def exact(page: Any, selector: str) -> float:
    """The figure behind a cell."""
    return float(page.get_attribute(selector, "data-value"))


def data_of(page: Any, chart: str) -> list[dict[str, str]]:
    """The download behind a chart."""
    text = unquote(page.get_attribute(f"#fig-{chart} a.data", "href").partition(",")[2])
    return list(csv.DictReader(io.StringIO(text, newline="")))


@pytest.mark.browser
def test_the_figures_are_those_of_the_result(opened: Any, run: Path) -> None:
    page, result = opened, as_json(run / "result.json")
    assert page.text_content("#verdict") == result["claim"]["verdict"]
    assert page.text_content("#sentence") == result["claim"]["sentence"]
    rows = page.locator("#seeds-table tbody tr")
    assert rows.count() == len(result["seeds"])
    for number, seed in enumerate(result["seeds"], start=1):
        place = f"#seeds-table tbody tr:nth-child({number})"
        assert page.text_content(f"{place} th") == str(seed["seed"])
        for scorer, column in SCORES.items():
            cell = f"{place} > :nth-child({column})"
            assert figure(page, cell) == pytest.approx(seed["evaluate"][scorer]["bpb"], abs=5.1e-6)
            assert exact(page, cell) == seed["evaluate"][scorer]["bpb"]
        total = seed["export"]["weight_bytes"] + seed["export"]["code_bytes"]
        assert figure(page, f"{place} > :nth-child(7)") == total
    mean = "#seeds-table tfoot tr:first-child > :nth-child(4)"
    assert exact(page, mean) == result["claim"]["scores"]["mixture"]["mean"]
    conditions = page.locator("#conditions tbody tr").all_text_contents()
    assert len(conditions) == len(result["claim"]["conditions"])
    for shown, condition in zip(conditions, result["claim"]["conditions"], strict=True):
        assert condition["name"] in shown and condition["detail"] in shown
        assert {True: "✓ holds", False: "✗ fails", None: "? unknown"}[condition["holds"]] in shown
    tests = page.locator("#tests tbody tr").all_text_contents()
    assert f"{result['claim']['tests'][0]['p']:.2g}" in tests[0]


@pytest.mark.browser
def test_the_data_behind_the_charts_are_exact(opened: Any, run: Path) -> None:
    page, result = opened, as_json(run / "result.json")
    running = data_of(page, "running-bpb")
    history = result["seeds"][0]["evaluate"]["history"]
    assert [int(row["chunk"]) for row in running] == [record["chunk"] for record in history]
    for row, record in zip(running[::100], history[::100], strict=True):
        assert float(row["mixture, seed 42"]) == pytest.approx(record["bpb"]["mixture"], abs=5.1e-7)
    events = [json.loads(line) for line in (run / "seed-1337" / "log.jsonl").read_text().splitlines()]
    losses = {e["step"]: e["loss"] for e in events if e["kind"] == "train_step"}
    shown = {int(row["step"]): float(row["seed 1337"]) for row in data_of(page, "loss-steps")}
    assert shown == losses
    evaluated = result["seeds"][2]["evaluate"]
    spent = {row["part"]: float(row["s"]) for row in data_of(page, "eval-budget") if row["row"] == "seed 2024"}
    assert sum(spent.values()) == evaluated["seconds"]
    assert {name: spent[name] for name in evaluated["seconds_by_phase"]} == evaluated["seconds_by_phase"]
    sums = data_of(page, "kraft-sums")
    audit = as_json(run / "seed-42" / "audit.json")["sums"]
    own = [row for row in sums if row["seed"] == "42"]
    assert [(r["score"], float(r["sum"])) for r in own] == [(s["score"], s["total"]) for s in audit]


@pytest.mark.browser
def test_pointer_and_keyboard_read_the_exact_figures_off_a_chart(opened: Any, run: Path) -> None:
    chart, tip = opened.locator("#fig-running-bpb svg"), opened.locator("#fig-running-bpb .tip")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    opened.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] / 2)
    chunk = int(tip.locator("b").text_content().split()[1])
    record = as_json(run / "result.json")["seeds"][0]["evaluate"]["history"][chunk - 1]
    # The middle of the picture is left of the middle of the axis, which has figures beside it.
    assert 1893 * 0.40 < chunk < 1893 * 0.50
    assert f"mixture, seed 42: {round(record['bpb']['mixture'], 6)}" in tip.inner_text()
    opened.mouse.move(0, 0)
    assert tip.is_hidden()
    opened.locator("#fig-loss-steps svg").focus()
    tip = opened.locator("#fig-loss-steps .tip")
    for key, step in ((None, 6000), ("ArrowLeft", 5999), ("Home", 1)):
        if key is not None:
            opened.keyboard.press(key)
        assert tip.locator("b").text_content() == f"step {step}"
    opened.keyboard.press("Escape")
    assert tip.is_hidden()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1100])
def test_it_is_accessible(page: Any, report: Path, scheme: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.goto(report.as_uri())
    assert axe_violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"


@pytest.mark.browser
def test_it_needs_no_network(page: Any, report: Path) -> None:
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report.as_uri(), wait_until="networkidle")
    page.locator("#fig-running-bpb svg").hover()
    assert [url for url in asked if not url.startswith(("file://", "data:"))] == []


@pytest.mark.browser
def test_text_is_shown_and_not_obeyed(opened: Any) -> None:
    first = opened.locator(".excerpt .text").first
    assert first.inner_text().startswith(NASTY.replace("\x1b", "\\x1b"))
    assert first.locator("b").count() == 0
    shaded = first.locator("span").nth(1)
    assert re.fullmatch(r"model \d\.\d\d bits, mixture \d\.\d\d bits", shaded.get_attribute("title"))


@pytest.mark.browser
def test_on_paper_nothing_is_cut_off(opened: Any) -> None:
    opened.emulate_media(media="print")
    assert opened.locator("nav").is_hidden()
    assert opened.locator("#fig-running-bpb svg").is_visible()


def test_it_is_small_and_the_same_run_gives_the_same_again(run: Path, report: Path, tmp_path: Path) -> None:
    """Three seeds, 1,893 chunks, 6,000 steps."""
    assert report.stat().st_size < 3_000_000
    assert write_run_report(run, tmp_path / "again.html").read_bytes() == report.read_bytes()


# --- runs that lack something ----------------------------------------------------------------------


def text_of(path: Path) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", path.read_text()))


def report_text(folder: Path) -> str:
    """The words of the report of the run in `folder`."""
    return text_of(write_run_report(folder, folder.parent / "r.html"))


def changed(run: Path, folder: Path, records: str, change: Callable[[Any], Any]) -> Path:
    """A copy of `run` in `folder` each of whose `records` is changed."""
    shutil.copytree(run, folder)
    for place in folder.glob(records):
        values = as_json(place)
        change(values)
        place.write_text(json.dumps(values))
    return folder


def test_a_run_without_series(tmp_path: Path) -> None:
    """An older run: no breakdown, no audit report, no history."""
    result = whole_run(tmp_path / "old")
    text = report_text(tmp_path / "old")
    assert result.claim.sentence in text
    assert "The scores after each chunk are not in this result." in text
    assert "The evaluation was not audited from outside." in text
    assert "Where the losses lie" not in text


def test_a_run_whose_seeds_all_failed(tmp_path: Path) -> None:
    folder = tmp_path / "failed"
    ledger = begin_run(folder, (42, 43))
    finish_run(folder, ledger, (replace(failed(42, "it <broke>"), train=None), failed(43)))
    text = report_text(folder)
    assert "Seed 42 failed: it &lt;broke&gt;" in text and "No claim" in text


def test_a_run_without_baseline_or_with_one_seed(tmp_path: Path) -> None:
    made, seeds, folder = job(seeds=[42], baseline=None), (finished(42, 1.1),), tmp_path / "alone"
    finish_run(folder, begin_run(folder, (42,)), seeds)
    result = RunResult(made.name, "alone", made, {}, seeds, judge(made, seeds), 1.7e9, 1.7e9 + 5)
    strict_json.save(result, folder / "result.json")
    text = report_text(folder)
    assert "Against the baseline" not in text and "1.10000" in text


@pytest.mark.parametrize("name", ["audit.json", "breakdown.json", "log.jsonl", "data.json"])
@pytest.mark.parametrize("damage", [b"", b"{}", b"[1, 2", b"\xff\xfe" * 50])
def test_what_is_damaged_is_left_out_and_named(name: str, damage: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    full_run(folder, steps=20, chunks=12, seeds=(42,))
    (folder / "seed-42" / name).write_bytes(damage)
    text = report_text(folder)
    assert "Reasons" in text
    if name != "log.jsonl":
        assert "Not shown in this report:" in text and name in text


MADE_UP = [f"seed-42/{name}" for name in ("audit.json", "breakdown.json", "log.jsonl", "data.json", "result.json")]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "run"
    full_run(folder, steps=20, chunks=12, seeds=(42, 1337))
    assert "cannot be read" not in text_of(write_run_report(folder, folder / "r.html"))
    assert "cannot be read" not in text_of(write_comparison(folder, folder, folder / "c.html"))
    return folder


@settings(max_examples=examples(80), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_made_up_figures_end_in_a_page_or_a_sentence(data: st.DataObject, sound: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(sound, folder)
    spoil_file(folder / data.draw(st.sampled_from([*MADE_UP, "result.json"])), data)
    for write in (write_run_report, lambda run, out: write_comparison(sound, run, out)):
        try:
            text = text_of(write(folder, tmp_path / "r.html"))
        except GolfError as error:
            lines = str(error).split("\n")  # several mistakes are a line each, which names the file
            assert len(lines) == 1 or all(line.startswith(str(folder)) for line in lines)
        else:
            assert str(folder.name) in text


def test_a_section_that_cannot_be_drawn_says_so(sound: Path, tmp_path: Path) -> None:
    text = report_text(changed(sound, tmp_path / "run", BREAKDOWNS, lambda b: b["chunks"][0]["nats"].pop("neural")))
    assert "Where the losses lie Not shown: its figures cannot be read (KeyError)." in text
    assert text.count("cannot be read") == 1 and "Budgets" in text


def test_no_result_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"result\.json"):
        write_run_report(tmp_path, tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_the_end_of_a_run_writes_it_and_one_that_fails_spoils_nothing(run: Path, tmp_path: Path) -> None:
    said: list[str] = []
    (run / REPORT).unlink(missing_ok=True)
    run_written(run, said.append)
    assert said == [] and (run / REPORT).exists()
    run_written(tmp_path, said.append)  # no run's folder
    (sentence,) = said
    assert sentence.startswith("warning: the report failed") and "figures are not touched" in sentence


# --- comparisons -----------------------------------------------------------------------------------


@pytest.mark.browser
def test_two_runs_paired_by_chunk(page: Any, run: Path, tmp_path: Path) -> None:
    shift = 0.01

    def better(breakdown: Any) -> None:
        for chunk in breakdown["chunks"]:
            chunk["nats"]["mixture"] -= shift * chunk["tokens"]

    path = write_comparison(run, changed(run, tmp_path / "other", BREAKDOWNS, better), tmp_path / "compare.html")
    page.goto(path.as_uri())
    row = "#paired tbody tr:has(th:text-is('mixture'))"
    for column in (2, 3, 4):
        assert exact(page, f"{row} > :nth-child({column})") == pytest.approx(-shift)
    assert figure(page, f"{row} > :nth-child(5)") == 1893
    neural = "#paired tbody tr:has(th:text-is('neural')) > :nth-child(2)"
    assert exact(page, neural) == 0
    result = as_json(run / "result.json")
    first = "#scores tbody tr:has(th:text-is('mixture')) > :nth-child(2)"
    assert exact(page, first) == result["claim"]["scores"]["mixture"]["mean"]
    assert axe_violations(page) == []


def test_other_texts_are_not_paired(run: Path, tmp_path: Path) -> None:
    other = changed(run, tmp_path / "other", BREAKDOWNS, lambda b: b.update(text_sha256="0" * 64))
    text = text_of(write_comparison(run, other, tmp_path / "c.html"))
    assert "cannot be paired" in text and "Paired by chunk" not in text


def test_what_differs_is_listed(sound: Path, tmp_path: Path) -> None:
    def warmer(result: Any) -> None:
        result["job"]["config"]["train"]["warmup_steps"] = 30

    other = changed(sound, tmp_path / "other", "result.json", warmer)
    assert "config.train.warmup_steps 20 30" in text_of(write_comparison(sound, other, tmp_path / "c.html"))


# --- the command -----------------------------------------------------------------------------------


def test_the_command(run: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(extended(), ["report", str(run), "--out", str(tmp_path / "r.html")])
    assert done.exit_code == 0 and str(tmp_path / "r.html") in done.stdout.replace("\n", "")
    assert (tmp_path / "r.html").stat().st_size > 100_000
    done = CliRunner().invoke(extended(), ["report", str(run), str(run), "--out", str(tmp_path / "c.html")])
    assert done.exit_code == 0 and "Chunk by chunk" in (tmp_path / "c.html").read_text()
