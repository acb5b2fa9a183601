"""The metrics that the driver gives Ray, and the Grafana dashboard whose queries a real Prometheus answers."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from board_tools import free_port
from claim_builders import finished, job
from hypothesis import given
from hypothesis import strategies as st
from run_builders import begin_run, begin_seed, chunks, fail_seed, finish_seed, steps
from tiny import OVERRIDES, golf, only_run, write_job

from golf_core import strict_json
from golf_core.events import Gpu, PhaseFinished, PhaseStarted, System, Validation
from golf_core.files import write_text
from orchestrator.folder.event_log import event_of
from orchestrator.folder.results import RunResult
from orchestrator.run.prometheus import ALL_SERIES, PREFIX, RUN_TAGS, TARGETS, RunMetrics, Series

REPO = Path(__file__).resolve().parents[2]
GRAFANA = REPO / "dashboards" / "grafana"
DASHBOARD = json.loads((GRAFANA / "golf.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
GPU = Gpu(3, memory_mib=1024.0, memory_total_mib=81920.0, utilisation_percent=50.0)
EVENTS = [
    PhaseStarted("train", 2),
    *steps(2),
    Validation(2, 2.5, 1.5),
    PhaseFinished("train", 3.0, more={"steps": 2, "val_loss": 2.25, "val_bpb": 1.25}),
    PhaseFinished("export", 1.0, more={"weight_bytes": 900, "code_bytes": 100}),
    PhaseStarted("evaluate", 3),
    *(replace(event, shares={"match": 0.25}, eta_s=1.0) for event in chunks(3)),
    System(cpu_percent=25.0, memory_mib=2.0, memory_total_mib=8.0, process_memory_mib=1.0, gpus=(GPU,)),
]


# --- what is measured -----------------------------------------------------------------------------


class Known:
    """A gauge that remembers what it was last set to."""

    def __init__(self) -> None:
        self.set_to: list[tuple[str, dict[str, str], float]] = []

    def __call__(self, series: Series) -> Any:
        class Gauge:
            def set(_, value: float, tags: dict[str, str]) -> None:  # noqa: N805
                assert set(tags) == set(series.tags)
                self.set_to.append((series.name, tags, value))

        return Gauge()


JOB = job(seeds=[42, 1337], cost__per_node_hour=36.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    begin_run(tmp_path / "tiny-1", (42, 1337), cost__per_node_hour=36.0).close()
    return tmp_path / "tiny-1"


@pytest.fixture
def metrics(folder: Path) -> Iterator[RunMetrics]:
    metrics = RunMetrics(folder, JOB, True, Known())
    yield metrics
    metrics.close()


def values(metrics: RunMetrics, name: str) -> dict[tuple[str, ...], float]:
    """The values of a series by its tags beyond the run's own."""
    found = [(tags, value) for series, tags, value in metrics.samples() if series == name]
    return {tuple(v for k, v in tags.items() if k not in RUN_TAGS): value for tags, value in found}


def trained(metrics: RunMetrics) -> None:
    """Seed 42 begins, and everything is heard of it."""
    metrics.on_start(42, 1)
    for event in EVENTS:
        metrics.on_event(42, event)


def test_every_series_is_filled(metrics: RunMetrics, folder: Path) -> None:
    metrics.on_start(42, 1)
    seen = {name for name, _, _ in metrics.samples()}
    for event in EVENTS:
        metrics.on_event(42, event)
        seen |= {name for name, _, _ in metrics.samples()}
    assert seen == {series.name for series in ALL_SERIES}
    assert {tags["run"] for _, tags, _ in metrics.samples()} == {folder.name}
    assert values(metrics, "golf_train_loss_nats") == {("42",): 6.0}
    assert values(metrics, "golf_step_seconds") == {("42",): 0.0055}
    assert values(metrics, "golf_eval_bpb")["42", "mixture"] == 1.25
    assert values(metrics, "golf_validation_bpb") == {("42",): 1.25}
    assert values(metrics, "golf_gpu_memory_bytes") == {("42", "3"): float(1 << 30)}
    assert values(metrics, "golf_gpu_utilisation_ratio") == {("42", "3"): 0.5}
    assert values(metrics, "golf_phase_info") == {("42", "evaluate"): 1.0}
    assert values(metrics, "golf_phase_seconds") == {("42", "train"): 3.0, ("42", "export"): 1.0}
    assert values(metrics, "golf_mixture_weight") == {("42", "match"): 0.25}
    assert values(metrics, "golf_seeds") == {("queued",): 1, ("running",): 1, ("finished",): 0, ("failed",): 0}


