"""Tools refuse a figure that they could not write before they compute what is in it."""

import runpy
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
ACTIVATIONS = ["config.py", "net.pth", "--image", "a.png"]


@pytest.mark.parametrize(
    ("tool", "arguments", "option"),
    [
        ("border_eval", ["config.py", "net.pth"], "--plot"),
        ("class_frequency", ["config.py"], "--plot"),
        ("cross_test", ["config.py", "net.pth"], "--plot"),
        ("padding_report", ["config.py"], "--plot"),
        ("visualize_activations", ACTIVATIONS, "--out"),
        ("visualize_activations", [*ACTIVATIONS, "--out", "b.png"], "--profiles"),
    ],
)
def test_suffixes_of_figures(
    tool: str, arguments: list[str], option: str, capsys: pytest.CaptureFixture
) -> None:
    parse_args = runpy.run_path(str(TOOLS / f"{tool}.py"))["parse_args"]
    for figure in ("figure", "figure.doc"):
        with pytest.raises(SystemExit):
            parse_args([*arguments, option, figure])
        message = f"argument {option}: {figure}: the suffix must be one of ."
        assert message in capsys.readouterr().err
    args = parse_args([*arguments, option, "figure.PNG"])
    assert getattr(args, option[2:]) == Path("figure.PNG")
