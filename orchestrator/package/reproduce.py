"""A package run again, and every figure of it compared with what the package says."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

from rich.table import Table
from rich.text import Text

from golf_core import strict_json
from golf_core.errors import ConfigError
from golf_core.results import SCORERS, DataRecord, EvalResult, Score
from orchestrator.claim.statistics import summarize
from orchestrator.folder.earlier import EarlierSeed, changed_job
from orchestrator.folder.redaction import Redactor
from orchestrator.folder.results import DATA, PROGRAM, RunResult, SeedResult
from orchestrator.job.load import Job
from orchestrator.package.package import Record, load_record, portable
from orchestrator.package.submission import FinishedSeed, finished_seeds, weights_name

EVALUATION_TOLERANCE = 1e-6
"""BPB: how far two evaluations of one artifact may differ on the same kind of hardware."""
SPREADS = 3.0
"""Training again may differ by so many standard deviations of a difference between two runs."""

Verdict = Literal["exact", "agrees", "differs", "reported"]
"""`reported`: nothing demands that the two agree."""


@dataclass(frozen=True)
class Comparison:
    """One figure of one seed, as the package has it and as it was found again."""

    seed: int
    figure: str
    recorded: float | str
    reproduced: float | str
    tolerance: float | None
    """None: not demanded."""
    verdict: Verdict


def job_of_record(record: Record, data: Path | None, tokenizer: Path | None, changes: Mapping[str, Any]) -> Job:
    """The packaged job, on other data or with fields replaced (dotted names, as in `golf evaluate --set`)."""
    # Where somebody else's results and tracking went is not to be written to from here.
    values = portable(record.run).job.to_dict()
    if (data is None) != (tokenizer is None):
        raise ConfigError("--data, --tokenizer: give both or neither; one belongs to the other")
    if data is not None:
        values["data"] = {"path": str(data), "tokenizer": str(tokenizer)}
    return changed_job(values, changes, where="record.json")


def packaged_seed(folder: Path, record: Record, seed: SeedResult) -> EarlierSeed:
    """A seed's packaged weights, for a new evaluation. Raises `ConfigError` where the package was made without."""
    from golf_core.artifact.codec import decode, read_artifact

    name = weights_name(seed.seed)
    if not record.has(name):
        raise ConfigError(f"{folder / name}: the package was made without weights; leave out --evaluate-only")
    artifact = read_artifact(folder / name)
    decode(artifact, str(folder / name))
    return EarlierSeed(record.run.run_id, artifact, seed.train, seed.export)


def reproduce(
    folder: Path,
    evaluate_only: bool,
    change: Callable[[Record], Job],
    address: str | None,
    say: Callable[[str], None],
    redactor: Redactor | None = None,
) -> tuple[list[Comparison], RunResult, Path]:
    """Run the package in `folder` again; `change` makes the job of its record.

    With `evaluate_only` the packaged weights are evaluated and nothing is trained. Returns the comparisons, the new
    run's result and its folder. Raises a `UserError` before anything runs where the package is damaged.
    """
    from orchestrator.run.driver import run_job

    record = load_record(folder)
    job = change(record)
    recorded = {seed.seed: seed for seed in record.run.seeds}
    unknown = [seed for seed in job.seeds if seed not in recorded]
    if unknown:
        raise ConfigError(f"--set seeds: seed {unknown[0]} is not in the package; it has {list(recorded)}")
    earlier = {seed: packaged_seed(folder, record, recorded[seed]) for seed in job.seeds} if evaluate_only else {}
    result, place = run_job(job, address, say, earlier, redactor)
    comparisons = []
    for seed in finished_seeds(result.seeds):
        seen = strict_json.load(DataRecord, place / f"seed-{seed.seed}" / DATA)
        comparisons += compare_data(seed.seed, record.data[str(seed.seed)], seen, evaluate_only)
        comparisons += compare(record.run, seed, evaluate_only)
        if not evaluate_only:
            same = (place / f"seed-{seed.seed}" / PROGRAM).read_bytes() == (folder / PROGRAM).read_bytes()
            comparisons.append(_text(seed.seed, PROGRAM, same, demanded=False))
    return comparisons, result, place


