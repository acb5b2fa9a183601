"""`golf verify` on what must not break it: damaged, hostile and enormous files. A sentence each, and no traceback."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from drawing import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from verify_builders import RUNS, claims, finding, log_lines, printed, problems, report_of, write_folder

from golf_core import strict_json
from orchestrator.verify import logs
from orchestrator.verify.folder import MOST_LOGS, FolderError, read_folder
from orchestrator.verify.logs import LINE_BYTES, read_log
from orchestrator.verify.report import page
from orchestrator.verify.submission import Digits, read_submission
from orchestrator.verify.verifier import verify

# --- folders ---------------------------------------------------------------------------------------


def test_no_folder_a_file_and_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("val_bpb:1.0")
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.md").write_text("# nothing")
    for name, words in [
        ("nowhere", "no such folder"),
        ("file", "a file"),
        ("empty", "holds neither submission.json nor a log"),
        ("other", "holds neither submission.json nor a log"),
        ("x" * 300, "cannot be read"),
        ("x/" * 3000, "cannot be read"),
        ("a\0b", "not a name that a folder can have"),
    ]:
        with pytest.raises(FolderError, match=words):
            read_folder(tmp_path / name)


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.log"
    secret.write_text("\n".join(log_lines(RUNS[2])))
    place = write_folder(tmp_path / "f", RUNS[:2])
    (place / "train_seed2024.log").symlink_to(secret)
    (place / "broken.log").symlink_to(tmp_path / "gone")
    (place / "circle.log").symlink_to(place / "circle.log")
    (place / "endless.log").symlink_to("/dev/zero")
    (place / "within.log").symlink_to(place / "train_seed42.log")
    report = report_of(place)
    assert {run.file for run in report.runs} == {"train_seed42.log", "train_seed1337.log"}
    notes = {f.detail.split(" ")[0] for f in report.findings if "not followed" in f.detail}
    assert notes == {"train_seed2024.log", "broken.log", "circle.log", "endless.log"}
    assert "byte-identical" in finding(report, "within.log").detail


def test_files_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests may run as root, who may read everything: so the refusal is made up."""
    place = write_folder(tmp_path / "f")
    real = os.open

    def refusing(path: str | Path, flags: int, *rest: int) -> int:
        if str(path).endswith("train_seed42.log"):
            raise PermissionError(13, "Permission denied")
        return real(path, flags, *rest)

    monkeypatch.setattr(logs.os, "open", refusing)
    report = report_of(place)
    assert "Permission denied" in finding(report, "train_seed42.log").detail
    assert finding(report, "seed 42").detail == "claimed, but has no log"


def test_thousands_of_files(tmp_path: Path) -> None:
    place = write_folder(tmp_path / "f")
    for i in range(3_000):
        (place / f"other_{i}.log").write_text("step:1/10 train_loss:6.9\n")
    begin = time.monotonic()
    report = report_of(place)
    assert time.monotonic() - begin < 20
    assert any(f"only the first {MOST_LOGS} were read" in f.detail for f in report.findings)
    # Those with a seed in their names come first.
    assert finding(report, "val_bpb").verdict == "confirmed"


def test_names_with_control_characters(tmp_path: Path) -> None:
    place = write_folder(tmp_path / "f\x1b[31mred\n[bold]|x")
    (place / "evil\x1b[2J.log").write_text("seed:5\n\x1b]0;owned\x07final val_bpb:1.2 val_loss:2.0\n")
    report = report_of(place)
    shown = printed(report) + page(verify([place]), [place], None, tmp_path / "p.md")
    assert "\x1b" not in shown and "\x07" not in shown and "[bold]" in shown


# --- logs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"   \n\n", "it is empty"),
        (b"\x7fELF\x00\x00val_bpb:1.0\n" * 9, "it is binary"),
        (bytes(range(256)) * 99, "it is binary"),
    ],
)
def test_logs_that_are_none(tmp_path: Path, content: bytes, words: str) -> None:
    place = write_folder(tmp_path / "f")
    (place / "train_seed42.log").write_bytes(content)
    report = report_of(place)
    assert finding(report, "train_seed42.log").detail.startswith(words)
    assert not report.holds


