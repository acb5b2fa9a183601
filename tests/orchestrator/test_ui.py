from __future__ import annotations

import io
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from run_builders import add_events, begin_run, begin_seed, chunks, finish_run, finish_seed, steps

from golf_core.errors import UserError
from golf_core.events import Note
from golf_core.files import write_text
from orchestrator.folder.earlier import job_of_run
from orchestrator.folder.redaction import Redactor
from orchestrator.folder.results import JOB
from orchestrator.tracking.store import TRAINING_VIEW, default_uri
from orchestrator.tracking.sync import sync
from orchestrator.tracking.ui import NoResultsError, command_of, serve, store_in

ARGUMENTS = [
    *("--headless=new", "--no-sandbox", "--no-first-run"),
    *(f"--disable-{part}" for part in ("gpu", "quic", "background-networking", "component-update", "sync")),
]
PATIENCE_MS = 60_000
SCREEN = {"width": 1600, "height": 9000}  # MLflow draws only the charts that are on the screen
STEPS, CHUNKS = 120, 12


@contextmanager
def serving(uri: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`serve` in a process of its own on a free port, and the line that it prints."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = "import sys; from orchestrator.tracking.ui import serve; serve(sys.argv[1], int(sys.argv[2]))"
    server = subprocess.Popen([sys.executable, "-c", program, uri, str(port)], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield server, server.stdout.readline()
    finally:
        server.terminate()
        server.communicate(timeout=30)


def answers(line: str) -> bool:
    port = int(line.removeprefix("MLflow: http://127.0.0.1:").partition("/")[0])
    with closing(socket.socket()) as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def fill(output: Path) -> tuple[str, str, str]:
    """A store with one small run in it; ids of experiment, parent and child."""
    from mlflow import MlflowClient

    folder = output / "smoke-1"
    ledger = begin_run(folder)
    place = begin_seed(folder, ledger, 42)
    add_events(place, steps(STEPS))
    add_events(place, chunks(CHUNKS))
    add_events(place, [Note("seen through the pages")])
    finish_run(folder, ledger, (finish_seed(folder, ledger, 42, 1.98765),))
    sync(folder, None, Redactor.from_environment({}), print)
    client = MlflowClient(default_uri(output))
    experiment = client.get_experiment_by_name("parameter-golf").experiment_id
    runs = {run.info.run_name: run.info.run_id for run in client.search_runs([experiment])}
    return experiment, runs["smoke-1"], runs["seed 42"]


class Pages:
    """The store's pages in a real browser."""

    def __init__(self, page: Any, base: str, runs_page: str, run_ids: tuple[str, str, str]) -> None:
        self.page, self.base, self.runs_page = page, base, runs_page
        self.experiment, self.parent, self.child = run_ids

    def open(self, path: str, *texts: str) -> str:
        """Text of the page at `path` once all of `texts` are to be seen."""
        self.page.goto("about:blank")  # else a change after '#' alone reloads nothing
        self.page.goto(
            path if path.startswith("http") else f"{self.base}/#/experiments/{self.experiment}/{path}?{TRAINING_VIEW}"
        )
        for text in texts:
            self.page.get_by_text(text).first.wait_for(timeout=PATIENCE_MS)
        return str(self.page.inner_text("body"))

    def shoot(self, path: Path) -> None:
        """Save a picture of the page, and see that there is something on it."""
        from PIL import Image

        self.page.screenshot(path=path)
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG")
        image = Image.open(io.BytesIO(content)).convert("RGB")
        assert image.size == (SCREEN["width"], SCREEN["height"])
        assert len(image.getcolors(1 << 24) or ()) > 50


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip(f"no browser is installed: none of {', '.join(names)} is on the path")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    output = tmp_path_factory.mktemp("out")
    run_ids = fill(output)
    profile = tmp_path_factory.mktemp("profile")
    with serving(default_uri(output)) as (_, line), api.sync_playwright() as driver:
        assert line.startswith("MLflow: http://127.0.0.1:"), line
        runs_page = line.split()[1]
        context = driver.chromium.launch_persistent_context(
            profile, executable_path=browser, args=ARGUMENTS, viewport=SCREEN
        )
        try:
            yield Pages(context.new_page(), runs_page.partition("/#")[0], runs_page, run_ids)
        finally:
            context.close()


@pytest.mark.browser
@pytest.mark.parametrize(
    ("page", "waited_for", "figures"),
    [
        ("{runs_page}", ["smoke-1"], []),  # at the printed address
        (
            "runs/{parent}",
            ["claim/bpb_mixture_mean", "No claim", "baseline.mean", "seed 42"],
            ["1.98765", "verdict", "1 finished, at least 3 needed", "Finished"],
        ),
        (
            "runs/{child}",
            ["bpb/mixture", "hardware", "smoke-1"],
            ["1.98765", "15800050", "8 x NVIDIA H100 80GB HBM3"],
        ),
    ],
)
def test_pages_show_the_run(page: str, waited_for: list[str], figures: list[str], pages: Pages, tmp_path: Path) -> None:
    text = pages.open(page.format(**vars(pages)), *waited_for)
    assert [figure for figure in figures if figure not in text] == []
    pages.shoot(tmp_path / "page.png")


@pytest.mark.browser
def test_charts_of_the_child(pages: Pages, tmp_path: Path) -> None:
    pages.open(f"runs/{pages.child}/model-metrics", "bpb_mixture", "weight_unigram", "train")
    # A chart is there when its line is: three scores and two weights by chunk, four series by step.
    lines = pages.page.locator(".js-plotly-plot .scatterlayer path.js-line")
    lines.nth(8).wait_for(timeout=PATIENCE_MS, state="attached")  # a level line counts as hidden
    text = pages.page.inner_text("body")
    for name in ("eval/bpb_mixture", "eval/weight_unigram", "train/loss", "train/tokens_per_s"):
        assert f"seed 42 ({name})" in text, name
    pages.shoot(tmp_path / "charts.png")


@pytest.mark.browser
def test_files_of_the_child(pages: Pages, tmp_path: Path) -> None:
    pages.open(f"runs/{pages.child}/artifacts", "log.jsonl")
    pages.page.get_by_text("log.jsonl").first.click()
    pages.page.get_by_text("seen through the pages").first.wait_for(timeout=PATIENCE_MS)
    pages.shoot(tmp_path / "files.png")


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("empty") / "run"
    begin_run(folder).close()
    sync(folder, None, Redactor.from_environment({}), print)
    return default_uri(folder.parent)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)])
