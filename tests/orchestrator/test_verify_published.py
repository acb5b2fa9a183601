"""The six published folders: what was found in them by hand, found by the program."""

from __future__ import annotations

from pathlib import Path

import pytest
from verify_builders import finding, problems, report_of

from orchestrator.verify.report import Finding, FolderReport
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


def places(found: Finding) -> list[str]:
    return [str(place) for place in found.evidence]


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


def test_a_log_with_minutes_and_a_list_of_hyperparameters(reports: dict[str, FolderReport]) -> None:
    run = next(run for run in reports[SP8192].runs if run.seed == 0)
    assert run.seed_source == "log"
    assert run.figures["train_seconds"].value == 588.035  # not the "9.6m" of the step before
    assert run.figures["steps"].value == 5082
    assert run.figures["total_bytes"].value == 15_991_018
    assert "ms_per_step" not in run.figures  # the log gives tokens a second, and nothing is guessed
    absent = finding(reports[SP8192], "milliseconds a step")
    assert absent.status == "absent" and "seed 0, seed 42, seed 1234" in absent.detail


def test_figures_under_two_names(reports: dict[str, FolderReport]) -> None:
    for name in (GPTQ_LITE, LEGAL_TTT, VALCALIB, LOADER):
        note = finding(reports[name], "names of stages")
        assert "'final_int8_zlib_roundtrip' repeats the figures of 'final_int6_sliding_window' in 3 logs" in note.detail
    assert not [f for f in reports[HEDGE].findings if f.subject == "names of stages"]


# --- folder by folder ------------------------------------------------------------------------------


def test_gptq_lite_claims_its_best_seed(reports: dict[str, FolderReport]) -> None:
    report = reports[GPTQ_LITE]
    claim = finding(report, "val_bpb")
    assert (claim.verdict, claim.claimed, claim.found) == ("differs", "1.12278022", "1.12331641")
    assert "seed 1337 alone, the lowest of 3" in claim.detail
    assert places(claim)[:2] == ["submission.json:8", "train_seed1337.log:80"]
    assert finding(report, "val_loss").verdict == "differs"
    assert finding(report, "folder name").verdict == "rounding"  # 1.1233 is the mean
    total = finding(report, "bytes_total")
    assert (total.status, total.verdict) == ("note", "confirmed") and "15,586,805" in total.detail
    twin = finding(report, "train.log")
    assert twin.status == "note" and "byte-identical to train_seed1337.log" in twin.detail
    assert over(report) == {"42": "0.059 s", "1337": "0.036 s", "2024": "0.070 s"}
    assert finding(report, "seeds").status == "absent"
    assert problems(report) == {"val_bpb", "val_loss", *(f"training clock, seed {s}" for s in (42, 1337, 2024))}


def test_legal_ttt_holds_but_for_its_clock(reports: dict[str, FolderReport]) -> None:
    report = reports[LEGAL_TTT]
    assert finding(report, "val_bpb").verdict == "rounding"
    assert finding(report, "bytes_total").verdict == "confirmed"
    assert over(report) == {"42": "0.128 s", "1337": "0.128 s", "2025": "0.110 s"}
    assert finding(report, "evaluation, seed 1337").found == "410.268 s"
    assert problems(report) == {f"training clock, seed {s}" for s in (42, 1337, 2025)}


def test_hedge_claims_a_second_run_and_is_over_the_cap(reports: dict[str, FolderReport]) -> None:
    report = reports[HEDGE]
    claim = finding(report, "bpb")
    assert (claim.verdict, claim.claimed, claim.found) == ("differs", "1.0400", "1.04100394")
    assert "eval_seed42.log, a second, evaluation-only run" in claim.detail
    assert places(claim) == ["submission.json:4", "eval_seed42.log:265", "train_seed42.log:322"]
    assert finding(report, "val_loss").found == "1.75768689"
    total = finding(report, "artifact_bytes")
    assert (total.verdict, total.claimed, total.found) == ("differs", "15999919", "16,000,050 bytes")
    assert places(total) == ["submission.json:10", "train_seed42.log:120"]
    cap = finding(report, "total bytes, seed 42")
    assert cap.verdict == "broken" and "over 16,000,000 bytes by 50 bytes" in cap.detail
    parts = finding(report, "code_bytes + model_bytes")
    assert parts.verdict == "fails" and parts.found == "15,999,977 bytes" and "-58 bytes" in parts.detail
    assert finding(report, "code_bytes").found == "94,378 bytes"
    assert over(report) == {"42": "0.411 s"}
    assert finding(report, "training_time_seconds").verdict == "rounding"  # 600 for 600.411
    assert finding(report, "number of seeds").verdict == "broken"
    assert finding(report, "eval_seed42.log").status == "note"
    # The pass that counts keeps its cap; all four passes that the log times do not.
    assert finding(report, "evaluation, seed 42").verdict == "kept"
    assert finding(report, "all evaluation, seed 42").found == "607.798 s"
    for confirmed in ("num_params", "steps", "model_bytes"):
        assert finding(report, confirmed).verdict == "confirmed"
    assert len(problems(report)) == 8


def test_valcalib_confirms_every_figure(reports: dict[str, FolderReport]) -> None:
    report = reports[VALCALIB]
    for subject in ("val_bpb", "val_loss", "val_bpb_std", "val_loss_std", "artifact_bytes_mean", "artifact_bytes_max"):
        assert finding(report, subject).verdict == "confirmed", subject
    assert finding(report, "seed_results.314.step_avg_ms").verdict == "rounding"  # 86.6 for 86.63
    assert finding(report, "seeds").verdict == "confirmed"
    assert over(report) == {"42": "0.058 s", "314": "0.109 s", "999": "0.137 s"}
    work = finding(report, "other timed work, seed 42")
    assert work.found == "198.3 s" and "798.4 s, over 600 s" in work.detail
    assert problems(report) == {f"training clock, seed {s}" for s in (42, 314, 999)}


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


def test_valcalib_alone_cannot_show_its_statistic(reports: dict[str, FolderReport]) -> None:
    report = reports[VALCALIB]
    assert report.comparison is None and finding(report, "t_statistic").verdict == "not in the logs"
    assert "--baseline" in finding(report, "t_statistic").detail


def test_loader_holds(reports: dict[str, FolderReport]) -> None:
    report = reports[LOADER]
    assert report.holds and not problems(report)
    assert finding(report, "val_bpb").verdict == "rounding"
    assert finding(report, "training clock, seed 42").found == "586.200 s"
    work = finding(report, "other timed work, seed 42")
    assert "592.9 s, within 600 s" in work.detail and "training data" in work.detail
    assert report.sentence.startswith("Everything that could be checked holds")


def test_sp8192_training_times_are_not_those_of_its_logs(reports: dict[str, FolderReport]) -> None:
    report = reports[SP8192]
    clocks = {seed: finding(report, f"seeds.{seed}.train_time_ms") for seed in (0, 42, 1234)}
    assert {seed: (f.claimed, f.found) for seed, f in clocks.items()} == {
        0: ("588004", "588.035 s"),
        42: ("588009", "588.015 s"),
        1234: ("588000", "588.071 s"),
    }
    assert problems(report) == {f.subject for f in clocks.values()}
    for subject in ("mean_bpb", "sliding_bpb_mean", "pre_ttt_sliding_mean", "seeds.0.ttt_time_ms"):
        assert finding(report, subject).verdict == "confirmed", subject
    assert finding(report, "compliance.training_under_600s").verdict == "confirmed"


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
