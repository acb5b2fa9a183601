"""Log lines: every figure by name, in a form that programs read back."""

from __future__ import annotations

import pytest

from golf_core.config import EvalConfig, GolfConfig
from golf_core.events import Event
from golf_core.plain_log import config_lines, event_line, named, result_lines
from golf_core.results import ExportResult


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (Event("note", {"message": "late QAT from step 3"}), "note late QAT from step 3"),
        (Event("phase_started", {"phase": "train", "total": 100}), "train begins total:100"),
        (Event("phase_started", {"phase": "export"}), "export begins"),
        (Event("phase_finished", {"phase": "export", "seconds": 1.25, "n": 7}), "export ends seconds:1.25000 n:7"),
        (Event("train_step", {"step": 1, "total": 9, "loss": 6.5, "e": 0.0}), "step:1/9 train_loss:6.50000 e:0.00000"),
        (Event("validation", {"step": 4, "val_loss": 2.0, "val_bpb": 1.25}), "step:4 val_loss:2.00000 val_bpb:1.25000"),
        (Event("chunk", {"chunk": 2, "total": 3, "w": {"a": 0.5, "b": 1e-9}}), "chunk:2/3 w.a:0.50000 w.b:1e-09"),
    ],
)  # fmt: skip
def test_events(event: Event, line: str) -> None:
    assert event_line(event) == line


def test_values() -> None:
    values = {"a": None, "b": True, "c": (1, 2), "d": (), "e": [{"x": 1}], "f": "two words", "g": float("inf"), "h": -3}
    assert named(values) == "a:none b:true c:1,2 d:none f:two_words g:inf h:-3"
    assert named({"rate": 0.0005, "q": 0.9999984}, None) == "rate:0.0005 q:0.9999984"


def test_every_field_of_the_configuration() -> None:
    text = "\n".join(config_lines(GolfConfig(evaluate=EvalConfig(max_tokens=4096))))
    for figure in ("config train batch_tokens:786432", " int8_quantile:0.9999984", " max_tokens:4096", "compile:true"):
        assert figure in text


def test_results_without_a_stage() -> None:
    export = ExportResult(10, 3, "abc", 0.5, {"int6": 4})
    (line,) = result_lines(None, export, None)
    assert (
        " bytes_by_kind.int6:4 " in line
        and line.endswith(" total_bytes:13")
        and line.startswith("export weight_bytes:10 code_bytes:3")
    )
