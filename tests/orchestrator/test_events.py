"""Events in a log and out of it again, and in words: every figure by name, in a form that programs read back."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from golf_core.config import EvalConfig, GolfConfig
from golf_core.errors import ConfigError
from golf_core.events import (
    Chunk,
    Event,
    Gpu,
    JsonLinesLog,
    Note,
    PhaseFinished,
    PhaseStarted,
    System,
    TrainStep,
    Validation,
    broadcast,
)
from golf_core.log_text import config_lines, describe, duration, event_line, named, result_lines
from golf_core.results import ExportResult
from orchestrator.folder.event_log import Tail, event_of, parse, read_events, sound_events

STEP = TrainStep(10, 100, 2.5, 1.0, 98.36, 8e6, 20.0, 200.0, time=1.25)
EVERY = [
    PhaseStarted("train", 100, time=1.0),
    STEP,
    Validation(10, 2.25, 1.5, time=2.0),
    Note("snapshot after step 10", 10, time=3.0),
    PhaseFinished("export", 1.25, more={"weight_bytes": 1200, "code_bytes": 7, "method": "rans"}, time=4.0),
    Chunk(3, 9, 1.5, 1.25, None, {"neural": 0.5}, {"match": 0.25}, 2.0, 4.0, time=5.0),
    System(elapsed_s=1.0, cpu_percent=5.0, gpus=(Gpu(3, power_w=650.5),), time=6.0),
]


def test_what_is_logged_is_read_again(tmp_path: Path) -> None:
    seen: list[Event] = []
    log = JsonLinesLog(tmp_path / "log.jsonl")
    listener = broadcast(log, seen.append)
    for event in EVERY:
        listener(event)
    assert seen == read_events(tmp_path / "log.jsonl") == EVERY


def test_the_format_of_a_line(tmp_path: Path) -> None:
    log = JsonLinesLog(tmp_path / "log.jsonl")
    log(Validation(1, math.nan, 2.0, time=1.0))
    log(Chunk(3, 9, 1.5, elapsed_s=2.0, eta_s=4.0, time=1.23456))
    log(EVERY[-1])
    assert (tmp_path / "log.jsonl").read_text().splitlines() == [
        '{"time": 1.0, "kind": "validation", "step": 1, "val_loss": null, "val_bpb": 2.0}',
        '{"time": 1.235, "kind": "chunk", "chunk": 3, "total": 9, "bpb_neural": 1.5, "weights": {}, "shares": {}, '
        '"elapsed_s": 2.0, "eta_s": 4.0}',
        '{"time": 6.0, "kind": "system", "elapsed_s": 1.0, "cpu_percent": 5.0, '
        '"gpus": [{"index": 3, "power_w": 650.5}]}',
    ]


def test_older_and_later_logs() -> None:
    """What an older log lacks is not known, what a later one adds is kept."""
    event = event_of({"time": 1, "kind": "validation", "step": 4, "val_loss": None, "new": [1]})
    assert isinstance(event, Validation) and math.isnan(event.val_loss) and math.isnan(event.val_bpb)
    assert event.more == {"new": [1]} and event_line(event).endswith(" new:1")
    system = event_of({"time": 1, "kind": "system", "cpu_percent": math.nan, "gpus": None})
    assert system == System(time=1.0)


@pytest.mark.parametrize(
    "values",
    [
        {},
        [],
        {"time": 1, "kind": "note"},
        {"time": 1, "kind": "note", "message": 5},
        {"time": 1, "kind": ["note"], "message": "x"},
        {"time": 1, "kind": "unheard of"},
        {"time": "soon", "kind": "note", "message": "x"},
        {"time": math.inf, "kind": "note", "message": "x"},
        {"time": 1, "kind": "train_step", "step": 10**30, "total": 1},
        {"time": 1, "kind": "train_step", "step": 3, "total": -1},
        {"time": 1, "kind": "train_step", "step": True, "total": 1},
        {"time": 1, "kind": "train_step", "step": 1, "total": 1, "loss": "low"},
        {"time": 1, "kind": "train_step", "step": 1, "total": 1, "loss": 10**400},
        {"time": 1, "kind": "chunk", "chunk": 1, "total": 1, "weights": [0.5]},
        {"time": 1, "kind": "system", "gpus": [None]},
        {"time": 1, "kind": "system", "gpus": [{"name": "without index"}]},
        {"time": 1, "kind": "system", "gpus": 5},
    ],
)
def test_what_is_no_event(values: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"."):
        event_of(values)
    path = tmp_path / "log.jsonl"
    path.write_text('{"time": 1, "kind": "note", "message": "x"}\n' + json.dumps(values) + "\n")
    with pytest.raises(ConfigError, match=r"log\.jsonl: line 2 is not an event; the log is damaged"):
        read_events(path)
    assert len(list(sound_events(path.read_bytes().splitlines()))) == 1


@pytest.mark.parametrize("line", [b"", b'{"time": 1, "ki', b"\xff", b"[" * 100_000])
def test_torn_lines(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(line)


def test_a_tail_tells_each_line_once(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    tail = Tail(path)
    assert list(tail.events()) == [] and not tail.replaced
    lines = [f'{{"time": {number}, "kind": "note", "message": "{number}"}}\n' for number in range(3)]
    path.write_text(lines[0] + "{torn\n" + lines[1] + lines[2][:9])
    assert [event.time for event in tail.events()] == [0, 1]
    assert list(tail.events()) == []
    with path.open("a") as file:
        file.write(lines[2][9:])
    assert [event.time for event in tail.events()] == [2]
    path.write_text(lines[0])
    assert tail.replaced and list(tail.events()) == []


def test_lines_for_people() -> None:
    assert [describe(event) for event in EVERY] == [
        "train begins",
        "train 10/100  loss 2.5000  lr x1.00  98.4 ms/step  8,000,000 tok/s  ETA 3 min 20 s",
        "validation at step 10: 2.2500 nats/token, 1.5000 BPB",
        "snapshot after step 10",
        "export done in 1.2 s: 1,200 + 7 bytes, rans",
        "evaluate chunk 3/9  BPB neural 1.5000  mixture 1.2500  ETA 4.0 s",
        "system",
    ]
    assert [duration(s) for s in (4.26, 59.94, 200, 3900)] == ["4.3 s", "59.9 s", "3 min 20 s", "1 h 05 min"]


def test_lines_for_programs() -> None:
    assert [event_line(event) for event in [*EVERY, PhaseStarted("export"), Chunk(2, 3, weights={"b": 1e-9})]] == [
        "train begins total:100",
        "step:10/100 train_loss:2.50000 lr_factor:1.00000 ms_per_step:98.36000 tokens_per_s:8000000.00000 "
        "elapsed_s:20.00000 eta_s:200.00000",
        "step:10 val_loss:2.25000 val_bpb:1.50000",
        "note snapshot after step 10",
        "export ends seconds:1.25000 weight_bytes:1200 code_bytes:7 method:rans",
        "chunk:3/9 bpb_neural:1.50000 bpb_mixture:1.25000 weights.neural:0.50000 shares.match:0.25000 "
        "elapsed_s:2.00000 eta_s:4.00000",
        "system elapsed_s:1.00000 cpu_percent:5.00000 gpu3.index:3 gpu3.power_w:650.50000",
        "export begins",
        "chunk:2/3 weights.b:1e-09 elapsed_s:nan eta_s:nan",
    ]


def test_values() -> None:
    values = {"a": None, "b": True, "c": (1, 2), "d": (), "e": [{"x": 1}], "f": "two words", "g": float("inf"), "h": -3}
    assert named(values) == "a:none b:true c:1,2 d:none f:two_words g:inf h:-3"
    assert named({"rate": 0.0005, "q": 0.9999984, "e": 0.0}, None) == "rate:0.0005 q:0.9999984 e:0.0"


def test_every_field_of_the_configuration() -> None:
    text = "\n".join(config_lines(GolfConfig(evaluate=EvalConfig(max_tokens=4096))))
    for figure in ("config train batch_tokens:786432", " int8_quantile:0.9999984", " max_tokens:4096", "compile:true"):
        assert figure in text


def test_results_without_a_stage() -> None:
    export = ExportResult(10, 3, "abc", 0.5, {"int6": 4})
    (line,) = result_lines(None, export, None)
    assert line.startswith("export weight_bytes:10 code_bytes:3")
    assert " bytes_by_kind.int6:4 " in line and line.endswith(" total_bytes:13")
