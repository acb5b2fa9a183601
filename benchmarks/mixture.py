"""What each part of the mixture is worth, on whole texts, beside general-purpose compressors.

    python benchmarks/mixture.py model.golf --tokenizer MODEL --preset small --threads 1 \\
        --text validation.bin --text other.jsonl.xz --markdown docs/mixture_table.md

A text is a shard (.bin) or documents (.jsonl, .jsonl.xz). The neural pass, test-time training included, runs once a
text; its distributions are kept and mixed anew without one part after the other. Compressors that are not installed are
left out, with a note: xz, zstd, 7z (PPMd), zpaq (a PAQ).
"""

from __future__ import annotations

import argparse
import lzma
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from golf_core.artifact.codec import load_artifact
from golf_core.audit.text import tokens_of_file, tokens_of_text
from golf_core.config import EvalConfig, MixerConfig, override, preset
from golf_core.data.tokenizer import byte_table, load_tokenizer
from golf_core.distributed import device_name, single
from golf_core.evaluate.experts import neural_terms
from golf_core.evaluate.score import Batch, Evaluator, Losses
from golf_core.evaluate.text import ValidationText, bits_per_byte, validation_text
from golf_core.events import Event
from golf_core.files import write_text
from golf_core.log_text import describe
from golf_core.mixture.mixer import Mixer

VARIANTS: dict[str, dict[str, object]] = {
    "all parts": {},
    "no contexts of the whole text": {"orders": 0},
    "contexts of the whole text up to 3 tokens": {"orders": 3},
    "no contexts of the document": {"document_orders": 0},
    "no longest match": {"match_tokens": 0},
    "no tilt (temperature and document words)": {"tilt": False},
    "weights blind to the neural confidence": {"confidence": False},
    "one weight for each expert": {"context_weights": False},
    "neither counts nor match": {"orders": 0, "document_orders": 0, "match_tokens": 0},
}
BOUND = 0.0005
"""BPB by which the mixture may exceed the neural score, on any text."""


@dataclass(frozen=True)
class Text:
    """A text to score: its tokens on the device, and its documents as bytes."""

    name: str
    scored: ValidationText
    documents: bytes


class Recorder(Evaluator):
    """Keeps ln q of every position, in a file, as the mixer is shown it."""

    kept: np.ndarray

    def _score(self, batch: Batch, measured: torch.Tensor) -> Losses:
        terms = neural_terms(batch.logits, self.config.temperature)
        self.kept[batch.positions.cpu().numpy()] = terms.log_probs.cpu().numpy()
        return super()._score(batch, measured)


def main() -> None:
    arguments = parse()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    config = override(preset(arguments.preset), dict(pair.split("=", 1) for pair in arguments.set)).evaluate
    lines = heading(arguments)
    for path in arguments.text:
        text = open_text(path, arguments.tokenizer, config, arguments.tokens)
        lines += ["", f"## {text.name}", "", *report(text, arguments.artifact, config, arguments.pair_tokens)]
    page = "\n".join(lines) + "\n"
    print(page)
    if arguments.markdown:
        write_text(arguments.markdown, page)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--text", type=Path, action="append", required=True)
    parser.add_argument("--preset", default="record")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--tokens", type=int, help="targets of each text to score; all whole rows when left out")
    parser.add_argument("--pair-tokens", type=int, default=40_960, help="targets on which the times are compared")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--note", default="", help="a sentence about the artifact")
    parser.add_argument("--markdown", type=Path)
    return parser.parse_args()


def heading(arguments: argparse.Namespace) -> list[str]:
    return [
        "# What the mixture is worth",
        "",
        "<!-- written by benchmarks/mixture.py -->",
        f"{arguments.note} Preset {arguments.preset}, {device_name(single().device)}, "
        f"{torch.get_num_threads()} thread(s), "
        f"torch {torch.__version__}, one rank. Bits per byte: lower is better. Below the mixture, the mixture without "
        "one part after the other; then what knows nothing of the model.".strip(),
    ]


def open_text(path: Path, tokenizer: Path, config: EvalConfig, most: int | None) -> Text:
    processor = load_tokenizer(tokenizer)
    shard = path.suffix in (".bin", ".npy")
    tokens = tokens_of_file(path) if shard else tokens_of_text(path, processor)[0]
    count = min(len(tokens) - 1, most or len(tokens)) // config.seq_len * config.seq_len
    tokens = tokens[: count + 1]
    scored = validation_text(tokens, byte_table(processor), single().device)
    # Sentinels decode to nothing.
    return Text(path.name, scored, processor.decode(tokens[1:].tolist()).encode("utf-8"))


