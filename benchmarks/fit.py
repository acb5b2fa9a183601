"""What the weights cost in loss when they are made to fit: the exporter's search and simpler ways, at several caps.

    python benchmarks/fit.py --threads 1                       # trains the small preset on the sample corpus first
    python benchmarks/fit.py --run OUT --data DIR --tokenizer MODEL --tokens 131072
    python benchmarks/fit.py --threads 1 --full-size           # seconds, on random weights of the record's size

OUT is a folder with config.json and checkpoint.pt. A cap is a share of the published quantisation's size under LZMA.
So that a small model is stored as the record is, matrices of more than --float16-max elements are quantised. Prints
the rise of the validation loss over the weights in full precision, nats a token, without test-time training.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from golf_core.artifact.codec import decode, encode
from golf_core.artifact.export import CHECKPOINT_NAME, load_checkpoint
from golf_core.artifact.fit import MIN_ELEMENTS, MIN_SIDE, fit, sensitivities
from golf_core.artifact.packed import encode_packed
from golf_core.artifact.quantize import Quantized, quantize_all
from golf_core.config import GolfConfig, override, preset
from golf_core.data.sample import build_sample, default_sample_folder
from golf_core.distributed import single
from golf_core.model.gpt import GPT, expected_shapes, loss_function, model_from
from golf_core.stages import DataPaths, open_text, train_stage
from golf_core.strict_json import load

SHARES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
Make = Callable[[float], bytes]


@dataclass(frozen=True)
class Subject:
    """A trained model, and the rows that judge it."""

    model: GPT
    config: GolfConfig
    ids: Tensor
    targets: Tensor

    @property
    def weights(self) -> dict[str, Tensor]:
        return {name: weight.detach().float() for name, weight in self.model.state_dict().items()}

    @torch.no_grad()
    def loss(self, weights: Mapping[str, Tensor]) -> float:
        losses = loss_function(model_from(self.config.model, weights), torch.device("cpu"), compiled=False)
        batches = zip(self.ids.split(32), self.targets.split(32), strict=True)
        return sum(losses(ids, targets).sum().item() for ids, targets in batches) / self.ids.numel()

    def loss_of(self, data: bytes) -> float:
        return self.loss({name: tensor.dequantize() for name, tensor in decode(data, "artifact")[1].items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--tokens", type=int, default=65_536, help="validation tokens")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES)
    parser.add_argument("--float16-max", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--full-size", action="store_true", help="only time the search on the record's size")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.full_size:
        time_full_size()
        return
    subject = open_subject(arguments)
    weights, artifact = subject.weights, subject.config.artifact
    published = encode(subject.config.model, quantize_all(weights, artifact), artifact.lzma_preset)
    recoded = encode_packed(subject.config.model, quantize_all(weights, artifact))
    base = subject.loss(weights)
    print(f"{sum(w.numel() for w in weights.values()):,} parameters; loss in full precision {base:.5f}")
    print(f"as quantised: {len(published):,} bytes under LZMA, {len(recoded):,} ({len(recoded) / len(published):.1%})")
    print(f"under range coding; loss {subject.loss_of(published) - base:+.5f}\n")
    ways = simpler_ways(subject)
    print("| cap | fitted | expected | with pruning |" + "".join(f" {name} |" for name in ways))
    print("|---" * (4 + len(ways)) + "|")
    for share in arguments.shares:
        cap = int(share * len(published))
        cells = [f"{share:.0%}", *searched(subject, cap, base)]
        cells += [f"{subject.loss_of(bisected(make, cap)) - base:+.5f}" for make in ways.values()]
        print(f"| {' | '.join(cells)} |", flush=True)


def time_full_size() -> None:
    """What each rung of the ladder takes on random weights whose rows and columns differ in spread."""
    torch.manual_seed(0)
    config = GolfConfig()
    weights = {}
    for name, shape in expected_shapes(config.model).items():
        if len(shape) == 2 and min(shape) >= MIN_SIDE:
            rows, cols = (torch.exp(0.3 * torch.randn(n)) for n in shape)
            weights[name] = 0.15 * rows[:, None] * cols * torch.randn(shape)
        else:
            weights[name] = 1 + 0.1 * torch.randn(shape)
    model = model_from(config.model, weights)
    published = quantize_all(weights, config.artifact)
    sizes = [
        len(encode(config.model, published, config.artifact.lzma_preset)),
        len(encode_packed(config.model, published)),
    ]
    for cap in (sizes[0], sizes[1], int(0.97 * sizes[1]), int(0.6 * sizes[1])):
        began = time.perf_counter()
        found = fit(model, override(config, {"artifact.cap_bytes": cap}), 0)
        seconds = time.perf_counter() - began
        print(f"room for {cap:,} bytes: {found.method}, {len(found.data):,} bytes, {seconds:.0f} s", flush=True)


def open_subject(arguments: argparse.Namespace) -> Subject:
    folder = arguments.data or build_sample(default_sample_folder())
    paths = DataPaths(folder, arguments.tokenizer or folder / "tokenizer.model")
    with tempfile.TemporaryDirectory() as scratch:
        out = arguments.run or Path(scratch)
        config = load(GolfConfig, out / "config.json") if arguments.run else preset("small")
        if not arguments.run:
            began = time.perf_counter()
            train_stage(config, paths, single(), 42, out)
            print(f"trained {config.train.iterations} steps in {time.perf_counter() - began:.0f} s")
        model = load_checkpoint(out / CHECKPOINT_NAME, config.model)
    text = open_text(paths, config, arguments.tokens, torch.device("cpu"))
    length = config.evaluate.seq_len
    changed = replace(config.artifact, float16_max_elements=arguments.float16_max)
    return Subject(
        model,
        replace(config, artifact=changed),
        text.tokens[:-1].long().view(-1, length),
        text.tokens[1:].long().view(-1, length),
    )


def searched(subject: Subject, cap: int, base: float) -> list[str]:
    """The exporter's search: its loss, the loss that it expected, and its loss when it may prune."""
    cells = []
    for prune in (False, True):
        artifact = replace(subject.config.artifact, cap_bytes=cap, keep_published=False, prune=prune)
        found = fit(subject.model, replace(subject.config, artifact=artifact), 0)
        cells.append(f"{subject.loss_of(found.data) - base:+.5f}")
        if not prune:
            cells.append(f"{found.distortion:+.5f}")
    return cells


