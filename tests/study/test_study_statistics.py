"""Intervals against scipy, a slow reference, and each other."""

import numpy as np
import pytest
from scipy import stats

from pconv_seg.evaluation.bootstrap import Difference, score_difference
from pconv_seg.evaluation.confusion import mean_iou
from pconv_seg.study.statistics import (
    BOOTSTRAP_SEED,
    Contrast,
    miou_contrast,
    sample_sd,
    seed_interval,
    seeds_needed,
)


def test_interval_over_seeds_is_that_of_a_paired_t_test():
    first, second = [41.0, 43.5, 40.2, 44.0], [42.5, 43.0, 41.9, 46.1]
    test = stats.ttest_rel(second, first)
    expected = test.confidence_interval(0.95)

    mean, low, high = seed_interval(list(np.subtract(second, first)))

    assert mean == pytest.approx(np.mean(second) - np.mean(first))
    assert (low, high) == pytest.approx((expected.low, expected.high))


def test_one_seed_has_a_mean_and_no_interval():
    interval = seed_interval([1.5])
    assert interval.value == 1.5
    assert np.isnan(interval.low)
    assert np.isnan(interval.high)
    assert not interval.distinguishable
    assert np.isnan(sample_sd([1.5]))


@pytest.mark.parametrize(("sd", "effect"), [(1.0, 1.0), (0.3, -1.0), (2.0, 0.5)])
def test_seeds_needed_is_the_first_number_whose_test_is_significant(sd, effect):
    def p_value(count: int) -> float:
        return 2 * stats.t.sf(abs(effect) / (sd / count**0.5), count - 1)

    needed = seeds_needed(sd, effect)

    assert p_value(needed) < 0.05
    assert all(p_value(count) >= 0.05 for count in range(2, needed))


def test_no_number_of_seeds_is_named_where_none_would_do():
    assert seeds_needed(1.0, 0.0) is None
    assert seeds_needed(1.0, 1e-3) is None
    assert seeds_needed(float("nan"), 1.0) is None


def _areas(shape, seed=0):
    """Areas of random labels and predictions, class by class: intersection, label, prediction."""
    rng = np.random.default_rng(seed)
    intersection = rng.integers(1, 50, shape)
    return np.stack([intersection, *(intersection + rng.integers(0, 50, (2, *shape)))], axis=-2)


def test_contrast_is_the_weighted_sum_of_each_seeds_miou():
    areas = _areas((6, 3, 4, 5))  # images, seeds, terms, classes
    weights = [1.0, -1.0, -1.0, 1.0]

    contrast = miou_contrast(areas, weights, (0, 1, 2))

    expected = []
    for seed in range(3):
        value = 0
        for term, weight in enumerate(weights):
            ious = []
            for c in range(5):
                inter, label, prediction = (int(areas[:, seed, term, i, c].sum()) for i in range(3))
                ious.append(inter / (label + prediction - inter))
            value += weight * 100 * sum(ious) / 5
        expected.append(value)
    assert contrast.values == pytest.approx(expected)
    assert contrast.mean == pytest.approx(np.mean(expected))
    assert contrast.over_images.value == pytest.approx(np.mean(expected))
    assert contrast.sd == pytest.approx(np.std(expected, ddof=1))
    assert contrast.over_seeds == pytest.approx(seed_interval(expected))


def test_interval_over_images_of_one_seed_is_that_of_two_networks():
    areas = _areas((20, 1, 2, 5), seed=1)
    contrast = miou_contrast(areas, [-1, 1], (7,))
    expected = score_difference(areas[:, 0], mean_iou, seed=BOOTSTRAP_SEED)
    assert contrast.over_images == pytest.approx([100 * value for value in expected])


def test_interval_over_images_draws_the_same_images_for_all_seeds():
    """Equal seeds are one seed: independent drawing would narrow the interval."""
    areas = _areas((20, 1, 2, 5), seed=2)
    one = miou_contrast(areas, [-1, 1], (0,))
    three = miou_contrast(np.repeat(areas, 3, axis=1), [-1, 1], (0, 1, 2))
    assert three.over_images == pytest.approx(one.over_images)


def test_joint_interval_adds_distances_in_squares_on_either_side():
    given = Contrast((0, 1), (1.0, 1.0), Difference(1.0, 0.6, 1.5), Difference(1.0, 0.7, 2.2))
    assert given.joint == pytest.approx((1.0, 0.5, 2.3))
    one_seed = given._replace(over_seeds=seed_interval([1.0]))
    assert np.isnan(one_seed.joint[1:]).all()
    assert not one_seed.settled


def test_joint_interval_excludes_0_by_chance_in_at_most_5_percent():
    """Seeds and images add normal errors of equal variance around 0."""
    rng = np.random.default_rng(0)
    trials, seeds, images = 2000, 5, 40
    of_seeds = rng.normal(0, seeds**0.5, (trials, seeds))
    of_images = rng.normal(0, images**0.5, (trials, images))
    settled = each = 0
    for by_seed, by_image in zip(of_seeds, of_images, strict=True):
        over_seeds = seed_interval(by_seed + by_image.mean())
        over_images = seed_interval(by_image + by_seed.mean())
        given = Contrast(tuple(range(seeds)), tuple(by_seed), over_seeds, over_images)
        settled += given.settled
        each += over_seeds.distinguishable and over_images.distinguishable
    assert settled / trials < 0.05 < 0.07 < each / trials
