import numpy as np
import pytest
from PIL import Image

from pconv_seg.geometry import TileGrid
from pconv_seg.visualization import draw_comparison, plot_leave_out, save_figure
from pconv_seg.visualization.regions import draw_regions

PALETTE = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)
LABEL = np.array([[0, 1, 1, 255], [2, 2, 1, 0]])
FIRST = np.array([[0, 1, 2, 0], [2, 0, 0, 1]])
SECOND = np.array([[0, 2, 1, 1], [2, 0, 2, 1]])


def comparison(predictions, grid=None):
    image = np.zeros((2, 4, 3), np.uint8)
    return draw_comparison(image, LABEL, predictions, PALETTE, grid=grid).axes


def test_two_predictions_and_where_they_differ():
    panels = comparison({"zeros": FIRST, "partial": SECOND})
    assert [panel.get_title() for panel in panels] == [
        *["input", "ground truth", "zeros", "partial", "differences"]
    ]
    assert np.array_equal(panels[1].images[0].get_array(), PALETTE[np.where(LABEL > 2, 0, LABEL)])
    assert np.array_equal(panels[3].images[0].get_array(), PALETTE[SECOND])
    # 0 where they agree or there is no label, 1 both wrong, 2 only zeros, 3 only partial right
    differences = panels[4].images[0].get_array()
    assert differences.tolist() == [[0, 2, 3, 0], [0, 0, 1, 0]]
    names = [text.get_text() for text in panels[4].get_legend().get_texts()]
    assert names == ["agree", "both wrong", "only zeros right", "only partial right"]


def test_one_prediction_and_where_it_is_wrong():
    panels = comparison({"partial": SECOND})
    assert panels[-1].images[0].get_array().tolist() == [[0, 1, 0, 0], [0, 1, 1, 1]]


def test_seams_are_drawn_on_predictions():
    panels = comparison({"zeros": FIRST, "partial": SECOND}, TileGrid((2, 4), 2))
    for panel in panels[:2]:
        assert not panel.lines
    for panel in panels[2:]:
        edges = {x for line in panel.lines for x in line.get_xdata()}
        assert edges == {-0.5, 1.5, 3.5}


def test_one_curve_per_checkpoint_and_mode():
    results = [
        {
            "checkpoint": f"runs/{name}/iter.pth",
            "padding": name,
            "mode": mode,
            "leave_out": leave_out,
            "mIoU": None if leave_out == 0.75 and mode == "tile" else 70 + leave_out,
            "region": "image",
            "proportion": "side",
        }
        for name in ("zeros", "partial")
        for mode in ("regular", "tile")
        for leave_out in (0, 0.5, 0.75)
    ]
    [axes] = plot_leave_out(results).axes
    lines = axes.get_lines()
    assert [line.get_label() for line in lines] == [
        f"{name}/iter.pth ({name}), {mode}"
        for name in ("zeros", "partial")
        for mode in ("regular", "tile")
    ]
    assert lines[0].get_ydata() == pytest.approx([70, 70.5, 70.75])
    assert lines[1].get_ydata() == pytest.approx([70, 70.5, np.nan], nan_ok=True)
    # Told apart without colour.
    assert len({(line.get_linestyle(), line.get_marker()) for line in lines}) == 4


def test_drawing_of_the_regions_names_them_all():
    panels = draw_regions().axes
    texts = [[text.get_text() for text in panel.texts] for panel in panels]
    assert texts[:4] == [["0", "0, 1/2", "0, 1/2, 3/4"]] * 4
    assert texts[4:] == [["0-15", "16-47", ">= 48"]] * 2


def test_figures_are_written_whole_or_not_at_all(tmp_path):
    figure = draw_regions()
    path = tmp_path / "new/regions.png"
    save_figure(figure, path)
    before = path.read_bytes()
    Image.open(path).verify()
    with pytest.raises(ValueError, match="nonsense"):
        save_figure(figure, tmp_path / "new/regions.nonsense")
    assert [file.name for file in path.parent.iterdir()] == ["regions.png"]
    assert path.read_bytes() == before
