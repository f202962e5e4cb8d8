"""Which panels the figures of a report have, and what is drawn in them."""

import numpy as np
import pytest
from noise_study import study_of, write_log

from pconv_seg.evaluation.record import Record
from pconv_seg.evaluation.report import Report
from pconv_seg.study.evaluation import read_shift
from pconv_seg.study.figures import draw_figures
from pconv_seg.study.results import Results


@pytest.fixture
def draw(make_study, evaluate_at_random):
    """Draw the figures of a study with these evaluations."""

    def draw(*plans):
        study = evaluate_at_random(make_study(study=study_of(*plans)))
        return draw_figures(Results(study))

    return draw


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_visible()]


def assert_drawn(axes, padding, values):
    """Whether means of ``values[seeds, places]`` are drawn, with bars of a standard deviation."""
    (container,) = [c for c in axes.containers if c.get_label() == padding]
    line, _, (bars,) = container.lines
    ends = np.array(bars.get_segments())[..., 1]
    assert line.get_ydata() == pytest.approx(np.mean(values, 0))
    assert np.diff(ends)[:, 0] / 2 == pytest.approx(np.std(values, 0, ddof=1))


def test_lines_are_means_over_seeds(make_study, evaluate_at_random):
    study = evaluate_at_random(make_study(("zeros", "partial"), (0, 1)))
    figures = draw_figures(Results(study))

    def of_runs(padding, read):
        return np.array([read(run) for run in study.runs if run.padding == padding])

    def miou(run):
        return Report(Record.load(run.folder / "evaluation" / "tile16.npz")).miou[0]

    zeros, partial = (of_runs(padding, miou) for padding in study.paddings)
    # Regions: nothing and one half left out; two distances from the border.
    for mode in range(3):
        axes = figures["leave_out"].axes[mode]
        assert_drawn(axes, "partial", (partial - zeros)[:, mode, :2])
    scores, gaps = figures["border_distance"].axes[::3]
    assert_drawn(scores, "zeros", zeros[:, 0, 2:4])
    assert_drawn(gaps, "partial", (partial - zeros)[:, 0, 2:4])
    changed, costs = figures["shift_test"].axes
    for axes in (changed, costs):
        # Pixels at distances of 0 and 1, and of 2 and 3.
        assert axes.containers[0].lines[0].get_xdata() == pytest.approx([0.5, 2.5])
    for padding in study.paddings:
        bins = of_runs(padding, lambda run: read_shift(run)[0].as_dict()["bins"])
        differ = [[100 - each["agreement"] for each in of_run] for of_run in bins]
        assert_drawn(changed, padding, differ)
        cost = [[each["mIoU"]["cost"] for each in of_run] for of_run in bins]
        assert_drawn(costs, padding, cost)


def test_the_mean_curve_goes_on_without_runs_that_ended(make_study, evaluate_at_random):
    study = evaluate_at_random(make_study(("zeros",), (0, 1)))
    for run, scores in zip(study.runs, ((10, 20, 40), (30, 50)), strict=True):
        write_log(run, [{"mIoU": score, "step": i} for i, score in enumerate(scores, 1)])
    axes = draw_figures(Results(study))["convergence"].axes[1]
    (mean,) = [line for line in axes.get_lines() if line.get_label() == "zeros"]
    assert mean.get_xydata().tolist() == [[1, 20], [2, 35], [3, 40]]


@pytest.mark.parametrize("first_has_all", [True, False])
def test_every_evaluation_has_its_own_modes(draw, first_has_all):
    every, few = "dict(tile=16)", "dict(tile=24, modes=('tile',))"
    figures = draw(*((every, few) if first_has_all else (few, every)))
    everywhere = ["on whole images", "on tiles side by side (16 px)"]
    everywhere += ["on overlapping tiles (16 px, overlap 1/3)"]
    only_tiles = ["on tiles side by side (24 px)"]
    rows = [everywhere, only_tiles] if first_has_all else [only_tiles, everywhere]
    assert titles(figures["leave_out"]) == [*rows[0], *rows[1]]
    (legend,) = figures["leave_out"].legends
    assert sorted(text.get_text() for text in legend.get_texts()) == ["partial", "partial, paper"]
    assert legend.get_title().get_text() == "bars: ± SD over seeds"
    # The paper's Table 7 is about tiles side by side.
    with_paper = [
        axes.get_title()
        for axes in figures["leave_out"].axes
        if "partial, paper" in axes.get_legend_handles_labels()[1]
    ]
    assert with_paper == [row[-1 if row == only_tiles else 1] for row in rows]
    labelled = [axes for axes in figures["leave_out"].axes if axes.get_ylabel()]
    assert len(labelled) == 2
    assert all(axes.get_visible() for axes in labelled)


def test_whole_images_are_drawn_once_by_leave_out(draw):
    whole = "modes=('regular',)"
    figures = draw(f"dict(tile=16, {whole})", f"dict(tile=24, {whole})", "dict(tile=32)")
    tiles = ["on tiles side by side (32 px)", "on overlapping tiles (32 px, overlap 1/3)"]
    assert titles(figures["leave_out"]) == ["on whole images", *tiles]
    assert len(figures["leave_out"].axes) == 6  # no row without a panel


def test_leave_outs_say_of_what_and_fill_the_axis(draw):
    plans = "dict(tile=16)", "dict(tile=24, proportion='area', region='tile')"
    panels = draw(*plans)["leave_out"].axes
    shares = ["image's side", "tile's area"]
    assert [axes.get_xlabel() for axes in panels[::3]] == [
        f"leave-out (share of the {share})" for share in shares
    ]
    assert {axes.get_xlim() for axes in panels} == {(-0.05, 1)}


def test_distances_are_drawn_where_an_evaluation_has_bands(draw):
    overlapping = "dict(tile=16, modes=('tile_overlap',), bands=(4,))"
    sides = "dict(tile=24, bands=(4,))", "dict(tile=32)", "dict(tile=40, bands=(4,))"
    figures = draw(overlapping, *sides, "dict(tile=48, bands=(8,), modes=('regular',))")
    expected = ["on whole images"] * 2 + [f"on tiles side by side ({i} px)" for i in (24, 40)]
    assert [axes.get_title() for axes in figures["border_distance"].axes[:4]] == expected
    edges = ["image border"] * 2 + ["nearest tile seam"] * 2
    labels = [axes.get_xlabel() for axes in figures["border_distance"].axes[4:]]
    assert labels == [f"pixels to the {edge}" for edge in edges]
    assert "border_distance" not in draw(overlapping)