def test_no_server_outlives_its_command(number: signal.Signals, code: int, empty_store: str) -> None:
    with serving(empty_store) as (server, line):
        assert answers(line)
        server.send_signal(number)
        assert server.wait(timeout=20) == code
        deadline = time.monotonic() + (20 if number == signal.SIGKILL else 0)
        while answers(line) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not answers(line)


def test_addresses(tmp_path: Path, empty_store: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NoResultsError, match=r"mlflow\.db: no results yet; `golf run` with a job file makes some"):
        serve(default_uri(tmp_path), None)
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}: cannot listen"):
            serve(empty_store, port)
    serve("https://mlflow.example.org", None)
    assert store_in(tmp_path) == default_uri(tmp_path)
    assert capsys.readouterr().out == "MLflow: https://mlflow.example.org\n"


def test_the_command_that_is_printed_opens_the_runs_store(tmp_path: Path) -> None:
    """Where the runs of a folder went to a server, `golf ui` on the folder goes there as well."""
    run = tmp_path / "two words" / "run"
    begin_run(run).close()
    job = job_of_run(run, {})
    assert command_of(job, run) == f"golf ui '{run.parent}'" and store_in(run.parent) == default_uri(run.parent)
    for uri in ("http://there.example:5000", f"sqlite:///{tmp_path}/other.db"):
        named = job_of_run(run, {"mlflow.tracking_uri": uri})
        assert command_of(named, run) == f"golf ui --uri {uri}"
        write_text(run / JOB, json.dumps(named.to_dict()))
        assert store_in(run.parent) == uri
