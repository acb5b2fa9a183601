"""`golf audit` on the command line: exit codes, sentences, the report, the command that repeats it."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
from byte_example import byte_example
from tiny import golf

from golf_core import strict_json
from golf_core.audit.report import AuditReport
from golf_core.data.shards import write_shard

SCORERS = """
import numpy as np

def uniform(tokens):
    return np.full(len(tokens), np.log(16.0))

def peeks(tokens):
    losses = uniform(tokens)
    losses[:-1] -= 0.1 * (tokens[1:] == 3)
    return losses

def two(tokens):
    return {"model": uniform(tokens), "published": uniform(tokens) - 0.5}

def fails(tokens):
    raise RuntimeError("no weights")

class Sized:
    vocab_size = 16
    def __init__(self, shift=0.0):
        self.shift = shift
    def __call__(self, tokens):
        return uniform(tokens) - self.shift

def build(kind="Sized"):
    return globals()[kind]()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "scorers.py").write_text(SCORERS)
    return tmp_path


def golf_audit(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `golf audit` in `folder`, where the scorers' module lies."""
    return golf("audit", *arguments, cwd=folder, COLUMNS="160")


def test_an_honest_scorer(folder: Path) -> None:
    done = golf_audit(folder, "scorers:uniform", "--vocab", "16", "--positions", "6", "--out", "report.json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = strict_json.load(AuditReport, folder / "report.json")
    assert report.passed and report.tokens == 512 and report.isolation is not None
    assert "✓ holds" in done.stdout and "✗" not in done.stdout
    again = next(line for line in done.stdout.splitlines() if line.startswith("again: ")).removeprefix("again: ")
    assert report.reproduce == again == "golf audit scorers:uniform --vocab 16 --positions 6 --seed 0"
    repeated = golf_audit(folder, *shlex.split(again)[2:], "--out", "again.json")
    assert repeated.returncode == 0
    assert strict_json.load(AuditReport, folder / "again.json").sums == report.sums


def test_a_violation_ends_with_one(folder: Path) -> None:
    done = golf_audit(folder, "scorers:peeks", "--vocab", "16", "--positions", "6", "--no-isolate")
    assert done.returncode == 1
    assert "✗ violated" in done.stdout and "Not met: 1 causal." in done.stdout
    assert "--no-isolate" in done.stdout.splitlines()[-1]


def test_the_verdict_goes_by_what_is_claimed(folder: Path) -> None:
    quick = ("--vocab", "16", "--positions", "4", "--cuts", "1", "--no-isolate")
    assert golf_audit(folder, "scorers:two", *quick).returncode == 1
    claimed = golf_audit(folder, "scorers:two", *quick, "--claim", "model")
    assert claimed.returncode == 0
    assert "Of model: no condition that was measured is violated. Not claimed: published violates" in claimed.stdout
    done = golf_audit(folder, "scorers:two", *quick, "--claim", "mixture")
    assert done.returncode == 2 and "no score named mixture; it has model, published" in done.stderr


def test_classes_and_factories(folder: Path) -> None:
    quick = ("--positions", "4", "--cuts", "1", "--max-tokens", "64")
    assert golf_audit(folder, "scorers:Sized", *quick).returncode == 0
    assert golf_audit(folder, "scorers:Sized", *quick, "--argument", "shift=0.2").returncode == 1
    assert golf_audit(folder, "scorers:build", "--factory", "--argument", "kind=Sized", *quick).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["scorers:nothing"], "module scorers has no nothing"),
        (["nowhere:nothing"], "cannot be imported"),
        *(
            (["scorers:fails", "--vocab", "16", *more], "scorers:fails: failed (RuntimeError: no weights)")
            for more in ([], ["--traceback"])
        ),
        (["scorers:uniform"], "--vocab: without --tokens or --text"),
        (["scorers:uniform", "--tokens", "none.bin"], "none.bin: cannot be read"),
        (["scorers:uniform", "--text", "a.txt"], "--text: name the --tokenizer"),
        (["scorers:uniform", "--vocab", "16", "--part", "luck"], "no part named luck"),
        (["scorers:uniform", "--vocab", "16", "--forbid", "none"], "none: no such path to forbid"),
        (["scorers:uniform", "--vocab", "16", "--argument", "a"], "give NAME=VALUE"),
        (["scorers:uniform", "--vocab", "16", "--bytes", "many"], "--bytes many: neither a number"),
        (["scorers:uniform", "--vocab", "16", "--max-tokens", "0"], "--max-tokens: 0"),
        (["--artifact", "none.bin"], "none.bin: no such file"),
        ([], "name a scorer as module:function"),
    ],
)
def test_mistakes_end_with_two_and_a_sentence(folder: Path, arguments: list[str], sentence: str) -> None:
    done = golf_audit(folder, *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert sentence in done.stderr.splitlines()[-1]
    assert (
        ("Traceback" in done.stderr)
        == ('raise RuntimeError("no weights")' in done.stderr)
        == ("--traceback" in arguments)
    )


def test_figures_without_a_scorer(folder: Path) -> None:
    processor, tokens, count = byte_example()
    (folder / "t.model").write_bytes(processor.serialized_model_proto())
    write_shard(folder / "val.bin", tokens.astype(np.uint16))
    (folder / "model.bin").write_bytes(b"x" * 100)
    (folder / "evaluate.json").write_text(json.dumps({"bytes": float(count), "bpb": 1.1}))
    figures = ("--tokens", "val.bin", "--tokenizer", "t.model", "--artifact", "model.bin", "--eval-seconds", "599")
    done = golf_audit(folder, *figures, "--bytes", "evaluate.json", "--out", "r.json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = strict_json.load(AuditReport, folder / "r.json")
    assert report.bytes is not None and report.bytes.text_bytes == count
    assert {c.verdict for c in report.conditions} == {"holds"}
    done = golf_audit(folder, *figures, "--bytes", str(count + 30), "--train-seconds", "601")
    assert done.returncode == 1 and "sentinels count as one byte each" in done.stdout
    assert "Not met: byte count, clocks." in done.stdout
