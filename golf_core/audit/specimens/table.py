"""Runs the whole catalogue and writes it up: what each specimen plants, and under which condition it was found."""

from __future__ import annotations

import dataclasses
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sentencepiece

from golf_core.audit.budgets import CAP_BYTES, judge_budgets, weigh
from golf_core.audit.complete import Surroundings, audit_named
from golf_core.audit.report import ARTIFACT, BYTES, CLOCKS, AuditOptions, AuditReport, Condition
from golf_core.audit.scorer import ScorerSpec, Tokens, declared
from golf_core.audit.specimens.catalogue import Specimen, honest_ones, training_file, violating
from golf_core.audit.synthetic import synthetic_tokens
from golf_core.audit.text_bytes import count_bytes, judge_bytes
from golf_core.data.sample import train_tokenizer
from golf_core.data.tokenizer import BOS, SPACE

OPTIONS = AuditOptions(positions=14, cuts=5)
BUILD = "golf_core.audit.specimens.catalogue:build"
WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "lazy", "dogs", "counting", "tokens", "naïve", "—", "日本")


@dataclass(frozen=True)
class Row:
    """One specimen and what the audit said of it."""

    name: str
    what: str
    honest: bool
    expected: tuple[str, ...]
    expected_undecided: tuple[str, ...]
    found: tuple[str, ...]
    undecided: tuple[str, ...]
    evidence: str

    @property
    def as_expected(self) -> bool:
        """The audit names the conditions that were planted, and no others."""
        return set(self.found) == set(self.expected) and set(self.undecided) == set(self.expected_undecided)


def run_catalogue(progress: Callable[[str], None] = lambda line: None) -> tuple[Row, ...]:
    """Audit every specimen; about a minute on one core."""
    rows = []
    for specimen in (*violating(), *honest_ones()):
        progress(specimen.name)
        rows.append(row_of(specimen, audit_specimen(specimen)))
    return (*rows, *figure_rows())


def audit_specimen(specimen: Specimen, isolate: bool = True) -> AuditReport:
    """The audit of one specimen, in isolation from a file that stands for training data."""
    with tempfile.TemporaryDirectory(prefix="golf-specimens-") as folder:
        path = training_file(Path(folder))
        spec = ScorerSpec(BUILD, factory=True, arguments={"name": specimen.name, "path": str(path)})
        vocab = declared(spec.build()[0], "vocab_size")
        tokens = synthetic_tokens(specimen.tokens, specimen.text_vocab or vocab, seed=0)
        options = dataclasses.replace(OPTIONS, **specimen.options)
        return audit_named(spec, tokens, options, Surroundings(isolate=isolate, forbidden=(path.parent,)))


def row_of(specimen: Specimen, report: AuditReport) -> Row:
    """A specimen and its audit in a line."""
    return Row(
        name=specimen.name,
        what=specimen.what,
        honest=specimen.is_honest,
        expected=specimen.violated,
        expected_undecided=specimen.undecided,
        found=report.named("violated"),
        undecided=report.named("undecided"),
        evidence=_evidence(report.judged),
    )


def figure_rows() -> Iterator[Row]:
    """The violations that lie in figures rather than in a scorer: bytes, sizes, clocks."""
    yield from _byte_rows()
    with tempfile.TemporaryDirectory(prefix="golf-specimens-") as folder:
        for name, size, honest in (("at_the_cap", CAP_BYTES - 1000, True), ("over_the_cap", CAP_BYTES - 700, False)):
            code, weights = Path(folder) / f"{name}.py", Path(folder) / f"{name}.bin"
            code.write_bytes(b"#" * 1000)
            with weights.open("wb") as file:
                file.truncate(size)
            what = "16,000,000 bytes of code and weights" if honest else "the same and 300 more"
            yield _figure_row(name, what, honest, ARTIFACT, judge_budgets(weigh((code, weights), {})))
    for name, seconds, honest in (("in_time", 600.0, True), ("late", 600.5, False)):
        judged = judge_budgets(weigh((), {"evaluate": seconds}))
        yield _figure_row(name, f"{seconds:g} s of evaluation", honest, CLOCKS, judged)


