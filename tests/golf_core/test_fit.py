"""The weights made to fit: the ladder, the search, and what its measure of damage is worth."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from golden_case import small_case

from golf_core.artifact.codec import decode, encode, load_artifact
from golf_core.artifact.export import ARTIFACT_NAME, PROGRAM_NAME, bits_per_weight, bytes_by_group, export, zero_share
from golf_core.artifact.fit import CHUNK, Fitted, _of_all_targets, fit, own_text, sensitivities
from golf_core.artifact.packed import PACKED_MAGIC, encode_packed
from golf_core.artifact.quantize import Quantized, grid_steps, quantize_all
from golf_core.config import ArtifactConfig, GolfConfig, override
from golf_core.errors import ArtifactError, ConfigError
from golf_core.model.gpt import GPT, model_from
from golf_core.results import ExportResult
from golf_core.strict_json import from_dict, load, save

CODE = 1000
"""Bytes that the code is taken to have."""
BASE = GolfConfig(model=small_case().model_config, artifact=ArtifactConfig(float16_max_elements=500))
SHARES = (1.0, 0.7, 0.5)


def config(**artifact: object) -> GolfConfig:
    return override(BASE, {f"artifact.{name}": value for name, value in artifact.items()})


@pytest.fixture(scope="module")
def model() -> GPT:
    return small_case().model("trained")


@pytest.fixture(scope="module")
def exact(model: GPT) -> dict[str, Quantized]:
    return quantize_all(model.state_dict(), BASE.artifact)


@pytest.fixture(scope="module")
def lzma_bytes(exact: dict[str, Quantized]) -> int:
    return len(encode(BASE.model, exact, 6))


@pytest.fixture(scope="module")
def fitted(model: GPT, lzma_bytes: int) -> dict[float, Fitted]:
    """Artifacts by cap, as a share of the published one."""
    caps = {share: int(share * lzma_bytes) + CODE for share in SHARES}
    return {share: fit(model, config(cap_bytes=cap, keep_published=False), CODE) for share, cap in caps.items()}


def divergence(model: GPT, other: GPT) -> float:
    """Mean KL divergence, nats a token, of another model's distributions on text that `model` wrote."""
    ids = own_text(model, 8, 256, torch.Generator().manual_seed(5))
    with torch.no_grad():
        p, q = (m.logits(m.hidden(ids)).float().log_softmax(-1) for m in (model, other))
    return float((p.exp() * (p - q)).sum(-1).mean())


class TestLadder:
    def test_what_fits_is_left_as_it_is(self, model: GPT, exact: dict[str, Quantized], lzma_bytes: int) -> None:
        found = fit(model, config(cap_bytes=lzma_bytes + CODE), CODE)
        assert found.method == "as quantised" and found.data == encode(BASE.model, exact, 6)
        assert fit(model, config(cap_bytes=None, keep_published=False), CODE).data == found.data

    def test_one_byte_less_and_the_same_values_are_coded_better(
        self, model: GPT, exact: dict[str, Quantized], lzma_bytes: int
    ) -> None:
        found = fit(model, config(cap_bytes=lzma_bytes + CODE - 1), CODE)
        assert found.method == "recoded" and found.data.startswith(PACKED_MAGIC) and len(found.data) < lzma_bytes
        _, read = decode(found.data, "x")
        assert all(torch.equal(read[name].dequantize(), exact[name].dequantize()) for name in exact)

    def test_then_widths_are_chosen(self, model: GPT, exact: dict[str, Quantized]) -> None:
        room = len(encode_packed(BASE.model, exact)) - 1
        found = fit(model, config(cap_bytes=room + CODE), CODE)
        assert found.method == "fitted" and 0.98 * room < len(found.data) <= room
        assert found.distortion is not None and {t.kind for t in found.tensors.values()} == {"grid", "float16"}

    @pytest.mark.parametrize("switch", ["recode", "requantize"])
    def test_what_is_not_allowed_is_not_done(self, model: GPT, lzma_bytes: int, switch: str) -> None:
        allowed = config(cap_bytes=lzma_bytes + CODE - 1, **{switch: False})
        assert fit(model, allowed, CODE).method == {"recode": "fitted", "requantize": "recoded"}[switch]

    def test_without_any_means(self, model: GPT, lzma_bytes: int) -> None:
        allowed = config(cap_bytes=lzma_bytes + CODE - 7, recode=False, requantize=False)
        sentence = rf"is {lzma_bytes:,} bytes.*over the cap of .* by 7; allow artifact\.recode and artifact\.requantize"
        with pytest.raises(ArtifactError, match=sentence):
            fit(model, allowed, CODE)

    def test_mistaken_switches(self) -> None:
        with pytest.raises(ConfigError, match=r"cap_bytes: must be at least 1"):
            config(cap_bytes=0)
        with pytest.raises(ConfigError, match=r"requantize: false"):
            config(keep_published=False, requantize=False)


