"""The catalogue: every planted violation is found under its condition, every honest specimen passes.

`pytest -m '' tests/golf_core/test_audit_specimens.py --specimens-markdown docs/audit_specimens.md` writes the page.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from byte_example import byte_example
from specimens.catalogue import BY_NAME, HONEST, VIOLATING, Specimen, audit_specimen

from golf_core.audit.isolation import CAP_BYTES, judge_budgets, weigh
from golf_core.audit.report import ARTIFACT, BYTES, CLOCKS, NORMALIZED, Condition
from golf_core.audit.text import count_bytes, judge_bytes
from golf_core.data.tokenizer import SPACE

REPO = Path(__file__).resolve().parents[2]
ISOLATED = {"reads_training_data", "connects", "uniform"}
QUICK = {
    *ISOLATED, "byte_mixture", "one_too_far", "pair_too_far", "seen_symbols", "adapts_on_text", "drops_hard",
    "smears_over_document_start", "fixed_weights", "averaged", "several_scores", "softmax_4096",
}  # fmt: skip
"""What the everyday run judges: each condition violated twice where two specimens do, each kind of honest scorer."""


def _specimens() -> list:
    return [
        pytest.param(s, id=s.name, marks=() if s.name in QUICK else pytest.mark.slow) for s in (*VIOLATING, *HONEST)
    ]


@pytest.mark.parametrize("which", _specimens())
def test_specimen_is_judged_as_expected(
    which: Specimen, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    report = audit_specimen(which, tmp_path, isolate=which.name in ISOLATED or which.name not in QUICK)
    found, undecided = report.named("violated"), report.named("undecided")
    record_property("specimen", which.name)
    record_property("what", which.what)
    record_property("expected", names(which.violated, which.undecided))
    record_property("found", names(found, undecided))
    record_property("evidence", evidence(report.judged))
    assert set(found) == set(which.violated), report.conditions
    assert set(undecided) == set(which.undecided), report.conditions
    assert report.passed == (not which.violated)


def names(found: Sequence[str], undecided: Sequence[str] = ()) -> str:
    return ", ".join((*found, *(f"({name})" for name in undecided)))


def evidence(conditions: Sequence[Condition]) -> str:
    """The summary of the first condition violated; of an honest specimen, that of its sums or of what was measured."""
    for verdict in ("violated", "undecided"):
        for condition in conditions:
            if condition.verdict == verdict:
                # The folder of a file that was made for the occasion is of no interest.
                return re.sub(r"\S*/(?=training/)", "", condition.summary)
    for condition in sorted(conditions, key=lambda c: c.name != NORMALIZED):
        if condition.verdict == "holds" or condition.name == NORMALIZED:
            return condition.summary
    return ""


# Violations that lie in figures rather than in a scorer: bytes, sizes, clocks.


def miscounted(surplus: Callable[[Sequence[str]], int]) -> Callable[[Path], tuple[Condition, ...]]:
    """A claim that exceeds the bytes of an example by what its pieces [n] make of them."""

    def judged(folder: Path) -> tuple[Condition, ...]:
        processor, tokens, true_bytes = byte_example()
        pieces = [processor.id_to_piece(t) for t in tokens.tolist()]
        return (judge_bytes(count_bytes(tokens, processor, claimed=true_bytes + surplus(pieces))),)

    return judged


def weighing(weight_bytes: int) -> Callable[[Path], tuple[Condition, ...]]:
    """Code of 1,000 bytes, and weights."""

    def judged(folder: Path) -> tuple[Condition, ...]:
        code, weights = folder / "program.py", folder / "weights.bin"
        code.write_bytes(b"#" * 1000)
        with weights.open("wb") as file:
            file.truncate(weight_bytes)
        return judge_budgets(weigh((code, weights), {}))

    return judged


def taking(seconds: float) -> Callable[[Path], tuple[Condition, ...]]:
    """An evaluation of so many seconds."""
    return lambda folder: judge_budgets(weigh((), {"evaluate": seconds}))


def documents(pieces: Sequence[str]) -> int:
    return sum(p == "<s>" for p in pieces)


def spaces(pieces: Sequence[str]) -> int:
    return sum(p.startswith(SPACE) for p in pieces)


def byte_pieces(pieces: Sequence[str]) -> int:
    return sum(p.startswith("<0x") for p in pieces)


FIGURES = {
    "bytes_of_text": ("the UTF-8 bytes of the documents", miscounted(lambda p: 0), ()),
    "bytes_with_sentinels": ("sentinels counted by their names", miscounted(lambda p: 3 * documents(p)), (BYTES,)),
    "bytes_spaces_twice": ("leading spaces counted twice", miscounted(spaces), (BYTES,)),
    "bytes_of_byte_pieces": (
        "byte pieces counted as <0x41>: six bytes each", miscounted(lambda p: 5 * byte_pieces(p)), (BYTES,)
    ),
    "bytes_spaces_and_sentinels": (
        "spaces twice, and a byte for each sentinel", miscounted(lambda p: spaces(p) + documents(p)), (BYTES,)
    ),
    "at_the_cap": ("16,000,000 bytes of code and weights", weighing(CAP_BYTES - 1000), ()),
    "over_the_cap": ("the same and 300 more", weighing(CAP_BYTES - 700), (ARTIFACT,)),
    "in_time": ("600 s of evaluation", taking(600.0), ()),
    "late": ("600.5 s of evaluation", taking(600.5), (CLOCKS,)),
}  # fmt: skip


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_judged_as_expected(
    name: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    what, judge, expected = FIGURES[name]
    judged = judge(tmp_path)
    found = tuple(c.name for c in judged if c.verdict == "violated")
    record_property("specimen", name)
    record_property("what", what)
    record_property("expected", names(expected))
    record_property("found", names(found))
    record_property("evidence", evidence(judged))
    assert found == expected, judged


def test_the_everyday_run_judges_each_condition_twice() -> None:
    assert len(BY_NAME) == len(VIOLATING) + len(HONEST), "names are unique"
    planted = Counter(name for s in VIOLATING for name in s.violated)
    judged = Counter(name for s in VIOLATING if s.name in QUICK for name in s.violated)
    assert all(judged[name] >= min(2, count) for name, count in planted.items())
    assert BY_NAME.keys() >= QUICK


def test_the_documented_table_lists_the_catalogue() -> None:
    """The page was written after the last change of the catalogue."""
    written = (REPO / "docs" / "audit_specimens.md").read_text(encoding="utf-8")
    rows = [(s.name, s.what, names(s.violated, s.undecided)) for s in BY_NAME.values()]
    rows += [(name, what, names(expected)) for name, (what, _, expected) in FIGURES.items()]
    for name, what, expected in rows:
        assert f"| `{name}` | {what} | {expected}" in written
    assert f"{len(rows)} specimens" in written and "all as expected" in written
