"""From trained weights to the file that ships, and the size of the program that ships beside it."""

from __future__ import annotations

import io
import math
import pickletools
import time
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from golf_core.artifact.fit import fit
from golf_core.artifact.packed import contexts, spread_classes
from golf_core.artifact.quantize import Quantized
from golf_core.artifact.rans import MAX_CONTEXTS, MAX_SYMBOL
from golf_core.config import GolfConfig, ModelConfig
from golf_core.errors import ArtifactError
from golf_core.files import atomic_writer, read_bytes, sha256, write_bytes
from golf_core.model.gpt import GPT, expected_shapes, model_from
from golf_core.results import ExportResult
from golf_core.strict_json import LONGEST, printable

ARTIFACT_NAME = "model.golf"
PROGRAM_NAME = "train_gpt.py"
CHECKPOINT_NAME = "checkpoint.pt"
CHECKPOINT_ROOM = 16 * 1024 * 1024
"""Bytes that a checkpoint may have beside its values in float64."""
WIDTH = 2 * MAX_SYMBOL + 1
SCALE_BITS = 16


def export(model: GPT, config: GolfConfig, folder: Path) -> ExportResult:
    """Make `model` fit beside its program, write artifact and program into `folder`, and weigh both.

    Raises `ArtifactError`, with nothing written, where it cannot fit.
    """
    began = time.perf_counter()
    program = program_bytes(config)
    fitted = fit(model, config, len(program))
    path = folder / ARTIFACT_NAME
    write_bytes(path, fitted.data)
    write_bytes(folder / PROGRAM_NAME, program)
    sizes: Counter[str] = Counter()
    for tensor in fitted.tensors.values():
        sizes[tensor.kind] += tensor.nbytes
    groups = bytes_by_group(fitted.tensors, len(fitted.data), by_context=fitted.method != "as quantised")
    return ExportResult(
        weight_bytes=len(fitted.data),
        code_bytes=len(program),
        sha256=sha256(path),
        export_seconds=time.perf_counter() - began,
        bytes_by_kind=dict(sizes),
        cap_bytes=config.artifact.cap_bytes,
        method=fitted.method,
        bytes_by_group=groups,
        bits_per_weight=bits_per_weight(fitted.tensors, groups),
        zero_share=zero_share(fitted.tensors),
        distortion=fitted.distortion,
    )


def program_bytes(config: GolfConfig) -> bytes:
    """The program of `config` as it ships and counts: inside a packed program its own file, otherwise made anew."""
    home = Path(__file__).parents[2]  # of a packed program, whose modules' paths begin with its own, the file
    if home.is_file():
        return home.read_bytes()
    from golf_core.artifact.program import packed_program

    return packed_program(config)


def save_checkpoint(model: GPT, path: Path) -> None:
    """Write the weights in full precision: a plain state dict with the published names."""
    with atomic_writer(path) as file:
        torch.save({name: value.cpu() for name, value in model.state_dict().items()}, file)


def load_checkpoint(path: Path, config: ModelConfig) -> GPT:
    """A model from a state dict such as `save_checkpoint` or the published program writes.

    Loaded as data only (`weights_only`): a file that holds code is refused. Raises `ArtifactError`.
    """
    expected = expected_shapes(config)
    most = CHECKPOINT_ROOM + 8 * sum(map(math.prod, expected.values()))
    try:
        data = read_bytes(path, most)
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file; name a checkpoint (a state dict saved by torch)") from None
    except OSError as error:
        raise ArtifactError(
            f"{path}: cannot be read ({error.strerror}); name a checkpoint of the configured model"
        ) from None
    return model_from(config, check_tensors(load_saved(data, str(path)), expected, str(path)))


# --- what was stored, in figures: bytes and bits of each group of tensors -----------------------------


def group_of(name: str) -> str:
    """The group that a tensor is reported with."""
    if ".attn." in name:
        return "attention"
    if ".mlp." in name:
        return "mlp"
    return "embeddings" if name.startswith(("tok_emb.", "bigram.", "ve_shared.")) else "other"


def bytes_by_group(tensors: Mapping[str, Quantized], total: int, by_context: bool) -> dict[str, int]:
    """`total` bytes shared out by the groups' code lengths: under one table a context, or one for each kind."""
    counts: dict[str, NDArray[np.int64]] = {}
    bits: Counter[str] = Counter()
    for name, tensor in tensors.items():
        group = group_of(name)
        counts.setdefault(group, np.zeros(MAX_CONTEXTS * WIDTH, np.int64))
        if tensor.scale is None:
            bits[group] += 16 * tensor.values.numel()
            continue
        bits[group] += SCALE_BITS * tensor.scale.numel()
        values = tensor.values.numpy()
        context = contexts(*spread_classes(values)) if by_context else np.full(1, tensor.kind == "int8", np.uint8)
        at = context.astype(np.int64) * WIDTH + values + MAX_SYMBOL
        counts[group] += np.bincount(at.reshape(-1), minlength=MAX_CONTEXTS * WIDTH)
    tables = sum(counts.values(), np.zeros(MAX_CONTEXTS * WIDTH, np.int64)).reshape(MAX_CONTEXTS, WIDTH)
    cost = np.log2(np.maximum(tables.sum(1, keepdims=True), 1) / np.maximum(tables, 1)).reshape(-1)
    for group, count in counts.items():
        bits[group] += round(float(count @ cost))
    return _shared(total, bits)