class TestSearch:
    @pytest.mark.parametrize("share", SHARES)
    def test_the_room_is_filled_and_not_crossed(
        self, fitted: dict[float, Fitted], lzma_bytes: int, share: float
    ) -> None:
        room = int(share * lzma_bytes)
        assert 0.98 * room < len(fitted[share].data) <= room

    def test_more_room_less_damage(self, fitted: dict[float, Fitted]) -> None:
        damage = [fitted[share].distortion for share in SHARES]
        assert all(d is not None and math.isfinite(d) for d in damage)
        assert damage == sorted(damage, key=lambda d: d or 0.0) and len(set(damage)) == len(damage)

    @pytest.mark.parametrize("share", [0.7, 0.5])
    def test_the_expected_damage_is_what_is_measured(
        self, model: GPT, fitted: dict[float, Fitted], share: float, tmp_path: Path
    ) -> None:
        """The rise of the loss on the model's own text is the divergence; errors are expected to be independent."""
        (tmp_path / "m.golf").write_bytes(fitted[share].data)
        measured, expected = divergence(model, load_artifact(tmp_path / "m.golf")), fitted[share].distortion
        assert expected is not None and 0.5 * expected < measured < 3 * expected

    def test_better_than_the_published_values_at_their_size(
        self, model: GPT, exact: dict[str, Quantized], fitted: dict[float, Fitted]
    ) -> None:
        losses = [
            divergence(model, model_from(model.config, {n: t.dequantize() for n, t in tensors.items()}))
            for tensors in (fitted[1.0].tensors, exact)
        ]
        assert losses[0] < 0.25 * losses[1]

    def test_a_cap_with_room_to_spare(self, model: GPT) -> None:
        """Bytes that would buy nothing are left."""
        found = fit(model, config(keep_published=False), CODE)
        assert len(found.data) < 200_000 and found.distortion is not None and found.distortion < 2e-5

    def test_same_weights_same_bytes(self, model: GPT, fitted: dict[float, Fitted], lzma_bytes: int) -> None:
        again = fit(model, config(cap_bytes=int(0.7 * lzma_bytes) + CODE, keep_published=False), CODE)
        assert again.data == fitted[0.7].data

    def test_pruning_makes_more_zeros(self, model: GPT, fitted: dict[float, Fitted], lzma_bytes: int) -> None:
        allowed = config(cap_bytes=int(0.7 * lzma_bytes) + CODE, keep_published=False, prune=True)
        pruned = fit(model, allowed, CODE)
        shares = [zero_share(found.tensors) for found in (fitted[0.7], pruned)]
        assert shares[0] is not None and shares[1] is not None and shares[1] > shares[0] + 0.005

    def test_large_values_stay_in_range(self, model: GPT) -> None:
        """One value a thousand times the others: its row gets wider steps, the value is kept."""
        weights = {name: weight.clone() for name, weight in model.state_dict().items()}
        weights["blocks.1.mlp.fc.weight"][3, 4] = 300.0
        found = fit(model_from(model.config, weights), config(keep_published=False), CODE)
        read = decode(found.data, "x")[1]["blocks.1.mlp.fc.weight"].dequantize()
        assert float(read[3, 4]) == pytest.approx(300.0, rel=0.01)

    def test_weights_that_are_not_numbers(self, model: GPT) -> None:
        weights = {name: weight.clone() for name, weight in model.state_dict().items()}
        weights["tok_emb.weight"][0, 0] = math.nan
        with pytest.raises(ArtifactError, match="not finite"):
            fit(model_from(model.config, weights), config(keep_published=False), CODE)


