"""What a package says of its run: submission.json, under the names that submissions use, and README.md."""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from golf_core.config import GolfConfig
from golf_core.log_text import named
from golf_core.results import DataRecord, EvalResult, ExportResult, TrainResult
from golf_core.strict_json import to_dict
from orchestrator.claim.columns import columns_in, markdown_table, submitted
from orchestrator.claim.statistics import MARGIN_NATS, summarize
from orchestrator.folder.results import PROGRAM, READABLE, Claim, RunResult, SeedResult
from orchestrator.job.load import Job

RECORD = "record.json"
README, SUBMISSION, REQUIREMENTS = "README.md", "submission.json", "requirements.txt"


@dataclass(frozen=True)
class PackagedFile:
    """One file of a package."""

    name: str
    bytes: int
    sha256: str


def weights_name(seed: int) -> str:
    """The name of a seed's weights in a package."""
    return f"model_seed{seed}.golf"


@dataclass(frozen=True)
class Author:
    """Who submits; unknown unless given."""

    name: str | None = None
    github_id: str | None = None


@dataclass(frozen=True)
class FinishedSeed:
    """A seed with all of its results, so that nobody need ask again."""

    seed: int
    train: TrainResult
    export: ExportResult
    evaluate: EvalResult


def finished_seeds(seeds: Sequence[SeedResult]) -> list[FinishedSeed]:
    """Those seeds that have every result."""
    return [FinishedSeed(s.seed, s.train, s.export, s.evaluate) for s in seeds if s.train and s.export and s.evaluate]


