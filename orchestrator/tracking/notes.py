"""Descriptions of runs, in the Markdown that MLflow shows; texts of files are shown in them and never obeyed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from orchestrator.claim.columns import columns_in
from orchestrator.folder.results import Claim, RunResult, SeedResult
from orchestrator.folder.view import AttemptView, RunView
from orchestrator.job.markdown import markdown_table

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
    finished = {attempt.seed for attempt in view.attempts if attempt.status == "finished"}
    return f"running; {len(finished)} of {len(view.job.seeds)} seeds finished\n\n{_about(view)}"


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
