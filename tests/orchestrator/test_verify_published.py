"""The six published folders: what was found in them by hand, found by the program."""

from __future__ import annotations

from pathlib import Path

import pytest
from verify_builders import finding, problems, report_of

from orchestrator.verify.report import FolderReport
from orchestrator.verify.verifier import verify

GPTQ_LITE = "2026-03-22_11L_EMA_GPTQ-lite_warmdown3500_QAT015_1.1233"
LEGAL_TTT = "2026-03-23_LeakyReLU_LegalTTT_ParallelMuon"
HEDGE = "2026-03-25_HedgeMixer_VRL_AdamWTTT_1.0400"
VALCALIB = "2026-03-25_ValCalib_GPTQ_XSA_BigramHash3072"
LOADER = "2026-03-29_Loader_FullGPTQ_XSA11_BigramHash2816"
WINDOW = "final_int6_sliding_window"
SP8192 = "2026-04-06_SP8192_QK5_LegalTTT_1.0828"


@pytest.fixture(scope="module")
def published(shared: Path) -> Path:
    return shared / "published"


SIX = [GPTQ_LITE, LEGAL_TTT, HEDGE, VALCALIB, LOADER, SP8192]


@pytest.fixture(scope="module")
def reports(published: Path) -> dict[str, FolderReport]:
    report = verify([published / name for name in SIX])
    assert report.exit_code == 1 and not report.unreadable
    return {folder.folder: folder for folder in report.folders}


def over(report: FolderReport) -> dict[str, str]:
    """By how much each seed's training clock is past its cap."""
    return {
        f.subject.removeprefix("training clock, seed "): f.detail.split(" (")[0].removeprefix("over 600 s by ")
        for f in report.findings
        if f.subject.startswith("training clock") and f.verdict == "broken"
    }


# --- which figure is the final one ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "label", "bpb", "mean", "sd"),
    [
        (GPTQ_LITE, WINDOW, {42: 1.12360306, 1337: 1.12278022, 2024: 1.12356596}, 1.12331641, 0.00046473),
        (LEGAL_TTT, "legal_ttt", {42: 1.12002032, 1337: 1.11922988, 2025: 1.11888882}, 1.11937967, 0.00058043),
        (HEDGE, "ttt_sliding:done", {42: 1.04100394}, 1.04100394, None),
        (VALCALIB, WINDOW, {42: 1.11437394, 314: 1.11508120, 999: 1.11475014}, 1.11473509, 0.00035387),
        (LOADER, WINDOW, {42: 1.11271417, 1337: 1.11183590, 2025: 1.11212378}, 1.11222462, 0.00044773),
        (SP8192, "legal_ttt", {0: 1.08209788, 42: 1.08314800, 1234: 1.08313564}, 1.08279384, 0.00060275),
    ],
)
def test_final_figures(
    reports: dict[str, FolderReport], name: str, label: str, bpb: dict[int, float], mean: float, sd: float | None
) -> None:
    final = reports[name].final
    assert final is not None and final.bpb is not None and final.label == label
    assert {score.seed: score.val_bpb.value for score in final.scores} == bpb
    assert final.bpb.mean == pytest.approx(mean, abs=6e-9) and final.bpb.sd == (sd and pytest.approx(sd, abs=6e-9))
    assert final.population_sd_bpb == (sd and pytest.approx(sd * (2 / 3) ** 0.5, abs=2e-8))


# --- the figures of a log --------------------------------------------------------------------------


