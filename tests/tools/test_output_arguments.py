"""Tools refuse an output that they could not write before they compute what is in it."""

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
    for figure in ("figure", "figure.doc", "figure.pgf"):
        with pytest.raises(SystemExit):
            parse_args([*arguments, option, figure])
        message = f"argument {option}: {figure}: the suffix must be one of ."
        assert message in capsys.readouterr().err
    args = parse_args([*arguments, option, "figure.PNG"])
    assert getattr(args, option[2:]) == Path("figure.PNG")


@pytest.mark.parametrize(
    ("tool", "arguments", "option", "is_folder"),
    [
        ("border_eval", ["config.py", "net.pth"], "--out", False),
        ("border_eval", ["config.py", "net.pth"], "--plot", False),
        ("border_eval", ["config.py", "net.pth"], "--show-dir", True),
        ("border_eval", ["config.py", "net.pth"], "--save-confusion", False),
        ("class_frequency", ["config.py"], "--plot", False),
        ("cross_test", ["config.py", "net.pth"], "--out", False),
        ("import_checkpoint", ["net.pth"], "DST", False),
        ("padding_report", ["config.py"], "--json", False),
        ("predict", ["a.png", "--config", "config.py", "--checkpoint", "net.pth"], "--out", True),
        ("test", ["config.py", "net.pth"], "--out", True),
        ("test", ["config.py", "net.pth"], "--show-dir", True),
        ("visualize_activations", ACTIVATIONS, "--out", False),
        ("visualize_activations", [*ACTIVATIONS, "--out", "b.png"], "--json", False),
    ],
)
def test_places_where_nothing_can_be_written(
    tool: str,
    arguments: list[str],
    option: str,
    is_folder: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    parse_args = runpy.run_path(str(TOOLS / f"{tool}.py"))["parse_args"]
    suffix = {"--out": ".json", "--save-confusion": ".npz", "DST": ".pth"}.get(option, ".png")
    name = "out" if is_folder else f"out{'.png' if '--image' in arguments else suffix}"
    flag = [option] if option.startswith("--") else []
    Path("file").touch()
    Path("folder", name).mkdir(parents=True)
    Path("link").symlink_to("gone")
    refused = {}
    for folder in ("file/new", "link"):
        path = folder if is_folder else f"{folder}/{name}"
        refused[path] = f"nothing can be written in the folder {folder}"
    if not is_folder:
        refused[f"folder/{name}"] = f"folder/{name} is a folder; name a file"
    for path, message in refused.items():
        with pytest.raises(SystemExit):
            parse_args([*arguments, *flag, path])
        assert f"argument {option}: {message}" in capsys.readouterr().err
    parse_args([*arguments, *flag, f"new/{name}"])
    assert {path.name for path in Path().iterdir()} == {"file", "folder", "link"}  # only tried
