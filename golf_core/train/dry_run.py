"""A rehearsal on the machines that will run: an all-reduce, a few steps, an export, a few chunks; what they project.

Nothing of it is kept. It costs a minute or two and tells what the run would otherwise tell after ten.
"""

from __future__ import annotations

import lzma
import math
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

from golf_core.artifact.codec import load_artifact
from golf_core.artifact.export import ARTIFACT_NAME, export
from golf_core.artifact.quantize import INT6_MAX, quantize, storage_kind
from golf_core.config import ArtifactConfig, GolfConfig, ModelConfig
from golf_core.data.shards import TokenStream, read_shard, train_shards, val_shards
from golf_core.distributed import Ranks, device_name, peak_memory_mib
from golf_core.errors import ArtifactError, ConfigError, RunError
from golf_core.evaluate.score import Evaluator
from golf_core.evaluate.text import sliding_windows
from golf_core.events import Chunk, Event, TrainStep
from golf_core.model.gpt import expected_shapes, model_from, should_compile
from golf_core.results import MIB, ExportResult, TrainResult
from golf_core.stages import DataPaths, open_text
from golf_core.train.loop import Trainer
from golf_core.train.projection import AllReduce, DryRun, steps_in_budget

LEAST_STEPS = 8
SETTLING_STEPS = 2
"""Not timed: on CUDA the clock runs ahead of the GPU until so many steps are queued."""
TIMED_CHUNKS = 2
MOST_CHUNKS = 8
TEXT_BYTES_PER_TOKEN = 16
"""A token of the validation text and its weight in bytes, on the device."""
SAMPLE_ROWS, SAMPLE_COLS = 512, 512


# --- the interconnect -------------------------------------------------------------------------------


