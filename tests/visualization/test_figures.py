import gzip
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from pconv_seg.datasets.sampling import ClassFrequency
from pconv_seg.geometry import TileGrid
from pconv_seg.visualization import (
    draw_comparison,
    plot_class_frequency,
    plot_leave_out,
    plot_shift,
    save_figure,
)
from pconv_seg.visualization.activations import draw_responses, plot_profiles
from pconv_seg.visualization.heat_map import plot_matrices
from pconv_seg.visualization.regions import draw_regions

PALETTE = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)
LABEL = np.array([[0, 1, 1, 255], [2, 2, 1, 0]])
FIRST = np.array([[0, 1, 2, 0], [2, 0, 0, 1]])
SECOND = np.array([[0, 2, 1, 1], [2, 0, 2, 1]])


def comparison(predictions, grid=None):
    image = np.zeros((2, 4, 3), np.uint8)
    return draw_comparison(image, LABEL, predictions, PALETTE, grid=grid).axes


def legend_texts(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


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
    assert names == [
        *["agree, or no label", "differ, both wrong", "only zeros right", "only partial right"]
    ]


def test_one_prediction_and_where_it_is_wrong():
    panels = comparison({"partial": SECOND})
    assert panels[-1].images[0].get_array().tolist() == [[0, 1, 0, 0], [0, 1, 1, 1]]
    names = [text.get_text() for text in panels[-1].get_legend().get_texts()]
    assert names == ["partial right, or no label", "wrong"]


def test_float_images_and_palettes_as_lists():
    image = np.linspace(0, 1, 24).reshape(2, 4, 3)
    panels = draw_comparison(image, LABEL, {"partial": SECOND}, PALETTE.tolist()).axes
    assert np.array_equal(panels[0].images[0].get_array(), image)
    assert np.array_equal(panels[2].images[0].get_array(), PALETTE[SECOND])


def outlines(axes):
    """(left, top, right, bottom) of what is outlined."""
    return [tuple(patch.get_bbox().extents) for patch in axes.patches]


def test_seams_are_drawn_on_predictions():
    panels = comparison({"zeros": FIRST, "partial": SECOND}, TileGrid((2, 4), (1, 2)))
    for panel in panels[:2]:
        assert not outlines(panel)
    for panel in panels[2:]:
        assert outlines(panel)[::2] == outlines(panel)[1::2]  # dashed red on white
        assert outlines(panel)[::2] == [
            (left, top, left + 2, top + 1) for top in (-0.5, 0.5) for left in (-0.5, 1.5)
        ]


def test_seams_beyond_the_image_are_not_drawn():
    panel = comparison({"zeros": FIRST}, TileGrid((4, 6), 3))[2]
    assert outlines(panel)[::2] == [
        (left, top, left + 3, top + 3) for top in (-0.5, 0.5) for left in (-0.5, 2.5)
    ]
    assert (panel.get_xlim(), panel.get_ylim()) == ((-0.5, 3.5), (1.5, -0.5))
    assert all(patch.get_clip_on() for patch in panel.patches)


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
    figure = plot_leave_out(results)
    [axes] = figure.axes
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
    figure.draw_without_rendering()
    assert figure.legends[0].get_window_extent().y1 < axes.get_tightbbox().y0  # hides nothing


def test_curves_of_the_shift_test():
    def network(name):
        cost = {"cost": 1.5, "interval": [1, 2]}
        nothing = {"cost": None, "interval": [None, None]}
        bins = [
            {"from_pixel": 0, "to_pixel": 4, "agreement": 90, "mIoU": cost},
            {"from_pixel": 4, "to_pixel": 5, "agreement": 80, "mIoU": {**cost, "interval": [0, 3]}},
            {"from_pixel": 5, "to_pixel": 8, "agreement": None, "mIoU": nothing},
        ]
        about = {"checkpoint": f"a/{name}.pth", "padding": name, "confidence": 0.95}
        return {**about, "total": bins[0], "bins": bins}

    figure = plot_shift([network("zeros"), network("partial")])
    agreement, cost = figure.axes
    assert [line.get_label() for line in agreement.lines] == [
        "a/zeros.pth (zeros)",
        "a/partial.pth (partial)",
    ]
    assert agreement.lines[0].get_xdata() == pytest.approx([1.5, 4, 6])
    assert agreement.lines[0].get_ydata() == pytest.approx([10, 20, np.nan], nan_ok=True)
    assert cost.lines[1].get_ydata() == pytest.approx([1.5, 1.5, np.nan], nan_ok=True)
    for band in cost.collections:
        [path] = band.get_paths()
        corners = {tuple(corner) for corner in path.vertices}
        assert corners == {(1.5, 1), (1.5, 2), (4, 0), (4, 3)}
    assert len(cost.collections) == 2
    assert cost.get_ylabel() == "mIoU as interior minus as border (points)"
    assert legend_texts(figure) == [
        *["a/zeros.pth (zeros)", "a/partial.pth (partial)", "95% interval over images"]
    ]


def test_curves_of_checkpoints_in_folders_of_one_name_are_told_apart():
    checkpoints = [f"work_dirs/{name}/seed0/iter_31000.pth" for name in ("r50", "wrn38")]
    names = ["r50/seed0/iter_31000.pth (zeros)", "wrn38/seed0/iter_31000.pth (zeros)"]
    point = {"padding": "zeros", "mode": "tile", "leave_out": 0, "mIoU": 70}
    point.update(region="image", proportion="side")
    figure = plot_leave_out([{**point, "checkpoint": checkpoint} for checkpoint in checkpoints])
    assert legend_texts(figure) == [f"{name}, tile" for name in names]
    row = {"from_pixel": 0, "to_pixel": 4, "agreement": 90}
    network = {"padding": "zeros", "total": row, "bins": [row]}
    figure = plot_shift([{**network, "checkpoint": checkpoint} for checkpoint in checkpoints])
    assert legend_texts(figure) == names


LONG = [f"deeplabv3plus_wrn38_{name}_cityscapes_split2/seed0/iter_31000.pth" for name in "ab"]


def drawn_comparison():
    image = np.zeros((2, 4, 3), np.uint8)
    return draw_comparison(image, LABEL, dict(zip(LONG, (FIRST, SECOND), strict=True)), PALETTE)


def drawn_responses():
    response = np.array([[1.0, 2, 3], [2, 2, 8]])
    titles = [f"{name} (zeros), untrained\n4% of the border marked" for name in LONG]
    networks = [(title, response, response > 5) for title in titles]
    return draw_responses(np.zeros((4, 9, 3), np.uint8), networks)


@pytest.mark.parametrize("draw", [drawn_comparison, drawn_responses])
def test_titles_of_long_names_do_not_meet(draw):
    figure = draw()
    figure.draw_without_rendering()
    titles = [axes.title for axes in figure.axes if axes.get_title()]
    assert LONG[0] in "".join(title.get_text().replace("\n", "") for title in titles)
    boxes = [title.get_window_extent() for title in titles]
    for left, right in pairwise(boxes):
        assert left.x1 < right.x0
    assert all(figure.bbox.containsx(box.x0) and figure.bbox.containsx(box.x1) for box in boxes)
    assert max(box.y1 for box in boxes) < figure.bbox.y1


def plotted_leave_outs():
    point = {"padding": "zeros", "mode": "tile", "leave_out": 0, "mIoU": 70}
    point.update(region="image", proportion="side")
    return plot_leave_out(
        [{**point, "checkpoint": f"{name}_{name}".replace("/", "_")} for name in LONG]
    )


def plotted_shift():
    row = {"from_pixel": 0, "to_pixel": 4, "agreement": 90}
    network = {"padding": "zeros", "total": row, "bins": [row]}
    return plot_shift([{**network, "checkpoint": name} for name in LONG])


def plotted_profile():
    return plot_profiles([(name, {"layer": np.array([0.5, 1])}) for name in LONG])


@pytest.mark.parametrize("plot", [plotted_leave_outs, plotted_shift, plotted_profile])
def test_legends_of_long_names_are_not_cut_and_hide_nothing(plot):
    figure = plot()
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
    assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
    axes = figure.axes[0].get_tightbbox()
    assert box.y1 < axes.y0 or axes.y1 < box.y0


def test_responses_and_what_is_marked_in_them():
    response = np.array([[1.0, 2, 3], [2, 2, 8]])
    marked = response > 5
    networks = [("zeros", response, marked), ("partial", 10 * response, ~marked & False)]
    panels = draw_responses(np.zeros((4, 9, 3), np.uint8), networks).axes[:3]
    assert [panel.get_title() for panel in panels] == ["input", "zeros", "partial"]
    for panel in panels[1:]:
        assert np.array_equal(panel.images[0].get_array(), response / 2)
    # The last place of the second row, in pixels of the image.
    assert outlines(panels[1]) == [(5.5, 1.5, 8.5, 3.5)]
    assert not outlines(panels[2])


def test_one_panel_of_profiles_per_layer():
    names = [f"layer{i}" for i in range(7)]
    zeros = {name: np.array([0.5, 1]) for name in names}
    partial = {name: np.array([1.5, 1]) for name in names[1:]}
    figure = plot_profiles([("zeros", zeros), ("partial", partial)])
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == names
    assert [line.get_label() for line in panels[1].lines[1:]] == ["zeros", "partial"]
    assert panels[1].lines[2].get_ydata().tolist() == [1.5, 1]
    assert len(panels[0].lines) == 2
    assert legend_texts(figure) == ["zeros", "partial"]


def test_one_bar_per_class_and_sampling():
    found = {
        "random": ClassFrequency(np.array([30, 10, 0]), np.array([10, 5, 0]), 10),
        "uniform": ClassFrequency(np.array([20, 15, 5]), np.array([8, 9, 4]), 10),
    }
    pixels, samples = plot_class_frequency(["road", "car", "bus"], found).axes
    for axes, percent in (
        (pixels, ([75, 25, 0], [50, 37.5, 12.5])),
        (samples, ([100, 50, 0], [80, 90, 40])),
    ):
        for bars, expected in zip(axes.containers, percent, strict=True):
            assert [bar.get_width() for bar in bars] == expected
        # Told apart without colour.
        assert len({bar.get_hatch() for bar in axes.patches}) == 2
    assert [label.get_text() for label in pixels.get_yticklabels()] == ["road", "car", "bus"]
    names = [text.get_text() for text in samples.get_legend().get_texts()]
    assert names == ["random", "uniform"]


def test_one_heat_map_per_matrix_on_one_scale():
    labels = {"rows": ["a", "b"], "columns": ["zeros", "partial"]}
    scores = [[[10, 20.5], [None, 40]], [[50, 60], [70, 80.125]]]
    matrices = [{"title": f"{i}", "mIoU": mIoU, **labels} for i, mIoU in enumerate(scores)]
    panels = plot_matrices(matrices).axes[:2]
    assert [axes.get_title() for axes in panels] == ["0", "1"]
    texts = [["10.00", "20.50", "absent", "40.00"], ["50.00", "60.00", "70.00", "80.12"]]
    colours = ["wwkw", "kkkk"]  # light on the dark half of the scale
    for axes, expected, numbers, colour in zip(panels, scores, texts, colours, strict=True):
        drawn = axes.images[0]
        assert np.array_equal(
            drawn.get_array().filled(np.nan), np.array(expected, float), equal_nan=True
        )
        assert drawn.get_clim() == (10, 80.125)
        assert [text.get_text() for text in axes.texts] == numbers
        assert "".join(text.get_color() for text in axes.texts) == colour
        assert [text.get_position() for text in axes.texts] == [(0, 0), (1, 0), (0, 1), (1, 1)]
        assert [label.get_text() for label in axes.get_xticklabels()] == labels["columns"]
        assert [label.get_text() for label in axes.get_yticklabels()] == labels["rows"]


def test_drawing_of_the_regions_names_them_all():
    panels = draw_regions().axes
    texts = [[text.get_text() for text in panel.texts] for panel in panels]
    assert texts[:4] == [["0", "0, 1/2", "0, 1/2, 3/4"]] * 4
    assert texts[4:] == [["0-15", "16-47", ">= 48"]] * 2
    side_by_side = [(-0.5, -0.5, 255.5, 255.5), (255.5, -0.5, 511.5, 255.5)]
    overlapping = [(left - 0.5, -0.5, left + 255.5, 255.5) for left in (0, 171, 256)]
    expected = [[], [], side_by_side, overlapping, side_by_side, side_by_side]
    assert [outlines(panel) for panel in panels] == expected


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


@pytest.mark.parametrize(("suffix", "opened"), [("svg", open), ("SVG", open), ("svgz", gzip.open)])
def test_drawings_have_no_date(tmp_path, suffix, opened):
    path = tmp_path / f"regions.{suffix}"
    save_figure(draw_regions(), path)
    with opened(path, "rt") as file:
        text = file.read()
    assert "<svg" in text
    assert "dc:date" not in text
