"""Seconds a chunk that the valid mixture takes beside the model, part by part, with the record's configuration.

    python benchmarks/mixing.py --shard fineweb_val_000000.bin --chunks 10

The neural distributions are random: times do not depend on them. Without a shard, so are the tokens; then hardly any
context comes back, and the tables grow faster than on text. The first chunks also pay for what is set up once.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from golf_core.config import preset
from golf_core.data.shards import read_shard
from golf_core.distributed import device_name, single
from golf_core.mixture.mixer import Mixer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shard", type=Path)
    parser.add_argument("--chunks", type=int, default=8)
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    config, ranks = preset("record"), single()
    evaluate, vocab = config.evaluate, config.model.vocab_size
    count = arguments.chunks * evaluate.chunk_tokens + 1
    ids = read_shard(arguments.shard) if arguments.shard else np.random.default_rng(0).integers(0, vocab, count)
    tokens = torch.from_numpy(np.asarray(ids[:count]).astype(np.int64)).to(ranks.device)
    batch = evaluate.batch_windows * evaluate.stride
    generator = torch.Generator(ranks.device).manual_seed(0)
    logits = 2.0 * torch.randn(batch, vocab, generator=generator, device=ranks.device)
    mixer, times, nats = Mixer(evaluate.mixer, vocab, tokens, ranks), defaultdict[str, list[float]](list), 0.0

    def timed(part: str, act: Callable[[], object]) -> None:
        began = now(ranks.device)
        act()
        times[part].append(now(ranks.device) - began)

    for begin in range(0, len(tokens) - 1, evaluate.chunk_tokens):
        end = min(begin + evaluate.chunk_tokens, len(tokens) - 1)
        chosen = np.linspace(begin, end - 1, evaluate.kraft_positions).round().astype(np.int64)
        measured = torch.from_numpy(chosen).to(ranks.device)
        # Another order of the same columns in every batch, so that no two batches are alike.
        batches = [(at, logits.roll(at // batch, 1)[: end - at].log_softmax(1)) for at in range(begin, end, batch)]

        def observe(batches: list[tuple[int, torch.Tensor]] = batches) -> None:
            for at, log_probs in batches:
                mixer.observe(at, log_probs)

        def score() -> None:
            nonlocal nats
            nats += float(mixer.score(chunk_ends=True).nll.sum())

        timed("look", lambda b=begin, e=end, m=measured: mixer.look(b, e, m))
        timed("observe", observe)
        timed("score", score)
        timed("settle", mixer.settle)
    print(f"{device_name(ranks.device)}, torch {torch.__version__}, {torch.get_num_threads()} thread(s), one rank")
    print(f"{len(tokens) - 1:,} tokens, {nats:.9f} nats")
    print(f"seconds a chunk of {evaluate.chunk_tokens:,} (the first left out):")
    for part, seconds in times.items():
        rest = np.array(seconds[1:] or seconds)
        print(f"  {part:8s} median {np.median(rest):.4f}  mean {rest.mean():.4f}  last {rest[-1]:.4f}")
    print(f"  together mean {sum(np.mean(s[1:] or s) for s in times.values()):.4f}")


def now(device: torch.device) -> float:
    """Seconds, after all that was queued."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