def test_all_figures_of_a_log_with_their_lines(reports: dict[str, FolderReport]) -> None:
    run = next(run for run in reports[HEDGE].runs if run.file == "train_seed42.log")
    assert run.seed_source == "log"
    found = {name: (figure.value, figure.place.line) for name, figure in run.figures.items()}
    assert found == {
        "parameters": (26_993_766, 56),
        "world_size": (8, 59),
        "train_cap_seconds": (600.0, 64),
        "train_seconds": (600.411, 112),
        "ms_per_step": (0.09836, 112),
        "steps": (6104, 113),
        "peak_memory_mib": (22_016, 114),
        "raw_bytes": (106_181_533, 117),
        "code_bytes": (94_378, 118),
        "weight_bytes": (15_905_672, 119),
        "total_bytes": (16_000_050, 120),
    }
    stages = {s.label: (s.val_bpb and s.val_bpb.value, s.eval_seconds and s.eval_seconds.value) for s in run.stages}
    assert stages == {
        "last validation": (1.1433, None),
        "DIAGNOSTIC post_ema": (1.1425, 2.064),
        "final_int6_roundtrip": (1.14992068, 18.497),
        "final_int6_sliding_window": (1.12630375, 100.854),
        "ttt_sliding:done": (1.041004, 486.0),
        "ttt_eval": (1.04100394, 486.383),
    }
    losses = {point.step: point for point in run.losses}
    assert losses[500].train_loss == 2.3833 and losses[2000].train_loss == 2.0493
    assert (losses[4000].train_loss, losses[4000].val_loss, losses[4000].val_bpb) == (1.9445, 2.0338, 1.2045)
    assert losses[6104].val_bpb == 1.1433


# --- folder by folder ------------------------------------------------------------------------------

FOUND = {
    GPTQ_LITE: """
        val_bpb | differs | 1.12278022 | 1.12331641 | seed 1337 alone, the lowest of 3
        val_loss | differs | | |
        folder name | rounding | 1.1233 | 1.12331641 | mean of
        names of stages | stated | | | 'final_int8_zlib_roundtrip' repeats the figures of 'final_int6_sliding
        bytes_total | confirmed | 15555017 | 15,555,017 bytes | the largest of 3 is 15,586,805 bytes
        train.log | stated | | | byte-identical to train_seed1337.log
        seeds | absent | | | does not name its seeds""",
    LEGAL_TTT: """
        val_bpb | rounding | 1.1194 | 1.11937967 |
        bytes_total | confirmed | | |
        evaluation, seed 1337 | kept | | 410.268 s |""",
    # The evaluation that counts keeps its cap; all four passes that the log times do not.
    HEDGE: """
        bpb | differs | 1.0400 | 1.04100394 | eval_seed42.log, a second, evaluation-only run
        val_loss | differs | | 1.75768689 |
        artifact_bytes | differs | 15999919 | 16,000,050 bytes |
        total bytes, seed 42 | broken | | | over 16,000,000 bytes by 50 bytes
        code_bytes + model_bytes | fails | | 15,999,977 bytes | -58 bytes
        code_bytes | differs | | 94,378 bytes |
        training_time_seconds | rounding | 600 | 600.411 s |
        number of seeds | broken | | |
        eval_seed42.log | stated | | evaluation only |
        evaluation, seed 42 | kept | | |
        all evaluation, seed 42 | stated | | 607.798 s |
        num_params | confirmed | | |
        steps | confirmed | | |
        model_bytes | confirmed | | |""",
    VALCALIB: """
        val_bpb | confirmed | | |
        val_loss | confirmed | | |
        val_bpb_std | confirmed | | |
        val_loss_std | confirmed | | |
        artifact_bytes_mean | confirmed | | |
        artifact_bytes_max | confirmed | | |
        seed_results.314.step_avg_ms | rounding | 86.6 | 86.63 ms |
        seeds | confirmed | | |
        other timed work, seed 42 | stated | | 198.3 s | 798.4 s, over 600 s
        t_statistic | not in the logs | | | --baseline""",
    LOADER: """
        val_bpb | rounding | | |
        training clock, seed 42 | kept | | 586.200 s |
        other timed work, seed 42 | stated | | | 592.9 s, within 600 s; the log speaks of training data""",
    SP8192: """
        milliseconds a step | absent | | | seed 0, seed 42, seed 1234
        seeds.0.train_time_ms | differs | 588004 | 588.035 s |
        seeds.42.train_time_ms | differs | 588009 | 588.015 s |
        seeds.1234.train_time_ms | differs | 588000 | 588.071 s |
        mean_bpb | confirmed | | |
        sliding_bpb_mean | confirmed | | |
        pre_ttt_sliding_mean | confirmed | | |
        seeds.0.ttt_time_ms | confirmed | | |
        compliance.training_under_600s | confirmed | | |""",
}
"""Subject, verdict, claimed, found, and words of the detail; what is empty here may be anything."""
STATUS = {"differs": "problem", "fails": "problem", "broken": "problem", "stated": "note"}
OVER = {
    GPTQ_LITE: {"42": "0.059 s", "1337": "0.036 s", "2024": "0.070 s"},
    LEGAL_TTT: {"42": "0.128 s", "1337": "0.128 s", "2025": "0.110 s"},
    HEDGE: {"42": "0.411 s"},
    VALCALIB: {"42": "0.058 s", "314": "0.109 s", "999": "0.137 s"},
}


