from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from pconv_seg.geometry import (
    TileGrid,
    blend_weights,
    edge_distance,
    parse_fraction,
    tile_seams,
    tile_starts,
    tile_stride,
)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1/3", Fraction(1, 3)),
        ("0.25", Fraction(1, 4)),
        (1e-6, Fraction(1, 10**6)),
        (1 / 3, Fraction(1, 3)),
        (np.float32(0.1), Fraction(1, 10)),
        (Fraction(7, 8), Fraction(7, 8)),
        (0, Fraction(0)),
    ],
)
def test_fractions_are_exact(value, expected):
    assert parse_fraction(value) == expected


@pytest.mark.parametrize("value", ["third", "1/0", "", "nan", float("inf"), None, [0.5]])
def test_what_is_no_number_is_named(value):
    with pytest.raises(ValueError, match="overlap must be a decimal or a fraction such as 1/3"):
        parse_fraction(value, "overlap")


@pytest.mark.parametrize("value", [1, 1.0, "3/2", -0.1, "-1/3"])
def test_proportions_outside_the_unit_interval_are_refused(value):
    with pytest.raises(ValueError, match=r"leave-out must lie in \[0, 1\), got"):
        parse_fraction(value, "leave-out")


@pytest.mark.parametrize("third", [1 / 3, "1/3", Fraction(1, 3)])
def test_grid_of_the_paper(third):
    assert tile_starts(2048, 1024, third) == [0, 683, 1024]
    assert tile_starts(1024, 1024, third) == [0]
    assert tile_starts(2048, 1024) == [0, 1024]


@pytest.mark.parametrize(
    ("tile", "overlap", "stride"),
    [
        (768, 1 / 3, 512),  # in floating point ceil(768 * (1 - 1 / 3)) is 513
        (512, "1/3", 342),
        (10, 0.1, 9),
        (10, 0.9, 1),
        (10, 0.99, 1),
        (10, 3, 7),
        (10, 1, 9),
        (7, 0, 7),
    ],
)
def test_stride(tile, overlap, stride):
    assert tile_stride(tile, overlap) == stride


def test_grids_by_brute_force():
    for size, tile, overlap in product(range(1, 24), range(1, 12), (0, "1/3", 0.5, 0.9)):
        grid = TileGrid((size, 5), (tile, 9), overlap)
        stride = tile_stride(tile, overlap)
        starts = [start for start, _ in grid.rows]
        covered = set()
        for start, stop in grid.rows:
            assert start >= 0
            assert stop <= size
            assert stop - start == min(tile, size)
            covered.update(range(start, stop))
        assert covered == set(range(size))
        gaps = np.diff(starts)
        assert all(gaps[:-1] == stride)
        assert all((gaps > 0) & (gaps <= stride))
        assert grid.cols == [(0, 5)]


def test_windows_run_row_by_row():
    grid = TileGrid((4, 6), (4, 3), (0, 1))
    assert list(grid) == [(0, 4, 0, 3), (0, 4, 2, 5), (0, 4, 3, 6)]
    assert len(grid) == 3
    assert list(TileGrid((5, 3), 3)) == [(0, 3, 0, 3), (2, 5, 0, 3)]


@pytest.mark.parametrize(
    ("tile", "overlap", "message"),
    [
        (0, 0, "tile must be a positive number of pixels, got 0"),
        (-4, 0, "tile must be a positive"),
        (2.5, 0, "tile must be a positive number of pixels, got 2.5"),
        ((4, 4, 4), 0, r"tile must be one value or \(height, width\)"),
        (4, 1, r"^overlap must lie in \[0, 1\) or be 2 pixels or more: 1 reads as"),
        (4, 1.0, r"overlap must lie in \[0, 1\)"),
        (4, 4, "overlap of 4 pixels must be smaller than the tile"),
        (4, (0.5, -1), r"overlap must lie in \[0, 1\)"),
        (4, "half", "overlap must be a decimal"),
    ],
)
def test_bad_grids_are_refused(tile, overlap, message):
    with pytest.raises(ValueError, match=message):
        TileGrid((8, 8), tile, overlap)


def test_images_without_pixels_are_refused():
    with pytest.raises(ValueError, match="an image axis needs at least one pixel, got size 0"):
        TileGrid((8, 0), 4)


def test_windows_share_each_pixel():
    for size, tile, overlap in product((1, 5, 23, 64), (1, 4, 9), (0, 0.3, 0.9)):
        intervals = TileGrid((size, 1), tile, overlap).rows
        for window in ("constant", "gaussian", "hann"):
            total = np.zeros(size)
            for (start, stop), share in zip(
                intervals, blend_weights(intervals, window), strict=True
            ):
                assert (share > 0).all()
                total[start:stop] += share
            np.testing.assert_allclose(total, 1, rtol=1e-12)


def test_shares_in_closed_form():
    # Three tiles of 2 on 4 pixels, the last one shifted: each inner pixel is seen twice.
    assert np.concatenate(blend_weights([(0, 2), (1, 3), (2, 4)], "constant")).tolist() == [
        *(1, 0.5),
        *(0.5, 0.5),
        *(0.5, 1),
    ]
    # Hann at the pixel centres of a tile of 3 is 1/4, 1, 1/4.
    left, right = blend_weights([(0, 3), (1, 4)], "hann")
    np.testing.assert_allclose(left, [1, 0.8, 0.2])
    np.testing.assert_allclose(right, [0.2, 0.8, 1])
    # The standard deviation is one pixel of a tile of 8: weights exp(-x^2 / 2) around the centre.
    left, _ = blend_weights([(0, 8), (1, 9)], "gaussian")
    assert left[4] == pytest.approx(0.5)
    assert left[5] == pytest.approx(1 / (1 + np.exp((1.5**2 - 0.5**2) / 2)))


def test_seams_are_tile_edges_inside_the_image():
    grid = TileGrid((1024, 2048), 1024, "1/3")
    assert tile_seams(grid.rows) == []
    assert tile_seams(grid.cols) == [683, 1024, 1707]


def test_edge_distance():
    assert edge_distance(6, (0, 6)).tolist() == [0, 1, 2, 2, 1, 0]
    assert edge_distance(6, [2]).tolist() == [1, 0, 0, 1, 2, 3]
    assert edge_distance(2, []).tolist() == [2**63 - 1] * 2
