"""How far do seeds and images agree about a comparison?"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from pconv_seg.evaluation.bootstrap import CONFIDENCE, Difference, image_interval
from pconv_seg.evaluation.confusion import mean_iou

BOOTSTRAP_SEED = 0
MAX_SEEDS = 1000


class Contrast(NamedTuple):
    """A weighted sum of mIoUs, in percentage points.

    Attributes:
        seeds: Those with all the runs that it takes.
        values: Of each seed.
        over_seeds: Mean and Student's t interval, which is NaN for fewer than two seeds.
        over_images: The same mean, with a bootstrap interval over images; the same images are
            drawn for all networks and seeds.
    """

    seeds: tuple[int, ...]
    values: tuple[float, ...]
    over_seeds: Difference
    over_images: Difference

    @property
    def mean(self) -> float:
        """Over seeds."""
        return self.over_seeds.value

    @property
    def sd(self) -> float:
        """Standard deviation over seeds (n - 1); NaN for fewer than two."""
        return sample_sd(self.values)

    @property
    def joint(self) -> Difference:
        """The mean with an interval for chance in training and in the choice of images together.

        Its bounds lie as far from the mean as the root of the sum of the other two intervals'
        squared distances: MOVER, the *method of variance estimates recovery* (G. Y. Zou and
        A. Donner, *Construction of confidence limits about effect measures*, Statistics in
        Medicine 27, 2008). NaN where either interval is.
        """
        low, high = (
            math.hypot(seeds - self.mean, images - self.mean)
            for seeds, images in zip(self.over_seeds[1:], self.over_images[1:], strict=True)
        )
        return Difference(self.mean, self.mean - low, self.mean + high)

    @property
    def settled(self) -> bool:
        """Whether the joint interval excludes 0, and so both others."""
        return self.joint.distinguishable


def sample_sd(values: Sequence[float]) -> float:
    """Standard deviation of a sample (n - 1); NaN for fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def seed_interval(values: Sequence[float]) -> Difference:
    """Mean of one value per seed, with Student's 95 % t interval; NaN for a single seed.

    It treats the values as a sample from a normal distribution. Values that are differences of
    runs with the same seed make it the interval of a paired t test.
    """
    mean, count = float(np.mean(values)), len(values)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * sample_sd(values) / np.sqrt(count)
    return Difference(mean, float(mean - half), float(mean + half))


def seeds_needed(sd: float, effect: float) -> int | None:
    """The fewest seeds whose t interval around an effect would exclude 0.

    That is, half its width at this spread is smaller than the effect. As a plan for a
    new study it gives an even chance, and the spread of few seeds is itself uncertain.

    Returns:
        The number, at least 2; None if more than ``MAX_SEEDS``, as without an effect, or if
            either argument is NaN.
    """
    count = np.arange(2, MAX_SEEDS + 1)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * sd / np.sqrt(count)
    enough = count[half < abs(effect)]
    return int(enough[0]) if len(enough) else None


def miou_contrast(areas: np.ndarray, weights: Sequence[float], seeds: Sequence[int]) -> Contrast:
    """A weighted sum of mIoUs with its intervals over seeds and over images.

    Args:
        areas: ``int[images, seeds, terms, 3, C]`` (:func:`class_areas`).
        weights: One per term.
        seeds: What the seeds are called.
    """

    def by_seed(totals: np.ndarray) -> np.ndarray:
        return 100 * mean_iou(totals) @ np.asarray(weights, float)

    values = by_seed(areas.sum(0))
    return Contrast(
        tuple(seeds),
        tuple(values.tolist()),
        seed_interval(values.tolist()),
        image_interval(areas, lambda totals: by_seed(totals).mean(-1), seed=BOOTSTRAP_SEED),
    )
