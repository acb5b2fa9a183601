"""Records: configurations and results as files."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from golf_core.config import GolfConfig, override, preset
from golf_core.errors import ConfigError
from golf_core.files import atomic_writer
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


def test_presets_are_sound() -> None:
    small = preset("small")
    assert replace(small) == small
    with pytest.raises(ConfigError, match="did you mean 'record'"):
        preset("recor")