def report(text: Text, artifact: Path, config: EvalConfig, pair_tokens: int) -> list[str]:
    scored = text.scored
    size = float(scored.target_bytes.sum())
    with tempfile.TemporaryDirectory() as folder:
        vocab = load_artifact(artifact).config.vocab_size
        kept = np.lib.format.open_memmap(Path(folder) / "q.npy", "w+", np.float32, (scored.num_targets, vocab))
        recorder = Recorder(load_artifact(artifact).to(single().device), config, scored, single(), progress)
        recorder.kept = kept
        result = recorder.run()
        neural, mixture, published = result.neural, result.mixture, result.published
        assert mixture is not None and published is not None
        rows = [
            f"{scored.num_targets:,} tokens, {size:,.0f} bytes, {result.chunks} chunks.",
            "",
            "| scorer | BPB | against neural |",
            "|---|---|---|",
            f"| neural alone | {neural.bpb:.5f} | |",
            f"| **mixture** | **{mixture.bpb:.5f}** | {mixture.bpb - neural.bpb:+.5f} |",
        ]
        for name, changes in list(VARIANTS.items())[1:]:
            bpb = mixed(scored, kept, replace(config.mixer, **changes), config.chunk_tokens, size)  # type: ignore[arg-type]
            note = "" if bpb <= neural.bpb + BOUND else " (**above the bound**)"
            rows.append(f"| {name} | {bpb:.5f} | {bpb - neural.bpb:+.5f}{note} |")
    rows.append(
        f"| published (no code length; honest: + {result.mean_log_z:.3f} nats a token) | {published.bpb:.5f} | |"
    )
    rows += [f"| {name} | {bpb:.5f} | {bpb - neural.bpb:+.5f} |" for name, bpb in compressed(text.documents)]
    rows += ["", times(text, artifact, config, pair_tokens)]
    return rows


def mixed(text: ValidationText, kept: np.ndarray, config: MixerConfig, chunk_tokens: int, size: float) -> float:
    """BPB of a mixture of the kept neural distributions."""
    mixer = Mixer(config, kept.shape[1], text.tokens, single())
    device, nats = text.tokens.device, 0.0
    none = torch.empty(0, dtype=torch.int64, device=device)
    for begin in range(0, text.num_targets, chunk_tokens):
        end = min(begin + chunk_tokens, text.num_targets)
        mixer.look(begin, end, none)
        for first in range(begin, end, 2048):
            mixer.observe(first, torch.from_numpy(kept[first : min(first + 2048, end)]).to(device))
        nats += float(mixer.score(chunk_ends=True).nll.sum())
    return bits_per_byte(nats, size)


def compressed(documents: bytes) -> Iterator[tuple[str, float]]:
    """BPB of the text under general-purpose compressors, which know nothing beforehand."""
    yield "xz -9e", 8 * len(lzma.compress(documents, preset=9 | lzma.PRESET_EXTREME)) / len(documents)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "text", Path(folder) / "packed"
        source.write_bytes(documents)
        for name, command in {
            "zstd --ultra -22": ["zstd", "-q", "--ultra", "-22", str(source), "-o", f"{target}.zst"],
            "PPMd (7z, order 16, 1 GB)": [
                "7z",
                "a",
                "-bso0",
                "-bsp0",
                "-m0=PPMd:o=16:mem=1g",
                f"{target}.7z",
                str(source),
            ],
            "zpaq -m5 (PAQ)": ["zpaq", "add", f"{target}.zpaq", str(source), "-m5"],
        }.items():
            if shutil.which(command[0]) is None:
                print(f"{command[0]} is not installed: left out", file=sys.stderr)
                continue
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            (made,) = Path(folder).glob("packed*")
            yield name, 8 * made.stat().st_size / len(documents)
            made.unlink()


def times(text: Text, artifact: Path, config: EvalConfig, tokens: int) -> str:
    """Seconds with and without the mixtures, pair by pair."""
    count = min(tokens, text.scored.num_targets) // config.seq_len * config.seq_len
    part = replace(text.scored, tokens=text.scored.tokens[: count + 1], target_bytes=text.scored.target_bytes[:count])

    def seconds(hedge: bool) -> float:
        model = load_artifact(artifact).to(single().device)
        began = time.perf_counter()
        Evaluator(model, replace(config, hedge=hedge, kraft_positions=0), part, single()).run()
        return time.perf_counter() - began

    pairs = [(seconds(True), seconds(False)) for _ in range(3)]
    ratio = statistics.median(a / b for a, b in pairs)
    with_it, without = (statistics.median(column) for column in zip(*pairs, strict=True))
    return (
        f"Evaluation of the first {count:,} tokens, median of 3 pairs: {with_it:.1f} s with both mixtures, "
        f"{without:.1f} s for the neural score alone; ratio pair by pair {ratio:.3f}."
    )


def progress(event: Event) -> None:
    if event.kind != "chunk" or event.fields["chunk"] % 10 == 0:
        print(describe(event), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
