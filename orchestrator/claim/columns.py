"""A seed's figures: one list, from which every table, MLflow and submission.json take theirs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from golf_core.results import CODE_LENGTHS, SCORER_MEANINGS
from orchestrator.claim.statistics import summarize
from orchestrator.folder.results import RunResult, SeedResult, Summary
from orchestrator.job.load import Budgets

if TYPE_CHECKING:
    import pandas

Place = Literal["scores", "cost", "report", "note", "readme"]
"""scores, cost: the two tables of the terminal. report: the page. note: MLflow's description. readme: a package's."""


@dataclass(frozen=True)
class Column:
    """One figure of a seed, and where it stands."""

    title: str
    metric: str
    """Its name in MLflow."""
    path: str
    """Where it stands in a `SeedResult`, dotted."""
    digits: int = 0
    """Decimals in tables."""
    meaning: str = ""
    places: tuple[Place, ...] = ()
    is_score: bool = False
    """A mean over the seeds has a spread that is shown."""
    limit: Callable[[Budgets], float] | None = None
    """What a budget allows."""
    keys: tuple[str, ...] = ()
    """Its names in the seeds of submission.json; those in `…_ms` are in whole milliseconds."""

    def of(self, seed: SeedResult) -> Any:
        """The figure; None where there is none."""
        value: Any = seed
        for name in self.path.split("."):
            value = value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
        return value

    def text(self, seed: SeedResult, missing: str = "-") -> str:
        """The figure with its decimals, or `missing`."""
        value = self.of(seed)
        return missing if value is None else f"{value:,.{self.digits}f}"


COLUMNS = (
    *(
        Column(
            name if name in CODE_LENGTHS else f"{name}*",
            f"bpb/{name}",
            f"evaluate.{name}.bpb",
            5,
            meaning,
            ("scores", "report", "readme", "note") if name in CODE_LENGTHS else ("scores", "report", "readme"),
            is_score=True,
            keys=(f"val_bpb_{name}",),
        )
        for name, meaning in SCORER_MEANINGS.items()
    ),
    Column(
        "mean ln Z",
        "eval/mean_log_z",
        "evaluate.mean_log_z",
        4,
        "nats a token that it leaves out",
        ("scores", "report"),
        is_score=True,
    ),
    Column(
        "unigram expert",
        "bpb/expert_unigram",
        "evaluate.expert_bpb.unigram",
        5,
        "BPB of counted tokens alone",
        ("scores",),
        is_score=True,
    ),
    Column(
        "before",
        "train/val_bpb",
        "train.val_bpb",
        5,
        "BPB of the averaged weights before quantisation, without adaptation",
        ("readme",),
        keys=("val_bpb_before_quantization",),
    ),
    Column(
        "weight bytes",
        "artifact/weight_bytes",
        "export.weight_bytes",
        places=("cost", "readme"),
        keys=("model_bytes",),
    ),
    Column("code bytes", "artifact/code_bytes", "export.code_bytes", places=("cost",)),
    Column(
        "total bytes",
        "artifact/total_bytes",
        "export.total_bytes",
        0,
        "code and weights",
        ("cost", "report", "note", "readme"),
        limit=lambda budgets: budgets.artifact_bytes,
        keys=("artifact_bytes", "bytes_total"),
    ),
    Column(
        "steps", "train/steps", "train.steps", 0, "of training", ("cost", "report", "note", "readme"), keys=("steps",)
    ),
    Column(
        "ms/step",
        "train/mean_ms_per_step",
        "train.ms_per_step",
        1,
        "mean over the training clock",
        ("cost", "report", "readme"),
        keys=("step_avg_ms",),
    ),
    Column(
        "train s",
        "train/seconds",
        "train.train_seconds",
        1,
        "training clock",
        ("cost", "report", "note", "readme"),
        limit=lambda budgets: budgets.train_seconds,
        keys=("train_time_ms",),
    ),
    Column("export s", "artifact/export_seconds", "export.export_seconds", 1, places=("cost",)),
    Column(
        "eval s",
        "eval/seconds",
        "evaluate.seconds",
        1,
        "evaluation, adaptation included",
        ("cost", "report", "note", "readme"),
        limit=lambda budgets: budgets.eval_seconds,
        keys=("eval_time_ms",),
    ),
    Column("ranks", "", "train.world_size", keys=("world_size",)),
    # In MLflow alone.
    Column("tokens/s in training", "train/mean_tokens_per_second", "train.tokens_per_second"),
    Column("last loss", "train/final_loss", "train.train_loss"),
    Column("warm-up s", "train/warmup_seconds", "train.warmup_seconds"),
    Column("validation s", "train/validation_seconds", "train.validation_seconds"),
    Column("peak memory", "train/peak_memory_mib", "train.peak_memory_mib"),
    Column("parameters", "train/parameters", "train.parameters"),
    Column("zeros", "artifact/zero_share", "export.zero_share"),
    Column("distortion", "artifact/distortion_nats", "export.distortion"),
    Column("tokens", "eval/tokens", "evaluate.tokens"),
    Column("tokens/s in evaluation", "eval/tokens_per_second", "evaluate.tokens_per_second"),
)


def columns_in(place: Place) -> list[Column]:
    """The columns of one table, in order."""
    return [column for column in COLUMNS if place in column.places]


def summary_of(column: Column, seeds: Sequence[SeedResult]) -> Summary | None:
    """Mean and spread over the seeds that finished; None where there is nothing finite to summarize."""
    values = [value for seed in seeds if seed.status == "finished" and (value := column.of(seed)) is not None]
    try:
        return summarize(values)
    except ValueError:  # none, or not all finite
        return None


def submitted(seed: SeedResult) -> dict[str, Any]:
    """The seed's figures under the names of submission.json."""
    found = {}
    for column in COLUMNS:
        value = column.of(seed)
        for key in column.keys if value is not None else ():
            found[key] = round(1000 * value) if key.endswith("time_ms") else value
    return found


