import gzip
import itertools

import numpy as np
import pytest
from matplotlib.colors import to_hex
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
from pconv_seg.visualization.styles import bar_style, line_style

PALETTE = np.array([[0, 0, 255], [255, 0, 0], [0, 255, 0]], np.uint8)
LABEL = np.array([[0, 1, 1, 255], [2, 2, 1, 0]])
FIRST = np.array([[0, 1, 2, 0], [2, 0, 0, 1]])
SECOND = np.array([[0, 2, 1, 1], [2, 0, 2, 1]])


def comparison(predictions, grid=None):
    image = np.zeros((2, 4, 3), np.uint8)
    return draw_comparison(image, LABEL, predictions, PALETTE, grid=grid).axes


def legend_texts(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def meanings(panel):
    """What the legend says of the colour of every pixel."""
    legend, drawn = panel.get_legend(), panel.images[0]
    names = {
        to_hex(patch.get_facecolor()): text.get_text()
        for patch, text in zip(legend.get_patches(), legend.get_texts(), strict=True)
    }
    return [[names[to_hex(colour)] for colour in row] for row in drawn.to_rgba(drawn.get_array())]


def test_two_predictions_and_where_they_differ():
    panels = comparison({"zeros": FIRST, "partial": SECOND})
    assert [panel.get_title() for panel in panels] == [
        *["input", "ground truth", "zeros", "partial", "differences"]
    ]
    colours = PALETTE[np.where(LABEL > 2, 0, LABEL)]
    colours[0, 3] = 0  # no label: black
    assert np.array_equal(panels[1].images[0].get_array(), colours)
    assert np.array_equal(panels[3].images[0].get_array(), PALETTE[SECOND])
    assert meanings(panels[4]) == [
        ["agree, or no label", "only zeros right", "only partial right", "agree, or no label"],
        ["agree, or no label", "agree, or no label", "differ, both wrong", "agree, or no label"],
    ]


@pytest.mark.parametrize("others", [[], ["zeros", "reflect"]])
def test_where_the_last_prediction_is_wrong(others):
    panels = comparison({**dict.fromkeys(others, FIRST), "partial": SECOND})
    assert meanings(panels[-1]) == [
        [
            "partial right, or no label",
            "wrong",
            "partial right, or no label",
            "partial right, or no label",
        ],
        ["partial right, or no label", "wrong", "wrong", "wrong"],
    ]


def test_float_images_palettes_as_lists_and_another_ignore_index():
    image = np.linspace(0, 1, 24).reshape(2, 4, 3)
    label = np.where(LABEL == 255, 7, LABEL)
    panels = draw_comparison(image, label, {"partial": SECOND}, PALETTE.tolist(), 7).axes
    assert np.array_equal(panels[0].images[0].get_array(), image)
    assert np.array_equal(panels[2].images[0].get_array(), PALETTE[SECOND])
    assert meanings(panels[3])[0][3] == "partial right, or no label"


def outlines(axes):
    """(left, top, right, bottom) of what is outlined."""
    assert not any(patch.get_fill() for patch in axes.patches)
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
    names = ["zeros", "partial", "reflect", "replicate", "circular", "distribution"]
    modes = ["regular", "tile", "tile_overlap"]
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
        for name in names
        for mode in modes
        for leave_out in (0, 0.5, 0.75)
    ]
    figure = plot_leave_out(results)
    [axes] = figure.axes
    lines = axes.get_lines()
    assert [line.get_label() for line in lines] == [
        f"{name}/iter.pth ({name}), {mode}" for name in names for mode in modes
    ]
    assert lines[0].get_xdata() == pytest.approx([0, 0.5, 0.75])
    assert lines[0].get_ydata() == pytest.approx([70, 70.5, 70.75])
    assert lines[1].get_ydata() == pytest.approx([70, 70.5, np.nan], nan_ok=True)
    # Told apart without colour.
    assert len({(line.get_linestyle(), line.get_marker()) for line in lines}) == len(lines)
    assert axes.get_xlabel() == "ignored centre: share of the image's side"
    assert axes.get_ylabel() == "mIoU (%)"
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    assert legend.y1 < axes.get_tightbbox().y0  # hides nothing
    assert axes.get_window_extent().height > 3 * figure.dpi  # and leaves 3 of 4 inches


