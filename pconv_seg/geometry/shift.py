"""Two grids of tiles, half a tile apart: what is near a seam in one is far from it in the other.

On each axis both grids cut the image into cells, the first at 0, T, 2T, ..., the second at T/2,
3T/2, ...  (T the side of a tile). A pixel is predicted once per grid: in the tile that begins with
its cell, pushed back inside the image where it would reach beyond. So all tiles have one size, as
when large images are predicted, and differ in nothing but where they lie.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from .regions import RegionMap
from .tiles import edge_distance, tile_stride


class Cell(NamedTuple):
    """Pixels ``start .. stop - 1`` of an axis, and the tile that they are predicted in."""

    start: int
    stop: int
    tile_start: int
    tile_stop: int


def tile_cells(size: int, tile: int, offset: int = 0) -> list[Cell]:
    """Cut one axis at ``offset``, ``offset + tile``, ...

    Args:
        size: Pixels of the axis.
        tile: Side of a tile in pixels. An axis that is not longer is one tile, whatever the cuts.
        offset: First cut, in ``[0, tile)``.

    >>> tile_cells(10, 4)[-1]  # pixels 8 and 9, in a tile that is pushed back
    Cell(start=8, stop=10, tile_start=6, tile_stop=10)
    >>> tile_cells(10, 4, 2)[0]
    Cell(start=0, stop=2, tile_start=0, tile_stop=4)
    """
    cuts = [0, *range(offset or tile, size, tile), size]
    last = max(size - tile, 0)
    return [
        Cell(start, stop, min(start, last), min(min(start, last) + tile, size))
        for start, stop in pairwise(cuts)
    ]


def cell_seam_distance(size: int, cells: Sequence[Cell]) -> np.ndarray:
    """Pixels between each pixel of an axis and the nearest seam of *its* tile, ``int64[size]``.

    A seam is an edge of the tile that lies inside the image: there the network sees padding where
    the image goes on. The pixel next to it has distance 0. Without a seam the distance is the
    largest int64.
    """
    distance = np.empty(size, np.int64)
    for start, stop, *tile in cells:
        seams = [edge for edge in tile if 0 < edge < size]
        distance[start:stop] = edge_distance(size, seams)[start:stop]
    return distance


@dataclass(frozen=True)
class ShiftedGrids:
    """The two grids of one image.

    Args:
        size: Image (height, width) in pixels.
        tile: Tile (height, width) in pixels. The second grid lies ``tile // 2`` further down and to
            the right.

    Raises:
        ValueError: If a tile has fewer than 4 pixels on a side.
    """

    size: tuple[int, int]
    tile: tuple[int, int]

    def __post_init__(self):
        for side in self.tile:
            tile_stride(side, 0)  # refuses what is no number of pixels
        if self.interior < 1:
            raise ValueError(f"tiles of at least 4 x 4 pixels needed, got {self.tile}")

    @property
    def interior(self) -> int:
        """From this distance to the nearest seam on, a pixel counts as interior.

        A quarter of the tile's shorter side: half way between the seams of the two grids.
        """
        return min(self.tile) // 4

    @cached_property
    def cells(self) -> tuple[tuple[list[Cell], list[Cell]], ...]:
        """(rows, columns) of either grid; every pair of a row and a column is a cell."""
        shifted = tuple(side // 2 for side in self.tile)
        return tuple(
            tuple(map(tile_cells, self.size, self.tile, offsets)) for offsets in ((0, 0), shifted)
        )

    def seam_distances(self) -> np.ndarray:
        """Distance of each pixel to the nearest seam of its tile, by grid: ``int64[2, H, W]``.

        See :func:`cell_seam_distance`. The border of the image is no seam: it is border in both.
        """
        return np.stack(
            [np.minimum.outer(*map(cell_seam_distance, self.size, axes)) for axes in self.cells]
        )

    def compared(self) -> tuple[np.ndarray, np.ndarray]:
        """The pixels that are border in one grid and interior in the other.

        Returns:
            ``int64[H, W]``, the distance to the seam in the grid in which the pixel is border, in
            ``[0, interior)``, and -1 for pixels that are not compared: interior in both, or
            border in both, which happens where seams of the two grids cross. ``bool[H, W]``,
            whether the grid in which it is border is the second.
        """
        distances = self.seam_distances()
        border = distances < self.interior
        distance = np.where(border[0] != border[1], distances.min(0), -1)
        return distance, border[1] & ~border[0]


@dataclass(frozen=True)
class ShiftRegions:
    """The compared pixels in bins of their distance to the seam, for images of any size.

    Args:
        tile: (height, width) of the tiles in pixels.
        bin_width: Pixels of distance per bin; the last bin ends at the interior and may be
            narrower.

    Raises:
        ValueError: If a bin has no pixel, or a tile fewer than 4 on a side.
    """

    tile: tuple[int, int]
    bin_width: int

    def __post_init__(self):
        if self.bin_width < 1:
            raise ValueError(f"bins must be at least 1 pixel wide, got {self.bin_width}")
        _ = self.edges

    @property
    def edges(self) -> tuple[int, ...]:
        """Distances at which the bins begin, and the one at which the last ends."""
        interior = ShiftedGrids((1, 1), self.tile).interior
        return (*range(0, interior, self.bin_width), interior)

    def map(self, size: tuple[int, int]) -> RegionMap:
        """The bins as regions of an image of (height, width) pixels; cached."""
        return _shift_map(self, tuple(size))[0]

    def border_in_second(self, size: tuple[int, int]) -> np.ndarray:
        """Whether a compared pixel is border in the second grid, ``bool[H, W]``; cached."""
        return _shift_map(self, tuple(size))[1]


# Enough for images of two sizes, as where some are upright. A map takes 3 bytes per pixel.
@lru_cache(maxsize=2)
def _shift_map(regions: ShiftRegions, size: tuple[int, int]) -> tuple[RegionMap, np.ndarray]:
    distance, in_second = ShiftedGrids(size, regions.tile).compared()
    bins = len(regions.edges) - 1
    # The last cell holds what is not compared, and belongs to no bin.
    cells = np.where(distance < 0, bins, distance // regions.bin_width).astype(np.uint16)
    return RegionMap(cells, np.eye(bins, bins + 1, dtype=bool)), in_second
