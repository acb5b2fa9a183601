"""`golf verify` as a command: exit codes, what it prints, and the files that it writes."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import REPO, golf
from verify_builders import RUNS, printed, report_of, write_folder

from golf_core import strict_json
from orchestrator.verify.report import VerifyReport, page
from orchestrator.verify.verifier import verify


def test_a_problem_and_the_files_that_are_written(tmp_path: Path) -> None:
    wrong = write_folder(tmp_path / "wrong", val_bpb=1.0)
    good = write_folder(tmp_path / "good")
    report, text = tmp_path / "out" / "report.json", tmp_path / "out" / "page.md"
    done = golf("verify", str(wrong), str(good), "--json", str(report), "--markdown", str(text))
    assert done.returncode == 1, done.stderr
    assert "problem: differs" in done.stdout and "1 problem: val_bpb" in done.stdout
    assert "ok: confirmed" in done.stdout and "train_seed42.log:20" in done.stdout
    assert "Everything that could be checked holds" in done.stdout
    assert done.stdout.rstrip().endswith("claimed figures agree with 3 runs in the logs.")
    saved = strict_json.load(VerifyReport, report)
    assert [folder.holds for folder in saved.folders] == [False, True]
    assert saved == verify([wrong, good])
    written = text.read_text()
    assert written == page(verify([wrong, good]), [wrong, good], None, text)
    assert "golf verify" in written and "--markdown page.md" in written
    assert str(tmp_path) not in written  # names of folders alone


def test_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    done = golf("verify", str(tmp_path / "nowhere"), str(write_folder(tmp_path / "good")))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "no such folder" in done.stderr and "Traceback" not in done.stderr
    assert "Everything that could be checked holds" in done.stdout  # the other one is still checked


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--baseline", "missing", "no such folder"),
        ("--baseline", "base", "no log of it gives a score"),
        ("--json", "file/report.json", "cannot be written"),
    ],
)
def test_other_folders_and_files_that_cannot_serve(tmp_path: Path, option: str, value: str, words: str) -> None:
    write_folder(tmp_path / "base", (), submission={})
    (tmp_path / "file").write_text("")
    done = golf("verify", str(write_folder(tmp_path / "good")), option, str(tmp_path / value))
    assert done.returncode == 2 and done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
    assert words in done.stderr


def test_a_baseline_is_tested_against(tmp_path: Path) -> None:
    base = write_folder(tmp_path / "base", tuple(replace(run, bpb=run.bpb + 0.01) for run in RUNS))
    done = golf("verify", str(write_folder(tmp_path / "good")), "--baseline", str(base))
    assert done.returncode == 0
    assert "Welch's t test" in done.stdout and "0.00296 BPB" in done.stdout


@pytest.mark.parametrize("width", [80, 170])
def test_the_table_fits_the_terminal(tmp_path: Path, width: int) -> None:
    shown = printed(report_of(write_folder(tmp_path / "f", val_bpb=1.0)), width)
    assert all(len(line) <= width for line in shown.splitlines())
    for figure in ("15,902,345", "1.11822345", "599.400", "problem: differs", "train_seed1337.log:20"):
        assert figure in shown, figure  # none is cut in two


def test_the_published_page_is_what_the_command_writes(shared: Path, tmp_path: Path) -> None:
    kept = Path("docs/published_runs.md")
    names = re.findall(r"(?m)^    (20\S+) \\$", (REPO / kept).read_text())
    folders = [shared / "published" / name for name in names]
    assert len(folders) == 6
    assert page(verify(folders), folders, None, kept) == (REPO / kept).read_text()


def test_the_published_page_quotes_no_text(shared: Path) -> None:
    """Figures and verdicts alone: no words of the submissions' own texts."""
    text = (REPO / "docs/published_runs.md").read_text()
    for place in (shared / "published").glob("*/submission.json"):
        content = json.loads(place.read_text())
        for key in "blurb description author name legality_notes our_contribution technique_summary".split():  # noqa: SIM905
            assert content.get(key, "no such field") not in text
    assert "/work" not in text and "/home" not in text
