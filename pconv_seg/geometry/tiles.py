"""Where the tiles of a large image lie, and how far each pixel is from their edges.

Intervals are half open and counted in pixels. An *edge* at position ``p`` lies between the pixels
``p - 1`` and ``p``.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np

from .proportion import parse_fraction

Overlap = int | float | Fraction | str
"""Of neighbouring tiles: a proportion of the tile in [0, 1), such as ``'1/3'``, or pixels."""


def tile_stride(tile: int, overlap: Overlap) -> int:
    """Distance between tiles along one axis: ``ceil(tile * (1 - overlap))``, in exact arithmetic.

    Args:
        tile: Side length in pixels.
        overlap: A proportion of the tile in [0, 1) (see :func:`parse_fraction`), or an int from 1
            on: pixels.

    Raises:
        ValueError: If the tile is not positive or the overlap not smaller than it.
    """
    if not isinstance(tile, Integral) or tile < 1:
        raise ValueError(f"tile must be a positive number of pixels, got {tile!r}")
    if isinstance(overlap, Integral) and overlap >= 1:
        if overlap >= tile:
            raise ValueError(f"overlap of {overlap} pixels must be smaller than the tile ({tile})")
        return int(tile - overlap)
    return math.ceil(tile * (1 - parse_fraction(overlap, "overlap")))


def tile_starts(size: int, tile: int, overlap: Overlap = 0) -> list[int]:
    """First pixels of the tiles along one axis; the last tile is shifted back inside the image.

    An axis that is not longer than the tile has one tile, which is the whole axis.

    Raises:
        ValueError: If the axis has no pixel, and as from :func:`tile_stride`.

    >>> tile_starts(2048, 1024, 1 / 3)
    [0, 683, 1024]
    """
    if size < 1:
        raise ValueError(f"an image axis needs at least one pixel, got size {size}")
    stride = tile_stride(tile, overlap)
    last = max(size - tile, 0)
    return [*range(0, last, stride), last]


@dataclass(frozen=True)
class TileGrid:
    """The tiles of one image. Iterates over windows ``(y0, y1, x0, x1)``, row by row.

    Args:
        size: Image (height, width) in pixels.
        tile: Side length or (height, width) in pixels.
        overlap: Of neighbouring tiles, as in :func:`tile_stride`; one value or (vertical,
            horizontal). A single 1 is refused: it could mean 100 % or one pixel.

    Raises:
        ValueError: If the image has no pixel, or the tile or the overlap is out of range.
    """

    size: tuple[int, int]
    tile: int | tuple[int, int]
    overlap: Overlap | tuple[Overlap, Overlap] = 0

    def __post_init__(self):
        if isinstance(self.overlap, Integral) and self.overlap == 1:
            raise ValueError(
                "overlap must lie in [0, 1) or be 2 pixels or more: 1 reads as 100 % as well as "
                "one pixel (in Python, (1, 1) is one pixel per axis)"
            )
        _ = self.rows, self.cols  # refuses bad values where they are given

    def _intervals(self, axis: int) -> list[tuple[int, int]]:
        tile, overlap = pair(self.tile, "tile")[axis], pair(self.overlap, "overlap")[axis]
        size = self.size[axis]
        return [(start, min(start + tile, size)) for start in tile_starts(size, tile, overlap)]

    @cached_property
    def rows(self) -> list[tuple[int, int]]:
        """Vertical intervals (y0, y1), from the top."""
        return self._intervals(0)

    @cached_property
    def cols(self) -> list[tuple[int, int]]:
        """Horizontal intervals (x0, x1), from the left."""
        return self._intervals(1)

    def __iter__(self) -> Iterator[tuple[int, int, int, int]]:
        return ((*row, *col) for row in self.rows for col in self.cols)

    def __len__(self) -> int:
        return len(self.rows) * len(self.cols)


def tile_seams(intervals: Iterable[tuple[int, int]]) -> list[int]:
    """Edges of the tiles along one axis (``TileGrid.rows`` or ``.cols``) that lie inside it."""
    edges = sorted({edge for interval in intervals for edge in interval})
    return edges[1:-1]


WINDOWS = {
    "constant": np.ones_like,
    "gaussian": lambda x: np.exp(-0.5 * (8 * x) ** 2),
    "hann": lambda x: np.cos(np.pi * x) ** 2,
}
"""By name: weights of a tile at positions -0.5 to 0.5 along one of its sides."""


def blend_weights(intervals: Sequence[tuple[int, int]], window: str) -> list[np.ndarray]:
    """Share of each tile in the average along one axis; the shares of a pixel sum to 1.

    The weight of a tile at a pixel is the product of its vertical and its horizontal share, since
    both the windows and the grid are separable. So no map of counts is needed.

    Args:
        intervals: ``TileGrid.rows`` or ``.cols``.
        window: ``'constant'``; ``'gaussian'``, its standard deviation an eighth of the tile; or
            ``'hann'``. All are sampled at pixel centres and positive everywhere.

    Returns:
        One ``float64[stop - start]`` per tile.

    Raises:
        ValueError: If there is no such window.
    """
    if window not in WINDOWS:
        raise ValueError(f"window must be one of {', '.join(WINDOWS)}, got {window!r}")
    side = intervals[0][1]
    weights = WINDOWS[window]((np.arange(side) + 0.5) / side - 0.5)
    total = np.zeros(intervals[-1][1])
    for start, stop in intervals:
        total[start:stop] += weights
    return [weights / total[start:stop] for start, stop in intervals]


def edge_distance(size: int, edges: Iterable[int]) -> np.ndarray:
    """Pixels between each pixel of an axis and the nearest edge, ``int64[size]``.

    The pixels on both sides of an edge have distance 0. ``edges=(0, size)`` gives the distance
    to the image border. Without edges the distance is the largest int64.
    """
    pixels = np.arange(size)
    nearest = np.full(size, np.iinfo(np.int64).max)
    for edge in edges:
        np.minimum(nearest, np.where(pixels < edge, edge - 1 - pixels, pixels - edge), out=nearest)
    return nearest


def pair(value: Any, name: str) -> tuple[Any, Any]:
    """(vertical, horizontal) of one value for both axes, or of one for each.

    Args:
        value: A tuple or list has one for each.
        name: What it is called, for the error message.

    Raises:
        ValueError: If there are more or fewer than two.
    """
    values = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(values) != 2:
        raise ValueError(f"{name} must be one value or (height, width), got {value!r}")
    return values
