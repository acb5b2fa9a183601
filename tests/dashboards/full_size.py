"""A made-up run of the challenge's full size: three seeds, their series, breakdowns and audits."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from claim_builders import CANDIDATE, RATIO, audit_record, eval_result, export_result, finished
from run_builders import T0, add_events, begin_run, begin_seed, finish_run, finish_seed

from golf_core import strict_json
from golf_core.audit.report import AuditOptions, AuditReport, Condition, KraftSum
from golf_core.evaluate.breakdown import BREAKDOWN, Breakdown, ChunkLosses, Excerpt, Group
from golf_core.events import Chunk, Event, Gpu, PhaseFinished, PhaseStarted, System, TrainStep, Validation
from golf_core.results import ChunkRecord, DataRecord
from orchestrator.folder.results import AUDIT, DATA, RESULT, RunResult, SeedResult

SEEDS = (42, 1337, 2024)
SCORERS = ("neural", "mixture", "published")
CHUNK = 32_768
NASTY = "</script><b>bold</b>&amp; \x1b[31m"
"""A token's text that must be shown, not obeyed."""


def full_run(folder: Path, steps: int = 6000, chunks: int = 1893, seeds: tuple[int, ...] = SEEDS) -> RunResult:
    """The folder of a finished run with every figure that a report can show."""
    ledger = begin_run(folder, seeds)
    results = []
    for number, (seed, bpb) in enumerate(zip(seeds, CANDIDATE, strict=False)):
        place = begin_seed(folder, ledger, seed)
        finish_seed(folder, ledger, seed, bpb)
        results.append(_seed(place, seed, bpb, steps, chunks, T0 + 1500 * number))
    return finish_run(folder, ledger, tuple(results))


def _seed(place: Path, seed: int, bpb: float, steps: int, chunks: int, began: float) -> SeedResult:
    random = np.random.default_rng(seed)
    history = tuple(_history(random, bpb, chunks))
    spent = {"loading": 9.5, "scoring": 210.25, "mixing": 61.0, "adaptation": 198.75}
    evaluated = eval_result(bpb, history=history, chunks=chunks, seconds_by_phase=spent)
    add_events(place, _events(random, steps, history, began))
    strict_json.save(_breakdown(random, chunks), place / BREAKDOWN)
    strict_json.save(_audit(random), place / AUDIT)
    checksums = {"fineweb_val_000000.bin": "b" * 64}
    data = DataRecord("/data", "/data/t.model", "a" * 64, 8_000_000_000, 62_021_846, checksums)
    strict_json.save(data, place / DATA)
    groups = {"attention": 6_000_000, "mlp": 9_000_000, "embeddings": 705_672}
    exported = export_result(bytes_by_group=groups)
    times = {"started": began, "finished": began + 1400}
    result = finished(seed, bpb, evaluate=evaluated, audit=audit_record(), export=exported, **times)
    strict_json.save(result, place / RESULT)
    return result


