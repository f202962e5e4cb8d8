"""How many workers there are, and that they end with the process that started them."""

import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

import cv2
import pytest

from pconv_seg.parallel import map_in_processes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs forks and an affinity")


def _pid(_: int) -> int:
    time.sleep(0.05)
    return os.getpid()


def test_as_many_workers_as_processors_that_may_be_used() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, [min(allowed)])
    try:
        workers = set(map_in_processes(_pid, range(6), None, "test", "job"))
    finally:
        os.sched_setaffinity(0, allowed)
    assert len(workers) == 1


def _fail(_: int) -> None:
    raise ValueError("a job's own")


def test_opencv_has_as_many_threads_as_before() -> None:
    before = cv2.getNumThreads()
    cv2.setNumThreads(3)
    try:
        list(map_in_processes(_pid, range(2), 1, "test", "job"))
        assert cv2.getNumThreads() == 3
        with pytest.raises(ValueError, match="a job's own"):
            list(map_in_processes(_fail, range(2), 1, "test", "job"))
        assert cv2.getNumThreads() == 3
    finally:
        cv2.setNumThreads(before)


def _announce(pipe: int, _: int) -> None:
    os.write(pipe, b"%d\n" % os.getpid())
    time.sleep(0.2)


@pytest.fixture
def killed() -> Iterator[tuple[int, set[int]]]:
    """The end of a pipe that the workers of a killed process wrote to, and their numbers."""
    reading, writing = os.pipe()
    parent = os.fork()
    if parent == 0:
        try:
            list(map_in_processes(partial(_announce, writing), range(10**6), 2, "test", "job"))
        finally:
            os._exit(1)
    os.close(writing)
    workers: set[int] = set()
    while len(workers) < 2:
        workers.update(map(int, os.read(reading, 1000).split()))
    os.kill(parent, signal.SIGTERM)
    os.waitpid(parent, 0)
    yield reading, workers
    os.close(reading)
    for worker in workers:
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)


def test_workers_end_with_a_parent_that_is_killed(killed: tuple[int, set[int]]) -> None:
    reading, _ = killed
    deadline = time.monotonic() + 10
    # The pipe ends when the last process that could write to it has ended.
    while select.select([reading], [], [], max(0, deadline - time.monotonic()))[0]:
        if not os.read(reading, 1000):
            return
    pytest.fail("the workers wait for their parent")
