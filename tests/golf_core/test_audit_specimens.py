"""The catalogue: every planted violation is found under its condition, every honest specimen passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from golf_core.audit.specimens.catalogue import Specimen, honest_ones, specimen, violating
from golf_core.audit.specimens.table import audit_specimen, figure_rows, markdown, row_of

REPO = Path(__file__).resolve().parents[2]
SPECIMENS = (*violating(), *honest_ones())
FENCED = {"reads_training_data", "connects", "counts", "restartable"}
"""Run in isolation here; the command does so with all."""


@pytest.mark.parametrize("which", SPECIMENS, ids=lambda s: s.name)
def test_specimen_is_judged_as_expected(which: Specimen) -> None:
    report = audit_specimen(which, isolate=which.name in FENCED)
    row = row_of(which, report)
    assert set(row.found) == set(which.violated), report.conditions
    assert set(row.undecided) == set(which.undecided), report.conditions
    assert report.passed == which.is_honest


def test_figures_are_judged_as_expected() -> None:
    rows = tuple(figure_rows())
    assert [r.name for r in rows if not r.as_expected] == []
    assert {r.honest for r in rows} == {True, False}


def test_names_are_unique_and_found() -> None:
    names = [s.name for s in SPECIMENS]
    assert len(set(names)) == len(names)
    assert specimen("one_too_far").violated and specimen("uniform").is_honest
    with pytest.raises(KeyError):
        specimen("no such thing")


def test_the_documented_table_lists_the_catalogue() -> None:
    """`golf audit --specimens --markdown docs/audit_specimens.md` was run after the last change of the catalogue."""
    written = (REPO / "docs" / "audit_specimens.md").read_text(encoding="utf-8")
    for which in SPECIMENS:
        line = next((line for line in written.splitlines() if line.startswith(f"| `{which.name}` |")), "")
        assert which.what in line, which.name
        for name in (*which.violated, *(f"({name})" for name in which.undecided)):
            assert name in line
    for row in figure_rows():
        assert f"| `{row.name}` |" in written
    assert "all as expected" in written


def test_a_wrong_verdict_shows_in_the_table() -> None:
    rows = tuple(figure_rows())
    worse = type(rows[0])(**{**vars(rows[0]), "found": ("byte count",)})
    assert "all as expected" in markdown(rows)
    assert "**1 not as expected**" in markdown((worse, *rows[1:]))
