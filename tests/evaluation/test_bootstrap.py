import warnings
from itertools import product

import numpy as np
import pytest
from scipy import stats

from pconv_seg.evaluation.bootstrap import RESAMPLES, image_interval, score_difference
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
    error = 4 * np.std(differences) * np.sqrt(2) * 2.9 / np.sqrt(RESAMPLES)
    # Of 40 images: Student's 2.0227 times sqrt(40 / 39), in a normal distribution's tails.
    low, high = np.quantile(differences, [0.0202, 0.9798])
    assert result.low == pytest.approx(low, abs=error)
    assert result.high == pytest.approx(high, abs=error)


@pytest.mark.parametrize("images", [12, 30])
def test_interval_of_a_mean_is_students(images):
    values = np.random.default_rng(images).normal(0.3, 1, images)
    result = image_interval(values[:, None], lambda totals: totals[..., 0] / images)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    width = expected.high - expected.low
    assert result.value == pytest.approx(values.mean())
    assert result.low == pytest.approx(expected.low, abs=0.1 * width)
    assert result.high == pytest.approx(expected.high, abs=0.1 * width)


def test_the_interval_of_six_images_has_students_quantiles(monkeypatch):
    monkeypatch.setattr("pconv_seg.evaluation.bootstrap.RESAMPLES", 400_000)
    values = np.array([-2.02, -0.87, -0.56, -0.08, -0.01, 3.07])  # few sums are equal
    found = image_interval(values[:, None], lambda totals: totals[..., 0])
    every = np.sort([sum(drawn) for drawn in product(values, repeat=6)])
    # With 5 degrees of freedom Student's t is 2.5706. Times sqrt(6 / 5) it leaves 0.00243 of a
    # normal distribution on either side; without the factor it would leave 0.0051, and with 6
    # degrees of freedom 0.0037. Five standard errors of 400,000 resamples are 0.0004.
    for bound, sums in ((found.low, every), (-found.high, -every[::-1])):
        least, most = np.quantile(sums, [0.0020, 0.0029])
        assert least - 1e-9 < bound < most + 1e-9


def test_few_images_seldom_have_intervals_that_miss_the_truth():
    """Of 6 to 8 images; the middle 95 % of resamples miss it in 12 to 15 % of trials."""
    rng = np.random.default_rng(0)
    trials = [rng.normal(0, 1, (images, 1)) for images in (6, 7, 8) for _ in range(100)]
    missed = sum(
        image_interval(values, lambda totals: totals[..., 0]).distinguishable for values in trials
    )
    assert missed / len(trials) < 0.08


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
        assert np.isnan(miou_difference(first[:5], areas(1, 0.6)[:5]).low)
        assert np.isfinite(miou_difference(first[:6], areas(1, 0.6)[:6])).all()
        empty = miou_difference(np.zeros((6, 3, 2), int), np.zeros((6, 3, 2), int))
        assert np.isnan(empty.value)
        assert not empty.distinguishable
