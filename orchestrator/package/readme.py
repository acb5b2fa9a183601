"""README.md of a record package: the verdict first, every figure with where it comes from, how to run it again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence

from golf_core.results import DataRecord
from orchestrator.claim.columns import columns_in
from orchestrator.claim.statistics import MARGIN_NATS
from orchestrator.folder.layout import PROGRAM, READABLE
from orchestrator.folder.results import Claim, RunResult
from orchestrator.job.load import Job
from orchestrator.job.markdown import markdown_table
from orchestrator.package.manifest import RECORD, REQUIREMENTS, PackagedFile, weights_name
from orchestrator.package.submission import FinishedSeed, finished_seeds, headline, is_whole, techniques


def readme(result: RunResult, job: Job, data: Mapping[str, DataRecord], listed: Sequence[PackagedFile]) -> str:
    """The text, for a result that is already portable; `listed` are the package's other files."""
    seeds = finished_seeds(result.seeds)
    weights = any(file.name == weights_name(seeds[0].seed) for file in listed)
    blocks = [
        f"# {result.name}",
        f"**{headline(result, seeds)}**",
        result.claim.sentence,
        *_section("Seeds", _seed_table(result, job), _MEANINGS),
        *_section("Against the baseline", *_comparison(result.claim, job)),
        *_section("Conditions of a claim", *_conditions(result.claim)),
        *_section("Techniques", "\n".join(f"- {text}" for text in techniques(job.config, seeds))),
        *_section("Run it again", *_commands(job, seeds, weights)),
        *_section("Files", *_files(listed)),
        *_section("Provenance", _provenance(result, job, next(iter(data.values())))),
    ]
    return "\n\n".join(blocks) + "\n"


_MEANINGS = (
    "`before` is the BPB of the averaged weights before quantisation, on whole rows without adaptation. All other "
    "scores are of the model read back from its file. `neural` is the adapted model alone; `mixture` is a mixture of "
    "normalised experts, the one score that a claim may use; `published` is the earlier record's mixture, one of "
    "whose experts is no probability distribution: it is no code length, and is given for comparison only."
)


def _section(title: str, *blocks: str) -> list[str]:
    return [f"## {title}", *blocks]


def _seed_table(result: RunResult, job: Job) -> str:
    columns = columns_in("readme")
    rows = [[str(s.seed), *(column.text(s) for column in columns)] for s in result.seeds if is_whole(s)]
    limits = ["limit", *(f"{column.limit(job.budgets):,.10g}" if column.limit else "" for column in columns)]
    return markdown_table(["seed", *(column.title.rstrip("*") for column in columns)], [*rows, limits], 1)


def _comparison(claim: Claim, job: Job) -> Iterator[str]:
    if job.baseline is None:
        yield "The job names no baseline, so nothing is compared and nothing can be claimed."
        return
    mixture = claim.scores.get("mixture")
    yield f"Baseline: {job.baseline.name}, {job.baseline.mean_bpb:.5f} BPB."
    if mixture is None:
        yield "There is no mixture score to compare with it."
        return
    change = mixture.mean - job.baseline.mean_bpb
    margin = f" A record needs {-claim.margin_bpb:.5f} ({MARGIN_NATS:g} nats a token)." if claim.margin_bpb else ""
    yield f"The mixture's mean is {mixture.mean:.5f} BPB: {change:+.5f} (less is better).{margin}"
    if claim.tests:
        rows = []
        for test in claim.tests:
            figures = [f"{x:.3g}" if x is not None else "-" for x in (test.statistic, test.df, test.p)]
            rows.append([test.name, f"{test.null}{f' (no p: {test.note})' if test.note else ''}", *figures])
        yield markdown_table(["one-sided test", "null hypothesis: the mixture is", "t", "df", "p"], rows, 2)


def _conditions(claim: Claim) -> Iterator[str]:
    rows = [[c.mark, c.name, c.detail.replace("|", "/")] for c in claim.conditions]
    yield markdown_table(["", "condition", "evidence"], rows, 3)
    if claim.notes:
        yield "\n".join(f"- {note}" for note in claim.notes)


def _commands(job: Job, seeds: Sequence[FinishedSeed], weights: bool) -> Iterator[str]:
    ranks, first = seeds[0].train.world_size, seeds[0].seed
    launcher = f"torchrun --standalone --nproc_per_node={ranks} {PROGRAM}"
    if job.data == "sample":
        yield (
            "The data are a small corpus made from the text of the Python installation, not the challenge's: "
            "`golf data sample --out sample` writes it, the same for the same version of Python."
        )
        place = "--data sample --tokenizer sample/tokenizer.model"
    else:
        place = f"--data {shlex.quote(job.data.path)} --tokenizer {shlex.quote(job.data.tokenizer)}"
    lines = [f"pip install -r {REQUIREMENTS}", f"{launcher} {place} --seed {first} --out out"]
    if weights:
        lines.append(f"{launcher} {place} --evaluate {weights_name(first)} --out again")
    yield _shell(lines)
    yield (
        f"`{PROGRAM}` is the whole program; it needs nothing but the packages in `{REQUIREMENTS}` and the data. Its "
        f"configuration is this run's. The seeds were {', '.join(str(s.seed) for s in seeds)}."
    )
    yield "With the service that made this package, all seeds and the comparison with the figures above:"
    lines = ["golf reproduce ."]
    if weights:
        lines.insert(0, "golf reproduce . --evaluate-only")
    yield _shell(lines)


def _shell(lines: Sequence[str]) -> str:
    return "\n".join(["```", *lines, "```"])


def _files(listed: Sequence[PackagedFile]) -> Iterator[str]:
    sizes = {file.name: file.bytes for file in listed}
    rows = [[f"`{file.name}`", f"{file.bytes:,}"] for file in listed]
    yield markdown_table(["file", "bytes"], rows)
    yield (
        f"`{PROGRAM}` ({sizes[PROGRAM]:,} bytes) is the program whose bytes were counted. `{READABLE}` "
        f"({sizes[READABLE]:,} bytes) is the same program to read, and runs as well: the packed one was made from it "
        "by removing comments, docstrings and unread annotations, shortening local names, and compressing; this "
        f"package was checked to hold one program in both forms. `{RECORD}` lists the SHA-256 of every file."
    )


def _provenance(result: RunResult, job: Job, data: DataRecord) -> str:
    rows = [[name.replace("_", " "), value] for name, value in result.provenance.items()]
    rows.append(["ranks a seed", str(job.resources.ranks)])
    rows += [[f"SHA-256 of {name}", digest] for name, digest in data.checksums.items()]
    rows.append([f"SHA-256 of {data.tokenizer}", data.tokenizer_sha256])
    rows += [["training tokens", f"{data.train_tokens:,}"], ["validation tokens", f"{data.val_tokens:,}"]]
    return markdown_table(["", ""], rows, 2)
