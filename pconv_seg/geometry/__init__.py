"""Pure numbers, no torch: where taps fall, how an image splits into tiles and border regions."""

from .proportion import parse_fraction
from .regions import BorderRegions, Region, RegionMap, border_width
from .taps import border_runs, tap_count, transposed_border
from .tiles import (
    Overlap,
    TileGrid,
    blend_weights,
    edge_distance,
    tile_seams,
    tile_starts,
    tile_stride,
)

__all__ = [
    "BorderRegions",
    "Overlap",
    "Region",
    "RegionMap",
    "TileGrid",
    "blend_weights",
    "border_runs",
    "border_width",
    "edge_distance",
    "parse_fraction",
    "tap_count",
    "tile_seams",
    "tile_starts",
    "tile_stride",
    "transposed_border",
]
