"""Run a function on several gloo ranks in processes of their own."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.multiprocessing as mp

from golf_core.distributed import Ranks, connect_store, join, leave, serve_store


def on_ranks(world_size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """function(ranks, *arguments) on each of `world_size` processes; their results in rank order."""
    context = mp.get_context("spawn")
    results = context.Queue()
    ports = context.Queue()
    processes = [
        context.Process(target=_entry, args=(rank, world_size, ports, results, function, arguments))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    gathered = dict(results.get(timeout=300) for _ in processes)
    for process in processes:
        process.join(timeout=30)
    failures = [value for value in gathered.values() if isinstance(value, _Failure)]
    if failures:
        raise AssertionError(failures[0].text)
    return [gathered[rank] for rank in range(world_size)]


class _Failure:
    def __init__(self, text: str) -> None:
        self.text = text


def _entry(rank: int, world_size: int, ports: Any, results: Any, function: Any, arguments: Any) -> None:
    try:
        torch.set_num_threads(1)
        if rank == 0:
            store, port = serve_store(world_size)
            for _ in range(world_size - 1):
                ports.put(port)
        else:
            store = connect_store(ports.get(timeout=150), world_size)
        ranks: Ranks = join(rank, world_size, torch.device("cpu"), store)
        results.put((rank, function(ranks, *arguments)))
        leave()
    except BaseException:
        results.put((rank, _Failure(traceback.format_exc())))
