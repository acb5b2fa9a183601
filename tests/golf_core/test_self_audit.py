"""The evaluation as a black box: its snapshots, and an audit that catches the record's fifth expert."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from golf_core import strict_json
from golf_core.artifact.export import ARTIFACT_NAME, export
from golf_core.audit.report import AuditOptions
from golf_core.config import override, preset
from golf_core.data.shards import validation_tokens
from golf_core.evaluate.auditable import EvaluationScorer, audit_evaluation, in_short
from golf_core.mixture import contexts
from golf_core.model.gpt import GPT

CONFIG = override(
    preset("small"),
    {
        "model.model_dim": 64,
        "model.rope_dims": 8,
        "evaluate.seq_len": 128,
        "evaluate.chunk_tokens": 512,
        "evaluate.hedge_min_tokens": 1000,
        "evaluate.mixer.update_tokens": 100,  # no multiple of the stride: calls are cut within windows
    },
)
Paths = tuple[Path, Path, Path, Path]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory, sample_folder: Path) -> Paths:
    """Artifact, data, tokenizer and configuration.

    The model is sure of itself without reason: the fifth expert is far from a distribution.
    """
    folder = tmp_path_factory.mktemp("audit")
    torch.manual_seed(0)
    model = GPT(CONFIG.model)
    with torch.no_grad():
        model.tok_emb.weight.mul_(60.0)
    export(model, CONFIG, folder)
    strict_json.save(CONFIG, folder / "config.json")
    return folder / ARTIFACT_NAME, sample_folder, sample_folder / "tokenizer.model", folder / "config.json"


def test_the_audit_tells_the_mixture_from_the_published_score(paths: Paths) -> None:
    report = audit_evaluation(*paths, AuditOptions(parts=("kraft",), positions=2, checks=1))
    assert report.fast_path is not None and report.fast_path.trusted
    assert report.passed  # the verdict goes by the mixture
    verdicts = {(c.name, c.score): c.verdict for c in report.conditions}
    assert verdicts["2 normalised", "published"] == "violated"
    assert verdicts["2 normalised", "mixture"] == verdicts["2 normalised", "neural"] == "holds"
    short = in_short(report)
    assert short.positions == 2 and not short.violated
    assert short.mixture_max_error < 1e-5 and short.neural_max_error < 1e-5
    assert short.published_sum > 1.5 and short.published_formula_max_error < 1e-4


def test_snapshots_give_the_plain_losses(paths: Paths) -> None:
    artifact, data, tokenizer, config = paths
    box = EvaluationScorer(str(artifact), str(tokenizer), str(config))
    tokens = validation_tokens(data, 128)[:1281].astype(np.int64)
    plain = box(tokens)
    positions = [0, 1, 130, 512, 513, 600, 1024, 1280]
    for position, snapshot in zip(positions, box.snapshots(tokens, positions), strict=True):
        assert snapshot.position <= position
        for _ in range(2):  # asking changes nothing
            for name, nll in snapshot.score(tokens, position + 1).items():
                assert len(nll) == position + 1 - snapshot.position
                if position:
                    first = max(snapshot.position, 1)
                    np.testing.assert_allclose(
                        nll[first - snapshot.position :], plain[name][first - 1 : position], atol=1e-5
                    )
        changed = tokens.copy()
        changed[position] = (changed[position] + 7) % 1024
        if position > 1:
            after = snapshot.score(changed, position + 1)["mixture"][-1]
            assert after == pytest.approx(box(changed)["mixture"][position - 1], abs=1e-5)


def test_a_changed_rule_is_noticed(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mixture whose counts hold the token itself is found out."""
    honest = contexts._Tables.statistics

    def peeking(self: contexts._Tables, keys: contexts._Keys) -> tuple[contexts.Statistics, torch.Tensor]:
        found, fresh = honest(self, keys)
        return replace(found, count=found.count + 1, total=found.total + 1), fresh

    monkeypatch.setattr(contexts._Tables, "statistics", peeking)
    report = audit_evaluation(*paths, AuditOptions(parts=("kraft",), positions=1, checks=1))
    assert not report.passed
    assert "2 normalised" in in_short(report).violated
