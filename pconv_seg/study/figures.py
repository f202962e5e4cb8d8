"""Figures of a study's report."""

from collections.abc import Sequence
from itertools import pairwise, product

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pconv_seg.evaluation import EvaluationPlan
from pconv_seg.evaluation.evaluator import MODES
from pconv_seg.visualization.heat_map import plot_matrices
from pconv_seg.visualization.styles import line_style

from . import paper
from .curves import training_curves
from .evaluation import CROSS
from .findings import METHOD, gap, shift_cost, where
from .results import Cell, Results, region_options

_LEGEND = {"fontsize": "small", "title": "bars: ± SD over seeds", "title_fontsize": "small"}


def draw_figures(results: Results) -> dict[str, Figure]:
    """All figures by name; those without numbers to show are left out."""
    figures = {"convergence": _convergence(results)}
    if results.study.compared and results.own_evaluations:
        figures["leave_out"] = _leave_out(results)
        if panels := _distance_panels(results):
            figures["border_distance"] = _border_distance(results, panels)
    if CROSS in results.records:
        figures["cross_testing"] = plot_matrices(cross_matrices(results))
    if results.shift:
        figures["shift_test"] = _shift_test(results)
    return figures


def cross_matrices(results: Results) -> list[dict]:
    """Mean mIoU over seeds by padding in training and in the test, one matrix per mode."""
    paddings = results.study.paddings
    return [
        {
            "title": f"mIoU (%), mean over seeds, {where(results, CROSS, mode)}",
            "rows": [f"trained: {padding}" for padding in paddings],
            "columns": list(paddings),
            "mIoU": [
                [results.contrast({Cell(CROSS, a, b, mode): 1.0}).mean for b in paddings]
                for a in paddings
            ],
        }
        for mode in results.records[CROSS].plan.modes
    ]


def _style(results: Results, padding: str) -> dict:
    return {**line_style(results.study.paddings.index(padding)), "markersize": 4}


def _convergence(results: Results) -> Figure:
    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = figure.subplots(1, 2)
    for padding in results.study.paddings:
        runs = [run for run in results.study.runs if run.padding == padding]
        curves = [training_curves(run.folder) for run in runs]
        marked = _style(results, padding)
        styles = {**marked, "marker": ""}, marked
        for axes, each, style in zip(panels, zip(*curves, strict=True), styles, strict=True):
            for curve in each:
                axes.plot(list(curve), list(curve.values()), color=style["color"], alpha=0.25)
            # Over the runs that have reached each step.
            steps = sorted(set().union(*each))
            means = [np.mean([curve[step] for curve in each if step in curve]) for step in steps]
            axes.plot(steps, means, label=padding, **style)
    for axes, title in zip(panels, ("training loss", "mIoU (%) in validation"), strict=True):
        axes.set_title(title, fontsize="medium")
        axes.set_xlabel("iteration")
        axes.grid(alpha=0.3)
    panels[0].set_yscale("log")
    panels[1].legend(title="thin: each seed")
    return figure