def test_curves_of_the_shift_test():
    def network(name):
        cost = {"cost": 1.5, "interval": [1, 2]}
        nothing = {"cost": None, "interval": [None, None]}
        bins = [
            {"from_pixel": 0, "to_pixel": 4, "agreement": 90, "mIoU": cost},
            {"from_pixel": 4, "to_pixel": 5, "agreement": 80, "mIoU": {**cost, "interval": [0, 3]}},
            {"from_pixel": 5, "to_pixel": 8, "agreement": None, "mIoU": nothing},
        ]
        bins = [{**row, "aAcc": {"cost": 0.5, "interval": [0, 1]}} for row in bins]
        about = {"checkpoint": f"a/{name}.pth", "padding": name, "confidence": 0.95}
        return {**about, "total": bins[0], "bins": bins}

    figure = plot_shift([network("zeros"), network("partial")])
    agreement, accuracy, cost = figure.axes
    assert [line.get_label() for line in agreement.lines] == [
        "a/zeros.pth (zeros)",
        "a/partial.pth (partial)",
    ]
    assert agreement.lines[0].get_xdata() == pytest.approx([1.5, 4, 6])
    assert agreement.lines[0].get_ydata() == pytest.approx([10, 20, np.nan], nan_ok=True)
    assert cost.lines[1].get_ydata() == pytest.approx([1.5, 1.5, np.nan], nan_ok=True)
    assert accuracy.lines[1].get_ydata() == pytest.approx([0.5] * 3)
    for band, line in zip(cost.collections, cost.lines[:2], strict=True):
        assert to_hex(band.get_facecolor()[0]) == to_hex(line.get_color())
        [path] = band.get_paths()
        corners = {tuple(corner) for corner in path.vertices}
        assert corners == {(1.5, 1), (1.5, 2), (4, 0), (4, 3)}
    assert cost.lines[2].get_ydata() == [0, 0]
    assert agreement.get_ylim()[0] == 0
    # Told apart without colour.
    assert len({(line.get_linestyle(), line.get_marker()) for line in agreement.lines}) == 2
    assert [axes.get_ylabel() for axes in (agreement, accuracy, cost)] == [
        "predictions differ (% of pixels)",
        "aAcc as interior minus as border (points)",
        "mIoU as interior minus as border (points)",
    ]
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
    for left, right in itertools.pairwise(boxes):
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
    networks = [
        ("zeros", response, marked),
        ("partial", 10 * response, ~marked & False),
        ("dead", 0 * response, ~marked & False),
    ]
    image = np.arange(108, dtype=np.uint8).reshape(4, 9, 3)
    *panels, _ = draw_responses(image, networks).axes
    assert [panel.get_title() for panel in panels] == ["input", "zeros", "partial", "dead"]
    assert not any(panel.axison for panel in panels)
    assert np.array_equal(panels[0].images[0].get_array(), image)
    for panel, drawn in zip(panels[1:], (response / 2, response / 2, 0 * response), strict=True):
        [shown] = panel.images
        assert np.array_equal(shown.get_array(), drawn)
        assert shown.get_clim() == (0, 4)
        assert shown.get_extent() == [-0.5, 8.5, 3.5, -0.5]  # on the image
    # The last place of the second row, in pixels of the image.
    assert outlines(panels[1]) == [(5.5, 1.5, 8.5, 3.5)]
    assert not outlines(panels[2])


