"""What of a run goes to MLflow, and under which names: all of it made from the run's folder."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from golf_core import strict_json
from golf_core.events import Chunk, Event, PhaseFinished, System, TrainStep, Validation
from golf_core.files import sha256
from golf_core.results import DataRecord
from orchestrator.claim.columns import columns_in, markdown_table, seed_metrics
from orchestrator.folder.redaction import Redactor
from orchestrator.folder.results import (
    ARTIFACT,
    AUDIT,
    BREAKDOWN,
    DATA,
    JOB,
    LOG,
    PROGRAM,
    RESULT,
    Claim,
    RunResult,
    SeedResult,
)
from orchestrator.folder.view import HOUR_S, AttemptView, RunView, recorded
from orchestrator.tracking.model import model_of
from orchestrator.tracking.store import Beginning, DataUsed, Ending, Point, Status, finite, flatten

DIGEST_DIGITS = 32
MAX_GPUS = 64
"""GPUs of one machine at the most."""
NOTE = "mlflow.note.content"
"""Tag that MLflow shows as a run's description."""


def parent_beginning(view: RunView, redactor: Redactor) -> Beginning:
    """The parent run: the claim."""
    job = view.job
    seeds = ", ".join(map(str, job.seeds))
    tags = {**view.provenance, "kind": "run", "job": job.name, "seeds": seeds, "verdict": "running"}
    tags |= {"job_sha256": job.digest, "run_folder": str(view.folder), **progress(view), NOTE: running_note(view)}
    if view.artifacts_of:
        tags["artifacts_of"] = view.artifacts_of
    return Beginning(
        key=view.key,
        name=view.folder.name,
        parent=None,
        started=view.started,
        params=redactor.redact_value(flatten(job.to_dict())),
        tags=redactor.redact_value(tags),
    )


def progress(view: RunView) -> dict[str, str]:
    """The parent's tags that change while the run goes on."""
    finished = {attempt.seed for attempt in view.attempts if attempt.status == "finished"}
    return {"seeds_finished": f"{len(finished)} of {len(view.job.seeds)}", "hardware": view.hardware}


def running_tags(view: RunView, redactor: Redactor) -> dict[str, str]:
    """What the parent says of a run that goes on, description included."""
    return {name: redactor.redact(text) for name, text in {**progress(view), NOTE: running_note(view)}.items()}


def attempt_beginning(view: RunView, attempt: AttemptView, parent: str, redactor: Redactor) -> Beginning:
    """A child run: an attempt at a seed."""
    name = f"seed {attempt.seed}" + (f", attempt {attempt.number}" if attempt.number > 1 else "")
    params = {**flatten(view.job.to_dict()), "seed": attempt.seed}
    tags = {"kind": "seed", "job": view.job.name, "seed": str(attempt.seed), "attempt": str(attempt.number)}
    return Beginning(
        key=f"{view.key}/{attempt.seed}/{attempt.number}",
        name=name,
        parent=parent,
        started=attempt.started,
        params=redactor.redact_value(params),
        tags=redactor.redact_value(tags),
    )


def attempt_ending(
    view: RunView, attempt: AttemptView, redactor: Redactor, complain: Callable[[str], None] = lambda _: None
) -> Ending:
    """The end of an attempt; the seed's figures, files and model belong to its newest one.

    `complain` is told in a sentence why a finished seed has no model.
    """
    status: Status = "FINISHED" if attempt.status == "finished" else "FAILED" if attempt.status else "KILLED"
    names = ("failure", "stage", "error", "hardware", "node")
    tags = {name: text for name in names if (text := getattr(attempt, name))}
    tags["status"] = attempt.status or "ended without a word"
    time = attempt.ended or max(attempt.started, view.last_sign)
    if not attempt.newest:
        tags[NOTE] = seed_note(attempt, None)
        return Ending(status, time, {}, redactor.redact_value(tags), _present([attempt.log]))
    place = view.place(attempt.seed)
    result, data = recorded(SeedResult, place / RESULT), recorded(DataRecord, place / DATA)
    tags[NOTE] = seed_note(attempt, result)
    model = None
    if data is not None:
        tags |= {f"data.sha256.{name}": digest for name, digest in data.checksums.items()}
        tags["data.sha256.tokenizer"] = data.tokenizer_sha256
        if status == "FINISHED" and (place / ARTIFACT).is_file():
            config = redactor.redact_value(strict_json.to_dict(view.job.config))
            model = model_of(place / ARTIFACT, data, config, complain)
    return Ending(
        status=status,
        time=time,
        metrics={} if result is None else seed_metrics(result),
        tags=redactor.redact_value(tags),
        files=_present([place / name for name in (LOG, ARTIFACT, PROGRAM, RESULT, DATA, AUDIT, BREAKDOWN)]),
        data=[] if data is None else _data_used(data, redactor),
        model=model,
    )


