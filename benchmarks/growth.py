"""Time and peak memory of contenders on images of growing size, each in a process of its own.

The processes live side by side and take turns, so that a busy machine disturbs all alike. Memory is
the peak of the resident set during a call above what the process held before, images included: it
counts whatever a library takes, through PyTorch or not. Only Linux reports it.
"""

import importlib
import multiprocessing
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from measure import memory_records, progress, time_records

SIZES = (1024, 2048, 4096, 8192)
MIN_ROUNDS, MAX_ROUNDS = 2, 20
LONGEST = 300  # seconds per call
STEP_UP = 4  # times as many pixels from one size to the next


def grow(
    module: str, baseline: str, check: Callable[[str, np.ndarray, np.ndarray], None], options
) -> Iterator[dict]:
    """Measure ``CONTENDERS`` of a benchmark, named by its module, at every size.

    ``CONTENDERS[name](size)`` returns a function of no arguments to time, and one from its result
    to an array for ``check(name, array, array of the baseline)``. A contender does not go on to
    the next size if, growing as it did last, it would take longer than ``LONGEST`` or more memory
    than there is; sizes that the baseline does not go on to are left out for all.
    """
    names = list(importlib.import_module(module).CONTENDERS)
    history = {name: [] for name in names}
    for size in progress(SIZES[:2] if options.quick else SIZES, module):
        names = [name for name in names if _fits(history[name])]
        if baseline not in names:
            break
        rounds, peaks = _measure(module, names, size, baseline, check, options)
        names = list(peaks)
        for name in names:
            history[name].append((min(times[name] for times in rounds), peaks[name]))
        case = {"image": f"{size} x {size}"}
        yield from time_records(case, rounds, baseline)
        yield from memory_records(case, peaks, baseline)


def _fits(history: list[tuple[float, int]]) -> bool:
    if not history:
        return True
    seconds, peak = history[-1]
    growth = max(STEP_UP, seconds / history[-2][0]) if len(history) > 1 else STEP_UP
    return growth * seconds < LONGEST and STEP_UP * peak < _status("/proc/meminfo", "MemAvailable")


def _status(path: str, key: str) -> int:
    """Bytes behind ``key`` in one of Linux's status files."""
    (line,) = (line for line in Path(path).read_text().splitlines() if line.startswith(f"{key}:"))
    return 1024 * int(line.split()[1])


def _measure(module, names, size, baseline, check, options) -> tuple[list, dict]:
    spawn = multiprocessing.get_context("spawn")
    connections, workers = {}, []
    for name in names:
        connection, far_end = spawn.Pipe()
        arguments = (module, name, size, options.threads, far_end)
        workers.append(spawn.Process(target=_work, args=arguments, daemon=True))
        workers[-1].start()
        far_end.close()  # so that a process that dies is noticed
        problem = _answer(connection, name, size)
        if problem:
            print(f"{name}: skipped ({problem})")
        else:
            connections[name] = connection
    rounds, peaks, order = [], dict.fromkeys(connections, 0), random.Random(0)
    ends = time.perf_counter() + options.seconds
    for number in range(MAX_ROUNDS):
        if number >= MIN_ROUNDS and time.perf_counter() > ends:
            break
        times, samples = {}, {}
        # A call leaves its memory to the next one, so no contender may always be the first.
        for name in order.sample(list(connections), len(connections)):
            connections[name].send(True)
            times[name], peak, samples[name] = _answer(connections[name], name, size)
            peaks[name] = max(peaks[name], peak)
        for name, sample in samples.items():
            check(name, sample, samples[baseline])
        rounds.append({name: times[name] for name in connections})
    for connection in connections.values():
        connection.send(False)
    for worker in workers:
        worker.join()
    return rounds, peaks


def _answer(connection, name: str, size: int):
    try:
        return connection.recv()
    except EOFError:
        raise SystemExit(f"{name}, {size} x {size}: its process died") from None


def _work(module: str, name: str, size: int, threads: int | None, connection) -> None:
    """One contender: answers each message with (seconds, peak bytes, a sample of the result)."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    make = importlib.import_module(module).CONTENDERS[name]
    try:
        # A first call on a small image, so that libraries are loaded before memory is measured.
        run, sample = make(SIZES[0] // 2)
        sample(run())
        run, sample = make(size)
    except ImportError as error:
        connection.send(f"{type(error).__name__}: {error}")
        return
    held = _status("/proc/self/status", "VmRSS")
    connection.send(None)
    while connection.recv():
        # Linux sets the peak back to what is resident now: making the image may have taken more.
        Path("/proc/self/clear_refs").write_text("5")
        began = time.perf_counter()
        result = run()
        seconds = time.perf_counter() - began
        peak = _status("/proc/self/status", "VmHWM") - held
        connection.send((seconds, peak, sample(result)))
        del result


def plot(records: list[dict]) -> Figure:
    """Time and peak memory against the side of the image, one line per contender."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, (quantity, unit, label) in zip(
        panels, (("time", 1, "seconds"), ("peak memory", 2**30, "peak memory (GiB)")), strict=True
    ):
        lines = {}
        for record in records:
            if record["quantity"] == quantity:
                side = int(record["case"]["image"].split()[0])
                lines.setdefault(record["contender"], []).append((side, record["min"] / unit))
        for (name, points), marker in zip(lines.items(), "osD^vP*", strict=False):
            axes.plot(*zip(*points, strict=True), marker=marker, label=name)
        axes.set(xscale="log", yscale="log", xlabel="side of the image (pixels)", ylabel=label)
        axes.set_xticks(SIZES, SIZES)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    panels[0].legend(fontsize="small")
    return figure