def simpler_ways(subject: Subject) -> dict[str, Make]:
    """By name, functions from a coarseness, which they share with the bytes, to a file."""
    weights, model, artifact = subject.weights, subject.config.model, subject.config.artifact
    names = [n for n, w in weights.items() if w.ndim == 2 and w.numel() >= MIN_ELEMENTS and min(w.shape) >= MIN_SIDE]
    units = {
        "per matrix": {n: s.mean**-0.5 for n, s in sensitivities(subject.model, names).items()},
        "same error": dict.fromkeys(names, 1.0),
        "same relative error": {n: float(weights[n].square().mean().sqrt()) for n in names},
    }
    published = quantize_all(weights, artifact)

    def stepped(unit: Mapping[str, float], coarseness: float) -> bytes:
        return encode_packed(model, {n: on_grid(w, unit.get(n), coarseness) for n, w in weights.items()})

    def narrowed(coarseness: float) -> bytes:
        tensors = {n: narrow(weights[n], t, coarseness) for n, t in published.items()}
        return encode(model, tensors, artifact.lzma_preset)

    def pruned(coarseness: float) -> bytes:
        share = coarseness / (1 + coarseness)
        tensors = {n: smallest_to_zero(t, share) for n, t in published.items()}
        return encode(model, tensors, artifact.lzma_preset)

    ways: dict[str, Make] = {name: (lambda c, unit=unit: stepped(unit, c)) for name, unit in units.items()}
    return ways | {"uniform width, LZMA": narrowed, "uniform pruning, LZMA": pruned}


def on_grid(weight: Tensor, unit: float | None, coarseness: float) -> Quantized:
    """One step for the whole matrix."""
    if unit is None:
        return Quantized("float16", weight.half())
    step = torch.tensor(max(coarseness * unit, float(weight.abs().max()) / 2047), dtype=torch.float32)
    rows, cols = (torch.zeros(n, dtype=torch.int8) for n in weight.shape)
    return Quantized("grid", (weight / step).round().to(torch.int16), step, rows, cols)


def narrow(weight: Tensor, published: Quantized, coarseness: float) -> Quantized:
    """As many levels for every row of every matrix, up to its largest value."""
    if published.scale is None:
        return published
    levels = min(1 / coarseness, 127.0)
    scale = (weight.abs().amax(1) / levels).clamp_min(1e-6).half()
    values = (weight / scale.float()[:, None]).round().clamp(-127, 127).to(torch.int8)
    return Quantized("int8", values, scale)


def smallest_to_zero(published: Quantized, share: float) -> Quantized:
    """The published values without the `share` of each matrix that is smallest."""
    if published.scale is None:
        return published
    size = published.dequantize().abs()
    bar = size.flatten().kthvalue(max(1, math.ceil(share * size.numel()))).values
    return Quantized(published.kind, torch.where(size > bar, published.values, 0).to(torch.int8), published.scale)


def bisected(make: Make, cap: int) -> bytes:
    """The file of the least coarseness that has at most `cap` bytes."""
    low, high = math.log(1e-6), math.log(1e6)
    best = make(math.exp(high))
    if len(best) > cap:
        raise SystemExit(f"nothing fits into {cap:,} bytes")
    for _ in range(24):
        if len(best) > 0.999 * cap:
            break
        middle = (low + high) / 2
        data = make(math.exp(middle))
        if len(data) <= cap:
            high, best = middle, data
        else:
            low = middle
    return best


if __name__ == "__main__":
    main()
