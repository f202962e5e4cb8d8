import math
from fractions import Fraction

import numpy as np
import pytest

from pconv_seg.geometry import BorderRegions, ShiftRegions, TileGrid, border_width

LEAVE_OUTS = ("0", "1/3", "1/2", "2/3", "3/4", "7/8")


def in_centre(position, size, leave_out, proportion):
    """Whether a pixel lies in the centre of one axis, by the definition and nothing else."""
    share = float(leave_out) if proportion == "side" else math.sqrt(leave_out)
    width = math.floor((1 - share) * size / 2 + 0.5 + 1e-9)
    return width <= position < size - width


@pytest.mark.parametrize("proportion", ["side", "area"])
@pytest.mark.parametrize("leave_out", [Fraction(p) for p in (*LEAVE_OUTS, "1/4", "0.9")])
def test_border_width_is_rounded_to_the_nearest_pixel(leave_out, proportion):
    for size in range(1, 130):
        centre = sum(in_centre(i, size, leave_out, proportion) for i in range(size))
        ignored = max(size - 2 * border_width(size, leave_out, proportion), 0)
        assert ignored == centre, size


def test_border_width_by_hand():
    assert border_width(1024, Fraction(1, 3)) == 341  # 1024 / 3 = 341.33
    assert border_width(1024, Fraction(1, 2)) == 256
    assert border_width(1024, Fraction(1, 4), "area") == 256
    assert border_width(10, Fraction(1, 2)) == 3  # 2.5, a half goes up
    assert border_width(7, Fraction(0)) == 4  # all of it


@pytest.mark.parametrize("proportion", ["side", "area"])
@pytest.mark.parametrize("region", ["image", "tile"])
@pytest.mark.parametrize(("tile", "overlap"), [(8, 0), ((9, 7), "1/3"), (100, 0)])
def test_regions_against_a_loop_over_pixels(proportion, region, tile, overlap):
    size, bands = (17, 22), (1, 5)
    regions = BorderRegions(LEAVE_OUTS, proportion, region, bands, tile, overlap)
    cells, members = regions.map(size)
    tiles = list(TileGrid(size, tile, overlap))
    windows = tiles if region == "tile" else [(0, 17, 0, 22)]
    rows = {edge for window in tiles for edge in window[:2]} - {0, 17}
    cols = {edge for window in tiles for edge in window[2:]} - {0, 22}
    for y, x in np.ndindex(size):
        expected = []
        for leave_out in regions.leave_outs:
            holders = [(a, b, c, d) for a, b, c, d in windows if a <= y < b and c <= x < d]
            expected.append(
                not all(
                    in_centre(y - a, b - a, leave_out, proportion)
                    and in_centre(x - c, d - c, leave_out, proportion)
                    for a, b, c, d in holders
                )
            )
        # An edge lies before the pixel of its number.
        to_seams = [max(edge - 1 - y, y - edge) for edge in rows]
        to_seams += [max(edge - 1 - x, x - edge) for edge in cols]
        for distance in (min(y, x, 16 - y, 21 - x), min(to_seams, default=99)):
            expected += [distance < 1, 1 <= distance < 5, distance >= 5]
        assert members[:, cells[y, x]].tolist() == expected, (y, x)


def test_regions_are_named_in_the_order_of_the_counts():
    regions = BorderRegions(["7/8", 0, 1 / 3, "1/3"], bands=(8, 32), tile=16)
    assert [str(region) for region in regions.regions] == (
        ["0", "1/3", "7/8"] + ["0-7", "8-31", ">= 32"] * 2
    )
    assert [region.kind for region in regions.regions[3::3]] == ["border_distance", "seam_distance"]


@pytest.mark.parametrize(("tile", "bands"), [(None, ()), (16, ()), (None, (8,)), (16, (8,))])
def test_every_region_has_its_members(tile, bands):
    regions = BorderRegions([0, "1/2"], bands=bands, tile=tile)
    count = 2 + (len(bands) and (2 if tile is None else 4))
    assert len(regions.regions) == len(regions.map((40, 50)).members) == count


def test_maps_of_the_last_two_sizes_are_kept():
    modes = [BorderRegions(bands=(2,), tile=8, overlap=overlap) for overlap in (0, "1/3")]
    for kinds in (modes, [ShiftRegions((8, 8), 1)]):
        cases = [(regions, size) for size in ((20, 30), (30, 20)) for regions in kinds]
        first, second = ([regions.map(size) for regions, size in cases] for _ in range(2))
        assert all(a is b for a, b in zip(first, second, strict=True))
        for size in ((40, 50), (50, 40)):
            for regions in kinds:
                regions.map(size)
        third = [regions.map(size) for regions, size in cases]
        assert not any(a is b for a, b in zip(first, third, strict=True))


def test_sides_of_tiles_and_overlaps_may_be_lists_as_in_configs():
    lists, tuples = (
        BorderRegions(["1/2"], "side", "tile", kind([4]), kind((32, 40)), kind((16, 32)))
        for kind in (list, tuple)
    )
    for ours, theirs in zip(lists.map((90, 120)), tuples.map((90, 120)), strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"leave_outs": [1]}, r"leave-out must lie in \[0, 1\), got 1"),
        ({"leave_outs": ["half"]}, "leave-out must be a decimal or a fraction"),
        ({"proportion": "volume"}, "proportion must be 'side' or 'area', got 'volume'"),
        ({"region": "crop"}, "region must be 'image' or 'tile', got 'crop'"),
        ({"region": "tile"}, "region='tile' needs the size of the tiles"),
        ({"tile": 0}, "tile must be a positive number of pixels, got 0"),
        ({"tile": 8, "overlap": 8}, r"overlap of 8 pixels must be smaller than the tile \(8\)"),
        ({"bands": (8, 8)}, "bands must be ascending"),
        ({"bands": (0, 8)}, "bands must be ascending"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        BorderRegions(**options)
