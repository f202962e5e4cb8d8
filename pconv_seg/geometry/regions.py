"""Border regions: what is left of an image, or of its tiles, when the centre is ignored.

A region is the complement of a centred rectangle, so the regions of growing leave-out proportions
are nested. Together with bands of distance to the image border and to the tile seams they cut the
image into *cells*. Counting once per cell gives the counts of every region as a sum over cells.

All of this is separable: whether a pixel is in a region is decided by its row alone or by its
column alone.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np

from .proportion import parse_fraction
from .tiles import Overlap, TileGrid, edge_distance, tile_seams


class Region(NamedTuple):
    """One region of :class:`BorderRegions`.

    Attributes:
        kind: ``'leave_out'``, ``'border_distance'`` or ``'seam_distance'``.
        start: The leave-out proportion, or the least distance in pixels.
        stop: The distance at which the band ends; ``None`` for the last band and for leave-outs.
    """

    kind: Literal["leave_out", "border_distance", "seam_distance"]
    start: Fraction | int
    stop: int | None = None

    def __str__(self) -> str:
        if self.kind == "leave_out":
            return str(self.start)
        return f">= {self.start}" if self.stop is None else f"{self.start}-{self.stop - 1}"


class RegionMap(NamedTuple):
    """The regions of one image size.

    Attributes:
        cells: ``uint16[H, W]``, the cell of each pixel.
        members: ``bool[regions, cells]``, which cells make up each region.
    """

    cells: np.ndarray
    members: np.ndarray


@dataclass(frozen=True)
class BorderRegions:
    """Which regions to count, for images of any size.

    Args:
        leave_outs: Proportions in [0, 1) of the centre that is ignored; kept sorted, without
            duplicates. 0 ignores nothing.
        proportion: Of what: ``'side'``, height and width of the centre are p times those of the
            image; ``'area'``, its area is.
        region: The ``'image'`` or each ``'tile'`` has a centre. A pixel of several tiles is left
            out only if it lies in the centre of all of them.
        bands: Ascending distances in pixels that separate bands of distance to the image border
            and, with ``tile``, to the nearest tile seam. ``(8, 32)`` gives 0-7, 8-31 and >= 32.
        tile: Tile side or (height, width) in pixels; needed for ``region='tile'``.
        overlap: Of the tiles, see :class:`TileGrid`.

    Raises:
        ValueError: If an option is not one of the above, or there is no such grid of tiles.
    """

    leave_outs: Sequence[str | float | Fraction] = (0,)
    proportion: Literal["side", "area"] = "side"
    region: Literal["image", "tile"] = "image"
    bands: Sequence[int] = ()
    tile: int | tuple[int, int] | None = None
    overlap: Overlap | tuple[Overlap, Overlap] = 0

    def __post_init__(self):
        fractions = {parse_fraction(value, "leave-out") for value in self.leave_outs}
        # Frozen and hashable, so that maps can be cached by (regions, size).
        object.__setattr__(self, "leave_outs", tuple(sorted(fractions)))
        object.__setattr__(self, "bands", tuple(self.bands))
        for name in ("tile", "overlap"):
            if isinstance(sides := getattr(self, name), list):
                object.__setattr__(self, name, tuple(sides))
        if self.proportion not in ("side", "area"):
            raise ValueError(f"proportion must be 'side' or 'area', got {self.proportion!r}")
        if self.region not in ("image", "tile"):
            raise ValueError(f"region must be 'image' or 'tile', got {self.region!r}")
        if self.region == "tile" and self.tile is None:
            raise ValueError("region='tile' needs the size of the tiles: give tile")
        if self.tile is not None:
            TileGrid((1, 1), self.tile, self.overlap)  # refuses what makes no grid
        if any(a >= b for a, b in pairwise((0, *self.bands))):
            raise ValueError(f"bands must be ascending distances above 0, got {self.bands}")

    @cached_property
    def regions(self) -> tuple[Region, ...]:
        """The regions, in the order of the counts: leave-outs, border bands, seam bands."""
        kinds = ["border_distance"] if self.bands else []
        if self.bands and self.tile is not None:
            kinds.append("seam_distance")
        return (
            *(Region("leave_out", p) for p in self.leave_outs),
            *(Region(kind, *band) for kind in kinds for band in pairwise((0, *self.bands, None))),
        )

    def map(self, size: tuple[int, int]) -> RegionMap:
        """The regions of an image of (height, width) pixels; cached for the sizes seen last."""
        return _region_map(self, tuple(size))


def border_width(size: int, leave_out: Fraction, proportion: str = "side") -> int:
    """Pixels of one axis that lie before the ignored centre (as many lie after it).

    ``(1 - p) * size / 2`` for ``proportion='side'`` and ``(1 - sqrt(p)) * size / 2`` for
    ``'area'``, rounded to the nearest integer, halves up, in exact arithmetic. So the centre is
    always exactly centred, and a region keeps its pixels when the image is flipped.
    """
    if proportion == "side":
        side = math.ceil(leave_out * size)
    else:
        area = math.ceil(leave_out * size**2)
        side = math.isqrt(area - 1) + 1 if area else 0
    return (size + 1 - side) // 2


def _depth(size: int, intervals: Iterable, regions: BorderRegions) -> np.ndarray:
    """How many leave-out regions each pixel of an axis belongs to by its place on that axis."""
    depth = np.zeros(size, np.int64)
    for leave_out in regions.leave_outs:
        outside = np.zeros(size, bool)
        for start, stop in intervals:
            width = border_width(stop - start, leave_out, regions.proportion)
            outside[start : start + width] = outside[stop - width : stop] = True
        depth += outside
    return depth


# Enough for images of two sizes, as where some are upright, with two maps each: tiles with and
# without overlap. A map takes 2 bytes per pixel.
@lru_cache(maxsize=4)
def _region_map(regions: BorderRegions, size: tuple[int, int]) -> RegionMap:
    image = [[(0, side)] for side in size]
    grid = None if regions.tile is None else TileGrid(size, regions.tile, regions.overlap)
    tiles = image if grid is None else [grid.rows, grid.cols]
    ringed = tiles if regions.region == "tile" else image

    # Regions and bands are nested, so how many of them hold a pixel says which ones do, and the
    # axis on which it lies farther out decides.
    count = len(regions.leave_outs)
    depth = (_depth(side, cuts, regions) for side, cuts in zip(size, ringed, strict=True))
    levels = [np.maximum.outer(*depth)]
    holds = [np.arange(count + 1) > np.arange(count)[:, None]]  # bool[regions, levels]
    if regions.bands:
        edges = [[(0, side) for side in size]]
        if grid is not None:
            edges.append([tile_seams(intervals) for intervals in tiles])
        for cuts in edges:
            distance = (edge_distance(side, cut) for side, cut in zip(size, cuts, strict=True))
            band = (np.searchsorted(regions.bands, axis, side="right") for axis in distance)
            levels.append(np.minimum.outer(*band))
            holds.append(np.eye(len(regions.bands) + 1, dtype=bool))

    shape = tuple(table.shape[1] for table in holds)
    code = np.ravel_multi_index(levels, shape)
    present = np.flatnonzero(np.bincount(code.ravel()))
    cell_of = np.zeros(present[-1] + 1, np.uint16)
    cell_of[present] = np.arange(len(present))
    level_of = np.unravel_index(present, shape)
    members = [table[:, level] for table, level in zip(holds, level_of, strict=True)]
    return RegionMap(cell_of[code], np.concatenate(members))
