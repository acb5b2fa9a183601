"""`golf watch` and `golf ls`: what they show, that texts stay texts, and how they end."""

from __future__ import annotations

import io
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from run_builders import add_events, add_lines, begin_run, begin_seed, chunks, fail_seed, finish_seed, steps, whole_run

from dashboards import terminal
from dashboards.live import Damaged, RunState, state_of
from dashboards.terminal import INTERRUPTED, exit_code, list_runs, run_view, sparkline, watch_run
from golf_core.errors import ConfigError
from golf_core.events import Gpu, Note, PhaseFinished, PhaseStarted, System
from orchestrator.folder.ledger import Ledger
from orchestrator.folder.view import RunReader

REPO = Path(__file__).resolve().parents[2]
GPU = Gpu(0, memory_mib=40960.0, memory_total_mib=81920.0, utilisation_percent=97.0)
SYSTEM = System(cpu_percent=12.0, memory_mib=2048.0, memory_total_mib=32768.0, process_memory_mib=512.0)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """No terminal, of 80 columns, looked at often."""
    monkeypatch.setattr(terminal, "LOOK_EVERY_S", 0.05)
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def going_on(tmp_path: Path) -> Iterator[tuple[Path, Ledger]]:
    """A run of three seeds: one has finished, one is being trained, one waits."""
    folder = tmp_path / "runs" / "tiny-1"
    ledger = begin_run(folder, (42, 1337, 2024))
    add_events(begin_seed(folder, ledger, 42), [*steps(20), *chunks(3)])
    finish_seed(folder, ledger, 42, 1.115)
    training = [PhaseStarted("train", 200), *list(steps(200))[:50]]
    add_events(begin_seed(folder, ledger, 1337), [*training, replace(SYSTEM, gpus=(GPU,) * 8)])
    yield folder, ledger


def shown(state: RunState, width: int = 80, tail: int = 4, encoding: str = "utf-8") -> str:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Console(file=file, width=width, force_terminal=True, color_system=None).print(run_view(state, tail))
    file.seek(0)
    return file.read()


def test_a_run_at_a_glance_fits_80_columns(going_on: tuple[Path, Ledger]) -> None:
    text = shown(state_of(RunReader(going_on[0])))
    assert max(cell_len(line) for line in text.splitlines()) <= 80
    for piece in (
        "tiny-1  running",
        "seed 1337 on node-a",  # the gang
        "seed 2024",  # the queue
        "8 x NVIDIA H100",
        "node hours",
        "train",
        "50/200",
        "2.0 s",  # ETA
        "5.5",  # ms a step
        "6.7500",  # loss
        "1.25000",  # running BPB
        "320.0/640G",  # of eight GPUs together
        "GPU 97%",
        "log of seed 1337",
        "train 50/200  loss 6.7500",
        "1 of 3 seeds have ended",
    ):
        assert piece in text, piece
    assert any(block in text for block in "▁▂▃▄▅▆▇█")
    assert "50/200" in shown(state_of(RunReader(going_on[0])), encoding="ascii")  # would raise on anything else


def test_what_a_gpu_does_not_tell_is_a_dash(going_on: tuple[Path, Ledger]) -> None:
    folder, _ = going_on
    add_events(folder / "seed-1337", [SYSTEM])  # without GPUs, it is the machine's own memory and load
    text = shown(state_of(RunReader(folder)))
    assert "2.0/32G" in text and "CPU 12%" in text
    silent = Gpu(0, memory_mib=1024.0, memory_total_mib=2048.0)
    add_events(folder / "seed-1337", [replace(SYSTEM, gpus=(silent,))])
    text = shown(state_of(RunReader(folder)))
    assert "1.0/2G" in text
    assert "GPU " not in text.replace("GPU HBM", "")
    add_lines(folder / "seed-1337", {"kind": "system", "gpus": [{"memory_mib": "much"}, None]})
    assert "50/200" in shown(state_of(RunReader(folder)))


def test_control_codes_and_markup_of_files_are_shown_not_obeyed(going_on: tuple[Path, Ledger]) -> None:
    folder, ledger = going_on
    evil = "[red]\x1b[2J[/red] \x07bell [/]"
    add_events(folder / "seed-1337", [PhaseStarted(evil), Note(evil)])
    ledger.append("seed_finished", seed=42, attempt=1, status="failed", failure="user", stage="train", error=evil)
    text = shown(state_of(RunReader(folder)), width=200)
    assert "\x1b" not in text and "\x07" not in text
    assert text.count("[red]") == 4  # the phase, two lines of the log, the error
    assert "\\x1b[2J[/red]" in text


