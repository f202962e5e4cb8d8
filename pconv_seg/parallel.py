"""Work on many files in several processes."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import TypeVar

import cv2
from tqdm import tqdm

Job = TypeVar("Job")
Result = TypeVar("Result")


def cores() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_in_processes(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    num_workers: int | None,
    description: str,
    unit: str,
) -> Iterator[Result]:
    """Results of `function` in the order of `jobs`, with a progress bar.

    Args:
        function: A function of a module, called in the workers.
        jobs: Its arguments.
        num_workers: Processes; as many as :func:`cores` if None.
        description: What happens, for the progress bar.
        unit: What one job is, for the progress bar.

    Yields:
        One result per job. An exception in a worker is raised here, and the jobs that are left
        are not started. Workers end with this process, however it ends.
    """
    if not jobs:
        return
    # Forked workers start at once; others would import torch and mmseg first, which often takes
    # longer than the work. OpenCV's threads do not survive a fork, hence they are ended before it.
    context = get_context("fork" if sys.platform == "linux" else None)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)
    try:
        with ProcessPoolExecutor(num_workers or cores(), context, _end_with_parent) as pool:
            yield from tqdm(pool.map(function, jobs), description, total=len(jobs), unit=unit)
    finally:
        cv2.setNumThreads(threads)


def _end_with_parent() -> None:
    # A parent that is killed tells its workers nothing, and they would wait for jobs forever.
    def wait() -> None:
        parent_process().join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()
