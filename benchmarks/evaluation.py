"""What the mixer costs: the evaluation with all experts and with the neural model alone, in turn.

    python benchmarks/evaluation.py --preset small --threads 1 --tokens 16384
    python benchmarks/evaluation.py --preset record --data DIR --tokenizer MODEL --artifact model.golf

Without an artifact the weights are random: times do not depend on them. Without data, the sample corpus.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace
from pathlib import Path

import torch

from golf_core.artifact.codec import load_artifact
from golf_core.config import preset
from golf_core.data.sample import build_sample, default_sample_folder
from golf_core.distributed import device_name, single
from golf_core.evaluate.score import Evaluator
from golf_core.model.gpt import GPT, should_compile
from golf_core.results import EvalResult
from golf_core.stages import DataPaths, open_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="record")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--artifact", type=Path)
    parser.add_argument("--tokens", type=int, help="targets to score; all when left out")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--no-ttt", action="store_true")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    config, ranks = preset(arguments.preset), single()
    folder = arguments.data or build_sample(default_sample_folder())
    paths = DataPaths(folder, arguments.tokenizer or folder / "tokenizer.model")
    text = open_text(paths, config, arguments.tokens, ranks.device)
    compiled = should_compile(True, ranks.device)

    def evaluate(hedge: bool) -> EvalResult:
        torch.manual_seed(0)
        model = load_artifact(arguments.artifact) if arguments.artifact else GPT(config.model)
        changed = replace(config.evaluate, hedge=hedge, ttt=not arguments.no_ttt)
        return Evaluator(model.to(ranks.device), changed, text, ranks, compiled=compiled).run()

    evaluate(True)  # warm up, and compile
    pairs = [(evaluate(True), evaluate(False)) for _ in range(arguments.pairs)]
    mixed, alone = (statistics.median(r.seconds for r in column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(a.seconds / b.seconds for a, b in pairs)
    first = pairs[0][0]
    print(f"{device_name(ranks.device)}, torch {torch.__version__}, preset {arguments.preset}, {first.tokens:,} tokens")
    print(
        f"all experts {mixed:.2f} s ({first.tokens / mixed:,.0f} tokens/s), neural alone {alone:.2f} s "
        f"({first.tokens / alone:,.0f} tokens/s); ratio pair by pair, median {ratio:.3f}"
    )
    scores = {name: getattr(first, name).bpb for name in ("neural", "mixture", "published")}
    print("  ".join(f"{name} {bpb:.5f}" for name, bpb in scores.items()) + f"  mean ln Z {first.mean_log_z:.4f}")


if __name__ == "__main__":
    main()
