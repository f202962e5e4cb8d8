import json
import runpy
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from PIL import Image
from torch import nn

from pconv_seg.evaluation.shift import shift_checkpoints
from pconv_seg.geometry import ShiftedGrids

TOOL = "cross_test"
PADDINGS = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "partial": None}


@MODELS.register_module(force=True)
class Blur(nn.Module):
    """Means of 3x3 pixels, and an offset that makes class 0 win where zeros darken the border."""

    def __init__(self, type_="Conv2d"):
        super().__init__()
        self.conv = MODELS.get(type_)(3, 3, 3, padding=1, groups=3)
        nn.init.constant_(self.conv.weight, 1 / 9)
        self.conv.bias.data = torch.tensor([60.0, 0.0, 0.0])

    def forward(self, x):
        return [self.conv(x)]


def classes(image, padding):
    """What the network says, from numpy's padding; partial padding from a mean of what is there."""
    mode = PADDINGS[padding]
    fill = {"constant_values": np.nan} if mode is None else {}
    padded = np.pad(image.astype(float), ((1, 1), (1, 1), (0, 0)), mode or "constant", **fill)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (0, 1))
    return (np.nanmean(windows, (-1, -2)) + np.array([60, 0, 0])).argmax(-1)


def expected_miou(folder, padding):
    """mIoU in percent."""
    areas = np.zeros((2, 3))
    for i in range(3):
        image = np.array(Image.open(folder / f"images/{i}.png"))[..., ::-1]
        label = np.array(Image.open(folder / f"labels/{i}.png"))
        prediction = np.where(label == 255, 255, classes(image, padding))
        for c in range(3):
            areas[0, c] += ((label == c) & (prediction == c)).sum()
            areas[1, c] += ((label == c) | (prediction == c)).sum()
    return 100 * (areas[0] / areas[1]).mean()


@pytest.fixture
def trained(make_config, make_checkpoint, tmp_path):
    """A config, and a checkpoint each of a network with zero and with partial padding."""
    config = make_config()
    checkpoints = [
        make_checkpoint(config, tmp_path / f"{name}.pth", type="Blur", type_=name)
        for name in ("Conv2d", "PConv")
    ]
    config.dump(tmp_path / "config.py")
    return [str(tmp_path / "config.py"), *checkpoints]


def test_matrix_of_trained_and_tested_padding(main, trained, tmp_path, capsys):
    out, plot = tmp_path / "cross.json", tmp_path / "cross.png"
    main([*trained, "--paddings", *PADDINGS, "--out", str(out), "--plot", str(plot)])
    (matrix,) = json.loads(out.read_text())["matrices"]
    assert matrix["columns"] == list(PADDINGS)
    assert [row.rpartition("trained: ")[2] for row in matrix["rows"]] == ["zeros)", "partial)"]
    expected = [expected_miou(tmp_path / "data", padding) for padding in PADDINGS]
    assert len(set(expected)) == len(expected)
    # The weights are the same, so only the padding in the test counts.
    np.testing.assert_allclose(matrix["mIoU"], [expected, expected], rtol=1e-12)
    assert f"{expected[0]:.3f}" in capsys.readouterr().out
    assert Image.open(plot).size[0] > 300


def test_a_padding_that_is_given_twice_is_tested_once(main, trained):
    results = main([*trained, "--paddings", "zeros", "partial", "zeros"])["results"]
    assert [row["padding"] for row in results] == ["zeros", "partial"] * 2


def test_leave_outs_that_nearly_agree_have_matrices_of_their_own(main, trained):
    arguments = ["--paddings", "zeros", "--leave-out", "2/3", "0.667", "0.9999"]
    titles = [matrix["title"] for matrix in main([*trained, *arguments])["matrices"]]
    leave_outs = ["0", "2/3", "667/1000", "9999/10000"]
    assert titles == [f"mIoU (%), leave-out {p}, regular" for p in leave_outs]


def test_checkpoints_of_one_name_have_rows_of_their_own(main, trained, tmp_path):
    checkpoints = [tmp_path / f"{name}/seed0/iter_1.pth" for name in "ab"]
    for path in checkpoints:
        path.parent.mkdir(parents=True)
        path.write_bytes(Path(trained[1]).read_bytes())
    (matrix,) = main([trained[0], *map(str, checkpoints), "--paddings", "zeros"])["matrices"]
    assert matrix["rows"] == [f"{name}/seed0/iter_1.pth (trained: zeros)" for name in "ab"]
    assert matrix["mIoU"][0] == matrix["mIoU"][1]