def compare(recorded: RunResult, again: FinishedSeed, evaluate_only: bool) -> list[Comparison]:
    """Figure by figure, for one seed that was run again.

    The same artifact must give the same BPB to 1e-6 where the hardware is the same kind (on a GPU the number of
    ranks too: the order of its sums depends on it). On other hardware, and for a seed that was trained again, a BPB
    must stay within the recorded seeds' own spread. Figures of speed and size are reported.
    """
    seeds = finished_seeds(recorded.seeds)
    old = next(seed for seed in seeds if seed.seed == again.seed)

    def figure(title: str, place: str, tolerance: float | None = None) -> Comparison:
        return _number(old.seed, title, attrgetter(place)(old), attrgetter(place)(again), tolerance)

    found = [figure(name, f"evaluate.{name}", 0.0) for name in ("tokens", "bytes")]
    if not evaluate_only:
        spread = _tolerance([s.train.val_bpb for s in seeds])
        found.append(figure("BPB before quantisation", "train.val_bpb", spread))
    exact = evaluate_only and _same_hardware(old.evaluate, again.evaluate)
    for name in SCORERS:
        spread = _tolerance([score.bpb for s in seeds if (score := getattr(s.evaluate, name)) is not None])
        tolerance = EVALUATION_TOLERANCE if exact else spread
        found += _scores(old.seed, name, getattr(old.evaluate, name), getattr(again.evaluate, name), tolerance)
    if not evaluate_only:
        found += [figure(name, f"train.{name}") for name in ("steps", "ms_per_step", "train_seconds")]
        found += [figure(name, f"export.{name}") for name in ("weight_bytes", "code_bytes")]
    found.append(figure("evaluation seconds", "evaluate.seconds"))
    return found


def compare_data(seed: int, old: DataRecord, new: DataRecord, evaluate_only: bool) -> list[Comparison]:
    """Whether a seed saw the same data; the training shards count only where something was trained."""
    found = []
    for split in ("val", "train"):
        digests = [
            {name: digest for name, digest in data.checksums.items() if f"_{split}_" in name} for data in (old, new)
        ]
        demanded = split == "val" or not evaluate_only
        found.append(_text(seed, f"{split} shards", digests[0] == digests[1], demanded))
    return [*found, _text(seed, "tokenizer", old.tokenizer_sha256 == new.tokenizer_sha256, True)]


def agrees(comparisons: Sequence[Comparison], again: RunResult) -> bool:
    """Whether every seed finished and nothing that must agree differs."""
    finished = all(seed.status == "finished" for seed in again.seeds)
    return finished and all(comparison.verdict != "differs" for comparison in comparisons)


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """The comparisons for the terminal."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("seed", justify="right")
    table.add_column("figure")
    for title in ("recorded", "reproduced", "difference", "tolerance"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("verdict")
    styles = {"exact": "green", "agrees": "green", "differs": "bold red", "reported": "dim"}
    for c in comparisons:
        pair = [_shown(c.recorded), _shown(c.reproduced)]
        difference = "-"
        if not isinstance(c.recorded, str) and not isinstance(c.reproduced, str):
            difference = f"{c.reproduced - c.recorded:+.3g}"
        tolerance = "-" if c.tolerance is None else f"{c.tolerance:.2g}"
        table.add_row(str(c.seed), c.figure, *pair, difference, tolerance, Text(c.verdict, styles[c.verdict]))
    return table


def _same_hardware(old: EvalResult, new: EvalResult) -> bool:
    return old.device == new.device and (old.device == "cpu" or old.world_size == new.world_size)


def _scores(
    seed: int, name: str, old: Score | None, new: Score | None, tolerance: float | None
) -> Iterator[Comparison]:
    if old is not None and new is not None:
        yield _number(seed, f"BPB {name}", old.bpb, new.bpb, tolerance)
    elif old is not new:
        shown = ["absent" if score is None else "present" for score in (old, new)]
        yield Comparison(seed, f"BPB {name}", shown[0], shown[1], None, "differs")


def _tolerance(values: Sequence[float]) -> float | None:
    """What two runs of one seed may differ by, from the spread of the recorded seeds; None for a single one."""
    sd = summarize(values).sd if values else None
    return None if sd is None else SPREADS * math.sqrt(2) * sd


def _text(seed: int, what: str, same: bool, demanded: bool) -> Comparison:
    verdict: Verdict = "exact" if same else "differs" if demanded else "reported"
    return Comparison(seed, what, "as recorded", "the same" if same else "other", None, verdict)


def _number(seed: int, figure: str, old: float, new: float, tolerance: float | None) -> Comparison:
    verdict: Verdict = "reported"
    if old == new:
        verdict = "exact"
    elif tolerance is not None:
        verdict = "agrees" if abs(new - old) <= tolerance else "differs"
    return Comparison(seed, figure, old, new, tolerance, verdict)


def _shown(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:,.8f}"