def test_when_a_seed_ends_its_results_stay_and_the_moment_ends(metrics: RunMetrics) -> None:
    trained(metrics)
    result = finished(42, 1.115)
    metrics.on_end(result)
    left = {name for name, tags, _ in metrics.samples() if "seed" in tags}
    assert left == {series.name for series in ALL_SERIES if series.lasts and "seed" in series.tags}
    assert result.export is not None
    assert sum(values(metrics, "golf_artifact_bytes").values()) == result.export.total_bytes
    assert values(metrics, "golf_eval_bpb")["42", "mixture"] == 1.115
    assert values(metrics, "golf_seeds")[("finished",)] == 1


def test_what_a_gpu_does_not_tell_is_left_out(metrics: RunMetrics) -> None:
    gpus = (Gpu(0, memory_mib=1.0), Gpu(1, utilisation_percent=100.0))
    metrics.on_event(42, System(memory_mib=2.0, gpus=gpus))
    assert values(metrics, "golf_gpu_memory_bytes") == {("42", "0"): 2.0**20}
    assert values(metrics, "golf_gpu_utilisation_ratio") == {("42", "1"): 1.0}
    assert values(metrics, "golf_node_memory_bytes") == {("42",): 2.0**21}


def test_another_attempt_begins_with_nothing_of_the_last(metrics: RunMetrics) -> None:
    trained(metrics)
    metrics.on_start(42, 2)
    left = {name: value for name, tags, value in metrics.samples() if "seed" in tags}
    assert left == {"golf_attempts": 2.0, "golf_phase_info": 1.0}


def test_hours_and_cost_go_on_where_an_earlier_driver_ended(tmp_path: Path) -> None:
    folder = tmp_path / "tiny-2"
    ledger = begin_run(folder, (42, 1337))
    begin_seed(folder, ledger, 42)
    time.sleep(0.2)
    fail_seed(ledger, 42, 1)
    begin_seed(folder, ledger, 42, 2)
    finish_seed(folder, ledger, 42, 1.115, 2)
    ledger.close()
    with closing(RunMetrics(folder, JOB, True, Known())) as metrics:
        hours, cost = values(metrics, "golf_node_hours")[()], values(metrics, "golf_cost")[()]
        assert hours * 3600 >= 0.2
        assert cost == pytest.approx(36.0 * hours, rel=0.5)
        assert values(metrics, "golf_seeds")[("finished",)] == 1
    with closing(RunMetrics(folder, job(cost__per_node_hour=None), True, Known())) as metrics:
        names = {name for name, _, _ in metrics.samples()}
        assert "golf_node_hours" in names and "golf_cost" not in names, "a run without a price"


def test_values_are_set_again_and_once_more_at_the_end(folder: Path) -> None:
    known = Known()
    metrics = RunMetrics(folder, JOB, True, known)
    metrics.on_start(42, 1)
    metrics.close()
    assert ("golf_attempts", {"run": "tiny-1", "job_name": JOB.name, "seed": "42"}, 1) in known.set_to
    count = len(known.set_to)
    metrics.on_start(1337, 1)  # after the end: nobody listens
    assert len(known.set_to) == count


plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
wild = st.recursive(plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner))
NAMES = sorted({name for event in EVENTS for name in event.fields} | {"gpus", "phase", "weights"})


@given(st.sampled_from(sorted({event.kind for event in EVENTS})), st.dictionaries(st.sampled_from(NAMES), wild))
def test_no_event_can_end_the_run(kind: Any, fields: dict[str, Any]) -> None:
    known = {event.kind: event.fields for event in EVENTS}
    with tempfile.TemporaryDirectory() as folder:  # no ledger in it: nothing to take up
        metrics = RunMetrics(Path(folder), job(), True, Known())
        with suppress(ValueError):  # no event at all
            metrics.on_event(42, event_of({**known[kind], **fields, "kind": kind, "time": 1.0}))
        assert all(math.isfinite(value) for _, _, value in metrics.samples())
        metrics.close()