def _events(random: np.random.Generator, steps: int, history: tuple[ChunkRecord, ...], began: float) -> list[Event]:
    def phase(name: str, at: float, seconds: float) -> list[Event]:
        return [PhaseStarted(name, time=began + at), PhaseFinished(name, seconds, time=began + at + seconds)]

    events = phase("warmup", 0, 30)
    noise = random.normal(0, 0.03, steps)
    for step in range(1, steps + 1):
        loss = 1.9 + 5 * math.exp(-step / (steps / 12)) + float(noise[step - 1])
        pace, elapsed_s = 98 + float(noise[step - 1]) * 20, step * 0.098
        left = (steps - step) * 0.098
        events.append(TrainStep(step, steps, loss, 1.0, pace, 8e6, elapsed_s, left, time=began + 40 + elapsed_s))
        if step % max(steps // 6, 1) == 0:
            events.append(Validation(step, loss, loss / 1.69, time=began + 40 + step * 0.098))
    events += (
        phase("train", 40, 598) + phase("export", 650, 20) + phase("evaluate", 680, 486) + phase("audit", 1170, 95)
    )
    for i in range(130):
        gpus = tuple(Gpu(g, utilisation_percent=97.0, memory_mib=22_000.0) for g in range(8))
        events.append(System(cpu_percent=30.0, memory_mib=9e4, gpus=gpus, time=began + 10 * i))
    for record in history:
        bpb = [record.bpb[name] for name in ("neural", "mixture", "published")]
        events.append(Chunk(record.chunk, len(history), *bpb, time=began + 680 + record.chunk * 0.25))
    return events


def _history(random: np.random.Generator, bpb: float, chunks: int) -> list[ChunkRecord]:
    gaps = {"neural": 0.001, "mixture": 0.0, "published": -0.074}
    wander = random.normal(0, 0.05, chunks).cumsum() / np.arange(1, chunks + 1)
    wander -= wander[-1]
    records_ = []
    for i in range(chunks):
        values = {name: bpb + gap + float(wander[i]) for name, gap in gaps.items()}
        weights = tuple(-float(k) * (i + 1) / chunks for k in range(5))
        shares = {"neural": 0.2, "tilted": 0.1, "blend": 0.3 + 0.2 * i / chunks, "document": 0.4 - 0.2 * i / chunks}
        records_.append(ChunkRecord(i + 1, (i + 1) * CHUNK, values, weights, i * CHUNK, shares))
    return records_


def _nats(tokens: int, loss: float) -> dict[str, float]:
    return {"neural": tokens * (loss + 0.01), "mixture": tokens * loss, "published": tokens * (loss - 0.1)}


def _breakdown(random: np.random.Generator, chunks: int) -> Breakdown:
    losses = 1.89 + random.normal(0, 0.05, chunks)
    each = tuple(ChunkLosses(i * CHUNK, CHUNK, CHUNK * RATIO, _nats(CHUNK, float(losses[i]))) for i in range(chunks))
    groups = tuple(
        Group(
            f"{2**k}-{2 ** (k + 1) - 1}",
            float(2**k),
            float(2 ** (k + 1)),
            10_000 * (k + 1),
            25_000.0 * (k + 1),
            _nats(10_000 * (k + 1), 3 - k / 8),
        )
        for k in range(16)
    )
    pieces = (NASTY, *(f" word{i}" for i in range(159)))
    bits = {
        "neural": tuple(random.uniform(0, 9, 160).round(3).tolist()),
        "mixture": tuple(random.uniform(0, 6, 160).round(3).tolist()),
    }
    excerpts = tuple(
        Excerpt(kind, 1000 * i, pieces, bits, gain)  # type: ignore[arg-type]
        for kind, gain in (("wins", 250.0), ("loses", -80.0))
        for i in range(4)
    )
    total = chunks * CHUNK
    return Breakdown("d" * 64, total, total * RATIO, each, groups, groups, groups, excerpts)


def _audit(random: np.random.Generator) -> AuditReport:
    sums = tuple(
        KraftSum(name, int(position), ("text start",), total, total, total, True, 1024, 0, "snapshot", total)
        for position in sorted(random.integers(1, 49_000, 24).tolist())
        for name, total in (("neural", 1 + 1e-7), ("mixture", 1 - 2e-7), ("published", 81.4))
    )
    conditions = (
        Condition("2 normalised", "mixture", "holds", "24 sums are 1 within 2e-07"),
        Condition("2 normalised", "published", "violated", "sums to 81.4 at 24 of 24 positions"),
    )
    return AuditReport(
        scorer="golf_core.evaluate.auditable:EvaluationScorer",
        tokens=49_153,
        tokens_sha256="e" * 64,
        vocab_size=1024,
        chunk_tokens=CHUNK,
        options=AuditOptions(),
        first_scored=1,
        mean_loss={"mixture": 1.89},
        runs=4,
        seconds=95.0,
        conditions=conditions,
        notes=(),
        sums=sums,
        causal=None,
        repeat=None,
        fast_path=None,
        distributions=None,
        documents=None,
    )


def as_json(path: Path) -> Any:
    """A record as plain values."""
    return json.loads(path.read_text())