def test_the_view_is_cut_to_the_screen(going_on: tuple[Path, Ledger]) -> None:
    state = state_of(RunReader(going_on[0]))
    bare = len(shown(state, tail=0).splitlines())
    for height, lines in ((bare, bare), (bare + 3, bare), (bare + 4, bare + 3), (bare + 5, bare + 4), (60, bare + 14)):
        console = Console(file=io.StringIO(), width=80, height=height, force_terminal=True)
        assert len(console.render_lines(terminal._fitting(console, state), pad=False)) == lines


@given(st.lists(st.floats(-1e6, 1e6), max_size=300), st.integers(1, 60))
def test_sparklines_fit_and_reach_both_ends(values: list[float], width: int) -> None:
    line = sparkline(values, width, "01234567")
    assert len(line) == min(width, len(values))
    if len(set(line)) > 1:
        assert {"0", "7"} <= set(line)
    if len(values) <= width and values and max(values) > min(values):
        assert line[values.index(min(values))] == "0"
        assert line[values.index(max(values))] == "7"


# --- plain lines ----------------------------------------------------------------------------------


def plainly(folder: Path, events: Callable[[], Any], capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """The exit code and the lines of a watch during which `events` happen."""
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(watch_run(folder, once=False)))
    thread.start()
    events()
    thread.join(timeout=60)
    assert codes
    return codes[0], capsys.readouterr().out.splitlines()


