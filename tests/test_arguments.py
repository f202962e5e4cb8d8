"""Arguments of command lines."""

from argparse import ArgumentParser

import pytest

from pconv_seg.arguments import TileAction


def test_a_tile_has_one_side_or_height_and_width(capsys: pytest.CaptureFixture) -> None:
    parser = ArgumentParser()
    parser.add_argument("--tile", action=TileAction, type=int, nargs="+")
    assert parser.parse_args(["--tile", "8"]).tile == 8
    assert parser.parse_args(["--tile", "8", "16"]).tile == (8, 16)
    with pytest.raises(SystemExit):
        parser.parse_args(["--tile", "8", "8", "8"])
    assert "argument --tile: one side, or height and width" in capsys.readouterr().err