@pytest.mark.parametrize(("layers", "places"), [(2, 2), (5, 5), (7, 10)])
def test_one_panel_of_profiles_per_layer(layers, places):
    names = [f"layer{i}" for i in range(layers)]
    zeros = {name: np.array([0.5, 1]) for name in names}
    partial = {name: np.array([1.5, 1]) for name in names[1:]}
    figure = plot_profiles([("zeros", zeros), ("partial", partial)])
    panels = [axes for axes in figure.axes if axes.axison]
    assert len(figure.axes) == places
    assert [axes.get_title() for axes in panels] == names
    assert [line.get_label() for line in panels[1].lines[1:]] == ["zeros", "partial"]
    assert panels[1].lines[2].get_ydata().tolist() == [1.5, 1]
    assert len(panels[0].lines) == 2
    for panel in panels:
        assert panel.lines[0].get_ydata() == [1, 1]  # as in the interior
        assert panel.get_ylim()[0] == 0
        assert all(tick == int(tick) for tick in panel.get_xticks())  # pixels
    assert legend_texts(figure) == ["zeros", "partial"]


def test_many_lines_and_bars_are_told_apart_without_colour():
    lines = [line_style(number) for number in range(20)]
    assert len({(style["marker"], style["linestyle"]) for style in lines}) == 20
    bars = [bar_style(number) for number in range(7)]
    assert [bar["hatch"] for bar in bars].index(bars[6]["hatch"]) == 0  # the first of six again
    assert len({style["color"] for style in bars}) == 7


def test_one_bar_per_class_and_sampling():
    found = {
        "random": ClassFrequency(np.array([30, 10, 0]), np.array([10, 5, 0]), 10),
        "uniform": ClassFrequency(np.array([20, 15, 5]), np.array([8, 9, 4]), 10),
    }
    pixels, samples = plot_class_frequency(["road", "car", "bus"], found).axes
    ticks = pixels.get_yticks()
    assert pixels.yaxis_inverted()
    assert [axes.get_xscale() for axes in (pixels, samples)] == ["log", "linear"]
    assert [axes.get_xlabel() for axes in (pixels, samples)] == ["% of pixels", "% of samples"]
    for axes, percent in (
        (pixels, ([75, 25, 0], [50, 37.5, 12.5])),
        (samples, ([100, 50, 0], [80, 90, 40])),
    ):
        for i, (bars, expected) in enumerate(zip(axes.containers, percent, strict=True)):
            assert [bar.get_width() for bar in bars] == expected
            # Side by side around the name of the class.
            assert [bar.get_y() for bar in bars] == pytest.approx(ticks + 0.4 * (i - 1))
            assert [bar.get_height() for bar in bars] == pytest.approx([0.4] * 3)
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
    figure = draw_regions()
    panels = figure.axes
    texts = [[text.get_text() for text in panel.texts] for panel in panels]
    assert texts[:4] == [["0", "0, 1/2", "0, 1/2, 3/4"]] * 4
    assert texts[4:] == [["0-15", "16-47", ">= 48"]] * 2
    side_by_side = [(-0.5, -0.5, 255.5, 255.5), (255.5, -0.5, 511.5, 255.5)]
    overlapping = [(left - 0.5, -0.5, left + 255.5, 255.5) for left in (0, 171, 256)]
    expected = [[], [], side_by_side, overlapping, side_by_side, side_by_side]
    assert [outlines(panel) for panel in panels] == expected
    maps = [panel.images[0].get_array() for panel in panels]
    # The middle of the image lies on a seam of the tiles, with and without overlap.
    assert [drawn[128, 256] for drawn in maps] == [0, 0, 2, 2, 2, 0]
    # What a leave-out of a half leaves out: of the area, or of both sides.
    assert [np.mean(drawn == 0) for drawn in maps[:3]] == pytest.approx([1 / 4, 1 / 2, 1 / 4], 0.01)
    figure.draw_without_rendering()
    for panel in panels:
        # Dark regions have light names, and no name lies on another.
        assert [text.get_color() for text in panel.texts] == ["black", "black", "white"]
        boxes = [text.get_window_extent() for text in panel.texts]
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


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