def zero_share(tensors: Mapping[str, Quantized]) -> float | None:
    """The share of zeros among all integers; None where there are none."""
    coded = [tensor.values for tensor in tensors.values() if tensor.scale is not None and tensor.values.numel()]
    return sum(int((v == 0).sum()) for v in coded) / sum(v.numel() for v in coded) if coded else None


def bits_per_weight(tensors: Mapping[str, Quantized], sizes: Mapping[str, int]) -> dict[str, float]:
    """Bits for each weight of the groups whose bytes are `sizes`."""
    return {group: 8 * size / _weights(tensors, group) for group, size in sizes.items()}


def _weights(tensors: Mapping[str, Quantized], group: str) -> int:
    return sum(tensor.values.numel() for name, tensor in tensors.items() if group_of(name) == group)


def _shared(total: int, bits: Mapping[str, int]) -> dict[str, int]:
    """Whole shares that sum to `total`."""
    shares: dict[str, int] = {}
    before = 0
    for group, part in bits.items():
        before += part
        shares[group] = round(total * before / sum(bits.values())) - sum(shares.values())
    return shares


# --- checkpoints of others, read without running code ---

MAX_MEMBERS = 16_384
MAX_PICKLE = 8 * 1024 * 1024
ZIP_ENTRY = b"PK\x01\x02"
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# `weights_only` lets a pickle call more than these, among them what takes memory at a word, such as bytearray.
CALLED = {
    "collections OrderedDict",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor_v2",
    *(f"torch {kind}Storage" for kind in ("Double", "Float", "Half", "BFloat16", "Char")),
}


def load_saved(data: bytes, where: str) -> Any:
    """The object that `torch.save` wrote: tensors on the CPU, mappings, lists and plain values.

    It takes about twice the memory of `data`. Raises `ArtifactError`, naming `where`, for a file that holds code or
    unpacks to more than itself.
    """
    try:
        # What torch reads is a new archive of what was checked, as two readers can see two archives in one file.
        checked = _checked(data)
        return torch.load(checked, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = printable(str(error).partition("\n")[0] or type(error).__name__, 200)
        raise ArtifactError(
            f"{where}: not a checkpoint that holds weights alone ({reason}); save the state dict with torch.save again"
        ) from None


def check_tensors(weights: Any, expected: dict[str, tuple[int, ...]], where: str) -> dict[str, Tensor]:
    """`weights` as a state dict of exactly these names and shapes, of floats. Raises `ArtifactError`."""
    found = weights if isinstance(weights, dict) else {}
    for name in sorted(expected.keys() | {printable(name, 200) for name in found}):
        tensor = found.get(name)
        shape = tuple(tensor.shape) if isinstance(tensor, Tensor) else None
        if not isinstance(tensor, Tensor) or shape != expected.get(name):
            raise ArtifactError(
                f"{where}: its tensors do not fit the configured model (first: {name}, found {shape}, "
                f"expected {expected.get(name)}); choose the configuration it was made with"
            )
        if tensor.dtype not in DTYPES or tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise ArtifactError(f"{where}: {name} is {tensor.dtype}, not floats; save the state dict with torch again")
    return found


def _checked(data: bytes) -> io.BytesIO:
    # Before the directory is read: each of its entries takes ten times its bytes as an object.
    if data.count(ZIP_ENTRY) > MAX_MEMBERS:
        raise ValueError(f"more than {MAX_MEMBERS:,} parts")
    copy = io.BytesIO()
    total = 0
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(copy, "w") as target:
        for member in archive.infolist():
            total += member.file_size
            name = member.filename
            if member.compress_type != zipfile.ZIP_STORED or total > len(data) or name in target.NameToInfo:
                raise ValueError(
                    f"its part {printable(name, LONGEST)} is compressed, larger than the file, or there twice"
                )
            content = archive.read(member)
            if name.endswith("data.pkl"):
                _check_pickle(content)
            target.writestr(zipfile.ZipInfo(name), content)
    copy.seek(0)
    return copy


def _check_pickle(content: bytes) -> None:
    if len(content) > MAX_PICKLE:
        raise ValueError("its description of the tensors is too long")
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in ("GLOBAL", "INST", "STACK_GLOBAL") and argument not in CALLED:
            raise ValueError(f"it asks to run {printable(argument, LONGEST)}")
