"""What `torch.save` wrote, read as data: no code, and no more memory than the caller allows."""

from __future__ import annotations

import io
import pickletools
import zipfile
from typing import Any

import torch
from torch import Tensor

from golf_core.errors import ArtifactError
from golf_core.strict_json import LONGEST, printable

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
