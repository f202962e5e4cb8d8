"""Times of contenders that take turns in one process, their peak memory, and records of both."""

import json
import random
import statistics
import time
from collections.abc import Callable, Collection, Iterator
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from scipy.stats import quantile_test
from tqdm import tqdm

SHORTEST_SAMPLE = 0.005  # seconds: calls shorter than this are repeated within one sample
MIN_ROUNDS, MAX_ROUNDS = 9, 300
PEER_ROUNDS = 3  # Every third round is enough for figures that no goal depends on.


def seconds_of(call: Callable[[], object], device: str, number: int = 1) -> float:
    """Seconds of one of ``number`` calls in a row; on a GPU between two events of its stream."""
    if device == "cuda":
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        began.record()
        for _ in range(number):
            call()
        ended.record()
        torch.cuda.synchronize()
        return began.elapsed_time(ended) / 1000 / number
    began = time.perf_counter()
    for _ in range(number):
        call()
    return (time.perf_counter() - began) / number


def cuda_graph(call: Callable[[], object]) -> Callable[[], None]:
    """What replays the kernels of a call, without the time that Python takes to launch them."""
    call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def take_turns(
    calls: dict[str, Callable[[], object]],
    device: str,
    budget: float,
    before: Callable[[str], None] = lambda name: None,
    repeat: bool = True,
    peers: Collection[str] = (),
) -> list[dict[str, float]]:
    """Time contenders in turns, every round in another order, until ``budget`` seconds are over.

    Args:
        calls: What to time, by name.
        device: ``'cpu'`` or ``'cuda'``.
        budget: Seconds for all of them together; at least ``MIN_ROUNDS`` rounds are made anyway.
        before: Called with the name before every sample, outside of its time.
        repeat: Whether a sample may be the mean of several calls in a row; not where ``before``
            prepares something that the first call uses up.
        peers: Names that take part only in every ``PEER_ROUNDS``-th round.

    Returns:
        For every round its times in seconds, by name.
    """
    number = 1
    for name, call in calls.items():
        before(name)
        call()
        if repeat:
            number = max(number, int(SHORTEST_SAMPLE / seconds_of(call, device)))
    names = list(calls)
    order = random.Random(0)
    rounds = []
    ends = time.perf_counter() + budget
    for round_number in range(MAX_ROUNDS):
        if round_number >= MIN_ROUNDS and time.perf_counter() > ends:
            break
        order.shuffle(names)
        times = {}
        for name in names:
            if name in peers and round_number % PEER_ROUNDS:
                continue
            before(name)
            times[name] = seconds_of(calls[name], device, number)
        rounds.append({name: times[name] for name in calls if name in times})
    return rounds


def peak_bytes(call: Callable[[], object], device: str) -> int:
    """Peak of the memory that PyTorch's allocator gives out during a call, above the start.

    On the CPU it is counted from the profiler's record of every allocation, so it does not depend
    on what else the machine does, and ignores pages and fragmentation. The working space that
    oneDNN takes from the system directly is not in it.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - start
    cpu = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[cpu], profile_memory=True) as profiler:
        call()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    changes = [event for event in events if event.get("name") == "[memory]"]
    changes.sort(key=lambda event: event["ts"])
    return max(accumulate((event["args"]["Bytes"] for event in changes), initial=0))


def time_records(
    case: dict[str, str],
    rounds: list[dict[str, float]],
    baseline: str,
    goals: dict[str, float] | None = None,
) -> Iterator[dict]:
    """One record per contender: its time, and the ratio to ``baseline`` in the same round."""
    for name in rounds[0]:
        shared = [times for times in rounds if name in times]
        runs = [times[name] for times in shared]
        ratios = [times[name] / times[baseline] for times in shared]
        low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
        interval = quantile_test(ratios, p=0.5).confidence_interval(0.95)
        yield {
            "case": case,
            "quantity": "time",
            "contender": name,
            "baseline": baseline,
            "rounds": len(runs),
            "min": min(runs),
            "median": statistics.median(runs),
            "ratio": median,
            "ratio_quartiles": [low, high],
            "ratio_of_minima": min(runs) / min(times[baseline] for times in shared),
            **_judged(goals, name, interval.low, interval.high),
        }


def _judged(goals: dict[str, float] | None, name: str, low: float, high: float) -> dict:
    """Whether a ratio that lies between ``low`` and ``high`` is within its goal, if it has one."""
    goal = (goals or {}).get(name)
    if goal is None:
        return {}
    verdict = "meets" if high <= goal else "misses" if low > goal else "open"
    return {"goal": goal, "interval": [low, high], "verdict": verdict}


def memory_records(
    case: dict[str, str],
    peaks: dict[str, int],
    baseline: str,
    goals: dict[str, float] | None = None,
) -> Iterator[dict]:
    """One record per contender: its peak memory in bytes, and the ratio to ``baseline``."""
    for name, peak in peaks.items():
        ratio = peak / peaks[baseline]
        yield {
            "case": case,
            "quantity": "peak memory",
            "contender": name,
            "baseline": baseline,
            "min": peak,
            "median": peak,
            "ratio": ratio,
            **_judged(goals, name, ratio, ratio),
        }


def progress(cases: list, title: str) -> tqdm:
    return tqdm(cases, desc=title, unit="case")
