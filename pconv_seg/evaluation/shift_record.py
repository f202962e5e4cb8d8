"""What the shift test counted, and the scores and overlaps that follow from it.

With tiles that overlap by 2 d pixels, every pixel of an image lies d pixels or more from the seams
of the tile in which it lies deepest. So the share of pixels that change, counted over all
distances from d on, says what that overlap leaves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pconv_seg.geometry import ShiftRegions

from .bootstrap import CONFIDENCE, RESAMPLES, score_difference
from .confusion import divided, mean_iou, pixel_accuracy
from .record import Tested
from .report import json_number

TOLERANCES = (0.005, 0.001)
SCORES = {"aAcc": pixel_accuracy, "mIoU": mean_iou}


@dataclass(frozen=True)
class ShiftRecord:
    """Counts of one network.

    Attributes:
        tested: The network.
        regions: Tiles and bins.
        images: One name per image.
        pixels: Compared pixels, ``int64[images, bins]``.
        agreeing: Those on which the two predictions agree, ``int64[images, bins]``.
        areas: ``int64[2, images, bins, 3, C]`` (:func:`class_areas`) of the labelled ones, first as
            border, then as interior; None without labels.
    """

    tested: Tested
    regions: ShiftRegions
    images: tuple[str, ...]
    pixels: np.ndarray
    agreeing: np.ndarray
    areas: np.ndarray | None

    def changed(self) -> np.ndarray:
        """Share of pixels that change, in a bin and beyond, ``float64[bins]``; NaN without any."""
        pixels, changed = (
            np.cumsum(counts.sum(0)[::-1])[::-1]
            for counts in (self.pixels, self.pixels - self.agreeing)
        )
        return divided(changed, pixels)

    def overlap(self, tolerance: float) -> int | None:
        """The smallest overlap in pixels that keeps what changes within a tolerance.

        Twice the smallest distance at which a bin begins and from which on :meth:`changed` never
        exceeds the tolerance. None if it still does in the last bin: take larger tiles or narrower
        bins.

        Args:
            tolerance: Share of pixels in [0, 1).
        """
        changed = self.changed()
        counted = ~np.isnan(changed)
        # Where a later bin exceeds the tolerance, an earlier one kept it only by chance.
        worst = np.maximum.accumulate(changed[counted][::-1])[::-1]
        starts = np.array(self.regions.edges[:-1])[counted][worst <= tolerance]
        return 2 * int(starts[0]) if len(starts) else None

    def as_dict(self, tolerances: Sequence[float] = TOLERANCES, seed: int = 0) -> dict:
        """Everything, ready for JSON: scores in percent, null where there is none.

        ``bins`` has one entry per distance, ``total`` is over all of them. ``cost`` is the score as
        interior minus that as border, with its interval. ``changed`` is the share of pixels in
        percent that still change with the ``overlap`` beside it. ``recommended`` has one entry per
        tolerance.

        Args:
            tolerances: For :meth:`overlap`.
            seed: Of the bootstrap.
        """
        edges = self.regions.edges
        changed = 100 * self.changed()
        bins = [
            {
                "from_pixel": start,
                "to_pixel": stop,
                **self._scores(np.s_[number : number + 1], seed),
                "overlap": 2 * start,
                "changed": json_number(changed[number]),
            }
            for number, (start, stop) in enumerate(pairwise(edges))
        ]
        changed_with = {row["overlap"]: row["changed"] for row in bins}
        overlaps = {tolerance: self.overlap(tolerance) for tolerance in tolerances}
        return {
            **self.tested._asdict(),
            "tile": self.regions.tile,
            "interior": edges[-1],
            "images": len(self.images),
            "total": self._scores(np.s_[:], seed),
            "bins": bins,
            "recommended": [
                {"tolerance": tolerance, "overlap": least, "changed": changed_with.get(least)}
                for tolerance, least in overlaps.items()
            ],
            "confidence": CONFIDENCE,
            "resamples": RESAMPLES,
            "seed": seed,
        }

    def _scores(self, bins: slice, seed: int) -> dict:
        pixels, agreeing = (int(n[:, bins].sum()) for n in (self.pixels, self.agreeing))
        result = {
            "pixels": pixels,
            "agreement": 100 * agreeing / pixels if pixels else None,
        }
        if self.areas is None:
            return result
        areas = self.areas[:, :, bins].sum(2).swapaxes(0, 1)  # [images, roles, 3, C]
        border, interior = areas.sum(0)
        for name, score in SCORES.items():
            cost = score_difference(areas, score, seed=seed)
            result[name] = {
                "border": json_number(100 * score(border)),
                "interior": json_number(100 * score(interior)),
                "cost": json_number(100 * cost.value),
                "interval": [json_number(100 * bound) for bound in (cost.low, cost.high)],
            }
        return result