@pytest.mark.parametrize("name", SIX)
def test_what_is_found_in_each_folder(reports: dict[str, FolderReport], name: str) -> None:
    report, wrong = reports[name], set()
    for row in FOUND[name].strip().splitlines():
        subject, verdict, claimed, shown, words = (cell.strip() for cell in row.split("|"))
        found = finding(report, subject)
        assert found.verdict == verdict and words in found.detail, subject
        assert claimed in ("", found.claimed) and shown in ("", found.found), subject
        assert found.status == STATUS.get(verdict, found.status), subject
        wrong |= {subject} if found.status == "problem" else set()
    assert over(report) == OVER.get(name, {})
    assert problems(report) == wrong | {f"training clock, seed {seed}" for seed in OVER.get(name, {})}
    assert report.holds == (name == LOADER)


def test_valcalib_statistic_is_reproduced_from_the_other_folder(published: Path) -> None:
    report = report_of(published / VALCALIB, published / LEGAL_TTT)
    comparison = report.comparison
    assert comparison is not None and comparison.baseline == LEGAL_TTT
    margin, zero = comparison.tests
    assert zero.statistic == pytest.approx(-11.8339, abs=5e-5) and zero.df == pytest.approx(3.3063, abs=5e-5)
    assert margin.statistic == pytest.approx(-4.29, abs=5e-3) and margin.p == pytest.approx(0.0095, abs=5e-5)
    assert comparison.margin_bpb == pytest.approx(0.00296, abs=5e-6)
    for subject in ("t_statistic", "welch_df", "delta_vs_pr549_nats", "delta_vs_pr549_bpb"):
        assert finding(report, subject).verdict == "confirmed", subject


def test_another_tokenizer_is_told(published: Path) -> None:
    report = report_of(published / SP8192, published / LOADER)
    comparison = report.comparison
    assert comparison is not None and comparison.delta_nats is None
    assert "tokenizer or text differs" in comparison.note and "0.00194 BPB" in comparison.note
    assert comparison.delta_bpb == pytest.approx(1.08279384 - 1.11222462, abs=1e-8)


def test_evidence_is_where_it_says(published: Path, reports: dict[str, FolderReport]) -> None:
    """Every place that a figure names holds the figure's own digits."""
    checked = 0
    for name, report in reports.items():
        for run in report.runs:
            lines = (published / name / run.file).read_text().splitlines()
            figures = [*run.figures.values()]
            for stage in run.stages:
                figures += [f for f in (stage.val_bpb, stage.val_loss, stage.eval_seconds) if f is not None]
            for figure in figures:
                digits = figure.text.split()[0].rstrip("ms")
                assert digits in lines[figure.place.line - 1], (name, figure)
                checked += 1
    assert checked > 300
