"""Is a difference of scores larger than the choice of test images explains?"""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import stats

# Of every interval.
CONFIDENCE = 0.95
RESAMPLES = 2000
# With fewer images all differences have one sign by chance in more than 5 % of cases (2 / 2**n).
FEWEST_IMAGES = 6
# Printed below tables that show ``none`` in place of an interval.
NO_INTERVAL = (
    f"no interval (none): fewer than {FEWEST_IMAGES} images, or a resample of them has no labelled "
    "pixel there."
)


class Difference(NamedTuple):
    """A difference of scores and its confidence interval, in the scores' unit."""

    value: float
    low: float
    high: float

    @property
    def distinguishable(self) -> bool:
        """Whether the interval excludes 0. False without an interval."""
        return self.low > 0 or self.high < 0


def score_difference(
    areas: np.ndarray, score: Callable[[np.ndarray], np.ndarray], *, seed: int = 0
) -> Difference:
    """Score of the second network minus the first's, with a paired bootstrap interval over images.

    Each resample draws as many images as there are, with replacement and the same ones for both
    networks, adds up their counts and takes the difference of the two scores. The interval is the
    expanded percentile interval (T. Hesterberg, *What Teachers Should Know about the Bootstrap*,
    arXiv 1411.5279): with few images it holds more than the middle 95 % of the differences, so that
    for a mean it is about as wide as Student's t interval. It covers the choice of images, assumed
    independent, not chance in training, which only several training runs show.

    Args:
        areas: Of each image and network, ``int[images, 2, 3, C]`` (:func:`class_areas`).
        score: Of summed areas, ``[..., 3, C] -> [...]``.
        seed: Of the drawing; for the same number of images it always draws the same ones.

    Returns:
        The difference. Its interval is NaN for fewer than ``FEWEST_IMAGES``, and where a region is
        so empty that a resample has no labelled pixel, and so no score.
    """
    return image_interval(areas, lambda totals: np.diff(score(totals))[..., 0], seed=seed)


def image_interval(
    counts: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    seed: int = 0,
) -> Difference:
    """A statistic of counts added up over images, with a bootstrap interval over images.

    All that the statistic compares is drawn together: the comparison is paired by image.

    Args:
        counts: Of each image, ``int[images, *shape]``.
        statistic: ``[..., *shape] -> float64[...]`` of the added counts.
        seed: As in :func:`score_difference`.

    Returns:
        Its value and interval, NaN as in :func:`score_difference`.
    """
    images = len(counts)
    value = float(statistic(counts.sum(0)))
    if images < FEWEST_IMAGES:
        return Difference(value, np.nan, np.nan)
    expansion = np.sqrt(images / (images - 1)) * stats.t.ppf((1 + CONFIDENCE) / 2, images - 1)
    flat = counts.reshape(images, -1).astype(np.float64)

    def of_drawn(drawn: np.ndarray, axis: int) -> np.ndarray:
        drawn = np.moveaxis(drawn, axis, -1)
        # How often each image is drawn turns adding up counts into one matrix product.
        offsets = images * np.arange(drawn.size // images).reshape(*drawn.shape[:-1], 1)
        times = np.bincount((drawn + offsets).ravel(), minlength=drawn.size)
        totals = times.reshape(drawn.shape).astype(np.float64) @ flat
        return statistic(totals.reshape(*drawn.shape[:-1], *counts.shape[1:]))

    with warnings.catch_warnings():
        # scipy warns of NaN among the resamples, which the NaN interval shows too.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        interval = stats.bootstrap(
            (np.arange(images),),
            of_drawn,
            n_resamples=RESAMPLES,
            batch=500,  # all at once would take gigabytes for many images
            vectorized=True,
            confidence_level=2 * stats.norm.cdf(expansion) - 1,
            method="percentile",
            random_state=np.random.default_rng(seed),
        ).confidence_interval
    return Difference(value, float(interval.low), float(interval.high))
