"""What the benchmarks compare, and how their figures come from times."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from pconv_seg import geometry, layers, partial_conv2d


@pytest.fixture(autouse=True)
def modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")


@pytest.mark.parametrize(
    "options",
    [
        dict(padding=1),
        dict(padding=2, dilation=2, groups=2, bias=False),
        dict(padding=(3, 1), stride=2),
        dict(padding=5, dilation=3),  # wider than the map: windows without any valid tap
    ],
)
def test_the_mask_convolution_is_a_partial_convolution(options: dict) -> None:
    from contenders import MASKS, switch

    conv = nn.Conv2d(4, 6, 3, **options).double()
    images = torch.randn(2, 4, 4, 5, dtype=torch.float64)
    switch(conv, MASKS)
    for x in (images, images, images[..., :4]):
        expected = partial_conv2d(
            x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups
        )
        # Its method adds 1e-8 to the counts.
        torch.testing.assert_close(conv(x), expected, rtol=1e-6, atol=1e-6)


def test_a_first_call_finds_nothing_kept() -> None:
    from contenders import CONTENDERS, forget, switch

    names = [n for n in sys.modules if n.startswith((layers.__name__, geometry.__name__))]
    caches = {
        f"{value.__module__}.{name}": value
        for module in names
        for name, value in vars(sys.modules[module]).items()
        if hasattr(value, "cache_info")
    }
    # How many hold a gradient is a fact of the interpreter, not of a call.
    del caches["pconv_seg.layers.holders.holders_of_free_gradient"]
    for cache in caches.values():
        cache.cache_clear()
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 400, 3, padding=1))
    images = torch.randn(1, 3, 60, 60)
    for contender in CONTENDERS:
        switch(model, contender)
        model(images)
    filled = {name for name, cache in caches.items() if cache.cache_info().currsize}
    assert len(filled) > 3
    forget(model)
    assert not any(cache.cache_info().currsize for cache in caches.values())
    assert not any("kept" in vars(module) for module in model)


def test_ratios_are_those_to_the_baseline_of_the_same_round() -> None:
    from measure import time_records

    rounds = [{"zeros": float(i), "partial": 1.01 * i, "twice": 2.0 * i} for i in range(1, 10)]
    del rounds[4]["twice"]
    zeros, partial, twice = time_records({}, rounds, "zeros", {"partial": 1.02, "twice": 1.5})
    assert (zeros["ratio"], zeros["min"], zeros["median"], zeros["rounds"]) == (1, 1, 5, 9)
    assert (partial["ratio"], partial["verdict"]) == (pytest.approx(1.01), "meets")
    assert (twice["ratio"], twice["rounds"], twice["verdict"]) == (2, 8, "misses")


def test_the_interval_of_a_median_is_one_of_order_statistics() -> None:
    from measure import time_records

    ratios = [1.00, 1.01, 1.02, 1.03, 1.04, 1.05, 1.06, 1.07, 1.08]
    rounds = [{"zeros": 1.0, "partial": ratio} for ratio in ratios]
    (_, record) = time_records({}, rounds, "zeros", {"partial": 1.04})
    # Of nine values, the second and the eighth: P(at most one of nine is below) = 10 / 512 on
    # either side (binomial), hence 96%; one value less would make it 82%.
    assert record["interval"] == [1.01, 1.07]
    assert (record["ratio"], record["verdict"]) == (1.04, "open")


def test_peak_memory_is_what_is_held_at_once() -> None:
    from measure import peak_bytes

    def call() -> None:
        first = torch.empty(1000, dtype=torch.float32)
        del first
        second, third = torch.empty(500), torch.empty(2000)
        del second, third

    assert peak_bytes(call, "cpu") == 4 * 2500


def test_contenders_that_are_peers_sit_out() -> None:
    from measure import MIN_ROUNDS, PEER_ROUNDS, take_turns

    calls = dict.fromkeys(("zeros", "partial", "reflect"), lambda: None)
    rounds = take_turns(calls, "cpu", 0, repeat=False, peers=("reflect",))
    assert len(rounds) == MIN_ROUNDS
    having = [i for i, times in enumerate(rounds) if "reflect" in times]
    assert having == list(range(0, MIN_ROUNDS, PEER_ROUNDS))
    assert all({"zeros", "partial"} <= set(times) for times in rounds)