def test_text_in_other_encodings(tmp_path: Path) -> None:
    text = "\n".join(["größe=5 Schritte: läuft", *log_lines(RUNS[0])])
    for encoding, note in [("latin-1", 1), ("utf-16", 0), ("utf-8-sig", 0)]:
        path = tmp_path / f"{encoding}.log"
        path.write_bytes(text.encode(encoding))
        log = read_log(path, path.name)
        assert not log.fault and len(log.notes) == note, encoding
        assert log.runs[0].seed == 42 and log.runs[0].figures["steps"].value == 6_900


def test_windows_line_ends_and_progress_bars(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"step 1\rstep 2\rstep 3\r\n" + "\r\n".join(log_lines(RUNS[0])).encode())
    run = read_log(path, "a.log").runs[0]
    assert run.stages[-1].val_bpb is not None and run.stages[-1].val_bpb.value == RUNS[0].bpb


def test_json_lines_and_other_styles(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text(
        '{"seed": 42, "world_size": 8}\n{"step": 100, "train_loss": 2.5}\n{"step": 200, "train_loss": 2.4}\n'
        "[2026-03-01 10:00:00] INFO final val_bpb = 1.2345 val_loss = 2.0845\n"
        "total_bytes = 15_999_999\nCode size: 12,345 bytes\ntraining_time_seconds: 599.5\neval_time: 1.5min\n"
    )
    run = read_log(path, "a.log").runs[0]
    assert run.seed == 42 and run.kind == "training" and [p.step for p in run.losses] == [100, 200]
    assert {s.label: s.val_bpb.value for s in run.stages if s.val_bpb} == {"final": 1.2345}
    found = {name: figure.value for name, figure in run.figures.items()}
    assert (found["total_bytes"], found["code_bytes"], found["train_seconds"]) == (15_999_999, 12_345, 599.5)
    assert found["eval_seconds"] == 90.0


def test_a_large_log_takes_seconds_and_little_memory(tmp_path: Path) -> None:
    """40 MB of steps, and 10 MB in a single line; the figures at the end are still found."""
    path = tmp_path / "train_seed42.log"
    with path.open("w") as file:
        file.write("seed:42\n" + "x=1 " * 2_500_000 + "\n")
        for block in range(50):
            first = block * 10_000
            lines = (
                f"step:{s}/500000 train_loss:{2 + s % 977 / 1000:.4f} train_time:{s}ms step_avg:86.50ms"
                for s in range(first, first + 10_000)
            )
            file.write("\n".join(lines) + "\n")
        file.write("\n".join(log_lines(RUNS[0])[-8:]) + "\n")
    begin = time.monotonic()
    log = read_log(path, path.name)
    assert time.monotonic() - begin < 15
    run = log.runs[0]
    assert run.figures["steps"].value == 499_999 and run.figures["train_seconds"].value == 499.999
    assert len(run.losses) <= 2_001 and run.losses_cut
    assert run.stages[-1].val_bpb is not None and run.stages[-1].val_bpb.value == RUNS[0].bpb
    assert any("longer than" in note for note in log.notes)


@pytest.mark.parametrize(
    "line",
    [
        "a" * LINE_BYTES,
        "a-" * LINE_BYTES,
        "a=" * LINE_BYTES,
        "1" * LINE_BYTES,
        "x=1," * LINE_BYTES,
        "x=" + "1_000" * LINE_BYTES,
        " in 1 " * LINE_BYTES,
        "a    " * LINE_BYTES,
        "val_bpb:" * LINE_BYTES,
        "val_bpb:1.1 " * LINE_BYTES,
        "[1/2] " * LINE_BYTES,
        "2026-01-01 00:00:00 " * LINE_BYTES,
        "| " * LINE_BYTES,
        "\\" * LINE_BYTES,
    ],
    ids=lambda line: line[:12],
)
def test_no_line_takes_long(tmp_path: Path, line: str) -> None:
    """2 MB of the worst lines: patterns that went back over their text would take minutes."""
    path = tmp_path / "a.log"
    path.write_text((line[: LINE_BYTES - 2] + "\n") * 500)
    begin = time.monotonic()
    assert not read_log(path, "a.log").fault
    submission = tmp_path / "submission.json"
    submission.write_text(json.dumps({"blurb": line, line[:9000]: 1.1, "val_bpb": 1.1}))
    (tmp_path / "README.md").write_text((line[: LINE_BYTES - 2] + "\n") * 20)
    verify([tmp_path])
    assert time.monotonic() - begin < 20


# --- submission.json -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "it is empty"),
        ('{"val_bpb": 1.1', "it is not JSON"),
        ("[1, 2]", "it holds a list"),
        ("3.5", "it holds a number"),
        ("null", "it holds nothing"),
        ("[" * 100_000, "it is nested too deeply"),
        ('{"a":' * 100_000, "it is nested too deeply"),
        ('{"a": "' + "x" * 5_000_000 + '"}', "it is larger than"),
    ],
    ids=lambda text: str(text)[:16],
)
def test_submissions_that_cannot_be_read(tmp_path: Path, content: str, words: str) -> None:
    report = report_of(write_folder(tmp_path / "f", submission=content))
    fault = finding(report, "submission.json")
    assert fault.status == "problem" and fault.detail.startswith(words)
    assert report.final is not None and report.final.bpb is not None  # the logs are still read