@pytest.mark.usefixtures("narrow")
def test_each_line_is_told_once_and_the_end_of_each_seed(
    going_on: tuple[Path, Ledger], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, ledger = going_on

    def events() -> None:
        place = folder / "seed-1337"
        for number in range(30):
            add_events(place, [Note(f"line {number} [bold]")])
            time.sleep(0.05)
        finish_seed(folder, ledger, 1337, 1.114)
        place = begin_seed(folder, ledger, 2024)
        add_events(place, [Note("of the last seed"), SYSTEM])
        finish_seed(folder, ledger, 2024, 1.116)
        ledger.append("run_finished", verdict="claim")
        ledger.close()

    code, lines = plainly(folder, events, capsys)
    assert code == 0
    for number in range(30):
        assert lines.count(f"seed 1337: line {number} [bold]") == 1
    assert "seed 2024: of the last seed" in lines
    assert not any("system" in line for line in lines)
    for seed in (42, 1337, 2024):
        assert sum(line.startswith(f"seed {seed}: finished in") for line in lines) == 1
    assert any(line.startswith("tiny-1: finished after") for line in lines)
    assert "claim" in lines[-1].lower()


@pytest.mark.usefixtures("narrow")
def test_a_watch_begins_with_the_last_lines_and_tells_nothing_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither what an attempt before it said nor what the next one takes over."""
    folder = tmp_path / "tiny-2"
    ledger = begin_run(folder, (42,))
    add_events(begin_seed(folder, ledger, 42), [Note("of an attempt that failed")])
    fail_seed(ledger, 42, 1)
    kept = [*(Note(f"line {number}.") for number in range(40)), PhaseFinished("train", 1.0)]
    add_events(begin_seed(folder, ledger, 42, 2), kept)

    def events() -> None:
        time.sleep(0.5)
        add_events(folder / "seed-42", [Note("first")])
        time.sleep(0.5)
        fail_seed(ledger, 42, 2, "export")
        time.sleep(0.5)
        add_events(begin_seed(folder, ledger, 42, 3, ("train",)), [Note("second")])
        time.sleep(0.5)
        fail_seed(ledger, 42, 3, "export")
        ledger.append("run_finished", verdict="no claim")
        ledger.close()

    code, lines = plainly(folder, events, capsys)
    assert code == 1
    told = [f"line {number}." for number in range(29, 40)] + ["train done in 1.0 s", "first"]
    assert [line for line in lines if "failed after" not in line][:-2] == [f"seed 42: {x}" for x in (*told, "second")]
    assert sum("failed after" in line and "a rank's process was lost" in line for line in lines) == 2


@pytest.mark.usefixtures("narrow")
def test_once_shows_the_state_and_ends(going_on: tuple[Path, Ledger], capsys: pytest.CaptureFixture[str]) -> None:
    folder, ledger = going_on
    assert watch_run(folder, once=True) == 0  # it may still finish
    assert "50/200" in capsys.readouterr().out
    ledger.close()
    assert watch_run(folder, once=True) == 1
    with closing(Ledger(folder)) as again:
        again.append("run_stopped", reason="stopped by the user")
    assert watch_run(folder, once=False) == 1
    assert "tiny-1: stopped after" in capsys.readouterr().out
    whole_run(folder.parent / "whole")
    assert watch_run(folder.parent / "whole", once=True) == 0
    assert exit_code(state_of(RunReader(folder.parent / "whole"))) == 0


@pytest.mark.parametrize("name", ["missing", "empty", "damaged"])
def test_a_folder_that_is_no_runs_is_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    if name != "missing":
        folder.mkdir()
    if name == "damaged":
        (folder / "ledger.jsonl").write_bytes(b"\x00\xff")
        (folder / "job.json").write_text("{}")
    with pytest.raises(ConfigError) as caught:
        watch_run(folder, once=True)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


# --- a real terminal ------------------------------------------------------------------------------


@pytest.mark.parametrize("interrupted", [True, False])
def test_in_a_terminal_the_watch_ends_with_the_run_or_with_ctrl_c(
    interrupted: bool, going_on: tuple[Path, Ledger]
) -> None:
    folder, ledger = going_on
    script = "import sys; from pathlib import Path; from dashboards.terminal import watch_run; "
    script += f"sys.exit(watch_run(Path({str(folder)!r}), False))"

    def then(child: subprocess.Popen[bytes]) -> None:
        child.send_signal(signal.SIGINT) if interrupted else ledger.close()

    code, seen = in_terminal(script, until="50/200", then=then)
    assert code == (INTERRUPTED if interrupted else 1)
    assert "Traceback" not in seen
    assert "\x1b[?25h" in seen.rpartition("\x1b[?25l")[2]  # the cursor is back
    if interrupted:
        ledger.append("run_stopped", reason="still ours")  # the ledger is held by us all the time
    else:
        assert "interrupted" in seen


def in_terminal(script: str, until: str, then: Callable[[subprocess.Popen[bytes]], Any]) -> tuple[int, str]:
    """Run `script` in a terminal of 80 x 40; when it has shown `until`, do `then`. Exit code and all output."""
    mine, its = pty.openpty()
    env = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE")}
    env |= {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "40", "PYTHONIOENCODING": "utf-8"}
    child = subprocess.Popen([sys.executable, "-c", script], stdin=its, stdout=its, stderr=its, cwd=REPO, env=env)
    os.close(its)
    seen, done = "", False
    try:
        with suppress(OSError):  # the child has closed it
            while block := os.read(mine, 65536):
                seen += block.decode("utf-8", "replace")
                if until in seen and not done:
                    done = True
                    then(child)
        return child.wait(timeout=30), seen
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
        os.close(mine)


# --- the list -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("narrow")
def test_runs_are_listed_the_newest_first(going_on: tuple[Path, Ledger], capsys: pytest.CaptureFixture[str]) -> None:
    runs = going_on[0].parent
    whole = whole_run(runs / "whole")
    damaged = runs / "[red]damaged"
    damaged.mkdir()
    (damaged / "ledger.jsonl").write_text("\x1b[31m no entry\n")
    (damaged / "job.json").write_text("{}")
    for age, name in enumerate(("whole", "tiny-1", "[red]damaged")):
        os.utime(runs / name / "ledger.jsonl", (2e9 - age, 2e9 - age))
    list_runs(runs)
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines if line.split()[0] in ("whole", "tiny-1", "[red]damaged")]
    assert names == ["whole", "tiny-1", "[red]damaged"]
    (row,) = (line for line in lines if line.startswith("whole"))
    score = whole.claim.scores["mixture"]
    assert score.sd is not None
    for piece in ("finished", "3/3", f"{score.mean:.5f}", f"± {score.sd:.5f}", whole.claim.verdict):
        assert piece in row
    for name, pieces in (("tiny-1", ("running", "1/3")), ("[red]damaged", ("damaged", "job.json"))):
        (row,) = (line for line in lines if line.startswith(name))
        assert all(piece in row for piece in pieces)


def test_the_list_stays_legible_in_80_columns(tmp_path: Path) -> None:
    states: list[Any] = []
    for name in ("short", "a-name-that-is-much-longer-than-others-20261123-175830"):
        whole_run(tmp_path / name)
        states.append(state_of(RunReader(tmp_path / name)))
    states.append(Damaged("bad", "ledger.jsonl: holds no entry of a ledger; is it a run's?"))
    out = Console(file=io.StringIO(), width=80)
    out.print(terminal.runs_table(states, wide=False))
    text = out.file.getvalue()  # type: ignore[attr-defined]
    assert max(cell_len(line.rstrip()) for line in text.splitlines()) <= 80
    assert "…" not in text
    words = "".join(text.split())
    for piece in ("a-name-that-is-much-long", "er-than-others-20261123-", "175830", "damaged", "is it a run's?"):
        assert piece.replace(" ", "") in words


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("there", [True, False])
def test_without_runs_there_is_one_sentence(there: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path if there else tmp_path / "none"
    list_runs(place)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"no runs in {place}")
