"""Coverage-guided fuzzing of the readers of binary files, each behind its own checksum and compression.

    python tests/golf_core/coverage_fuzz.py FORMAT [-runs=N] [-max_total_time=S]     # libFuzzer's options

FORMAT is one of shard, artifact, packed, snapshot. Needs the package atheris. What is mutated is what the reader sees
when checksums hold and all is unpacked. A reader may succeed or answer with a sentence that names the file; anything
else (another exception, three seconds of computing, memory out of proportion) ends with the input that did it.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["golf_core"]):
    from golf_core.artifact import codec, packed
    from golf_core.artifact.quantize import quantize_all
    from golf_core.config import ArtifactConfig, GolfConfig, ModelConfig
    from golf_core.data import shards
    from golf_core.errors import GolfError
    from golf_core.model.gpt import GPT
    from golf_core.strict_json import to_dict
    from golf_core.train import snapshot
    from golf_core.train.state import Progress

import numpy as np
import torch

MODEL = ModelConfig(
    vocab_size=16, num_layers=1, model_dim=16, num_heads=2, num_kv_heads=1, mlp_mult=1, bigram_vocab_size=4,
    bigram_dim=4, xsa_last_n=1, rope_dims=4, ve_dim=4, ve_layers=(0,),
)  # fmt: skip
NAME = "the-file"
LONGEST_S = 3
"""Of the processor's time; libFuzzer's own limit goes by the clock, and is there for what waits."""
Read = Callable[[bytes], object]


def framed(parts: list[bytes]) -> bytes:
    """Parts with their lengths in front: one input out of many."""
    return b"".join(struct.pack("<H", len(part)) + part for part in parts)


def parts_of(data: bytes, count: int) -> list[bytes]:
    """`count` parts of any bytes; the last one takes the rest."""
    parts = []
    for _ in range(count - 1):
        length = int.from_bytes(data[:2], "little")
        parts.append(data[2 : 2 + length])
        data = data[2 + length :]
    return [*parts, data]


def tensors() -> dict[str, packed.Quantized]:
    torch.manual_seed(0)
    weights = {name: value.detach() for name, value in GPT(MODEL).state_dict().items()}
    return quantize_all(weights, ArtifactConfig(float16_max_elements=10))


# --- the formats: a reader of what is mutated, and a genuine input ------------------------------------


def shard(folder: Path) -> tuple[Read, bytes]:
    """The file as it is."""
    path = folder / NAME
    shards.write_shard(path, np.arange(20, dtype=np.uint16))

    def read(data: bytes) -> None:
        path.write_bytes(data)
        # The header's zeros are not read: without them an input is small.
        path.write_bytes(data[:12].ljust(shards.HEADER_BYTES, b"\0") + data[12:])
        shards.read_shard(path)

    content = path.read_bytes()
    return read, content[:12] + content[shards.HEADER_BYTES :]


def artifact(folder: Path) -> tuple[Read, bytes]:
    """The first format's content, under xz."""
    path = folder / NAME

    def read(data: bytes) -> None:
        path.write_bytes(lzma.compress(codec.MAGIC + data, preset=0))
        codec.load_artifact(path)

    return read, lzma.decompress(codec.encode(MODEL, tensors(), 0))[len(codec.MAGIC) :]


def packed_artifact(folder: Path) -> tuple[Read, bytes]:
    """The second format: the content of its xz streams, and the range-coded words."""
    path = folder / NAME

    def read(data: bytes) -> None:
        head, small, words, large, rest = parts_of(data, 5)
        blobs = [with_length(lzma.compress(table, preset=0)) + code for table, code in ((small, words), (large, rest))]
        body = with_length(lzma.compress(head, preset=0)) + with_length(blobs[0]) + blobs[1]
        path.write_bytes(packed.PACKED_MAGIC + struct.pack("<I", zlib.crc32(body)) + body)
        codec.load_artifact(path)

    whole = packed.encode_packed(MODEL, tensors())[len(packed.PACKED_MAGIC) + 4 :]
    head, whole = cut(whole)
    side, values = cut(whole)
    (small, words), (large, rest) = cut(side), cut(values)
    return read, framed([lzma.decompress(head), lzma.decompress(small), words, lzma.decompress(large)]) + rest


def snapshot_file(folder: Path) -> tuple[Read, bytes]:
    """What the digest is taken of."""
    stored = (snapshot.Stored("a", "float32", (2, 2)), snapshot.Stored("b", "uint8", (3,)))
    progress = Progress(1, 1.0, (0.5,), 1.0, None, 0.0, 10, ())
    header = json.dumps(to_dict(snapshot.Header(1, 1, "cpu", GolfConfig(), "0" * 64, progress, stored))).encode()
    header += b" " * (-len(header) % snapshot.ALIGNMENT)
    content = len(header).to_bytes(snapshot.LENGTH_BYTES, "little") + header + bytes(16 + 8)

    def read(data: bytes) -> None:
        whole = snapshot.MAGIC + data
        whole += hashlib.sha256(whole).digest()
        snapshot.parse(torch.frombuffer(bytearray(whole), dtype=torch.uint8), NAME)

    return read, content


def with_length(part: bytes) -> bytes:
    return struct.pack("<I", len(part)) + part


def cut(content: bytes) -> tuple[bytes, bytes]:
    """The part with its length in front, and what follows it."""
    end = 4 + int(struct.unpack_from("<I", content)[0])
    return content[4:end], content[end:]


FORMATS = {"shard": shard, "artifact": artifact, "packed": packed_artifact, "snapshot": snapshot_file}


def main() -> None:
    """Fuzz one format; what is left of the command line is libFuzzer's."""
    name, options = sys.argv[1], sys.argv[2:]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        read, genuine = FORMATS[name](Path(folder))
        read(genuine)  # or what follows says nothing

        def test(data: bytes) -> None:
            began = time.process_time()
            try:
                read(data)
            except GolfError as error:
                assert NAME in str(error) and str(error).isprintable() and len(str(error)) < 1000, str(error)
            assert time.process_time() - began < LONGEST_S, f"no answer for {LONGEST_S} s"

        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        (corpus / "genuine").write_bytes(genuine)
        limits = ["-timeout=60", "-rss_limit_mb=3000", f"-max_len={2 * len(genuine) + 64}", "-seed=1"]
        atheris.Setup([sys.argv[0], *limits, *options, str(corpus)], test)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
