from __future__ import annotations

import io
from dataclasses import replace

import pytest
from claim_builders import eval_result, failed, job, run_result, three, train_result
from rich.console import Console

from orchestrator.claim.table import claim_table
from orchestrator.folder.results import RunResult


def printed(result: RunResult, width: int = 110, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    Console(file=file, width=width).print(claim_table(result))
    return raw.getvalue().decode(encoding)


def mixed() -> RunResult:
    seeds = [
        three()[0],
        failed(1337),
        replace(
            three()[2],
            train=train_result(2024, train_seconds=600.411),
            evaluate=eval_result(1.13, mixture=None, published=None, mean_log_z=None, kraft=None, expert_bpb={}),
        ),
    ]
    return run_result(job(), seeds)


@pytest.mark.parametrize("width", [80, 100, 110, 140])
def test_every_figure_is_shown_whole_at_any_usual_width(width: int) -> None:
    text = printed(run_result(job(), three()), width)
    assert all(len(line.rstrip()) <= width for line in text.splitlines())
    assert "…" not in text
    for figure in (
        *("42", "1337", "2024", "1.11608", "1.11508", "1.04100", "2.0123", "3.20000"),
        *("15,705,672", "94,378", "15,800,050", "16,000,000", "6,104", "98.0", "598.2", "18.5", "486.0"),
        *("1.11474", "0.00035", "1.11386", "1.11561", "1.11938", "0.00296", "-4.29", "3.31", "0.0095", "-11.83"),
    ):
        assert figure in text, figure


def test_marks_have_words_and_the_verdict_comes_last() -> None:
    text = printed(run_result(job(), three()))
    assert text.count("✓ holds") == 13
    assert "published*" in text and "* not a code length" in text
    assert text.rstrip().splitlines()[-2].startswith("Claim: ")
    assert "\x1b" not in text  # no colour codes outside a terminal


def test_failures_are_spelt_out() -> None:
    text = printed(mixed())
    assert "✗ fails" in text and "? unknown" in text
    assert "seed 1337 failed: rank 3 ran out of memory" in text
    assert "seed 2024: 600.411 s, over the budget of 600 s" in text
    assert "2 of 3" in text
    assert "No claim; not met: " in text


def test_notes_are_shown() -> None:
    assert "Wider than the challenge allows" in printed(run_result(job(budgets__eval_seconds=900), three()))


@pytest.mark.parametrize("seeds", [(), (failed(42), failed(1337), failed(2024))])
def test_a_run_without_any_score_still_prints(seeds: tuple) -> None:
    assert "No claim" in printed(run_result(job(), seeds))
    assert "no baseline" in printed(run_result(job(baseline=None), seeds))


def test_an_ascii_terminal_gets_ascii() -> None:
    text = printed(mixed(), encoding="ascii")
    assert "fails" in text and "holds" in text


def test_names_are_text_and_not_markup() -> None:
    baseline = {"name": "[red]x[/red] [/]", "mean": 1.12, "bytes_per_token": 2.4}
    result = run_result(job(baseline=baseline), (*three()[:2], failed(2024, "bad [/b] tag")))
    assert "[red]x[/red] [/]" in printed(result)
    assert "bad [/b] tag" in printed(result)