def _leave_out(results: Results) -> Figure:
    """One row per evaluation, one column per mode of any of them; whole images once."""
    cells = product(results.own_evaluations, MODES)
    shown = [(name, mode) for name, mode in cells if results.new_regions(name, mode, "leave_out")]
    rows = list(dict.fromkeys(name for name, _ in shown))
    modes = sorted({mode for _, mode in shown}, key=MODES.index)
    figure = Figure(figsize=(4 * len(modes), 3.4 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(modes), squeeze=False, sharey=True)
    for name, row in zip(rows, grid, strict=True):
        regions = results.regions(name)
        numbers = results.region_numbers(name, "leave_out")
        places = [float(regions[i].start) for i in numbers]
        for mode, axes in zip(modes, row, strict=True):
            if (name, mode) not in shown:
                axes.set_visible(False)
                continue
            _gaps(results, axes, places, numbers, name, mode)
            if mode == "tile" and has_paper_line(results, name):
                axes.plot(
                    places, paper.LEAVE_OUT_GAPS, color="0.5", marker="x", label="partial, paper"
                )
            axes.set_title(where(results, name, mode), fontsize="medium")
            plan = results.records[name].plan
            axes.set_xlabel(f"leave-out (share of the {plan.region}'s {plan.proportion})")
            axes.set_xlim(-0.05, 1)  # also if there is a score for a single one
        leftmost = next(axes for axes in row if axes.get_visible())
        leftmost.set_ylabel("mIoU minus that of zero padding")
        leftmost.tick_params(labelleft=True)
    # Below: bars leave no room, and not every panel has the paper's line.
    labelled = [zip(*axes.get_legend_handles_labels(), strict=True) for axes in grid.flat]
    lines = {label: line for panel in labelled for line, label in panel}
    figure.legend(
        lines.values(), lines.keys(), loc="outside lower center", ncols=len(lines), **_LEGEND
    )
    return figure


def has_paper_line(results: Results, name: str) -> bool:
    """Whether an evaluation has tiles side by side and our reading of the paper's leave-outs."""
    plan = results.records[name].plan
    ours = region_options(plan, "leave_out") == region_options(EvaluationPlan(), "leave_out")
    return METHOD in results.study.compared and "tile" in plan.modes and ours


def _distance_panels(results: Results) -> list[tuple[str, str, str]]:
    """Evaluation, mode and kind of region of each panel; whole images once for the same bands."""
    panels = []
    for mode, kind in (("regular", "border_distance"), ("tile", "seam_distance")):
        names = (name for name in results.own_evaluations if results.new_regions(name, mode, kind))
        panels += [(name, mode, kind) for name in names]
    return panels


def _border_distance(results: Results, panels: Sequence[tuple[str, str, str]]) -> Figure:
    figure = Figure(figsize=(4 * len(panels), 6), layout="constrained")
    top, bottom = figure.subplots(2, len(panels), squeeze=False)
    for (name, mode, kind), scores, gaps in zip(panels, top, bottom, strict=True):
        regions = results.regions(name)
        numbers = results.region_numbers(name, kind)
        places = range(len(numbers))
        for padding in results.study.paddings:
            cells = [Cell(name, padding, padding, mode, i) for i in numbers]
            _line(results, scores, places, padding, [{cell: 1.0} for cell in cells])
        _gaps(results, gaps, places, numbers, name, mode)
        scores.set_title(where(results, name, mode), fontsize="medium")
        for axes in (scores, gaps):
            axes.set_xticks(places, [str(regions[i]) for i in numbers])
            axes.grid(alpha=0.3)
        edge = "image border" if kind == "border_distance" else "nearest tile seam"
        gaps.set_xlabel(f"pixels to the {edge}")
    top[0].set_ylabel("mIoU (%)")
    bottom[0].set_ylabel("mIoU minus that of zero padding")
    top[0].legend(**_LEGEND)
    return figure


def _shift_test(results: Results) -> Figure:
    figure = Figure(figsize=(10, 4), layout="constrained")
    changed, costs = figure.subplots(1, 2)
    edges = results.shift_tiles.edges
    centres = [(start + stop - 1) / 2 for start, stop in pairwise(edges)]
    for padding in results.study.paddings:
        records = results.shift_of(padding)
        if not records:
            continue
        shares = [100 * (1 - r.agreeing.sum(0) / r.pixels.sum(0)) for r in records]
        spread = np.std(shares, axis=0, ddof=1) if len(shares) > 1 else np.zeros(len(centres))
        _errorbar(results, changed, centres, padding, np.mean(shares, axis=0), spread)
        weights = [shift_cost(padding, i) for i in range(1, len(edges))]
        _line(results, costs, centres, padding, weights)
    changed.set_ylabel("predictions differ (% of pixels)")
    changed.set_ylim(bottom=0)
    changed.legend(**_LEGEND)
    costs.set_ylabel("mIoU as interior minus as border")
    costs.axhline(0, color="k", linewidth=0.8)
    for axes in (changed, costs):
        axes.set_xlabel("distance to the tile's seam (px)")
        axes.grid(alpha=0.3)
    return figure


def _gaps(
    results: Results,
    axes: Axes,
    places: Sequence[float],
    regions: Sequence[int],
    name: str,
    mode: str,
) -> None:
    axes.axhline(0, color="k", linewidth=0.8)
    axes.grid(alpha=0.3)
    for padding in results.study.compared:
        weights = [gap(name, mode, region, padding) for region in regions]
        _line(results, axes, places, padding, weights)


def _line(
    results: Results,
    axes: Axes,
    places: Sequence[float],
    padding: str,
    weights: Sequence[dict[Cell, float]],
) -> None:
    """Means with the standard deviation over seeds as bars."""
    contrasts = [results.contrast(each) for each in weights]
    means = [contrast.mean for contrast in contrasts]
    _errorbar(results, axes, places, padding, means, np.nan_to_num([c.sd for c in contrasts]))


def _errorbar(
    results: Results,
    axes: Axes,
    places: Sequence[float],
    padding: str,
    means: Sequence[float],
    spreads: Sequence[float],
) -> None:
    style = {**_style(results, padding), "capsize": 2, "linewidth": 1.2, "label": padding}
    # Side by side, so that no bar hides another one.
    step = 0.008 * np.ptp(places) * results.study.paddings.index(padding)
    axes.errorbar(np.add(places, step), means, spreads, **style)