def test_all_modes_and_leave_outs(main, trained):
    options = ["--paddings", "zeros", "partial", "--modes", "regular", "tile", "--tile", "16"]
    result = main([*trained, *options, "--leave-out", "0", "1/2"])
    cells = product((("regular", "regular"), ("tile", "tile 16")), ((0, "0"), (0.5, "1/2")))
    for matrix, ((mode, name), (leave_out, share)) in zip(result["matrices"], cells, strict=True):
        assert matrix["title"] == f"mIoU (%), leave-out {share}, {name}"
        found = [r for r in result["results"] if (r["mode"], r["leave_out"]) == (mode, leave_out)]
        assert [(r["checkpoint"], r["padding"]) for r in found] == list(
            product(trained[1:], ("zeros", "partial"))
        )
        assert np.ravel(matrix["mIoU"]).tolist() == [r["mIoU"] for r in found]


@pytest.mark.parametrize("padding", ["reflect", "partial"])
def test_border_eval_under_another_padding_and_with_options_of_the_config(
    trained, tmp_path, padding
):
    moved = (tmp_path / "data").rename(tmp_path / "moved")
    tool = Path(__file__).parents[2] / "tools/border_eval.py"
    border_eval = runpy.run_path(str(tool))["main"]
    options = ["--padding", padding, "--modes", "regular", "--leave-out", "0"]
    options += ["--cfg-options", f"test_dataloader.dataset.data_root={moved}"]
    for result in border_eval([*trained, *options])["results"]:
        assert result["padding"] == padding
        assert result["mIoU"] == pytest.approx(expected_miou(moved, padding), rel=1e-12)


def test_shift_test_under_other_paddings(trained, tmp_path):
    paddings, config = ["zeros", "reflect"], Config.fromfile(trained[0])
    records = shift_checkpoints(
        config, trained[1:2], 16, bin_width=4, paddings=paddings, progress=False
    )
    grids = ShiftedGrids((24, 40), (16, 16))
    for record, padding in zip(records, paddings, strict=True):
        agreeing = 0
        for path in (tmp_path / "data/images").iterdir():
            image = np.array(Image.open(path))[..., ::-1]
            maps = np.empty((2, 24, 40), int)
            for number, axes in enumerate(grids.cells):
                for (y0, y1, top, bottom), (x0, x1, left, right) in product(*axes):
                    tile = classes(image[top:bottom, left:right], padding)
                    maps[number, y0:y1, x0:x1] = tile[y0 - top : y1 - top, x0 - left : x1 - left]
            agreeing += ((maps[0] == maps[1]) & (grids.compared()[0] >= 0)).sum()
        assert record.tested == (trained[1], padding, "zeros")
        assert record.agreeing.sum() == agreeing
    assert records[0].agreeing.sum() != records[1].agreeing.sum()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tile", "8"], "nothing is cut into tiles; add --modes"),
        (["--overlap", "1/3"], "nothing is cut into tiles; add --modes"),
        (["--bands", "4"], "--bands: mIoU by band is in no table; add --out FILE.json"),
        (["--out", "result.csv"], "--out result.csv: the suffix must be .json"),
    ],
)
def test_options_that_would_do_nothing_are_refused(main, trained, arguments, message, capsys):
    with pytest.raises(SystemExit):
        main([*trained, *arguments])
    assert message in capsys.readouterr().err


def test_a_padding_that_maps_are_too_small_for_can_be_left_out(main, trained):
    arguments = [*trained, "--modes", "tile", "--tile", "1", "20"]
    message = r"images/0\.png: .* of 1x20 is too small for reflect .*, or leave it out of --pad"
    with pytest.raises(SystemExit, match=message):
        main(arguments)
    main([*arguments, "--paddings", "zeros", "replicate"])


def test_missing_checkpoint_is_one_message(main, trained):
    with pytest.raises(SystemExit, match=r"nowhere\.pth"):
        main([trained[0], "nowhere.pth"])