def _byte_rows() -> Iterator[Row]:
    processor, tokens, true_bytes = byte_example()
    pieces = [processor.id_to_piece(t) for t in tokens.tolist()]
    documents = pieces.count("<s>")
    leading = sum(p.startswith(SPACE) for p in pieces)
    fallback = sum(processor.is_byte(t) for t in tokens.tolist())
    claims = {
        "bytes_of_text": ("the UTF-8 bytes of the documents", 0, True),
        "bytes_with_sentinels": ("sentinels counted by their names", 3 * documents, False),
        "bytes_spaces_twice": ("leading spaces counted twice", leading, False),
        "bytes_of_byte_pieces": ("byte pieces counted as <0x41>: six bytes each", 5 * fallback, False),
        "bytes_spaces_and_sentinels": ("spaces twice, and a byte for each sentinel", leading + documents, False),
    }
    for name, (what, surplus, honest) in claims.items():
        found = count_bytes(tokens, processor, claimed=true_bytes + surplus)
        yield _figure_row(name, what, honest, BYTES, (judge_bytes(found),))


def byte_example() -> tuple[sentencepiece.SentencePieceProcessor, Tokens, int]:
    """A small tokenizer, the tokens of a few documents, and the UTF-8 bytes of those."""
    rng = np.random.default_rng(0)
    documents = [" ".join(rng.choice(WORDS, 40)) for _ in range(30)]
    processor = sentencepiece.SentencePieceProcessor(model_proto=train_tokenizer(documents, 360))
    documents = [f"{document} 🙂" for document in documents]  # not in the vocabulary: byte pieces
    tokens = np.array([t for document in documents for t in [BOS, *processor.encode(document)]], dtype=np.int64)
    return processor, tokens, sum(len(document.encode("utf-8")) for document in documents)


def _figure_row(name: str, what: str, honest: bool, condition: str, judged: tuple[Condition, ...]) -> Row:
    found = tuple(c.name for c in judged if c.verdict == "violated")
    return Row(name, what, honest, () if honest else (condition,), (), found, (), _evidence(judged))


def markdown(rows: tuple[Row, ...]) -> str:
    """Two tables, of the planted violations and of the honest specimens."""
    planted, honest = [r for r in rows if not r.honest], [r for r in rows if r.honest]
    wrong = sum(not r.as_expected for r in rows)
    verdict = "all as expected" if not wrong else f"**{wrong} not as expected**"
    lines = [
        "# Specimens of the audit",
        "",
        f"Written by `golf audit --specimens --markdown FILE`: {len(planted)} planted violations and {len(honest)} "
        f"honest specimens, {verdict}. A condition in brackets is one that measurements from outside cannot tell from "
        "those found.",
        "",
        "## Planted violations",
        "",
        "| specimen | what it plants | expected | found | key evidence |",
        "|---|---|---|---|---|",
        *(_line(row, expected=True) for row in planted),
        "",
        "## Honest specimens",
        "",
        "| specimen | what it is | found | key evidence |",
        "|---|---|---|---|",
        *(_line(row, expected=False) for row in honest),
    ]
    return "\n".join(lines) + "\n"


def _line(row: Row, expected: bool) -> str:
    cells = [f"`{row.name}`", row.what]
    if expected:
        cells.append(_names(row.expected, row.expected_undecided))
    cells += [_names(row.found, row.undecided) or "nothing", row.evidence]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _names(found: tuple[str, ...], undecided: tuple[str, ...]) -> str:
    return ", ".join([*found, *(f"({name})" for name in undecided)])


def _evidence(conditions: tuple[Condition, ...]) -> str:
    """The summary of the first condition violated; of an honest specimen, that of its sums or of what was measured."""
    for verdict in ("violated", "undecided"):
        for condition in conditions:
            if condition.verdict == verdict:
                # The folder of a file that was made for the occasion is of no interest.
                return re.sub(r"\S*/(?=training/)", "", condition.summary)
    for condition in sorted(conditions, key=lambda c: c.name != "2 normalised"):
        if condition.verdict == "holds" or condition.name == "2 normalised":
            return condition.summary
    return ""