def test_gauges_that_fail_end_nothing(folder: Path) -> None:
    def broken(series: Series) -> Any:
        raise RuntimeError("no Ray here")

    metrics = RunMetrics(folder, JOB, True, broken)
    trained(metrics)
    metrics.on_end(finished(42, 1.1))
    metrics.close()


# --- the files ------------------------------------------------------------------------------------


def test_the_dashboard_asks_for_what_is_measured_and_for_all_of_it() -> None:
    asked = {name for _, query in QUERIES for name in re.findall(rf"\b{PREFIX}\w+", query)}
    assert asked == {PREFIX + series.name for series in ALL_SERIES}
    known = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert known == {"datasource", "run", "seed"}
    assert {name for _, query in QUERIES for name in re.findall(r"\$(\w+)", query) if not name.isdigit()} <= known
    for variable in DASHBOARD["templating"]["list"]:
        for name in re.findall(rf"\b{PREFIX}\w+", str(variable["query"])):
            assert name in asked


def test_queries_group_by_tags_that_the_series_have() -> None:
    for title, query in QUERIES:
        for tags, name, chosen in re.findall(rf"max by \(([^)]*)\) \({PREFIX}(\w+)\{{([^}}]*)", query):
            (series,) = (each for each in ALL_SERIES if each.name == name)
            told = set(tags.split(", ")) | set(re.findall(r'(\w+)="', chosen))
            assert told == set(series.tags) - {"job_name"}, title


def test_panels_have_their_place_and_say_what_they_show() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for panel in PANELS:
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == panel["datasource"]["uid"] == "${datasource}"


def test_provisioning_names_what_there_is() -> None:
    sources = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "prometheus.yaml").read_text())
    assert [source["type"] for source in sources["datasources"]] == ["prometheus"]
    (provider,) = yaml.safe_load((GRAFANA / "provisioning" / "dashboards" / "golf.yaml").read_text())["providers"]
    page = (GRAFANA / "README.md").read_text()
    assert provider["options"]["path"] in page
    (scrape,) = yaml.safe_load((GRAFANA / "prometheus.yml").read_text())["scrape_configs"]
    assert all(file.endswith("prom_metrics_service_discovery.json") for file in scrape["file_sd_configs"][0]["files"])


def test_the_page_lists_every_series() -> None:
    page = (GRAFANA / "README.md").read_text()
    rows = re.findall(rf"^\| `{PREFIX}(\w+)` \| ([^|]*) \| ([^|]*) \|$", page, re.MULTILINE)
    assert rows == [(s.name, ", ".join(t for t in s.tags if t not in RUN_TAGS), s.meaning) for s in ALL_SERIES]


# --- a real Prometheus ----------------------------------------------------------------------------


@dataclass
class Prometheus:
    """A Prometheus of our own that reads what `golf run` offers under the temporary directory `place`."""

    place: Path
    port: int

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            return bytes(answer.read())

    def range(self, query: str, start: float, end: float) -> list[tuple[dict[str, str], list[float]]]:
        """The labels and values of every series that answers."""
        asked = urllib.parse.urlencode({"query": query, "start": start, "end": end, "step": 1})
        answer = json.loads(self.get(f"/api/v1/query_range?{asked}"))
        assert answer["status"] == "success"
        return [(each["metric"], [float(v) for _, v in each["values"]]) for each in answer["data"]["result"]]

    def last(self, query: str, start: float, end: float) -> float:
        """What the only series that answers says last."""
        ((_, values),) = self.range(query, start, end)
        return values[-1]


@pytest.fixture
def prometheus() -> Iterator[Prometheus]:
    if shutil.which("prometheus") is None:
        pytest.skip("there is no prometheus here; on Debian: apt-get install --no-install-recommends prometheus")
    # Ray's sockets lie in it: a short name.
    with tempfile.TemporaryDirectory(prefix="golf-prom-", dir="/tmp", ignore_cleanup_errors=True) as name:
        server = Prometheus(Path(name), free_port())
        text = (GRAFANA / "prometheus.yml").read_text().replace("/tmp/ray/", f"{name}/ray/")
        config, log = server.place / "prometheus.yml", server.place / "prometheus.log"
        config.write_text(re.sub(r"interval: \d+s", "interval: 1s", text))
        command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={name}/tsdb", "--log.level=warn"]
        command.append(f"--web.listen-address=127.0.0.1:{server.port}")
        with log.open("w") as file, subprocess.Popen(command, stdout=file, stderr=file) as process:
            try:
                until = time.monotonic() + 60
                while not _ready(server):
                    assert process.poll() is None and time.monotonic() < until, log.read_text()
                    time.sleep(0.2)
                yield server
            finally:
                process.kill()