def parent_ending(view: RunView, redactor: Redactor) -> Ending:
    """The verdict, as far as there is one."""
    result = recorded(RunResult, view.folder / RESULT)
    texts = {JOB: redactor.redact(json.dumps(view.job.to_dict(), indent=2) + "\n")}
    data = _data_of_run(view, redactor)
    if result is None:
        tags = {"verdict": "interrupted", **progress(view), NOTE: interrupted_note(view)}
        return Ending("KILLED", view.last_sign, {}, redactor.redact_value(tags), (), texts, data)
    finished = sum(seed.status == "finished" for seed in result.seeds)
    tags = {"verdict": result.claim.verdict, "seeds_finished": f"{finished} of {len(view.job.seeds)}"}
    tags |= {"hardware": result.provenance.get("hardware", ""), NOTE: claim_note(view, result)}
    return Ending(
        status="FINISHED" if finished == len(result.seeds) else "FAILED",
        time=view.last_sign,
        metrics=claim_metrics(result) | _spent(view, result),
        tags=redactor.redact_value(tags),
        files=_present([view.folder / RESULT, view.folder / REPORT]),
        texts=texts,
        data=data,
    )


def digest_of(ending: Ending) -> str:
    """The same for the same figures, tags and contents of files."""
    files = {path.name: sha256(path) for path in ending.files}
    data = [asdict(item) for item in ending.data]
    model = "" if ending.model is None else ending.model.digest
    values = (ending.status, dict(ending.metrics), dict(ending.tags), files, dict(ending.texts), data, model)
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _present(paths: list[Path]) -> tuple[Path, ...]:
    return tuple(path for path in paths if path.is_file())


def _data_of_run(view: RunView, redactor: Redactor) -> list[DataUsed]:
    """The data of all seeds; as a rule they are the same."""
    found: dict[tuple[str, str], DataUsed] = {}
    for seed in view.job.seeds:
        record = recorded(DataRecord, view.place(seed) / DATA)
        for item in [] if record is None else _data_used(record, redactor):
            found.setdefault((item.name, item.digest), item)
    return list(found.values())


def _data_used(record: DataRecord, redactor: Redactor) -> list[DataUsed]:
    path = redactor.redact(record.path)
    name = Path(path).name or "data"
    train = {file: digest for file, digest in record.checksums.items() if "_train_" in file}
    val = {file: digest for file, digest in record.checksums.items() if file not in train}
    return [
        DataUsed(f"{name}, training", _digest(train), path, "training", record.train_tokens, len(train)),
        DataUsed(f"{name}, validation", _digest(val), path, "validation", record.val_tokens, len(val)),
    ]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:DIGEST_DIGITS]


def claim_metrics(result: RunResult) -> dict[str, float]:
    """The claim's figures by metric name; only those that exist."""
    claim = result.claim
    metrics: dict[str, float] = {}
    for name, summary in claim.scores.items():
        metrics[f"claim/bpb_{name}_mean"] = summary.mean
        if summary.sd is not None:
            metrics[f"claim/bpb_{name}_sd"] = summary.sd
    for test, label in zip(claim.tests, ("margin", "zero"), strict=False):
        metrics |= {f"claim/p_{label}": test.p} if test.p is not None else {}
    baseline, mixture = result.job.baseline, claim.scores.get("mixture")
    if baseline is not None and mixture is not None:
        metrics["claim/gain_bpb"] = baseline.mean_bpb - mixture.mean
    if claim.margin_bpb is not None:
        metrics["claim/margin_bpb"] = claim.margin_bpb
    return metrics | {"claim/seeds_finished": float(sum(seed.status == "finished" for seed in result.seeds))}


def _spent(view: RunView, result: RunResult) -> dict[str, float]:
    """Time and price of the whole run, all attempts."""
    seconds = sum(max(0.0, (a.ended or max(a.started, view.last_sign)) - a.started) for a in view.attempts)
    hours = seconds * view.job.resources.nodes / HOUR_S
    price = view.job.cost.per_node_hour
    spent = {"run/wall_seconds": result.finished - result.started, "run/node_hours": hours}
    return spent if price is None else {**spent, "run/cost": price * hours}


# --- descriptions of runs, in the Markdown that MLflow shows; texts of files are shown in them and never obeyed ---

MAX_TEXT_CHARS = 400
"""Characters of one text of a file; a description may hold 8,000 in all."""
MAX_SEEDS = 25
REPORT = "report.html"
"""Name of the report in a run's folder, where one was written."""
NO_FIGURE = "–"
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;"}


def escaped(text: str) -> str:
    """`text` on one line, so that it means nothing in Markdown, in a table of it, or in HTML."""
    line = " ".join(text.split())
    if len(line) > MAX_TEXT_CHARS:
        line = f"{line[: MAX_TEXT_CHARS - 1]}…"
    line = re.sub(r"([\\`*_{}\[\]#~!])", r"\\\1", line)
    return re.sub(r"[&<>|]", lambda found: _ENTITIES[found.group()], line)


def running_note(view: RunView) -> str:
    """Description of a run that goes on."""
    return f"running; {progress(view)['seeds_finished']} seeds finished\n\n{_about(view)}"


