"""Pure numbers, no torch: where taps fall, how an image splits into tiles and border regions."""

from .proportion import parse_fraction
from .regions import BorderRegions, Region, RegionMap, border_width
from .shift import Cell, ShiftedGrids, ShiftRegions, cell_seam_distance, tile_cells
from .taps import border_runs, tap_count, transposed_border
from .tiles import (
    WINDOWS,
    Overlap,
    TileGrid,
    blend_weights,
    edge_distance,
    pair,
    tile_seams,
    tile_starts,
    tile_stride,
)

__all__ = [
    "WINDOWS",
    "BorderRegions",
    "Cell",
    "Overlap",
    "Region",
    "RegionMap",
    "ShiftRegions",
    "ShiftedGrids",
    "TileGrid",
    "blend_weights",
    "border_runs",
    "border_width",
    "cell_seam_distance",
    "edge_distance",
    "pair",
    "parse_fraction",
    "tap_count",
    "tile_cells",
    "tile_seams",
    "tile_starts",
    "tile_stride",
    "transposed_border",
]
