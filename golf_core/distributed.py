"""The ranks of one run: who am I, what do I run on, and the few collectives that the program needs.

Gradients of many parameters lie in one buffer: one all-reduce, one norm, no copies for float32.
"""

from __future__ import annotations

import os
import resource
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

from golf_core.errors import RunError
from golf_core.results import MIB

# Collectives of a healthy run take milliseconds; NCCL's own half hour would burn a node on a lost rank.
DEFAULT_TIMEOUT_S = 300.0
CLIP_EPS = 1e-6


@dataclass(frozen=True)
class Ranks:
    """One process among `world_size`, on one node, each with its own device."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Rank 0 writes files and emits events."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """Add `tensor` up over all ranks, in place; every rank gets the same bits."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, tensor: Tensor) -> Tensor:
        """Tensors [n, ...] of equal shape from all ranks, joined in rank order [world_size · n, ...]."""
        if self.world_size == 1:
            return tensor
        out = tensor.new_empty((self.world_size * tensor.size(0), *tensor.shape[1:]))
        dist.all_gather_into_tensor(out, tensor.contiguous())
        return out

    def agree(self, values: Sequence[float]) -> list[float]:
        """Rank 0's `values` on every rank. Goes over the CPU and so waits for no GPU."""
        if self.world_size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.broadcast(tensor, src=0)
        return tensor.tolist()

    def largest(self, value: float) -> float:
        """The largest of the ranks' values."""
        if self.world_size == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return float(tensor)

    def share(self, count: int) -> range:
        """This rank's contiguous share of `count` items; shares differ by one at the most."""
        return range(count * self.rank // self.world_size, count * (self.rank + 1) // self.world_size)

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.agree([0.0])
        self.largest(0.0)


def single(device: torch.device | None = None) -> Ranks:
    """The only rank of a run that uses no process group; on the GPU where there is one."""
    return Ranks(0, 1, device or default_device(0))


def default_device(local_rank: int) -> torch.device:
    """CUDA device `local_rank` where CUDA is to be had, else the CPU."""
    return torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")


def join(rank: int, world_size: int, device: torch.device, store: dist.Store | None = None) -> Ranks:
    """Enter the process group: NCCL for CUDA tensors, gloo for those on the CPU.

    Without `store` the group is found through the environment that torchrun sets.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world_size > 1:
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        timeout = timedelta(seconds=DEFAULT_TIMEOUT_S)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
    return Ranks(rank, world_size, device)


def join_from_environment() -> Ranks:
    """Join the group that torchrun describes in RANK, WORLD_SIZE and LOCAL_RANK; alone when it does not."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if world_size > 1 and torch.cuda.is_available() and torch.cuda.device_count() <= local_rank:
        raise RunError(f"rank {local_rank} has no GPU of its own: this machine shows {torch.cuda.device_count()}")
    return join(int(os.environ.get("RANK", "0")), world_size, default_device(local_rank))


def leave() -> None:
    """Leave the process group, if one was entered."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def end_process(code: int) -> NoReturn:
    """End the process with this exit code.

    Under torchrun it ends at once, with everything flushed: gloo's threads may still be winding down, and a C++
    thread that outlives the interpreter aborts the process (seen with torch 2.13, one exit in five).
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        os._exit(code)
    raise SystemExit(code)


LOOPBACK = "127.0.0.1"


def serve_store(world_size: int, host: str = LOOPBACK) -> tuple[dist.Store, int]:
    """Start a gang's rendezvous, bound to `host` alone; returns it and its port.

    A gang on one node needs no other address than loopback.
    """
    listener = socket.create_server((host, 0), backlog=world_size)
    port = listener.getsockname()[1]
    # The store takes the descriptor over and closes it in the end.
    return _tcp_store(host, port, world_size, listener.detach()), port


def connect_store(port: int, world_size: int, host: str = LOOPBACK) -> dist.Store:
    """Reach the rendezvous that rank 0 serves."""
    return _tcp_store(host, port, world_size, None)


def _tcp_store(host: str, port: int, world_size: int, listening: int | None) -> dist.Store:
    return dist.TCPStore(
        host,
        port,
        world_size,
        is_master=listening is not None,
        timeout=timedelta(seconds=DEFAULT_TIMEOUT_S),
        wait_for_workers=False,
        master_listen_fd=listening,
    )


def device_name(device: torch.device) -> str:
    """The GPU's name, or 'cpu'."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def peak_memory_mib(device: torch.device) -> float:
    """Largest GPU memory allocated by this process so far, or its resident memory on a CPU, in MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class FlatGradients:
    """`.grad` of every float32 parameter is a view into one float32 buffer.

    The buffer ends in one more element, `extra`, that travels with the gradients. Parameters of another type
    have gradients of their own, which are copied in and out.
    """

    def __init__(self, params: Sequence[Tensor], ranks: Ranks) -> None:
        self._ranks = ranks
        sizes = [p.numel() for p in params]
        self._buffer = torch.zeros(sum(sizes) + 1, device=ranks.device)
        views = self._buffer[:-1].split(sizes)
        self._params = [(p, view.view_as(p)) for p, view in zip(params, views, strict=True)]

    @property
    def extra(self) -> Tensor:
        """The element that travels along, a scalar view."""
        return self._buffer[-1]

    def zero(self) -> None:
        """Clear all gradients and the extra element."""
        self._buffer.zero_()
        for param, view in self._params:
            param.grad = view if param.dtype == view.dtype else None

    def reduce_and_clip(self, max_norm: float) -> None:
        """Sum over the ranks, then scale down to a total norm of at most `max_norm`."""
        other = [(p, view) for p, view in self._params if p.dtype != view.dtype]
        for param, view in other:
            if param.grad is not None:
                view.copy_(param.grad)
        self._ranks.sum_(self._buffer)
        gradients = self._buffer[:-1]
        gradients.mul_((max_norm / (gradients.norm() + CLIP_EPS)).clamp_max(1.0))
        for param, view in other:
            param.grad = view.to(param.dtype)