def time_all_reduce(ranks: Ranks, mib: float | None = None, repeats: int = 8, limit_s: float = 10.0) -> AllReduce:
    """Time all-reduces of `mib` MiB (default: 64 on CUDA, 4 on a CPU) over the gang, after an untimed one.

    Raises `RunError` when they have not ended after `limit_s` seconds or the sum is wrong. The group is then unfit
    for further use: end its processes.
    """
    size = mib or (64.0 if ranks.device.type == "cuda" else 4.0)
    tensor = torch.full((int(size * MIB) // 4,), float(ranks.rank + 1), device=ranks.device)
    deadline = time.perf_counter() + limit_s
    _reduce(tensor, ranks, 1, deadline, limit_s)
    expected = ranks.world_size * (ranks.world_size + 1) / 2
    if not bool((tensor == expected).all()):
        raise RunError(
            f"the all-reduce over {ranks.world_size} ranks gave a wrong sum on rank {ranks.rank}; "
            "take this node out of service"
        )
    tensor.fill_(1 / ranks.world_size)
    seconds = ranks.largest(_reduce(tensor, ranks, repeats, deadline, limit_s) / repeats)
    moved = 2 * (ranks.world_size - 1) / ranks.world_size * tensor.nbytes
    return AllReduce(ranks.world_size, size, seconds, moved / seconds / 1e9 if moved else 0.0)


def _reduce(tensor: torch.Tensor, ranks: Ranks, repeats: int, deadline: float, limit_s: float) -> float:
    """Seconds of `repeats` all-reduces in place."""
    ranks.barrier()
    if ranks.device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    if ranks.world_size > 1:
        works = [dist.all_reduce(tensor, async_op=True) for _ in range(repeats)]
        # Waiting for the work would last as long as the group's time-out, or block the host on CUDA.
        while not all(work.is_completed() for work in works):
            if time.perf_counter() > deadline:
                raise RunError(
                    f"an all-reduce over {ranks.world_size} ranks did not end within {limit_s:g} s; check the "
                    "interconnect (nvidia-smi topo -m, NCCL_DEBUG=INFO) or use another node"
                )
            time.sleep(1e-4)
        for work in works:
            work.wait()
    if ranks.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


# --- the rehearsal ----------------------------------------------------------------------------------


def dry_run(config: GolfConfig, paths: DataPaths, ranks: Ranks, steps: int = 20, seed: int = 0) -> DryRun:
    """Train `steps` steps, export to a temporary folder, evaluate a few chunks; every rank calls and gets the same.

    The last quarter of the steps runs with late QAT. What is projected holds for these ranks and this data. Raises
    `ConfigError` for fewer than 8 steps, and what the stages raise; an export that cannot fit is reported, not raised.
    """
    if steps < LEAST_STEPS:
        raise ConfigError(f"steps: a dry run of {steps} steps times nothing; give at least {LEAST_STEPS}")
    began = time.perf_counter()
    targets = _num_targets(paths, config)
    chunks, measured = _chunks(config, targets)
    rehearsal = _rehearsal_config(config, steps, measured, chunks)
    trained, pace, weights = _train(rehearsal, paths, ranks, seed)
    with tempfile.TemporaryDirectory(prefix="golf-dry-run-") as folder:
        exported, refused, load_s = _export(config, weights, ranks, Path(folder))
    eval_seconds, per_chunk, dry_targets = _evaluate(rehearsal, weights, paths, ranks, chunks, measured)
    peak = ranks.largest(peak_memory_mib(ranks.device)) + (targets - dry_targets) * TEXT_BYTES_PER_TOKEN / MIB
    memory = _smallest_memory(ranks)
    _leave_no_trace(ranks, should_compile(config.compile, ranks.device))
    in_budget, train_s = steps_in_budget(config.train, *pace)
    weight_bytes, code_bytes, export_s = ranks.agree(
        [0.0, 0.0, 0.0]
        if exported is None
        else [float(exported.weight_bytes), float(exported.code_bytes), exported.export_seconds]
    )
    return DryRun(
        world_size=ranks.world_size,
        device=device_name(ranks.device),
        steps=trained.steps,
        parameters=trained.parameters,
        ms_per_step=pace[0],
        ms_per_step_late=pace[1],
        warmup_seconds=ranks.largest(trained.warmup_seconds),
        steps_in_budget=in_budget,
        train_seconds=train_s,
        chunks=chunks,
        chunks_measured=measured,
        seconds_per_chunk=per_chunk,
        eval_seconds=eval_seconds + load_s,
        export_seconds=export_s,
        weight_bytes=int(weight_bytes),
        weight_bytes_projected=gaussian_bytes(config.model, config.artifact),
        code_bytes=int(code_bytes),
        refused=refused,
        peak_memory_mib=peak,
        memory_mib=memory,
        seconds=ranks.agree([time.perf_counter() - began])[0],
    )


def gaussian_bytes(model: ModelConfig, config: ArtifactConfig) -> int:
    """Bytes of the published quantisation under LZMA if every matrix were Gaussian; from a sample of each kind.

    Gaussian values have the most entropy of all with their variance, so trained weights seldom take more.
    """
    bits: dict[str, float] = {}
    total = 0.0
    for name, shape in expected_shapes(model).items():
        count = math.prod(shape)
        kind = storage_kind(name, torch.empty(shape, device="meta"), config)
        if kind == "float16":
            total += 2 * count
            continue
        if kind not in bits:
            bits[kind] = _sampled_bytes(name, config)
        total += count * bits[kind] + 2 * shape[0]
    return int(total)


def _sampled_bytes(name: str, config: ArtifactConfig) -> float:
    """Compressed bytes of a weight in a Gaussian matrix that is stored as the tensor called `name` is."""
    generator = torch.Generator().manual_seed(0)
    # Rows whose largest value is small are stored coarser; this spread is beyond that floor.
    matrix = INT6_MAX * torch.randn(SAMPLE_ROWS, SAMPLE_COLS, generator=generator)
    sample = quantize(name, matrix, replace(config, float16_max_elements=0))
    packed = lzma.compress(sample.values.contiguous().numpy().tobytes(), preset=config.lzma_preset)
    return len(packed) / matrix.numel()


# --- parts ------------------------------------------------------------------------------------------


def _num_targets(paths: DataPaths, config: GolfConfig) -> int:
    """Tokens that the whole evaluation predicts."""
    seq_len, most = config.evaluate.seq_len, config.evaluate.max_tokens
    tokens = sum(len(read_shard(path)) for path in val_shards(paths.folder))
    targets = (tokens - 1) // seq_len * seq_len
    return targets if most is None else min(targets, most // seq_len * seq_len)


def _chunks(config: GolfConfig, targets: int) -> tuple[int, int]:
    """Chunks of the whole evaluation, and how many of them to go through: one to compile, the others to time."""
    evaluate = config.evaluate
    windows = sliding_windows(targets, evaluate.seq_len, evaluate.stride, evaluate.repeat_tail)
    if not len(windows):
        raise ConfigError("evaluate.seq_len: the validation text has not one row; lower it or export more text")
    chunks = int(windows.first[-1]) // evaluate.chunk_tokens + 1
    wanted = min(_settled(config) + TIMED_CHUNKS + 1, MOST_CHUNKS)  # the last one is not adapted on
    return chunks, min(wanted, chunks)


def _settled(config: GolfConfig) -> int:
    """From which chunk on each costs the same: all is compiled, and the published mixture speaks."""
    evaluate = config.evaluate
    speaks = math.ceil(evaluate.hedge_min_tokens / evaluate.chunk_tokens) if evaluate.hedge else 0
    return min(max(speaks, 1), MOST_CHUNKS - TIMED_CHUNKS - 1)


def _rehearsal_config(config: GolfConfig, steps: int, measured: int, chunks: int) -> GolfConfig:
    late = steps // 4
    threshold = config.train.qat_threshold
    # A warm-down that falls below the threshold exactly `late` steps before the end.
    warmdown = int(late / threshold) + 1 if config.train.warmdown_steps and 0 < threshold <= 1 else 0
    train = replace(
        config.train,
        iterations=steps,
        wallclock_seconds=None,
        warmdown_steps=warmdown,
        val_every=0,
        log_every=1,
    )
    evaluate = config.evaluate
    if measured < chunks:
        evaluate = replace(evaluate, max_tokens=measured * evaluate.chunk_tokens)
    return replace(config, train=train, evaluate=evaluate)


def _train(
    config: GolfConfig, paths: DataPaths, ranks: Ranks, seed: int
) -> tuple[TrainResult, tuple[float, float], dict[str, torch.Tensor]]:
    """The figures, milliseconds of a step without and with late QAT, and the weights on the CPU."""
    # The loop validates at its end; a chunk of text is enough for that.
    rows = max(config.evaluate.chunk_tokens // config.evaluate.seq_len, 1)
    most = min(rows * config.evaluate.seq_len, config.evaluate.max_tokens or rows * config.evaluate.seq_len)
    text = open_text(paths, config, most, ranks.device)
    starts: list[float] = []

    def listen(event: Event) -> None:
        if isinstance(event, TrainStep):
            starts.append(event.elapsed_s)

    trainer = Trainer(config, TokenStream(train_shards(paths.folder)), text, ranks, seed, listen)
    result = trainer.run()
    weights = {name: value.detach().cpu() for name, value in trainer.model.state_dict().items()}
    plain, late = ranks.agree(_pace(starts, result) if ranks.is_first else [0.0, 0.0])
    return result, (plain, late), weights


def _pace(starts: list[float], result: TrainResult) -> list[float]:
    """Milliseconds of a step before and under late QAT, from the clock's readings at the start of each step."""
    onset = result.qat_onset_step
    lengths = [later - earlier for earlier, later in zip(starts, [*starts[1:], result.train_seconds], strict=True)]
    end = len(lengths) if onset is None else onset
    before, after = lengths[SETTLING_STEPS:end], lengths[end:-1]
    everything = 1e3 * result.train_seconds / result.steps
    plain = 1e3 * sum(before) / len(before) if before else everything
    return [plain, 1e3 * sum(after) / len(after) if after else plain]


def _export(
    config: GolfConfig, weights: dict[str, torch.Tensor], ranks: Ranks, folder: Path
) -> tuple[ExportResult | None, str | None, float]:
    """Rank 0's figures; why it was refused; seconds to read the artifact back (on every rank)."""
    exported, refused, load_s = None, None, 0.0
    if ranks.is_first:
        try:
            exported = export(model_from(config.model, weights), config, folder)
            began = time.perf_counter()
            load_artifact(folder / ARTIFACT_NAME)
            load_s = time.perf_counter() - began
        except ArtifactError as error:
            refused = str(error)
    (failed, load_s) = ranks.agree([float(refused is not None), load_s])
    if failed and refused is None:
        refused = "rank 0 found no way to fit the weights"
    return exported, refused, load_s


def _evaluate(
    config: GolfConfig, weights: dict[str, torch.Tensor], paths: DataPaths, ranks: Ranks, chunks: int, measured: int
) -> tuple[float, float, int]:
    """Projected seconds of the whole evaluation, seconds of a chunk, and the targets that were scored."""
    ends: list[float] = []

    def listen(event: Event) -> None:
        if isinstance(event, Chunk):
            ends.append(event.elapsed_s)

    began = time.perf_counter()
    text = open_text(paths, config, config.evaluate.max_tokens, ranks.device)
    read_s = time.perf_counter() - began
    model = model_from(config.model, weights).to(ranks.device)
    compiled = should_compile(config.compile, ranks.device)
    result = Evaluator(model, config.evaluate, text, ranks, listen, compiled).run()
    first = min(_settled(config), measured - 1)
    figures = [result.seconds + read_s, result.seconds / measured]
    if ranks.is_first and measured < chunks:
        timed = ends[first : measured - 1]
        per_chunk = (timed[-1] - ends[first - 1]) / len(timed)
        rest = chunks - first
        figures = [ends[first - 1] + rest * per_chunk + read_s * chunks / measured, per_chunk]
    total, per_chunk = ranks.agree(figures)
    return total, per_chunk, text.num_targets


def _smallest_memory(ranks: Ranks) -> float | None:
    if ranks.device.type != "cuda":
        return None
    own = torch.cuda.get_device_properties(ranks.device).total_memory / MIB
    return -ranks.largest(-own)


def _leave_no_trace(ranks: Ranks, compiled: bool) -> None:
    """Free what the rehearsal held: the run that follows in this process reports its own peak, and compiles anew.

    Compiled code counts against a limit of torch's, beyond which functions silently run uncompiled.
    """
    if compiled:
        torch.compiler.reset()
    if ranks.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(ranks.device)
