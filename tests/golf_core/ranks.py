"""Run a function on several gloo ranks in processes of their own."""

from __future__ import annotations

import pickle
import tempfile
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from golf_core.distributed import Ranks, join, leave


def on_ranks(world_size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """function(ranks, *arguments) on each of `world_size` processes; their results in rank order."""
    context = mp.get_context("spawn")
    results = context.Queue()
    with tempfile.TemporaryDirectory() as folder:  # they meet at a file: a port may be another's by then
        processes = [
            context.Process(target=_entry, args=(rank, world_size, f"{folder}/store", results, function, arguments))
            for rank in range(world_size)
        ]
        for process in processes:
            process.start()
        gathered = dict(pickle.loads(results.get(timeout=300)) for _ in processes)
        for process in processes:
            process.join(timeout=30)
    failures = [value for value in gathered.values() if isinstance(value, _Failure)]
    if failures:
        raise AssertionError(failures[0].text)
    return [gathered[rank] for rank in range(world_size)]


class _Failure:
    def __init__(self, text: str) -> None:
        self.text = text


def _entry(rank: int, world_size: int, meeting: str, results: Any, function: Any, arguments: Any) -> None:
    try:
        torch.set_num_threads(1)
        store = dist.FileStore(meeting, world_size)
        ranks: Ranks = join(rank, world_size, torch.device("cpu"), store)
        # As bytes: the queue would hand tensors over through a socket of this process, which may be gone by then.
        results.put(pickle.dumps((rank, function(ranks, *arguments))))
        leave()
    except BaseException:
        results.put(pickle.dumps((rank, _Failure(traceback.format_exc()))))
