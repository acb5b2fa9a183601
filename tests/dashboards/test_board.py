"""The board: what a browser shows of running and past runs is what their folders say, and it keeps up with them."""

from __future__ import annotations

import html
import http.server
import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from board_tools import board, free_port, get, wait_for, watched
from browser import axe_violations, chromium, page  # noqa: F401
from full_size import as_json, full_run
from run_builders import T0, add_events, begin_run, begin_seed, finish_run, finish_seed, steps

from golf_core.events import Gpu, Note, PhaseStarted, System
from orchestrator.folder.ledger import Ledger

NASTY = "<img src=x onerror=alert(1)>\x1b[31m"
GPUS = tuple(Gpu(i, utilisation_percent=90.0 + i, memory_mib=20_480.0) for i in range(2))
SYSTEM = System(cpu_percent=41.0, memory_mib=8192.0, gpus=GPUS, time=T0 + 11)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Runs of every kind, none of which changes: reading never writes."""
    folder = tmp_path_factory.mktemp("output")
    full_run(folder / "whole", steps=60, chunks=12)
    begin_run(folder / "broken").close()
    (folder / "broken" / "job.json").write_text("{")
    ledger = begin_run(folder / "interrupted", (42, 43))
    add_events(begin_seed(folder / "interrupted", ledger, 42), steps(7))
    ledger.close()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    yield folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.fixture(scope="module")
def address(output: Path) -> Iterator[str]:
    with board(output) as address:
        yield address


# --- in a browser ----------------------------------------------------------------------------------


@pytest.mark.browser
def test_the_list_and_a_finished_run(page: Any, address: str, output: Path) -> None:
    page.goto(address)
    assert page.locator("#runs tbody tr").count() == 3
    result = as_json(output / "whole" / "result.json")
    summary = result["claim"]["scores"]["mixture"]
    row = "#runs tr[data-run=whole]"
    assert page.text_content(f"{row} .mixture") == f"{summary['mean']:.5f} ± {summary['sd']:.5f}"
    assert page.text_content(f"{row} .status") == "finished"
    assert page.text_content(f"{row} .verdict-cell") == result["claim"]["verdict"]
    assert page.text_content("#runs tr[data-run=interrupted] .status") == "interrupted"
    assert "job.json" in page.text_content("#runs tr[data-run=broken]")
    page.click(f"{row} a")
    assert page.url == f"{address}/runs/whole"
    assert page.text_content("#verdict") == result["claim"]["verdict"]
    assert page.text_content("#sentence") == result["claim"]["sentence"]
    for seed in result["seeds"]:
        row = f"#seeds tr[data-seed='{seed['seed']}']"
        for scorer in ("neural", "mixture", "published"):
            assert page.text_content(f"{row} .{scorer}") == f"{seed['evaluate'][scorer]['bpb']:.5f}"
        total = seed["export"]["weight_bytes"] + seed["export"]["code_bytes"]
        assert page.text_content(f"{row} .bytes") == f"{total:,}"
        assert page.text_content(f"{row} .gpu") == "97 % of 8 GPUs, 21.5 GiB at the most"
    conditions = page.locator("#conditions tbody tr").all_text_contents()
    assert len(conditions) == len(result["claim"]["conditions"])
    assert page.locator("#fig-loss path.curve").count() == 3 and page.locator("#fig-bpb path.curve").count() == 3


@pytest.mark.browser
def test_a_run_is_shown_as_it_goes_on(page: Any, tmp_path: Path) -> None:
    """Each thing that happens is on the page two seconds later, without a reload."""
    folder = tmp_path / "live"
    ledger = begin_run(folder, (42, 43), cost__per_node_hour=20.0)
    with watched(page, tmp_path) as address:
        page.goto(f"{address}/runs/live")
        page.evaluate("window.untouched = true")
        assert page.text_content("#seeds tr[data-seed='43'] .status") == "queued"
        assert "waits for room: 8 ranks, one H100 each" in page.text_content("#gangs")
        place = begin_seed(folder, ledger, 42)
        add_events(place, [PhaseStarted("train", 40, time=T0)])
        wait_for(page, "tr[data-seed='42'] .phase", "train")
        assert "8 x NVIDIA H100 80GB HBM3 on node-a" in page.text_content("#gangs")
        add_events(place, [*[*steps(40)][:10], SYSTEM])
        wait_for(page, "tr[data-seed='42'] .done", "10 of 40")
        row = "tr[data-seed='42']"
        assert page.text_content(f"{row} .loss") == f"{7 - 10 / 40:.4f}"
        assert page.text_content(f"{row} .ms") == "5.5" and page.text_content(f"{row} .eta") == "2.0 s"
        assert page.text_content(f"{row} .gpu") == "90 % of 2 GPUs, 20.0 GiB at the most"
        assert page.text_content(f"{row} .node") == "CPU 41 %, memory 8.0 GiB"
        assert page.get_attribute(f"{row} progress", "value") == "0.2500"
        assert "train 10/40" in page.text_content("#tail-42")
        assert page.title() == "25 % train - live"
        result = finish_seed(folder, ledger, 42, 1.115)
        wait_for(page, f"{row} .status", "finished")
        assert "1 of 2 seeds have ended" in page.text_content("#sentence")
        assert page.text_content("#mixture") == "1.11500"
        begin_seed(folder, ledger, 43)
        other = finish_seed(folder, ledger, 43, 1.114)
        done = finish_run(folder, ledger, (result, other))
        wait_for(page, "#verdict", done.claim.verdict)
        assert page.text_content("#sentence") == done.claim.sentence
        assert page.evaluate("window.untouched"), "the page was loaded again"


@pytest.mark.browser
def test_it_outlives_the_board_and_the_folder(page: Any, tmp_path: Path) -> None:
    """Another server on the port is not the board: what it answers is not shown."""
    folder, port = tmp_path / "live", free_port()
    page.expected = ("Failed to load resource",)
    ledger = begin_run(folder, (42,))
    with board(tmp_path, port) as address:
        page.goto(f"{address}/runs/live")
        wait_for(page, "#connection", "live at")
    handler = http.server.SimpleHTTPRequestHandler
    handler.log_message = lambda *_: None  # type: ignore[method-assign]
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as stranger:
        threading.Thread(target=stranger.serve_forever, daemon=True).start()
        wait_for(page, "#connection", "not connected since", 6)
        assert page.text_content("h1") == "live"
        stranger.shutdown()
    add_events(begin_seed(folder, ledger, 42), steps(3))
    with board(tmp_path, port):
        wait_for(page, "#connection", "live at", 6)
        wait_for(page, "tr[data-seed='42'] .loss", "6.0000", 6)
        folder.rename(tmp_path / "away")
        wait_for(page, "h1", "No such run")
        (tmp_path / "away").rename(folder)
        wait_for(page, "h1", "live")
        page.goto("about:blank")
    ledger.close()


@pytest.mark.browser
def test_text_is_shown_and_not_obeyed(page: Any, tmp_path: Path) -> None:
    folder = tmp_path / "a <b>run"
    ledger = begin_run(folder, (42,))
    place = begin_seed(folder, ledger, 42)
    add_events(place, [Note(NASTY, time=T0)])
    ledger.append("seed_finished", seed=42, attempt=1, status="failed", failure="x", stage="train", error=NASTY)
    ledger.append("run_finished", verdict="no claim")
    ledger.close()
    shown = "<img src=x onerror=alert(1)>\\x1b[31m"
    with watched(page, tmp_path) as address:
        page.goto(address)
        page.click("#runs a")
        assert page.text_content("h1") == "a <b>run"
        assert shown in page.text_content("#tail-42") and shown in page.text_content(".error")
        assert page.locator("main img, main b").count() == 0


@pytest.mark.browser
def test_what_the_reader_opened_selected_and_focused_stays(page: Any, tmp_path: Path) -> None:
    ledger = begin_run(tmp_path / "live", (42, 43))
    place = begin_seed(tmp_path / "live", ledger, 42)
    add_events(place, [Note("first", time=T0)])
    with watched(page, tmp_path) as address:
        page.goto(f"{address}/runs/live")
        page.click("#log-42 summary")
        assert page.get_attribute("#log-42", "open") is None
        page.focus("#seeds-scroll")
        add_events(place, [*steps(3)])
        wait_for(page, "tr[data-seed='42'] .loss", "6.0000")
        assert page.get_attribute("#log-42", "open") is None
        assert page.evaluate("document.activeElement.id") == "seeds-scroll"
        page.goto(address)
        page.focus("tr[data-run=live] a")
        page.evaluate("getSelection().selectAllChildren(document.querySelector('tr[data-run=live] a'))")
        begin_run(tmp_path / "second", (42,)).close()
        page.locator("tr[data-run=second]").wait_for()
        assert page.locator("#runs tbody tr").count() == 2
        assert page.evaluate("document.activeElement.textContent") == "live"
        assert page.evaluate("getSelection().toString()") == "live"
        shutil.rmtree(tmp_path / "second")
        page.locator("tr[data-run=second]").wait_for(state="detached")
        assert page.evaluate("getSelection().toString()") == "live"
    ledger.close()


@pytest.mark.browser
@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (390, "light"),
        (1100, "dark"),
        pytest.param(390, "dark", marks=pytest.mark.slow),
        pytest.param(1100, "light", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("place", ["", "runs/whole", "runs/interrupted", "runs/broken"])
def test_it_is_accessible(page: Any, address: str, place: str, width: int, scheme: str) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{address}/{place}")
    assert axe_violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"


# --- without one -----------------------------------------------------------------------------------


def test_the_figures_as_json(address: str, output: Path) -> None:
    status, text, _ = get(f"{address}/api/runs")
    found = {run["run_id"]: run for run in json.loads(text)}
    assert status == 200 and set(found) == {"whole", "broken", "interrupted"}
    assert found["broken"]["status"] == "damaged" and found["interrupted"]["status"] == "interrupted"
    one = json.loads(get(f"{address}/api/runs/whole")[1])
    result = as_json(output / "whole" / "result.json")
    assert one["verdict"] == result["claim"]["verdict"] and one["claim"]["scores"] == result["claim"]["scores"]
    assert len(one["seeds"][0]["loss_series"]) == 60
    assert json.loads(get(f"{address}/api/runs/interrupted")[1])["seeds"][0]["done"] == 7


def test_it_is_read_without_scripts(address: str, output: Path) -> None:
    text = get(f"{address}/runs/whole")[1]
    assert as_json(output / "whole" / "result.json")["claim"]["sentence"] in html.unescape(text)
    assert 'http-equiv="refresh"' in text


def test_what_has_not_changed_is_not_sent_again(address: str) -> None:
    status, text, headers = get(f"{address}/?content=1")
    assert status == 200 and "<html" not in text
    again, nothing, _ = get(f"{address}/?content=1", If_None_Match=headers["ETag"])
    assert (again, nothing) == (304, "")


@pytest.mark.parametrize(
    "path", ["runs/none", "runs/..%2f..%2fetc", "runs/%2e%2e", "runs/whole%2f..", "api/runs/none", "runs/a%00b"]
)
def test_nothing_else_is_found(address: str, path: str) -> None:
    status, text, _ = get(f"{address}/{path}")
    assert status == 404 and "Traceback" not in text


def test_a_report_is_shown_in_a_sandbox(tmp_path: Path) -> None:
    full_run(tmp_path / "whole", steps=10, chunks=9, seeds=(42,))
    with board(tmp_path) as address:
        assert get(f"{address}/runs/whole/report")[0] == 404
        os.mkfifo(tmp_path / "whole" / "report.html")
        assert get(f"{address}/runs/whole/report")[0] == 404, "no plain file"
        (tmp_path / "whole" / "report.html").unlink()
        (tmp_path / "whole" / "report.html").write_text("<p>the report")
        status, text, headers = get(f"{address}/runs/whole/report")
        assert (status, text) == (200, "<p>the report")
        assert headers["Content-Security-Policy"].startswith("sandbox") and "same-origin" not in text


def test_no_runs(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "missing"):
        with board(place) as address:
            assert "There are no runs yet" in get(address)[1]
            assert json.loads(get(f"{address}/api/runs")[1]) == []


def test_a_run_that_was_gone_on_with(tmp_path: Path) -> None:
    """What was known of an older state is not shown any more."""
    folder = tmp_path / "run"
    ledger = begin_run(folder, (42,))
    begin_seed(folder, ledger, 42)
    ledger.append("run_stopped", reason="stopped by the user")
    ledger.close()
    with board(tmp_path) as address:
        assert json.loads(get(f"{address}/api/runs/run")[1])["status"] == "stopped"
        held = Ledger(folder)
        held.append("run_started", attempt=2, provenance={})
        assert json.loads(get(f"{address}/api/runs/run")[1])["status"] == "running"
        held.close()