def interrupted_note(view: RunView) -> str:
    """Description of a run that ended without a word."""
    resume = _command(f"golf run --resume {shlex.quote(str(view.folder))}")
    return f"**The run ended without a word.** Go on with:\n\n{resume}\n\n{_about(view)}"


def claim_note(view: RunView, result: RunResult) -> str:
    """Description of a run that has ended: verdict, conditions, seeds, and how to get the same again."""
    parts = [f"**{escaped(result.claim.sentence)}**", _about(view), _conditions(result.claim)]
    parts += ["**Seeds**", _seeds(result.seeds)]  # with nothing in between, MLflow's pages show two tables as one
    folder = shlex.quote(str(view.folder))
    lines = f"golf show {folder}\ngolf package {folder}\ngolf reproduce {shlex.quote(f'{view.folder}/package')}"
    parts.append(f"To see it again, and to reproduce it from its package:\n\n{_command(lines)}")
    if (view.folder / REPORT).is_file():
        parts.append(f"The whole report, with its charts, is `{REPORT}` among the artifacts.")
    return "\n\n".join(part for part in parts if part)


def seed_note(attempt: AttemptView, result: SeedResult | None) -> str:
    """Description of one attempt at a seed; `result`: the seed's, where this is its newest attempt."""
    if attempt.status == "finished" and result is not None and result.status == "finished":
        return f"Seed {attempt.seed} finished.\n\n{_seeds([result])}"
    if attempt.status:
        reason = f": {escaped(attempt.error)}" if attempt.error else ""
        return f"Seed {attempt.seed}, attempt {attempt.number} {escaped(attempt.status)}{reason}"
    return f"Seed {attempt.seed}, attempt {attempt.number} ended without a word."


def _about(view: RunView) -> str:
    listed = ", ".join(map(str, view.job.seeds[:MAX_SEEDS])) + (", …" if len(view.job.seeds) > MAX_SEEDS else "")
    seeds = f"seed{'s' if len(view.job.seeds) > 1 else ''} {listed}"
    commit = view.provenance.get("git_commit", "")
    dirty = ", with changes" if view.provenance.get("git_dirty") == "true" else ""
    return f"Job {escaped(view.job.name)}, {seeds}" + (f"; code of commit {escaped(commit)}{dirty}" if commit else "")


def _conditions(claim: Claim) -> str:
    if not claim.conditions:
        return ""
    rows = [(c.mark[0], escaped(c.name), escaped(c.detail)) for c in claim.conditions]
    return markdown_table(("", "Condition", "Figures"), rows)


def _seeds(seeds: Sequence[SeedResult]) -> str:
    columns = columns_in("note")
    titles = ("seed", "status", *(f"{column.title} BPB" if column.is_score else column.title for column in columns))
    rows = []
    for seed in seeds[:MAX_SEEDS]:
        status = escaped(seed.status if seed.error is None else f"{seed.status}: {seed.error}")
        rows.append((str(seed.seed), status, *(column.text(seed, NO_FIGURE) for column in columns)))
    table = markdown_table([title[0].upper() + title[1:] for title in titles], rows)
    left = len(seeds) - MAX_SEEDS
    return table + (f"\n\n… and {left} more" if left > 0 else "")


def _command(text: str) -> str:
    # A fence longer than any in the text: the name of a folder may hold one.
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"


# --- a seed's events as points of series ---


def points_of(event: Event) -> list[Point]:
    """The points that an event adds to a seed's series."""
    step, values = series(event)
    return [Point(name, step, value, event.time) for name, value in values.items()]


def series(event: Event) -> tuple[int, dict[str, float]]:
    """The points that an event adds to a seed's series: the step (or chunk, or 0), and values by metric name.

    Losses in nats a token, weights as shares of 1, the rest in the unit that the name ends in. The step of a machine's
    figures is the seconds since its gang was started. What is missing or not finite is left out.
    """
    match event:
        case TrainStep(step):
            names = ("loss", "lr_factor", "ms_per_step", "tokens_per_s")
            return step, finite({f"train/{name}": getattr(event, name) for name in names})
        case Validation(step):
            return step, finite({"val/loss": event.val_loss, "val/bpb": event.val_bpb})
        case Chunk(chunk):
            values = {f"eval/bpb_{name}": value for name, value in event.bpb.items()}
            return chunk, finite(values | {f"eval/weight_{name}": weight for name, weight in event.weights.items()})
        case PhaseFinished(phase, seconds):
            return 0, finite({f"time/{phase}_seconds": seconds})
        case System(elapsed_s):
            return max(0, int(elapsed_s or 0)), finite(_system(event))
    return 0, {}


def _system(event: System) -> dict[str, Any]:
    """What a machine is doing; MLflow has a page of its own for names that begin with `system/`."""
    figures = {f"system/{name}": getattr(event, name) for name in ("cpu_percent", "memory_mib", "process_memory_mib")}
    for gpu in event.gpus[:MAX_GPUS]:
        names = ("utilisation_percent", "memory_mib", "power_w", "temperature_c")
        figures |= {f"system/gpu_{gpu.index}_{name}": getattr(gpu, name) for name in names}
    return figures
