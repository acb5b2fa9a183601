"""Time of one training span (forward and backward of one of a global batch's micro-batches) and of one update.

    python benchmarks/train_step.py --preset record            # 98,304 tokens a span, on a GPU
    python benchmarks/train_step.py --preset small --threads 1

Random tokens; weights at their start. Prints medians, and the step's time on 1 and on 8 ranks that follow from them
(without communication).
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from golf_core.config import preset
from golf_core.distributed import device_name, peak_memory_mib, single
from golf_core.model.gpt import GPT, loss_function, should_compile
from golf_core.train.optimizers import Optimizers, WeightAverage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="record")
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--qat", action="store_true", help="with late QAT on")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    config, ranks = preset(arguments.preset), single()
    train = config.train
    compiled = should_compile(not arguments.no_compile, ranks.device)
    torch.manual_seed(0)
    model = GPT(config.model).to(ranks.device)
    if arguments.qat:
        model.set_qat_temperature(torch.ones((), device=ranks.device))
    losses = loss_function(model, ranks.device, compiled)
    optimizers = Optimizers(model, train, ranks, compiled)
    average = WeightAverage(model, train.ema_decay)
    rows = train.batch_tokens // train.micro_batches // train.seq_len
    ids = torch.randint(config.model.vocab_size, (rows, train.seq_len + 1), device=ranks.device)
    spans, updates = [], []
    for step in range(arguments.repeat + 3):
        optimizers.zero()
        began = now(ranks.device)
        losses(ids[:, :-1].contiguous(), ids[:, 1:].contiguous()).mean().backward()
        middle = now(ranks.device)
        optimizers.step(step, 1.0)
        average.update()
        if step >= 3:  # the first steps compile
            spans.append(middle - began)
            updates.append(now(ranks.device) - middle)
    span, update = 1e3 * statistics.median(spans), 1e3 * statistics.median(updates)
    tokens = rows * train.seq_len
    print(f"{device_name(ranks.device)}, torch {torch.__version__}, preset {arguments.preset}, compiled {compiled}")
    print(f"span of {tokens:,} tokens: {span:.1f} ms ({1e3 * tokens / span:,.0f} tokens/s); update: {update:.1f} ms")
    print(
        f"step on 1 rank: {train.micro_batches * span + update:.1f} ms; on 8 ranks: {span + update:.1f} ms + all-reduce"
    )
    print(f"peak memory {peak_memory_mib(ranks.device):,.0f} MiB")


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
