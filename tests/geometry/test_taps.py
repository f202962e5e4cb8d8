"""Tap counts against a brute-force count over every tap."""

import itertools

import numpy as np
import pytest

from pconv_seg.geometry import border_runs, tap_count, transposed_border

SETTINGS = [
    (size, kernel_size, stride, padding, dilation)
    for size, kernel_size, stride, padding, dilation in itertools.product(
        (1, 2, 5, 9), (1, 2, 3, 4, 7), (1, 2, 3), (0, 1, 3, 8), (1, 2, 5)
    )
    if size + 2 * padding >= dilation * (kernel_size - 1) + 1
]


def brute_force(size, kernel_size, stride, padding, dilation):
    output_size = (size + 2 * padding - dilation * (kernel_size - 1) - 1) // stride + 1
    return [
        sum(0 <= i * stride - padding + t * dilation < size for t in range(kernel_size))
        for i in range(output_size)
    ]


def test_tap_count_equals_brute_force():
    for setting in SETTINGS:
        expected = brute_force(*setting)
        assert [tap_count(i, *setting) for i in range(len(expected))] == expected, setting


def test_border_runs_cover_exactly_the_outputs_that_miss_taps():
    for size, kernel_size, *rest in SETTINGS:
        expected = brute_force(size, kernel_size, *rest)
        counts = [kernel_size] * len(expected)
        previous_stop = 0
        for start, stop, count in border_runs(size, len(expected), kernel_size, *rest):
            assert previous_stop <= start < stop
            previous_stop = stop
            counts[start:stop] = [count] * (stop - start)
            assert count < kernel_size
        assert counts == expected


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ((8, 8, 3, 1, 1, 1), ((0, 1, 2), (7, 8, 2))),
        ((64, 64, 3, 1, 12, 12), ((0, 12, 2), (52, 64, 2))),
        # The ResNet stem, 7 taps with stride 2: the last window misses two taps only.
        ((224, 112, 7, 2, 3, 1), ((0, 1, 4), (1, 2, 6), (111, 112, 5))),
        # A feature map smaller than the dilation: the middle tap is the only one left.
        ((5, 5, 3, 1, 12, 12), ((0, 5, 1),)),
        # A 1x1 convolution with padding 1 has windows without any tap.
        ((4, 6, 1, 1, 1, 1), ((0, 1, 0), (5, 6, 0))),
        ((9, 7, 3, 1, 0, 1), ()),
    ],
)
def test_border_runs_of_known_layers(setting, expected):
    assert border_runs(*setting) == expected


def spread(values, kernel_size, stride, padding, dilation):
    """Transposed convolution with weights of ones, scattered term by term."""
    output = np.zeros((len(values) - 1) * stride + dilation * (kernel_size - 1) + 1)
    for i, value in enumerate(values):
        for tap in range(kernel_size):
            output[i * stride + tap * dilation] += value
    return output[padding : len(output) - padding]


def test_transposed_border_finds_what_more_input_would_change():
    more = 8
    for size, kernel_size, stride, padding, dilation in SETTINGS:
        alone = spread(np.ones(size), kernel_size, stride, padding, dilation)
        if not len(alone):
            continue
        inside = spread(np.ones(size + 2 * more), kernel_size, stride, padding, dilation)
        # The same outputs, where the map goes on at both ends.
        inside = inside[more * stride :][: len(alone)]
        setting = (size, len(alone), kernel_size, stride, padding, dilation)
        complete, reached = transposed_border(*setting)
        assert reached == np.count_nonzero(inside), setting
        assert complete == np.count_nonzero((alone == inside) & (inside > 0)), setting


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ((8, 16, 2, 2, 0, 1), (16, 16)),  # windows side by side
        ((8, 16, 4, 2, 1, 1), (14, 16)),  # one output at either end
        ((8, 17, 3, 2, 0, 1), (15, 17)),
        ((8, 15, 1, 2, 0, 1), (8, 8)),  # every other output has no term at all
    ],
)
def test_transposed_border_of_known_layers(setting, expected):
    assert transposed_border(*setting) == expected