def submission(result: RunResult, author: Author) -> dict[str, Any]:
    """The content of submission.json, JSON-ready.

    `val_loss` and `val_bpb` are the mean of the score that a claim may use, the mixture; without a mixture, of the
    model alone. `bytes_total` is that of the largest seed.
    """
    seeds = finished_seeds(result.seeds)
    scorer = claimed_scorer(seeds)
    losses = [getattr(s.evaluate, scorer).nats_per_token for s in seeds]
    bpbs = [getattr(s.evaluate, scorer).bpb for s in seeds]
    totals = [s.export.total_bytes for s in seeds]
    config = result.job.config
    loss, bpb = summarize(losses), summarize(bpbs)
    return {
        "author": author.name,
        "github_id": author.github_id,
        "name": result.name,
        "blurb": headline(result, seeds),
        "date": datetime.datetime.fromtimestamp(result.finished, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "track": "10min_16mb",
        "claim": result.claim.verdict,
        "val_loss": loss.mean,
        "val_bpb": bpb.mean,
        "val_loss_std": loss.sd,
        "val_bpb_std": bpb.sd,
        "val_bpb_method": f"{scorer}: sliding windows of {config.evaluate.seq_len} tokens, stride "
        f"{config.evaluate.stride}, each token scored once"
        + (", then test-time training on the scored chunk" if config.evaluate.ttt else ""),
        "bytes_total": max(totals),
        "artifact_bytes": max(totals),
        "artifact_bytes_mean": fmean(totals),
        "artifact_bytes_max": max(totals),
        "code_bytes": seeds[0].export.code_bytes,
        "model_bytes": max(s.export.weight_bytes for s in seeds),
        "compression": compression(config, seeds),
        "num_params": seeds[0].train.parameters,
        "seeds": [s.seed for s in seeds],
        "seed_results": {str(s.seed): _seed(s, scorer) for s in result.seeds},
        "train_steps_mean": fmean(s.train.steps for s in seeds),
        "step_avg_ms_mean": fmean(s.train.ms_per_step for s in seeds),
        "training_time_seconds": max(s.train.train_seconds for s in seeds),
        "eval_time_seconds": max(s.evaluate.seconds for s in seeds),
        "hardware": result.provenance.get("hardware") or "not recorded",
        "pytorch_version": result.provenance.get("torch", "not recorded"),
        "python_version": result.provenance.get("python", "not recorded"),
        "tokenizer": f"{config.model.vocab_size} pieces",
        "techniques": techniques(config, seeds),
        "technique_summary": "; ".join(techniques(config, seeds)),
        "compliance": {c.name: c.holds for c in result.claim.conditions},
        **_comparison(result, loss.mean, bpb.mean),
    }


def claimed_scorer(seeds: Sequence[FinishedSeed]) -> str:
    """The score that stands in the headline: the mixture where every seed has one."""
    return "mixture" if all(s.evaluate.mixture for s in seeds) else "neural"


def headline(result: RunResult, seeds: Sequence[FinishedSeed]) -> str:
    """One sentence: the verdict and the figure with its spread."""
    scorer = claimed_scorer(seeds)
    bpb = summarize([getattr(s.evaluate, scorer).bpb for s in seeds])
    spread = f" ± {bpb.sd:.5f} (sample standard deviation)" if bpb.sd is not None else " (one seed, no spread)"
    verdict = {"claim": "A claim", "no claim": "NO CLAIM", "too few seeds": "NO CLAIM (too few seeds)"}
    count = f"{bpb.n} seeds" if bpb.n != 1 else "1 seed"
    return f"{verdict[result.claim.verdict]}: {scorer} {bpb.mean:.5f}{spread} BPB over {count}."


def compression(config: GolfConfig, seeds: Sequence[FinishedSeed]) -> str:
    """How the weights are stored, in a few words; where the seeds differ, all the ways."""
    published = f"int6 and int8 rows, float16 up to {config.artifact.float16_max_elements:,} elements"
    ways = {
        "as quantised": f"{published}, LZMA",
        "recoded": f"{published}, range coding",
        "fitted": "a width for every matrix, row and column by its Fisher information, range coding",
    }
    used = {seed.export.method for seed in seeds}
    return "; ".join(text for method, text in ways.items() if method in used)


def techniques(config: GolfConfig, seeds: Sequence[FinishedSeed]) -> list[str]:
    """What the run is made of, read off its configuration."""
    m, t, e = config.model, config.train, config.evaluate
    found = [
        f"{m.num_layers} blocks of width {m.model_dim}, {m.num_heads} query and {m.num_kv_heads} key/value heads, "
        f"MLP x{m.mlp_mult} with squared leaky ReLU, U-Net skips, tied soft-capped head",
        f"hashed-bigram embedding ({m.bigram_vocab_size} x {m.bigram_dim}) and smear gate",
        f"partial RoPE ({m.rope_dims} of {m.head_dim} dimensions), value residual (VRL)",
    ]
    if m.xsa_last_n:
        found.append(f"XSA on the last {m.xsa_last_n} blocks")
    if m.ve_layers:
        found.append(f"value embedding ({m.ve_dim}) on blocks {', '.join(map(str, m.ve_layers))}")
    clock = "by steps" if t.wallclock_seconds is None else f"by the clock, {t.wallclock_seconds:g} s"
    found += [
        f"Muon ({t.muon_steps} Newton-Schulz steps) and AdamW, warm-down {clock}",
        f"EMA of the weights ({t.ema_decay:g})",
        f"late quantisation-aware training under a rate factor of {t.qat_threshold:g}",
        compression(config, seeds),
    ]
    if e.ttt:
        found.append(
            f"test-time training after scoring: AdamW at {e.ttt_lr:g}, {e.ttt_epochs} epochs a chunk of "
            f"{e.chunk_tokens:,} tokens, scoring with the Polyak average ({e.polyak_decay:g})"
        )
    if e.hedge:
        found.append(f"mixture of normalised experts, all learnt from scored tokens ({named(to_dict(e.mixer), None)})")
    return found


def _seed(seed: SeedResult, scorer: str) -> dict[str, Any]:
    score = getattr(seed.evaluate, scorer)
    return {"val_loss": score.nats_per_token, "val_bpb": score.bpb, **submitted(seed)}


def _comparison(result: RunResult, loss: float, bpb: float) -> dict[str, Any]:
    """Against the job's baseline: differences (negative is better) and the tests of the claim."""
    baseline = result.job.baseline
    if baseline is None:
        return {"comparison_baseline": None}
    found: dict[str, Any] = {
        "comparison_baseline": baseline.name,
        "comparison_baseline_bpb": baseline.mean_bpb,
        "delta_vs_baseline_bpb": bpb - baseline.mean_bpb,
        "delta_vs_baseline_nats": (bpb - baseline.mean_bpb) * loss / bpb,
        "margin_nats": MARGIN_NATS,
        "margin_bpb": result.claim.margin_bpb,
    }
    for test, label in zip(result.claim.tests, ("margin", "zero"), strict=False):
        found |= {f"t_statistic_{label}": test.statistic, f"df_{label}": test.df, f"p_value_{label}": test.p}
    return found


# --- README.md: the verdict first, every figure with where it comes from, how to run it again ---


def readme(result: RunResult, data: Mapping[str, DataRecord], listed: Sequence[PackagedFile]) -> str:
    """The text, for a result that is already portable; `listed` are the package's other files."""
    job, seeds = result.job, finished_seeds(result.seeds)
    weights = any(file.name == weights_name(seeds[0].seed) for file in listed)
    blocks = [
        f"# {result.name}",
        f"**{headline(result, seeds)}**",
        result.claim.sentence,
        *_section("Seeds", _seed_table(result), _MEANINGS),
        *_section("Against the baseline", *_against_baseline(result.claim, job)),
        *_section("Conditions of a claim", *_conditions(result.claim)),
        *_section("Techniques", "\n".join(f"- {text}" for text in techniques(job.config, seeds))),
        *_section("Run it again", *_commands(job, seeds, weights)),
        *_section("Files", *_files(listed)),
        *_section("Provenance", _provenance(result, next(iter(data.values())))),
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


def _seed_table(result: RunResult) -> str:
    columns = columns_in("readme")
    rows = [[str(s.seed), *(column.text(s) for column in columns)] for s in result.seeds]
    limits = ["limit", *(f"{column.limit(result.job.budgets):,.10g}" if column.limit else "" for column in columns)]
    return markdown_table(["seed", *(column.title.rstrip("*") for column in columns)], [*rows, limits], 1)


def _against_baseline(claim: Claim, job: Job) -> Iterator[str]:
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


def _provenance(result: RunResult, data: DataRecord) -> str:
    rows = [[name.replace("_", " "), value] for name, value in result.provenance.items()]
    rows.append(["ranks a seed", str(result.job.resources.ranks)])
    rows += [[f"SHA-256 of {name}", digest] for name, digest in data.checksums.items()]
    rows.append([f"SHA-256 of {data.tokenizer}", data.tokenizer_sha256])
    rows += [["training tokens", f"{data.train_tokens:,}"], ["validation tokens", f"{data.val_tokens:,}"]]
    return markdown_table(["", ""], rows, 2)