def seed_metrics(seed: SeedResult) -> dict[str, float]:
    """A seed's final figures by metric name; only those that exist.

    Grouped (`bpb/…`, `train/…`, `artifact/…`, `eval/…`, `kraft/…`, `audit/…`), and none is the name of a series.
    """
    figures = {column.metric: column.of(seed) for column in COLUMNS if column.metric} | dict(_groups(seed))
    return {name: float(value) for name, value in figures.items() if value is not None and math.isfinite(value)}


def _groups(seed: SeedResult) -> Iterator[tuple[str, float | None]]:
    """Figures whose names a run decides (by group of tensors, expert, phase), and those of sums and audit."""
    export, evaluate, audit = seed.export, seed.evaluate, seed.audit
    if export is not None:
        yield from ((f"artifact/bytes_{group}", number) for group, number in export.bytes_by_group.items())
        yield from ((f"artifact/bits_{group}", bits) for group, bits in export.bits_per_weight.items())
    if evaluate is not None:
        yield from ((f"bpb/expert_{name}", bpb) for name, bpb in evaluate.expert_bpb.items())
        yield from ((f"eval/seconds_{phase}", seconds) for phase, seconds in evaluate.seconds_by_phase.items())
        kraft = {} if evaluate.kraft is None else asdict(evaluate.kraft)
        yield from ((f"kraft/{name}", value) for name, value in kraft.items())
    if audit is not None:
        figures = asdict(audit) | {"violated": len(audit.violated)}
        yield from ((f"audit/{name}", value) for name, value in figures.items())


def seed_frame(result: RunResult) -> pandas.DataFrame:
    """One row a seed: seed, status, error, and its final figures under their MLflow names."""
    import pandas

    rows = [{"seed": s.seed, "status": s.status, "error": s.error, **seed_metrics(s)} for s in result.seeds]
    return pandas.DataFrame(rows)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int | None = None) -> str:
    """A table without a line break at its end; columns after the first `text_columns` are set to the right.

    A bar within a cell must be escaped already.
    """
    text_columns = len(header) if text_columns is None else text_columns
    rule = ["---" if i < text_columns else "---:" for i in range(len(header))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))
