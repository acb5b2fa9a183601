"""From trained weights to the file that ships, and the size of the program that ships beside it."""

from __future__ import annotations

import math
import time
from collections import Counter
from pathlib import Path

import torch

from golf_core.artifact.fit import fit
from golf_core.artifact.report import bits_per_weight, bytes_by_group, zero_share
from golf_core.artifact.saved import check_tensors, load_saved
from golf_core.config import GolfConfig, ModelConfig
from golf_core.errors import ArtifactError
from golf_core.files import atomic_writer, read_bytes, sha256, write_bytes
from golf_core.model.gpt import GPT, expected_shapes, model_from
from golf_core.results import ExportResult

ARTIFACT_NAME = "model.golf"
PROGRAM_NAME = "train_gpt.py"
CHECKPOINT_NAME = "checkpoint.pt"
CHECKPOINT_ROOM = 16 * 1024 * 1024
"""Bytes that a checkpoint may have beside its values in float64."""


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
