"""Arguments of command lines."""

from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable

import pytest

from pconv_seg.arguments import TileAction, image_size, positive, seed, whole_number


def test_a_tile_has_one_side_or_height_and_width(capsys: pytest.CaptureFixture) -> None:
    parser = ArgumentParser()
    parser.add_argument("--tile", action=TileAction, type=int, nargs="+")
    assert parser.parse_args(["--tile", "8"]).tile == 8
    assert parser.parse_args(["--tile", "8", "16"]).tile == (8, 16)
    with pytest.raises(SystemExit):
        parser.parse_args(["--tile", "8", "8", "8"])
    assert "argument --tile: one side, or height and width" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (whole_number, "0", 0),
        (positive, "1", 1),
        (seed, "0", 0),
        (seed, "4294967295", 2**32 - 1),
        (image_size, "1x2", (1, 2)),
        (lambda text: image_size(text, least=32), "32x33", (32, 33)),
    ],
)
def test_the_bounds_of_numbers_belong_to_them(kind: Callable, text: str, value: object) -> None:
    assert kind(text) == value


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (whole_number, "-1", "'-1' is not a whole number of at least 0"),
        (positive, "0", "'0' is not a whole number of at least 1"),
        (seed, "4294967296", "'4294967296' is not a whole number from 0 to 4294967295"),
        (image_size, "0x1", "'0x1' is not HEIGHTxWIDTH in pixels, at least 1x1"),
        (lambda text: image_size(text, least=32), "32x31", "'32x31' .*, at least 32x32"),
    ],
)
def test_numbers_beyond_their_bounds_are_refused(kind: Callable, text: str, message: str) -> None:
    with pytest.raises(ArgumentTypeError, match=f"^{message}"):
        kind(text)