def test_numbers_that_are_none(tmp_path: Path) -> None:
    text = json.dumps(claims()).replace(
        '"made up"', '"x", "val_bpb_std": NaN, "steps": 1e999, "num_params": ' + "9" * 9_000
    )
    report = report_of(write_folder(tmp_path / "f", submission=text))
    assert problems(report) == {"val_bpb_std", "steps", "num_params"}
    assert "not a finite number" in finding(report, "steps").detail


def test_texts_and_nothings_where_numbers_belong(tmp_path: Path) -> None:
    report = report_of(write_folder(tmp_path / "f", val_bpb="1.1187", val_loss=None, bytes_total=[], seeds={"a": {}}))
    assert report.holds, problems(report)  # nothing is claimed, so nothing is wrong
    assert {"val_bpb", "val_loss", "total_bytes"} <= {f.subject for f in report.findings if f.status == "absent"}


def test_not_utf8_and_names_given_twice(tmp_path: Path) -> None:
    place = write_folder(tmp_path / "f")
    (place / "submission.json").write_bytes(b'{"val_bpb": 1.2, "val_bpb": 1.11869012, "name": "\xff\xfe"}')
    report = report_of(place)
    notes = [f.detail for f in report.findings if f.subject == "submission.json"]
    assert any("UTF-8" in note for note in notes) and any("'val_bpb' is given more than once" in note for note in notes)


# --- anything at all -------------------------------------------------------------------------------

fuzz = settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


KEYS = """
val_bpb val_loss bpb val_bpb_std val_loss_mean seeds seed seed_results 42 1337 steps step_avg_ms train_time_ms
bytes_total artifact_bytes_max code_bytes model_bytes t_statistic welch_df p_value delta_vs_x_bpb baseline_bpb
margin_bpb blurb sliding_bpb_mean num_params compliance three_seeds eval_under_600s date pr steps_mean x
"""
keys = st.sampled_from(KEYS.split())
numbers = st.one_of(
    st.integers(-(10**20), 10**20), st.floats(allow_nan=True, allow_infinity=True), st.floats(0.5, 2), st.just(1.1187)
)
texts = st.text(max_size=80)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=5)),
    max_leaves=25,
)


@fuzz
@given(st.dictionaries(keys, values, max_size=12))
def test_any_submission_can_be_checked(tmp_path: Path, content: dict[str, object]) -> None:
    place = write_folder(tmp_path / "f", submission=json.dumps(content))
    report = verify([place])
    printed(report.folders[0])
    page(report, [place], None, tmp_path / "page.md")
    strict_json.save(report, tmp_path / "report.json")
    numbers_in_it = [
        leaf for leaf in read_submission(place / "submission.json").leaves if isinstance(leaf.value, Digits)
    ]
    text = (place / "submission.json").read_text().splitlines()
    assert all(1 <= leaf.line <= len(text) for leaf in numbers_in_it)
