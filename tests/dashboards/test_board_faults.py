"""The board among damaged folders, made-up figures, other web pages, and an MLflow that is away."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from board_tools import board, get, wait_for
from browser import chromium, page  # noqa: F401
from drawing import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up import spoil_file
from run_builders import add_events, add_lines, begin_run, begin_seed, chunks, fail_seed, finish_seed, steps, whole_run

from dashboards.board.mlflow_look import MlflowLook
from dashboards.live import Damaged, Registry, RunState, state_of
from orchestrator.folder.redaction import Redactor
from orchestrator.folder.seed_log import MAX_LINE
from orchestrator.folder.view import RunReader, view_of
from orchestrator.tracking.store import default_uri
from orchestrator.tracking.sync import sync

PAGES = ("", "?content=1", "runs/run", "runs/run?content=1", "api/runs", "api/runs/run")


def strict_json(text: str) -> Any:
    """JSON as the standard has it: no NaN, no infinity."""
    return json.loads(text, parse_constant=pytest.fail)


def look(address: str) -> str:
    """All pages of the run `run`, each of which is there."""
    texts = []
    for place in PAGES:
        status, text, _ = get(f"{address}/{place}")
        assert status == 200, (place, status, text)
        if place.startswith("api"):
            strict_json(text)
        else:
            texts.append(text)
    return "".join(texts)


# --- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("job.json", b"{"),
        ("job.json", b"\xff\xfe"),
        ("ledger.jsonl", b"\x00" * 100),
        ("ledger.jsonl", b"[]\n1\nnull\n"),
        ("seed-42/log.jsonl", b"\xff\n{}\n[1]\n" + b"[" * 5000 + b"\n"),
        ("seed-42/result.json", b"{}"),
    ],
)
def test_a_damaged_file_is_one_sentence_or_left_out(tmp_path: Path, name: str, content: bytes) -> None:
    whole_run(tmp_path / "run")
    (tmp_path / "run" / name).write_bytes(content)
    with board(tmp_path) as address:
        text = look(address)
        if name in ("job.json", "ledger.jsonl"):
            assert name in strict_json(get(f"{address}/api/runs/run")[1])["reason"]
            assert str(tmp_path / "run") not in text, "the name of the folder is said already"


MADE_UP = [
    {"kind": "train_step", "step": 10**30, "total": 1, "loss": 1.0, "ms_per_step": 1.0, "eta_s": 1.0},
    {"kind": "train_step", "step": 3, "total": -1, "loss": 1.0, "ms_per_step": 1.0, "eta_s": 1.0},
    {"kind": "train_step", "step": 3, "total": 4, "loss": math.nan, "ms_per_step": math.inf, "eta_s": "soon"},
    {"kind": "phase_started", "phase": "<script>" * 100, "total": 10},
    {"kind": "chunk", "chunk": 2, "total": 2, "bpb_mixture": -math.inf, "eta_s": math.nan},
    {"kind": "phase_finished", "phase": "train", "seconds": 1e300},
    {"kind": "note", "message": "x" * 100_000},
    {"kind": "note", "message": "\ud800"},
    {"kind": "note", "message": "late", "time": 1e18},
    {"kind": "system", "cpu_percent": "all", "memory_mib": math.inf, "gpus": 5},
    {"kind": "system", "gpus": [None, {"memory_mib": 10**400}, {"utilisation_percent": math.nan}]},
    {"kind": "system", "memory_mib": 1.0, "memory_total_mib": 0},
]


def test_made_up_figures_are_shown_as_far_as_they_can_be(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    ledger = begin_run(folder, (42,))
    place = begin_seed(folder, ledger, 42)
    add_events(place, steps(2))
    reader = RunReader(folder)
    for number, line in enumerate(MADE_UP):
        add_lines(place, line, {"kind": "note", "message": f"still here {number}"})
        (seed,) = state_of(reader).seeds
        assert f"still here {number}" in seed.tail[-1]
        assert max(map(len, seed.tail)) <= MAX_LINE + 20
    with board(tmp_path) as address:
        text = look(address)
    ledger.close()
    assert "still here" in text and "<script>" not in text.replace('<script src="/static/board.js"', "")
    assert "damaged" not in text


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "run"
    whole_run(folder, seeds=(42, 1337), train=4)
    return folder


@pytest.fixture(scope="module")
def changing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """An empty folder and the address of its board."""
    folder = tmp_path_factory.mktemp("changing")
    with board(folder) as address:
        yield folder, address


@settings(max_examples=examples(40), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_a_file_says_no_page_breaks(data: st.DataObject, sound: Path, changing: tuple[Path, str]) -> None:
    output, address = changing
    folder = output / "run"
    shutil.rmtree(folder, ignore_errors=True)
    assert get(f"{address}/runs/run")[0] == 404
    shutil.copytree(sound, folder)
    name = data.draw(st.sampled_from(["ledger.jsonl", "seed-42/log.jsonl", "seed-42/result.json"]))
    spoil_file(folder / name, data)
    look(address)


def test_names_that_are_no_text(tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    begin_run(folder).close()
    folder.rename(tmp_path / os.fsdecode(b"a\xff\n<b>"))
    begin_run(tmp_path / "run").close()
    job = json.loads((tmp_path / "run" / "job.json").read_text())
    (tmp_path / "run" / "job.json").write_text(json.dumps({**job, "name": "x\ud800\x1b[31m"}))
    with board(tmp_path) as address:
        text = look(address)
        listed = strict_json(get(f"{address}/api/runs")[1])
    assert len(listed) == 2
    assert "a\\udcff\\n&lt;b&gt;" in text and "\x1b" not in text


def test_what_was_known_of_a_run_ends_with_it(tmp_path: Path) -> None:
    """Another run under its name is another run, and a damaged one that is mended is shown again."""
    registry, folder = Registry(tmp_path), tmp_path / "run"
    for seed, length in ((42, 30), (7, 40)):
        whole_run(folder, seeds=(seed,), train=length)
        (found,) = registry.all()
        assert isinstance(found, RunState) and [s.seed for s in found.seeds] == [seed]
        assert len(found.seeds[0].loss_series) == length
        job = (folder / "job.json").read_bytes()
        (folder / "job.json").write_bytes(b"{")
        shutil.move(folder / "ledger.jsonl", tmp_path / "kept")
        assert registry.one("run") is None and registry.all() == []
        shutil.move(tmp_path / "kept", folder / "ledger.jsonl")
        assert isinstance(registry.one("run"), Damaged)
        (folder / "job.json").write_bytes(job)
        assert isinstance(registry.one("run"), RunState)
        shutil.rmtree(folder)
        assert registry.one("run") is None and registry.all() == []


def test_a_run_that_is_over_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        whole_run(tmp_path / f"run-{number}", seeds=(42,))
    looks: list[str] = []
    real = RunReader.seeds

    def counted(reader: RunReader, *arguments: Any) -> Any:
        looks.append(reader.folder.name)
        return real(reader, *arguments)

    monkeypatch.setattr(RunReader, "seeds", counted)
    registry = Registry(tmp_path)
    for _ in range(5):
        assert len(registry.all()) == 4
    assert sorted(looks) == [f"run-{number}" for number in range(4)]


# --- what is said ---------------------------------------------------------------------------------


def test_outstanding_seeds_are_not_yet_failures(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    ledger = begin_run(folder, (42, 1337, 2024))
    begin_seed(folder, ledger, 42)
    finish_seed(folder, ledger, 42, 1.115)
    with board(tmp_path) as address:
        text = get(f"{address}/runs/run")[1]
        assert text.count("… not yet") == 2 and "✗" not in text
        begin_seed(folder, ledger, 1337)
        fail_seed(ledger, 1337, 1)
        ledger.append("run_finished", verdict="no claim")
        ledger.close()
        text = get(f"{address}/runs/run")[1]
        assert "not yet" not in text and "✗ fails" in text


def test_a_finished_seed_shows_its_result_and_not_its_last_line(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    ledger = begin_run(folder, (42, 1337))
    for seed in (42, 1337):
        add_events(begin_seed(folder, ledger, seed), chunks(3))
    result = finish_seed(folder, ledger, 42, 1.11508)
    done, running = state_of(RunReader(folder)).seeds
    ledger.close()
    assert result.evaluate is not None and result.evaluate.published is not None
    assert done.scores == {
        "neural": result.evaluate.neural.bpb,
        "mixture": 1.11508,
        "published": result.evaluate.published.bpb,
    }
    assert running.scores == {} and running.bpb["mixture"] == 1.25


# --- a browser ------------------------------------------------------------------------------------


@pytest.mark.browser
def test_screen_readers_hear_what_matters_alone(page: Any, tmp_path: Path) -> None:
    """A new verdict is said; a new step or second is not."""
    folder = tmp_path / "run"
    page.expected = ("Failed to load resource",)
    ledger = begin_run(folder, (42,))
    place = begin_seed(folder, ledger, 42)
    with board(tmp_path) as address:
        page.goto(f"{address}/runs/run")
        page.evaluate(
            "window.heard = []; const status = document.querySelector('[role=status]');"
            "new MutationObserver(() => heard.push(status.textContent)).observe(status, {childList: true})"
        )
        add_events(place, steps(3))
        wait_for(page, "tr[data-seed='42'] .loss", "6.0000")
        assert page.evaluate("heard") == []
        finish_seed(folder, ledger, 42, 1.115)
        wait_for(page, "tr[data-seed='42'] .status", "finished")
        page.wait_for_function("() => heard.length === 1")
        assert page.evaluate("heard") == ["run: running, out of reach, 1 of 1 seeds finished"]
        assert page.locator("[aria-live], [role=status], [role=alert]").count() == 1
    page.wait_for_function("() => heard.length === 2")
    assert page.evaluate("heard[1]") == "not connected"
    ledger.close()


# --- other web pages ------------------------------------------------------------------------------


def test_every_answer_guards_itself(tmp_path: Path) -> None:
    whole_run(tmp_path / "run", seeds=(42,))
    with board(tmp_path) as address:
        for place in (*PAGES, "healthz", "none", "runs/none", "static/board.js", "static/base.css", "static/none"):
            _, _, headers = get(f"{address}/{place}")
            assert headers["X-Content-Type-Options"] == "nosniff", place
            assert headers["Cross-Origin-Resource-Policy"] == "same-origin", place
            policy = headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy and "unsafe" not in policy, place
            assert "Access-Control-Allow-Origin" not in headers, place
        # A page elsewhere whose name points to this machine reads nothing.
        assert get(address, Host="localhost:1")[0] == 200
        status, text, headers = get(address, Host="evil.example")
        assert status == 400 and "run" not in text and headers["X-Content-Type-Options"] == "nosniff"
        for html in (get(address)[1], get(f"{address}/runs/run")[1]):
            assert not re.search(r"\sstyle=|\son[a-z]+=|<script(?! src=\"/static/)|https?://(?!www\.w3\.org)", html)


# --- MLflow ---------------------------------------------------------------------------------------


def standing_of(folder: Path, until: str) -> str:
    """What is known of a run in MLflow once it begins with `until`."""
    asked = MlflowLook()
    deadline = time.monotonic() + 60
    while not (words := asked.of(view_of(folder)).words).startswith(until):
        assert time.monotonic() < deadline, words
        time.sleep(0.05)
    return words


def test_how_far_mlflow_has_come(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    whole_run(folder, seeds=(42,))
    assert standing_of(folder, "has") == "has nothing yet"
    sync(folder, None, Redactor.from_environment({}), print)
    file = tmp_path / "mlflow.db"
    before = file.read_bytes()
    assert standing_of(folder, "has") == "has all of it"
    whole_run(tmp_path / "other", seeds=(42,), train=3)
    assert standing_of(tmp_path / "other", "does") == f"does not have this run; golf sync {tmp_path / 'other'} sends it"
    assert file.read_bytes() == before, "it is only read"
    with closing(sqlite3.connect(file)) as store, store:
        store.execute("DELETE FROM tags WHERE key = 'golf.final'")
    assert standing_of(folder, "lacks") == f"lacks the end; golf sync {folder} sends it"
    file.write_bytes(b"no data base")
    assert standing_of(folder, "does not answer") == f"does not answer (DatabaseError) at {default_uri(tmp_path)}"


def test_no_page_waits_for_mlflow(tmp_path: Path) -> None:
    """A store that takes connections and never answers: the pages come while it is still being asked."""
    with closing(socket.socket()) as server, board(tmp_path) as address:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        begin_run(tmp_path / "run", mlflow__tracking_uri=f"http://127.0.0.1:{port}").close()
        for _ in range(3):
            assert "being asked" in look(address)


# --- the command ----------------------------------------------------------------------------------

SERVE = """
import sys
from pathlib import Path
from dashboards.board import serve
serve(Path(sys.argv[1]), sys.argv[2], None)
"""


@contextmanager
def served(output: Path, host: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    pipe = subprocess.PIPE
    server = subprocess.Popen([sys.executable, "-c", SERVE, str(output), host], stdout=pipe, stderr=pipe, text=True)
    try:
        assert server.stdout is not None
        found = re.fullmatch(r"board: (http://\S+)   \(Ctrl-C ends it\)\n", server.stdout.readline())
        assert found is not None
        yield server, found[1]
    finally:
        server.kill()
        server.communicate()


def test_two_boards_on_loopback_and_their_ends(tmp_path: Path) -> None:
    with served(tmp_path, "127.0.0.1") as (one, first), served(tmp_path, "127.0.0.1") as (other, second):
        assert first != second and first.startswith("http://127.0.0.1:")
        for server, address, end in ((one, first, signal.SIGTERM), (other, second, signal.SIGINT)):
            assert get(f"{address}/healthz")[:2] == (200, "ok")
            server.send_signal(end)
            assert server.communicate(timeout=30) == ("", "") and server.returncode == 0


def test_loopback_of_the_sixth_version(tmp_path: Path) -> None:
    try:
        with closing(socket.socket(socket.AF_INET6)) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    with served(tmp_path, "::1") as (_, address):
        assert address.startswith("http://[::1]:")
        assert get(f"{address}/healthz")[0] == 200
        assert get(f"{address}/healthz", Host="evil.example")[0] == 400


def test_an_address_that_cannot_be_had_is_one_sentence(tmp_path: Path) -> None:
    from dashboards.board import serve
    from golf_core.errors import UserError

    with closing(socket.socket()) as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        with pytest.raises(UserError, match=r"--port \d+: cannot listen there .* choose another port"):
            serve(tmp_path, "127.0.0.1", holder.getsockname()[1])
    with pytest.raises(UserError, match=r"^--host 192\.0\.2\.1: cannot listen there \(.*\); choose an address of this"):
        serve(tmp_path, "192.0.2.1", None)
