import warnings

import numpy as np
import pytest

from pconv_seg.evaluation.bootstrap import RESAMPLES, score_difference
from pconv_seg.evaluation.confusion import mean_iou


def areas(seed, right, images=40, classes=5):
    """Counts of networks that find a share ``right`` of each class in each image."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 300, (images, classes))
    intersection = rng.binomial(label, right)
    return np.stack([intersection, label, intersection + rng.integers(0, 9, label.shape)], axis=1)


def miou_difference(first, second, seed=0):
    return score_difference(np.stack([first, second], axis=1), mean_iou, seed=seed)


def miou(total):
    intersection, label, prediction = total
    return np.nanmean(intersection / (label + prediction - intersection))


def test_interval_is_that_of_a_plain_loop_over_resamples():
    first, second = areas(0, 0.6), areas(0, 0.62)
    result = miou_difference(first, second, seed=1)
    assert result.value == pytest.approx(miou(second.sum(0)) - miou(first.sum(0)))
    rng = np.random.default_rng(2)
    differences = []
    for _ in range(RESAMPLES):
        drawn = rng.integers(0, 40, 40)
        differences.append(miou(second[drawn].sum(0)) - miou(first[drawn].sum(0)))
    # Both are random: their quantiles agree to some 4 of the standard errors.
    error = 4 * np.std(differences) * np.sqrt(2) * 2.7 / np.sqrt(RESAMPLES)
    low, high = np.quantile(differences, [0.025, 0.975])
    assert result.low == pytest.approx(low, abs=error)
    assert result.high == pytest.approx(high, abs=error)


def test_the_seed_decides():
    first, second = areas(0, 0.6), areas(1, 0.6)
    assert miou_difference(first, second, seed=3) == miou_difference(first, second, seed=3)
    assert miou_difference(first, second, seed=3) != miou_difference(first, second, seed=4)


def test_swapping_the_networks_mirrors_the_interval():
    first, second = areas(0, 0.6), areas(1, 0.7)
    there, back = miou_difference(first, second), miou_difference(second, first)
    assert there == pytest.approx((-back.value, -back.high, -back.low))
    assert there.distinguishable
    assert back.distinguishable


def test_pairing_makes_small_differences_visible():
    first = areas(0, 0.5)
    second = first.copy()
    second[:, [0, 2]] += 1  # one more pixel right, everywhere
    second[:, 1] = np.maximum(second[:, 1], second[:, 0])
    assert miou_difference(first, second).distinguishable
    assert not miou_difference(first, areas(7, 0.5)).distinguishable


def test_equal_networks_and_single_images():
    first = areas(0, 0.6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert miou_difference(first, first) == (0, 0, 0)
        assert not miou_difference(first, first).distinguishable
        single = miou_difference(first[:1], areas(1, 0.6)[:1])
        assert np.isnan(single.low)
        assert not single.distinguishable
        assert np.isfinite(miou_difference(first[:2], areas(1, 0.6)[:2])).all()
        empty = miou_difference(np.zeros((3, 3, 2), int), np.zeros((3, 3, 2), int))
        assert np.isnan(empty.value)
        assert not empty.distinguishable
