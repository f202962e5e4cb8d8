"""A function in two processes that work together by gloo."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def in_two_processes(
    function: Callable[..., None], folder: Path, *arguments: Any, method: str = "spawn"
) -> None:
    """Call ``function(rank, folder, *arguments)`` with rank 0 and 1, and wait for both.

    Args:
        function: A module's function, so that a spawned process finds it.
        folder: An existing folder; the processes find each other by a file in it.
        arguments: Must be picklable.
        method: ``fork``, which is fast, or ``spawn``, if the parent may have threads at work.

    Raises:
        Exception: What either process raised, with its traceback.
    """
    torch.multiprocessing.start_processes(
        _join, (function, folder, arguments), nprocs=2, start_method=method
    )


def _join(rank: int, function: Callable[..., None], folder: Path, arguments: tuple) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    function(rank, folder, *arguments)
    # A process that ends while gloo's threads still serve the other one may be aborted.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
