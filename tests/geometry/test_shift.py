from itertools import product

import numpy as np
import pytest

from pconv_seg.geometry import ShiftedGrids, ShiftRegions, TileGrid, cell_seam_distance, tile_cells

GRIDS = [
    ((24, 40), (8, 8)),
    ((21, 50), (9, 12)),
    ((7, 30), (8, 8)),
    ((16, 16), (16, 16)),
    ((5, 9), (4, 4)),
]


def test_the_second_grid_lies_half_a_tile_further_on_either_axis():
    cells = ShiftedGrids((24, 40), (8, 12)).cells
    starts = [[[cell.start for cell in axis] for axis in grid] for grid in cells]
    assert starts == [[[0, 8, 16], [0, 12, 24, 36]], [[0, 4, 12, 20], [0, 6, 18, 30]]]


def test_cells_of_an_axis():
    assert tile_cells(10, 4) == [(0, 4, 0, 4), (4, 8, 4, 8), (8, 10, 6, 10)]
    assert tile_cells(10, 4, 2) == [(0, 2, 0, 4), (2, 6, 2, 6), (6, 10, 6, 10)]
    assert tile_cells(4, 6) == [(0, 4, 0, 4)]
    assert tile_cells(4, 6, 3) == [(0, 3, 0, 4), (3, 4, 0, 4)]
    # Cityscapes in the paper's tiles: the shifted grid has one tile more, and no other size.
    assert tile_cells(2048, 1024) == [(0, 1024, 0, 1024), (1024, 2048, 1024, 2048)]
    assert tile_cells(2048, 1024, 512) == [
        (0, 512, 0, 1024),
        (512, 1536, 512, 1536),
        (1536, 2048, 1024, 2048),
    ]


@pytest.mark.parametrize(("size", "tile"), GRIDS)
def test_every_pixel_lies_in_one_cell_whose_tile_is_one_of_the_image(size, tile):
    for axes in ShiftedGrids(size, tile).cells:
        for side, length, cells in zip(size, tile, axes, strict=True):
            pixels = [p for start, stop, *_ in cells for p in range(start, stop)]
            assert pixels == list(range(side))
            for start, stop, tile_start, tile_stop in cells:
                assert 0 <= tile_start <= start < stop <= tile_stop <= side
                assert tile_stop - tile_start == min(length, side)


def test_first_grid_is_the_one_of_tiles_side_by_side():
    size, tile = (21, 50), (9, 12)
    rows, cols = ShiftedGrids(size, tile).cells[0]
    windows = [(*row[2:], *col[2:]) for row, col in product(rows, cols)]
    assert windows == list(TileGrid(size, tile))


def test_distance_to_the_seams_of_the_own_tile():
    cells = tile_cells(10, 4)
    # The last tile begins at 6, so pixel 8 is the third of it: no seam of its own is near.
    assert cell_seam_distance(10, cells).tolist() == [3, 2, 1, 0, 0, 1, 1, 0, 2, 3]
    assert cell_seam_distance(4, tile_cells(4, 6)).tolist() == [np.iinfo(np.int64).max] * 4


def slow_distance(grids, number, y, x):
    """Steps from a pixel to the nearest pixel on the other side of a seam of its tile, minus 1."""
    nearest = np.iinfo(np.int64).max
    for axis, position in enumerate((y, x)):
        [cell] = [c for c in grids.cells[number][axis] if c.start <= position < c.stop]
        for outside in (cell.tile_start - 1, cell.tile_stop):
            if 0 <= outside < grids.size[axis]:
                nearest = min(nearest, abs(outside - position) - 1)
    return nearest


@pytest.mark.parametrize(("size", "tile"), GRIDS)
def test_compared_pixels_one_by_one(size, tile):
    grids = ShiftedGrids(size, tile)
    interior = min(tile) // 4
    distance, in_second = grids.compared()
    for y, x in product(*map(range, size)):
        first, second = (slow_distance(grids, number, y, x) for number in (0, 1))
        assert grids.seam_distances()[:, y, x].tolist() == [first, second]
        if (first < interior) == (second < interior):
            assert distance[y, x] == -1
        else:
            assert distance[y, x] == min(first, second)
            assert in_second[y, x] == (second < first)


def test_half_of_the_pixels_between_whole_tiles_are_compared():
    # Off the image's border, an axis is near a seam of exactly one grid; the two axes must agree.
    distance, in_second = ShiftedGrids((64, 64), (16, 16)).compared()
    inside = np.s_[8:-8, 8:-8]
    assert np.mean(distance[inside] >= 0) == 0.5
    assert np.mean(in_second[inside]) == 0.25
    assert sorted(set(distance.ravel())) == [-1, 0, 1, 2, 3]


def test_bins_of_distance():
    regions = ShiftRegions((20, 24), 2)
    assert regions.edges == (0, 2, 4, 5)
    size = (40, 70)
    distance, in_second = ShiftedGrids(size, (20, 24)).compared()
    cells, members = regions.map(size)
    for number, (start, stop) in enumerate([(0, 2), (2, 4), (4, 5)]):
        expected = (distance >= start) & (distance < stop)
        assert expected.any()
        assert np.array_equal(members[number, cells], expected)
    assert np.array_equal(regions.border_in_second(size), in_second)


@pytest.mark.parametrize(("tile", "distance"), [(16, 3), (17, 5), (30, 7)])
def test_an_overlap_of_2_d_keeps_every_pixel_d_from_the_seams_of_its_deepest_tile(tile, distance):
    size = 4 * tile + 3
    rows = TileGrid((size, size), tile, 2 * distance).rows
    deepest = []
    for pixel in range(size):
        depths = []
        for start, stop in rows:
            if start <= pixel < stop:
                before = pixel - start if start > 0 else size
                after = stop - 1 - pixel if stop < size else size
                depths.append(min(before, after))
        deepest.append(max(depths))
    assert min(deepest) == distance


@pytest.mark.parametrize(
    ("tile", "width", "message"),
    [
        ((3, 8), 1, r"at least 4 x 4 pixels needed, got \(3, 8\)"),
        ((0, 8), 1, "tile must be a positive number of pixels"),
        ((8, 8), 0, "at least 1 pixel wide, got 0"),
    ],
)
def test_bad_sizes_are_refused(tile, width, message):
    with pytest.raises(ValueError, match=message):
        ShiftRegions(tile, width)
