import runpy
from pathlib import Path

import pytest
from PIL import Image

TOOL = Path(__file__).parents[2] / "tools" / "make_demo_data.py"


@pytest.fixture
def make_demo_data(monkeypatch):
    def call(*arguments):
        monkeypatch.setattr("sys.argv", [TOOL.name, *map(str, arguments)])
        runpy.run_path(str(TOOL), run_name="__main__")

    return call


def test_size_is_height_by_width(make_demo_data, tmp_path):
    make_demo_data("--out", tmp_path, "--size", "32x64", "--train", 1, "--val", 1)
    images = list(tmp_path.rglob("*_leftImg8bit.png"))
    assert [Image.open(path).size for path in images] == [(64, 32)] * 2


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--size", "256", "'256' is not HEIGHTxWIDTH in pixels"),
        ("--size", "8x512", "at least 16x16"),
        ("--train", "0", "'0' is not a whole number of at least 1"),
        ("--val", "-3", "'-3' is not a whole number of at least 1"),
        ("--seed", "x", "'x' is not a whole number from 0 to 4294967295"),
        ("--seed", "4294967296", "'4294967296' is not a whole number from 0 to 4294967295"),
        ("--num-workers", "0", "'0' is not a whole number of at least 1"),
    ],
)
def test_bad_values_give_one_line(make_demo_data, tmp_path, capsys, option, value, message):
    with pytest.raises(SystemExit, match="2"):
        make_demo_data("--out", tmp_path, f"{option}={value}")
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"error: argument {option}: " in last
    assert message in last


def test_other_settings_give_one_line(make_demo_data, tmp_path, capsys):
    arguments = ("--out", tmp_path, "--size", "32x64", "--train", 1, "--val", 1)
    make_demo_data(*arguments)
    with pytest.raises(SystemExit, match="2"):
        make_demo_data(*arguments, "--seed", 1)
    assert "choose another --out or delete that folder" in capsys.readouterr().err.splitlines()[-1]