def _ready(server: Prometheus) -> bool:
    with suppress(OSError):
        return bool(server.get("/-/ready"))
    return False


def assert_answered(server: Prometheus, run: str, began: float, ended: float) -> None:
    """Every query of the dashboard has an answer, of finite values."""
    for title, query in QUERIES:
        answer = server.range(query.replace("$run", run).replace("$seed", "42|1337"), began, ended)
        values = [value for _, series in answer for value in series]
        assert values and all(map(math.isfinite, values)), f"{title}: {query}"


def page_of(metrics: RunMetrics) -> str:
    """What Ray would offer of it."""
    lines = []
    for name, tags, value in metrics.samples():
        told = ",".join(f'{key}="{text}"' for key, text in tags.items())
        lines.append(f"{PREFIX}{name}{{{told}}} {value!r}\n")
    return "".join(lines)


def test_on_a_machine_with_gpus_the_panels_show_both(prometheus: Prometheus, metrics: RunMetrics, folder: Path) -> None:
    server = prometheus
    metrics.on_start(42, 1)
    for event in EVENTS[1:]:
        metrics.on_event(42, event)

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(page_of(metrics).encode())

        def log_message(self, *_: Any) -> None:
            pass

    began = time.time()
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as pages:
        threading.Thread(target=pages.serve_forever, daemon=True).start()
        targets = server.place / "ray" / "session_latest" / TARGETS
        targets.parent.mkdir(parents=True)
        write_text(targets, json.dumps([{"labels": {"job": "ray"}, "targets": [f"127.0.0.1:{pages.server_port}"]}]))
        until = time.monotonic() + 60
        while not server.range(PREFIX + "golf_seeds", began, time.time()) and time.monotonic() < until:
            time.sleep(0.2)
        assert_answered(server, folder.name, began, time.time())
        for title, devices in (("Memory in use", {"GPU 3", "node", ""}), ("Utilisation", {"GPU 3", "processors"})):
            (panel,) = (each for each in PANELS if each["title"] == title)
            found = set()
            for target in panel["targets"]:
                query = target["expr"].replace("$run", folder.name).replace("$seed", ".*")
                found |= {labels.get("device", "") for labels, _ in server.range(query, began, time.time())}
            assert found == devices
        pages.shutdown()


@pytest.mark.ray
def test_prometheus_answers_every_query_of_the_dashboard(
    prometheus: Prometheus, tmp_path: Path, sample_folder: Path
) -> None:
    server = prometheus
    overrides = OVERRIDES | {"train.iterations": 12, "train.log_every": 2}
    path = write_job(tmp_path, overrides=overrides, seeds=[42, 1337], audit={"positions": 1}, cost={"per_node_hour": 2})
    began = time.time()
    done = golf(
        "run", str(path), "--address", "local", RAY_TMPDIR=str(server.place), RAY_metrics_report_interval_ms="1000"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ended = time.time()
    run = only_run(tmp_path)

    assert_answered(server, run.name, began, ended)
    result = strict_json.load(RunResult, run / "result.json")
    for seed in result.seeds:
        chosen = f'run="{run.name}", seed="{seed.seed}"'
        assert seed.evaluate is not None and seed.evaluate.mixture is not None and seed.export is not None
        score = server.last(f'ray_golf_eval_bpb{{{chosen}, scorer="mixture"}}', began, ended)
        assert score == pytest.approx(seed.evaluate.mixture.bpb, rel=1e-9)
        assert server.last(f"sum(ray_golf_artifact_bytes{{{chosen}}})", began, ended) == seed.export.total_bytes
        assert seed.train is not None
        assert server.last(f"ray_golf_train_steps{{{chosen}}}", began, ended) == seed.train.steps
    cost = f'max(ray_golf_cost{{run="{run.name}"}}) / max(ray_golf_node_hours{{run="{run.name}"}})'
    assert server.last(cost, began + (ended - began) / 2, ended) == pytest.approx(2.0, rel=0.2)
