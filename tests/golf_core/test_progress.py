"""Records, events and the lines that people read."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from golf_core.config import GolfConfig, override, preset
from golf_core.errors import ConfigError
from golf_core.events import Event, JsonLinesLog, broadcast
from golf_core.files import atomic_writer
from golf_core.progress import describe, duration
from golf_core.strict_json import from_dict, load, save, to_dict


class TestRecords:
    def test_configuration_round_trip(self, tmp_path: Path) -> None:
        config = override(preset("small"), {"train": {"iterations": 7}, "model.ve_layers": [1]})
        save(config, tmp_path / "config.json")
        assert load(GolfConfig, tmp_path / "config.json") == config
        assert config.train.iterations == 7 and config.model.ve_layers == (1,)

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"train.iteratons": 3}, "did you mean 'iterations'"),
            ({"modle.num_layers": 3}, "did you mean 'model'"),
            ({"train": 3}, "is a group of fields"),
            ({"train.iterations": "many"}, "expected int"),
            ({"train.iterations": True}, "expected int"),
            ({"model.table_dtype": "int4"}, "not one of"),
            ({"model.ve_layers": [99]}, "names a block outside"),
            ({"evaluate.chunk_tokens": 100}, "not a multiple of seq_len"),
        ],
    )
    def test_mistakes_name_the_field(self, changes: dict[str, object], sentence: str) -> None:
        with pytest.raises(ConfigError, match=sentence):
            override(GolfConfig(), changes)

    def test_not_a_number_becomes_null(self) -> None:
        @dataclass(frozen=True)
        class Figure:
            value: float

        assert to_dict(Figure(math.nan)) == {"value": None}
        assert math.isnan(from_dict(Figure, {"value": None}).value)

    def test_damaged_file(self, tmp_path: Path) -> None:
        (tmp_path / "x.json").write_text('{"model": ')
        with pytest.raises(ConfigError, match=r"x\.json: not a JSON file"):
            load(GolfConfig, tmp_path / "x.json")


class TestAtomicWriter:
    def test_a_failure_leaves_the_old_file(self, tmp_path: Path) -> None:
        path = tmp_path / "f"
        path.write_bytes(b"old")
        with pytest.raises(RuntimeError), atomic_writer(path) as file:
            file.write(b"half of the new")
            raise RuntimeError
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]


def test_log_and_listeners(tmp_path: Path) -> None:
    seen: list[Event] = []
    log = JsonLinesLog(tmp_path / "log.jsonl")
    listener = broadcast(log, seen.append)
    events = [Event("note", {"message": "a"}), Event("validation", {"step": 1, "val_loss": math.nan, "val_bpb": 2.0})]
    for event in events:
        listener(event)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert seen == events
    assert [line["kind"] for line in lines] == ["note", "validation"]
    assert lines[1]["val_loss"] is None and lines[1]["val_bpb"] == 2.0


def test_lines_for_people() -> None:
    fields = {"step": 10, "total": 100, "loss": 2.5, "lr_factor": 1.0, "ms_per_step": 98.36}
    line = describe(Event("train_step", fields | {"tokens_per_s": 8e6, "eta_s": 200.0}))
    assert line == "train 10/100  loss 2.5000  lr x1.00  98.4 ms/step  8,000,000 tok/s  ETA 3 min 20 s"
    chunk = {"chunk": 3, "total": 9, "bpb_neural": 1.5, "eta_s": 4.0}
    assert describe(Event("chunk", chunk)) == "evaluate chunk 3/9  BPB neural 1.5000  ETA 4.0 s"
    assert [duration(s) for s in (4.26, 59.94, 200, 3900)] == ["4.3 s", "59.9 s", "3 min 20 s", "1 h 05 min"]


def test_presets_are_sound() -> None:
    small = preset("small")
    assert replace(small) == small
    with pytest.raises(ConfigError, match="did you mean 'record'"):
        preset("recor")