class TestExport:
    def test_a_fitted_artifact_is_exported_and_loads(self, model: GPT, lzma_bytes: int, tmp_path: Path) -> None:
        whole = export(model, config(cap_bytes=None), tmp_path)
        assert (whole.method, whole.cap_bytes, whole.distortion) == ("as quantised", None, None)
        cap = whole.code_bytes + lzma_bytes // 2
        result = export(model, config(cap_bytes=cap), tmp_path)
        assert result.method == "fitted" and result.cap_bytes == cap
        # The program holds its configuration, so that another cap is another program.
        code, weights = ((tmp_path / name).stat().st_size for name in (PROGRAM_NAME, ARTIFACT_NAME))
        assert (result.code_bytes, result.weight_bytes) == (code, weights) and 0.98 * cap < code + weights <= cap
        assert "fitted" in result.summary and "mlp" in result.summary and "expected loss +0.0" in result.summary
        ids = torch.arange(64)[None] % 1024
        loss = load_artifact(tmp_path / ARTIFACT_NAME)(ids, ids).mean().item()
        assert loss == pytest.approx(model(ids, ids).mean().item(), abs=0.2)
        save(result, tmp_path / "export.json")
        assert load(ExportResult, tmp_path / "export.json") == result

    def test_an_impossible_cap_says_by_how_much_and_writes_nothing(self, model: GPT, tmp_path: Path) -> None:
        with pytest.raises(ArtifactError, match="the smallest artifact is") as caught:
            export(model, config(cap_bytes=50_000), tmp_path)
        words = str(caught.value).replace(",", "").split()
        smallest, code, over = int(words[4]), int(words[9]), int(words[words.index("by") + 1].rstrip(";"))
        assert smallest + code == 50_000 + over and smallest > 5000 and "budgets.artifact_bytes" in str(caught.value)
        assert list(tmp_path.iterdir()) == []
        cap = 50_000 + over + 40  # the program states its cap, and its own size moves by some bytes with it
        just = export(model, config(cap_bytes=cap), tmp_path)
        assert just.total_bytes <= cap

    def test_results_of_earlier_versions_are_read(self) -> None:
        old = {"weight_bytes": 7, "code_bytes": 5, "sha256": "0", "export_seconds": 1.0, "bytes_by_kind": {"int6": 9}}
        result = from_dict(ExportResult, old)
        assert result.total_bytes == 12 and result.summary == "as quantised" and result.distortion is None

    def test_the_report_shares_out_every_byte(self, exact: dict[str, Quantized], fitted: dict[float, Fitted]) -> None:
        for tensors, by_context in ((exact, False), (exact, True), (fitted[0.5].tensors, True)):
            sizes = bytes_by_group(tensors, 30_001, by_context)
            assert sum(sizes.values()) == 30_001 and sizes.keys() == {"attention", "mlp", "embeddings", "other"}
            bits = bits_per_weight(tensors, sizes)
            assert bits["mlp"] == pytest.approx(8 * sizes["mlp"] / (8 * 96 * 32))
        whole = {name: tensor for name, tensor in exact.items() if tensor.kind == "float16"}
        assert zero_share(whole) is None and sum(bytes_by_group(whole, 99, by_context=True).values()) == 99


class TestSensitivity:
    def test_what_is_not_used_does_not_matter(self, model: GPT) -> None:
        """The matrices of a block whose output is scaled by zero."""
        weights = {name: weight.clone() for name, weight in model.state_dict().items()}
        weights["blocks.2.mlp_scale"].zero_()
        names = [n for n, w in weights.items() if w.ndim == 2 and w.numel() >= 1024]
        found = sensitivities(model_from(model.config, weights), names)
        assert found["blocks.2.mlp.fc.weight"].mean == 0 == found["blocks.2.mlp.proj.weight"].mean
        assert found["blocks.1.mlp.fc.weight"].mean > 0 < found["blocks.2.attn.c_q.weight"].mean
        for name in names:
            sensitivity, shape = found[name], weights[name].shape
            assert sensitivity.rows.shape == shape[:1] and sensitivity.cols.shape == shape[1:]
            assert float(sensitivity.rows.mean()) == pytest.approx(1, abs=1e-3)
        assert all(p.grad is None for p in model.parameters())

    def test_gradients_of_all_targets_at_once(self) -> None:
        """Their mean square is that of the gradient on a target drawn from the distribution."""
        logits = torch.tensor([[1.0, 0.0, -2.0, 0.5]])
        drawn = _of_all_targets(logits.expand(200_000, 4), torch.Generator().manual_seed(0))
        p = logits[0].softmax(0)
        torch.testing.assert_close(drawn.T @ drawn / len(drawn), torch.diag(p) - p[:, None] * p, rtol=0, atol=3e-3)
        assert float(drawn.sum(-1).abs().max()) < 1e-5

    def test_late_qat_and_bfloat16_tables_do_not_disturb(self, model: GPT) -> None:
        changed = model_from(replace(model.config, table_dtype="bfloat16"), model.state_dict())
        changed.set_qat_temperature(torch.ones(()))
        name = "blocks.3.mlp.fc.weight"
        with_tables, plain = (sensitivities(m, [name, "tok_emb.weight"]) for m in (changed, model))
        assert with_tables[name].mean == pytest.approx(plain[name].mean, rel=0.2)

    def test_own_text_is_what_the_model_expects(self, model: GPT) -> None:
        """Far likelier than chance to the model itself, but for the first token of each piece."""
        ids = own_text(model, 8, 250, torch.Generator().manual_seed(1))
        assert ids.shape == (8, 250) and int(ids.min()) >= 0 and int(ids.max()) < 1024
        assert torch.equal(ids, own_text(model, 8, 250, torch.Generator().manual_seed(1)))
        losses = model(ids[:, :-1], ids[:, 1:]).detach().view(8, -1)
        first = torch.arange(1, 250) % CHUNK == 0
        assert float(losses[:, ~first].mean()) < float(losses[:, first].mean()) - 0.5


def test_steps_are_exact_powers() -> None:
    steps = grid_steps(torch.tensor(3.0), torch.tensor([0, 2, -4], dtype=torch.int8), torch.tensor([2, 1]))
    assert steps[:, 0].tolist() == [6.0, 12.0, 1.5]
    torch.testing.assert_close(steps[:, 1], torch.tensor([3.0, 6.0, 0.75]) * math.sqrt(2))
