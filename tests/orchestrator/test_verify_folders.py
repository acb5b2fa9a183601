"""`golf verify` on folders made up here: each has one thing wrong, and that is what is found."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import scipy.stats
from claim_builders import finished
from hypothesis import given
from hypothesis import strategies as st
from verify_builders import RUNS, MadeRun, claims, finding, log_lines, problems, report_of, write_folder

from golf_core.log_text import result_lines
from golf_core.results import Score
from orchestrator.verify.figures import agreement, quantity
from orchestrator.verify.verifier import verify

SD = float(scipy.stats.tstd([run.bpb for run in RUNS]))
PARTS = {"code_bytes": 90_000, "model_bytes": 15_812_345}
WORK = "gptq:calibrating with 64 batches (training data)...\ngptq:calibrated 66 layers in 6.8s"
STEP_500 = "step:500/20000 train_loss:2.3833 train_time:46087ms step_avg:92.17ms"


def test_a_folder_that_holds(tmp_path: Path) -> None:
    report = report_of(write_folder(tmp_path / "good"))
    assert report.holds, problems(report)
    assert verify([tmp_path / "good"]).exit_code == 0
    for run in RUNS:
        for field in ("val_bpb", "val_loss", "artifact_bytes", "steps", "train_seconds", "eval_seconds", "ms_per_step"):
            assert finding(report, f"seed_results.{run.seed}.{field}").verdict == "confirmed", field


# --- claims ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "subject", "status", "verdict", "words"),
    [
        ({"val_bpb": 1.11769012}, "val_bpb", "problem", "differs", "1.1186901"),
        ({"val_loss": 1.8}, "val_loss", "problem", "differs", "1.88879"),
        ({"val_bpb": 1.1186}, "val_bpb", "problem", "differs", ""),
        ({"val_bpb": 1.1187}, "val_bpb", "ok", "rounding", "mean over 3 logs"),
        ({"val_loss": 1.889}, "val_loss", "ok", "rounding", "mean over 3 logs"),
        ({"bytes_total": 15_902_344}, "bytes_total", "problem", "differs", "15,902,345 bytes"),
        (
            {"bytes_total": RUNS[0].total_bytes},
            "bytes_total",
            "note",
            "confirmed",
            "the largest of 3 is 15,902,345 bytes",
        ),
        ({"val_bpb_std": round(SD, 8)}, "val_bpb_std", "ok", "confirmed", "sample"),
        (
            {"val_bpb_std": round(SD * (2 / 3) ** 0.5, 8)},
            "val_bpb_std",
            "note",
            "confirmed",
            f"population ... {SD:.8f}",
        ),
        ({"val_bpb_std": 0.0009}, "val_bpb_std", "problem", "differs", ""),
        ({"warmup_steps": 20}, "warmup_steps", "ok", "confirmed", ""),
        ({"iterations": 9000}, "iterations", "problem", "differs", "20000"),
        ({"dropout": 0.1}, "dropout", "absent", "not in the logs", ""),
        (PARTS, "code_bytes + model_bytes", "ok", "holds", ""),
        (PARTS | {"bytes_total": 15_902_000}, "code_bytes + model_bytes", "problem", "fails", "-345 bytes"),
    ],
)
def test_a_field(
    tmp_path: Path, changes: dict[str, float], subject: str, status: str, verdict: str, words: str
) -> None:
    """Another figure in submission.json: what becomes of it, and that nothing else is accused."""
    report = report_of(write_folder(tmp_path / "f", **changes))
    found = finding(report, subject)
    assert (found.status, found.verdict) == (status, verdict)
    assert all(word in f"{found.found} {found.detail}" for word in words.split("..."))
    assert problems(report) <= {subject, *changes}


def test_a_wrong_figure_of_a_seed_names_its_line(tmp_path: Path) -> None:
    submission = claims()
    submission["seed_results"]["1337"]["steps"] = 6_911
    report = report_of(write_folder(tmp_path / "f", submission=submission))
    wrong = finding(report, "seed_results.1337.steps")
    assert problems(report) == {"seed_results.1337.steps"}
    assert (wrong.claimed, wrong.found) == ("6911", "6,910")
    text = (tmp_path / "f" / "submission.json").read_text().splitlines()
    assert "6911" in text[wrong.evidence[0].line - 1]
    log = (tmp_path / "f" / "train_seed1337.log").read_text().splitlines()
    assert wrong.evidence[1].file == "train_seed1337.log" and "step:6910" in log[wrong.evidence[1].line - 1]


@pytest.mark.parametrize(
    ("claimed", "words"),
    [
        (RUNS[2].bpb, "the log of seed 2024"),
        (1.14992068, "another stage ('final_int6_roundtrip')"),  # before the sliding window
    ],
)
def test_the_figure_of_something_else(tmp_path: Path, claimed: float, words: str) -> None:
    submission = claims()
    submission["seed_results"]["42"]["val_bpb"] = claimed
    wrong = finding(report_of(write_folder(tmp_path / "f", submission=submission)), "seed_results.42.val_bpb")
    assert wrong.verdict == "differs" and words in wrong.detail
    assert wrong.found == "1.11912345"  # what seed 42's own log gives


@pytest.mark.parametrize(
    "seeds",
    [
        [{"seed": run.seed, "val_bpb": run.bpb, "steps": run.steps} for run in RUNS],
        {f"seed_{run.seed}": {"val_bpb": run.bpb, "steps": run.steps} for run in RUNS},
        {f"val_bpb_seed{run.seed}": run.bpb for run in RUNS},
    ],
    ids=["list of objects", "named keys", "flat keys"],
)
def test_other_ways_to_write_the_seeds(tmp_path: Path, seeds: object) -> None:
    report = report_of(write_folder(tmp_path / "f", seeds=None, seed_results=None, results=seeds))
    assert report.holds, problems(report)
    agreeing = [f for f in report.findings if f.subject.startswith("results") and f.verdict == "confirmed"]
    assert len(agreeing) == (3 if isinstance(seeds, dict) and "val_bpb_seed42" in seeds else 6)
    assert finding(report, "seeds").verdict == "confirmed"


def test_groups_of_figures(tmp_path: Path) -> None:
    """What a group is called says whose its figures are, and of which stage."""
    groups = {
        "baseline": {"val_bpb": 1.2244, "bytes_total": 1},
        "int6_roundtrip": {"val_bpb": 1.14992068},
        "attempts": {"1": {"val_bpb": 1.5}, "2024": {"val_bpb": RUNS[2].bpb}},
    }
    report = report_of(write_folder(tmp_path / "f", **groups))
    assert report.holds, problems(report)
    assert finding(report, "baseline.val_bpb").verdict == "confirmed"  # it is what the comparison is made with
    assert report.comparison is not None and report.comparison.mean_bpb == 1.2244
    assert finding(report, "int6_roundtrip.val_bpb").verdict == "confirmed"
    assert finding(report, "attempts.2024.val_bpb").verdict == "confirmed"
    assert finding(report, "attempts.1.val_bpb").status == "absent"


def test_the_last_validation_can_be_the_claim(tmp_path: Path) -> None:
    report = report_of(write_folder(tmp_path / "f", val_bpb=1.1433, val_loss=1.9304, seed_results=None))
    assert report.final is not None and report.final.label == "last validation"
    assert report.holds, problems(report)


# --- tables ----------------------------------------------------------------------------------------


def test_readme_tables(tmp_path: Path) -> None:
    place = write_folder(tmp_path / "f")
    rows = "\n".join(f"| {r.seed} | {r.steps:,} | {r.bpb:.4f} | {r.total_bytes:,} | -0.02 |" for r in RUNS)
    readme = "# Record\n\n| Seed | Steps | val_bpb | Artifact | TTT gain |\n|---|---|---|---|---|\n" + rows
    readme += "\n| **Mean** | | **1.1187** | | |\n\nMean **1.99999** BPB.\n"
    (place / "README.md").write_text(readme)
    report = report_of(place)
    assert report.holds, problems(report)
    cells = [f for f in report.findings if f.topic == "readme"]
    assert len([f for f in cells if f.verdict in ("confirmed", "rounding")]) == 10
    swapped = readme.replace(f"| 42 | {RUNS[0].steps:,}", f"| 42 | {RUNS[1].steps:,}").replace("1.1191", "1.1192")
    (place / "README.md").write_text(swapped)
    report = report_of(place)
    assert problems(report) == {"README.md, 'Steps' of 42", "README.md, 'val_bpb' of 42"}
    assert "the log of seed 1337" in finding(report, "README.md, 'Steps' of 42").detail


# --- logs and seeds --------------------------------------------------------------------------------


def test_a_claimed_seed_without_a_log(tmp_path: Path) -> None:
    place = write_folder(tmp_path / "f")
    (place / "train_seed2024.log").unlink()
    report = report_of(place)
    assert finding(report, "seed 2024").detail == "claimed, but has no log"
    assert finding(report, "number of seeds").verdict == "broken"
    assert finding(report, "seed_results.2024.steps").status == "absent"


def test_a_log_whose_seed_is_not_claimed(tmp_path: Path) -> None:
    submission = claims(RUNS[:3])
    extra = MadeRun(7, 1.12555555)
    report = report_of(write_folder(tmp_path / "f", (*RUNS, extra), submission))
    assert "not among the claimed seeds" in finding(report, "seed 7").detail
    # Dropping it would be choosing: the mean is that of all logs.
    assert finding(report, "val_bpb").verdict == "differs"


@pytest.mark.parametrize(
    ("name", "status"), [("train_seed2024.log", "problem"), ("train.log", "note")], ids=["another seed", "no seed"]
)
def test_a_copy_of_a_log(tmp_path: Path, name: str, status: str) -> None:
    place = write_folder(tmp_path / "f")
    (place / name).write_bytes((place / "train_seed42.log").read_bytes())
    report = report_of(place)
    twin = finding(report, name)
    assert twin.status == status and "byte-identical to train_seed42.log" in twin.detail
    assert report.holds == (status == "note")


def test_two_different_logs_of_one_seed(tmp_path: Path) -> None:
    place = write_folder(tmp_path / "f")
    (place / "train_seed42_again.log").write_text("\n".join(log_lines(MadeRun(42, 1.13))))
    report = report_of(place)
    assert "a further run of seed 42" in finding(report, "train_seed42_again.log").detail
    assert problems(report) == {"train_seed42_again.log"}


@pytest.mark.parametrize(
    ("old", "new", "subject", "verdict", "words"),
    [
        ("Code size", "Total submission size: 106271533 bytes\nCode size", "total bytes, seed 42", "kept", "15,890"),
        ("train_time:599400ms", "train_time: 10.0m", "training clock, seed 42", "stated", "given to 6 s only"),
        ("\nfinal_int6_r", "\ntrain_time: 10.0m\nfinal_int6_r", "training clock, seed 42", "kept", "599.400 s"),
        ("Code size: 90000", "Code size: 90009", "sum of bytes, seed 42", "fails", ""),
        ("\nfinal_int6_r", f"\n{WORK}\nfinal_int6_r", "other timed work, seed 42", "broken", "training data"),
        ("seed:42", "seed:43", "train_seed42.log", "fails", "its name says seed 42, the log says 43"),
        ("val_bpb:1.11912345", "val_bpb:1.11912345\nfinal_int6_sliding_window val_loss:1.8 val_bpb:1.10000000",
         "train_seed42.log", "fails", "given twice"),
        (STEP_500, f"{STEP_500}\nstep:400/20000 train_loss:2.4 train_time:41000ms", "train_seed42.log", "fails",
         "step 400 (line 10) comes after step 500"),
        (STEP_500, f"{STEP_500}\n{STEP_500}", "seed_results.42.val_bpb", "confirmed", ""),  # as two loggers write them
        (STEP_500, f"{STEP_500}\nstep:500/20000 train_loss:2.4 train_time:46100ms", "train_seed42.log", "fails",
         "step 500 has train_loss 2.3833 and 2.4 (line 10)"),
    ],
)  # fmt: skip
def test_a_log(tmp_path: Path, old: str, new: str, subject: str, verdict: str, words: str) -> None:
    """Other words in the log of one seed."""
    place = write_folder(tmp_path / "f")
    log = place / "train_seed42.log"
    assert old in log.read_text()
    log.write_text(log.read_text().replace(old, new))
    found = finding(report_of(place), subject)
    assert found.verdict == verdict and words in f"{found.found} {found.detail}"


@pytest.mark.parametrize(("name", "source"), [("train_seed{}.log", "file name"), ("run_{}.log", "unknown")])
def test_logs_that_do_not_say_their_seed(tmp_path: Path, name: str, source: str) -> None:
    named = source == "file name"
    content = claims(**({} if named else {"seeds": None, "seed_results": None}))
    place = write_folder(tmp_path / "f", (), content)
    for run in RUNS:
        lines = [line for line in log_lines(run) if not line.startswith("seed:")]
        (place / name.format(run.seed)).write_text("\n".join(lines))
    report = report_of(place)
    assert {run.seed_source for run in report.runs} == {source} and len(report.runs) == len(RUNS)
    assert report.holds and finding(report, "val_bpb").verdict == "confirmed"
    assert named or finding(report, "run_42.log").verdict == "absent"


def test_two_runs_one_after_the_other_in_one_file(tmp_path: Path) -> None:
    place = write_folder(tmp_path / "f")
    lines = [line for run in RUNS[:2] for line in log_lines(run)]
    (place / "train_seed1337.log").unlink()
    (place / "train_seed42.log").write_text("\n".join(lines))
    report = report_of(place)
    both = finding(report, "train_seed42.log")
    assert "it holds 2 runs: seed 42" in both.detail and "seed 1337 from line 22" in both.detail
    # Each run still has its own figures.
    assert finding(report, "seed_results.42.val_bpb").verdict == "confirmed"
    assert finding(report, "seed_results.1337.val_bpb").verdict == "confirmed"


def test_two_runs_line_by_line_in_one_file(tmp_path: Path) -> None:
    place = write_folder(tmp_path / "f")
    pairs = zip(log_lines(RUNS[0]), log_lines(replace(RUNS[1], seed=42)), strict=True)
    (place / "train_seed42.log").write_text("\n".join(line for pair in pairs for line in pair))
    report = report_of(place)
    assert any("its lines are not one run's" in f.detail for f in report.findings if f.subject == "train_seed42.log")
    # Nothing is taken from it.
    assert finding(report, "seed_results.42.val_bpb").status == "absent"


def test_a_second_evaluation_of_the_same_seed(tmp_path: Path) -> None:
    place = write_folder(tmp_path / "f", RUNS[:1], val_bpb=1.105)
    (place / "eval_seed42.log").write_text(
        "seed:42\neval_only:loading checkpoint\nfinal_int6_sliding_window_exact val_loss:1.86 val_bpb:1.10500000\n"
    )
    report = report_of(place)
    claim = finding(report, "val_bpb")
    assert claim.verdict == "differs" and "a second, evaluation-only run" in claim.detail
    assert "which trained the weights, gives 1.11912345" in claim.detail


def test_a_program_at_the_head_of_a_log_is_not_read(tmp_path: Path) -> None:
    place = write_folder(tmp_path / "f")
    listing = ["import os", "from pathlib import Path", "class Args:", "    seed = 7", "    val_bpb = 0.5", "=" * 100]
    for run in RUNS:
        (place / f"train_seed{run.seed}.log").write_text("\n".join([*listing, *log_lines(run)]))
    report = report_of(place)
    assert report.holds, problems(report)
    assert {run.seed for run in report.runs} == {42, 1337, 2024}


# --- budgets ---------------------------------------------------------------------------------------


def test_over_the_caps(tmp_path: Path) -> None:
    over = ({"train_ms": 600_411}, {"weight_bytes": 15_910_050}, {"eval_ms": 600_001})
    runs = tuple(replace(run, **change) for run, change in zip(RUNS, over, strict=True))
    report = report_of(write_folder(tmp_path / "f", runs))
    assert "over 600 s by 0.411 s" in finding(report, "training clock, seed 42").detail
    assert "over 16,000,000 bytes by 50 bytes" in finding(report, "total bytes, seed 1337").detail
    assert "over 600 s by 0.001 s" in finding(report, "evaluation, seed 2024").detail
    assert finding(report, "training clock, seed 1337").verdict == "kept"


@pytest.mark.parametrize(
    ("train_ms", "size", "verdict"), [(600_000, 15_910_000, "kept"), (600_001, 15_910_001, "broken")]
)
def test_the_caps_themselves(tmp_path: Path, train_ms: int, size: int, verdict: str) -> None:
    runs = tuple(replace(run, train_ms=train_ms, weight_bytes=size) for run in RUNS)
    report = report_of(write_folder(tmp_path / "f", runs))
    assert finding(report, "training clock, seed 42").verdict == verdict
    assert finding(report, "total bytes, seed 42").verdict == verdict


def test_the_program_and_the_weights_in_the_folder(tmp_path: Path) -> None:
    place = write_folder(tmp_path / "f", tuple(replace(run, code_bytes=90) for run in RUNS))
    (place / "train_gpt.py").write_bytes(b"#" * 90)
    assert finding(report_of(place), "size of train_gpt.py").status == "ok"
    (place / "train_gpt.py").write_bytes(b"#" * 91)
    wrong = finding(report_of(place), "size of train_gpt.py")
    assert wrong.verdict == "fails" and wrong.found == "91 bytes"


def test_what_is_absent_is_said(tmp_path: Path) -> None:
    place = write_folder(tmp_path / "f", submission={"val_bpb": 1.1187})
    for run in RUNS:
        (place / f"train_seed{run.seed}.log").write_text(
            f"seed:{run.seed}\nstep:900/900 val_bpb:1.3\nval_bpb:{run.bpb}\n"
        )
    report = report_of(place)
    absent = {f.subject for f in report.findings if f.status == "absent"}
    assert {"seeds", "val_loss", "total_bytes", "val_bpb_std", "milliseconds a step", "peak memory"} <= absent
    assert {f"{what}, seed 42" for what in ("total bytes", "training clock", "evaluation")} <= absent
    assert report.holds, problems(report)


# --- a baseline ------------------------------------------------------------------------------------


OWN = [run.bpb for run in RUNS]
THEIRS = [round(run.bpb + 0.006 + run.seed * 1e-7, 8) for run in RUNS]
WELCH = scipy.stats.ttest_ind(OWN, THEIRS, equal_var=False, alternative="less")


def baseline(place: Path) -> Path:
    return write_folder(place, tuple(replace(run, bpb=bpb) for run, bpb in zip(RUNS, THEIRS, strict=True)))


def test_the_tests_against_a_baseline(tmp_path: Path) -> None:
    comparison = report_of(write_folder(tmp_path / "f"), baseline(tmp_path / "base")).comparison
    assert comparison is not None and comparison.baseline == "base"
    margin, zero = comparison.tests
    assert (zero.statistic, zero.df, zero.p) == pytest.approx((WELCH.statistic, WELCH.df, WELCH.pvalue))
    shifted = [bpb - comparison.margin_bpb for bpb in THEIRS]
    by_margin = scipy.stats.ttest_ind(OWN, shifted, equal_var=False, alternative="less")
    assert (margin.statistic, margin.p) == pytest.approx((by_margin.statistic, by_margin.pvalue))
    assert comparison.margin_bpb == pytest.approx(0.005 / 1.6884, rel=1e-6)
    assert "whether" not in comparison.note and "differs" not in comparison.note


@pytest.mark.parametrize("factor", [1, 1.01])
def test_claimed_statistics(tmp_path: Path, factor: float) -> None:
    said = {
        "t_statistic": round(float(WELCH.statistic), 4) * factor,
        "welch_df": round(float(WELCH.df), 4),
        "delta_vs_baseline_bpb": round(sum(OWN) / 3 - sum(THEIRS) / 3, 8),
        "baseline_bpb": round(sum(THEIRS) / 3, 8),
    }
    report = report_of(write_folder(tmp_path / "f", **said), baseline(tmp_path / "base"))
    assert problems(report) == (set() if factor == 1 else {"t_statistic"})
    for subject in said.keys() - problems(report):
        assert finding(report, subject).verdict in ("confirmed", "rounding"), subject


def test_one_seed_has_no_p(tmp_path: Path) -> None:
    report = report_of(write_folder(tmp_path / "f", RUNS[:1]), baseline(tmp_path / "base"))
    assert report.comparison is not None and report.comparison.tests[0].p is None


# --- the project's own packages --------------------------------------------------------------------


def test_a_folder_of_this_project(tmp_path: Path) -> None:
    """The log of a package of this project: its own words for the results."""
    place = write_folder(tmp_path / "own", submission={})
    results, nats = {}, 1.95
    for run in RUNS:
        made = finished(run.seed, run.bpb)
        assert made.train and made.export and made.evaluate
        evaluate = replace(made.evaluate, mixture=Score(nats, run.bpb), neural=Score(2.0, 1.155), published=None)
        lines = [
            f"run made seed:{run.seed} world_size:8 device:cuda",
            "time:1.500 step:1/20000 train_loss:6.93180 ms_per_step:90.00000 elapsed_s:0.09000",
            "time:9.500 step:500/20000 train_loss:2.40000 ms_per_step:86.90000 elapsed_s:43.45000",
            *result_lines(made.train, made.export, evaluate),
        ]
        (place / f"train_seed{run.seed}.log").write_text("\n".join(lines))
        results[str(run.seed)] = {
            "val_loss": nats,
            "val_bpb": run.bpb,
            "val_bpb_neural": 1.155,
            "val_bpb_before_quantization": made.train.val_bpb,
            "artifact_bytes": made.export.total_bytes,
            "ms_per_step": made.train.ms_per_step,
            "train_seconds": made.train.train_seconds,
            "eval_seconds": evaluate.seconds,
            "world_size": 8,
        }
    total, code = made.export.total_bytes, made.export.code_bytes
    whole = {"val_loss": nats, "bytes_total": total, "bytes_code": code, "bytes_model_compressed": total - code}
    (place / "submission.json").write_text(json.dumps(claims(**whole, seed_results=results)))
    report = report_of(place)
    assert report.holds, problems(report)
    assert report.final is not None and report.final.label == "final_mixture"
    for field in results["42"]:
        assert finding(report, f"seed_results.42.{field}").verdict == "confirmed", field
    assert finding(report, "bytes_model_compressed").verdict == "confirmed"


# --- numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claimed", "logged", "expected"),
    [
        ("1.0400", "1.04100394", "differs"),
        ("1.0400", "1.039964", "rounding"),
        ("1.039964", "1.0400", "confirmed"),  # the log gives no more digits
        ("15,999,919", "16000050", "differs"),
        ("1.12278022", "1.12278022", "confirmed"),
        ("600", "600.411", "rounding"),
        ("601", "600.411", "differs"),
    ],
)
def test_agreement(claimed: str, logged: str, expected: str) -> None:
    one, other = quantity(claimed), quantity(logged)
    assert one is not None and other is not None
    assert agreement(one, other) == expected


@given(st.decimals(0, 4, places=8), st.integers(1, 8))
def test_a_figure_agrees_with_its_own_rounding(value: object, digits: int) -> None:
    logged, rounded = quantity(f"{value:.8f}"), quantity(f"{value:.{digits}f}")
    assert logged is not None and rounded is not None
    assert agreement(rounded, logged) != "differs"
    off = quantity(f"{float(rounded.text) + 2 * 10**-digits:.{digits}f}")
    assert off is not None and agreement(off, logged) == "differs"
