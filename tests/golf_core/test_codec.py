"""The artifact: what is written is read back, and nothing else is accepted."""

from __future__ import annotations

import json
import lzma
import struct
from pathlib import Path

import pytest
import torch
from drawing import examples
from golden_case import small_case
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from golf_core.artifact.codec import MAGIC, decode, encode, load_artifact
from golf_core.artifact.export import export, load_checkpoint, save_checkpoint
from golf_core.artifact.quantize import quantize_all
from golf_core.config import ArtifactConfig, GolfConfig, ModelConfig
from golf_core.errors import ArtifactError
from golf_core.model.gpt import expected_shapes

# Low limits, so that all three kinds of storage occur in a small model.
CONFIG = GolfConfig(model=small_case().model_config, artifact=ArtifactConfig(float16_max_elements=500))


@pytest.fixture(scope="module")
def artifact_bytes() -> bytes:
    return encode(CONFIG.model, quantize_all(small_case().model("trained").state_dict(), CONFIG.artifact), 6)


def test_round_trip(tmp_path: Path) -> None:
    model = small_case().model("trained")
    tensors = quantize_all(model.state_dict(), CONFIG.artifact)
    assert {t.kind for t in tensors.values()} == {"int6", "int8", "float16"}
    (tmp_path / "model.golf").write_bytes(encode(CONFIG.model, tensors, 6))
    loaded = load_artifact(tmp_path / "model.golf")
    assert loaded.config == CONFIG.model
    for name, value in loaded.state_dict().items():
        torch.testing.assert_close(value, tensors[name].dequantize(), rtol=0, atol=0)


def test_same_weights_same_bytes(artifact_bytes: bytes) -> None:
    again = encode(CONFIG.model, quantize_all(small_case().model("trained").state_dict(), CONFIG.artifact), 6)
    assert again == artifact_bytes


@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_an_artifact_error(artifact_bytes: bytes, data: st.DataObject) -> None:
    """Cut, flip a byte, or append: a sentence that names the file, never another exception or a silent load."""
    damage = data.draw(st.sampled_from(["cut", "flip", "append"]))
    if damage == "cut":
        bad = artifact_bytes[: data.draw(st.integers(0, len(artifact_bytes) - 1))]
    elif damage == "flip":
        at = data.draw(st.integers(0, len(artifact_bytes) - 1))
        changed = artifact_bytes[at] ^ data.draw(st.integers(1, 255))
        bad = artifact_bytes[:at] + bytes([changed]) + artifact_bytes[at + 1 :]
    else:
        bad = artifact_bytes + data.draw(st.binary(min_size=1, max_size=40))
    with pytest.raises(ArtifactError, match="broken"):
        decode(bad, "broken.golf")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        lzma.compress(b"hello"),
        lzma.compress(MAGIC + struct.pack("<I", 2**31) + b"{}"),
        lzma.compress(MAGIC + struct.pack("<I", 2) + b"[]"),
        lzma.compress(MAGIC + struct.pack("<I", 2) + b"{}"),
        lzma.compress(MAGIC + struct.pack("<I", 4) + b"\xff\xfe\x00\x01"),
    ],
)
def test_strange_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.golf").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"x\.golf"):
        load_artifact(tmp_path / "x.golf")


def test_header_that_lies_about_sizes() -> None:
    header = {"model": {}, "tensors": [{"name": "a", "kind": "float16", "shape": [1 << 40]}]}
    text = json.dumps(header).encode()
    with pytest.raises(ArtifactError, match="past the end"):
        decode(lzma.compress(MAGIC + struct.pack("<I", len(text)) + text), "x")


def test_missing_file() -> None:
    with pytest.raises(ArtifactError, match="cannot be read"):
        load_artifact(Path("/nonexistent/model.golf"))


class TestCheckpoint:
    def test_round_trip_and_published_names(self, tmp_path: Path) -> None:
        model = small_case().model("trained")
        save_checkpoint(model, tmp_path / "c.pt")
        loaded = load_checkpoint(tmp_path / "c.pt", model.config)
        for name, value in loaded.state_dict().items():
            torch.testing.assert_close(value, model.state_dict()[name], rtol=0, atol=0)

    def test_full_size_bfloat16_tables_load(self, tmp_path: Path) -> None:
        """A published state dict keeps its embedding tables in bfloat16."""
        weights = {name: torch.randn(shape) for name, shape in expected_shapes(ModelConfig()).items()}
        weights["tok_emb.weight"] = weights["tok_emb.weight"].bfloat16()
        torch.save(weights, tmp_path / "final_model.pt")
        assert load_checkpoint(tmp_path / "final_model.pt", ModelConfig()).tok_emb.weight.dtype == torch.float32

    def test_another_model(self, tmp_path: Path) -> None:
        save_checkpoint(small_case().model("trained"), tmp_path / "c.pt")
        with pytest.raises(ArtifactError, match=r"do not fit the configured model"):
            load_checkpoint(tmp_path / "c.pt", ModelConfig())

    def test_code_is_refused(self, tmp_path: Path) -> None:
        class Payload:
            def __reduce__(self) -> tuple[object, tuple[str]]:
                return Path.touch, (str(tmp_path / "owned"),)

        torch.save({"x": Payload()}, tmp_path / "c.pt")
        with pytest.raises(ArtifactError, match="not a checkpoint"):
            load_checkpoint(tmp_path / "c.pt", ModelConfig())
        assert not (tmp_path / "owned").exists()


def test_export_weighs_what_lies_on_disk(tmp_path: Path) -> None:
    result = export(small_case().model("trained"), CONFIG, tmp_path)
    assert result.weight_bytes == (tmp_path / "model.golf").stat().st_size
    assert result.code_bytes == (tmp_path / "train_gpt.py").stat().st_size
    assert result.total_bytes == result.weight_bytes + result.code_bytes
