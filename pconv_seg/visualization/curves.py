"""Curves of scores."""

from itertools import groupby

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from pconv_seg.files import short_names

from .styles import legend_outside, line_style

_MODE_STYLES = {"regular": "-", "tile": "--", "tile_overlap": ":"}


def plot_leave_out(results: list[dict]) -> Figure:
    """Plot mIoU against the leave-out proportion, one line per checkpoint and mode.

    Args:
        results: ``results`` of :meth:`pconv_seg.evaluation.report.Report.as_dict`.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    names = short_names(result["checkpoint"] for result in results)
    networks = list(names)
    for (checkpoint, padding, mode), line in groupby(
        results, key=lambda result: (result["checkpoint"], result["padding"], result["mode"])
    ):
        line = list(line)
        style = {**line_style(networks.index(checkpoint)), "linestyle": _MODE_STYLES[mode]}
        axes.plot(
            [result["leave_out"] for result in line],
            np.array([result["mIoU"] for result in line], float),  # None where all are absent
            label=f"{names[checkpoint]} ({padding}), {mode}",
            **style,
        )
    axes.set_xlabel(
        f"ignored centre: share of the {results[0]['region']}'s {results[0]['proportion']}"
    )
    axes.set_ylabel("mIoU (%)")
    axes.grid(alpha=0.3)
    legend_outside(figure, axes.lines, "lower", handlelength=4)
    return figure


def plot_shift(results: list[dict]) -> Figure:
    """Plot the share of pixels that change, and the padding cost, against distance to the seam.

    Args:
        results: Of :meth:`pconv_seg.evaluation.shift_record.ShiftRecord.as_dict`, one line each.
    """
    scores = [name for name in ("aAcc", "mIoU") if name in results[0]["total"]]
    figure = Figure(figsize=(5.5 * (1 + len(scores)), 4.5), layout="constrained")
    panels = figure.subplots(1, 1 + len(scores), squeeze=False)[0]
    names = short_names(result["checkpoint"] for result in results)
    for number, result in enumerate(results):
        style = {
            **line_style(number),
            "markersize": 4,
            "label": f"{names[result['checkpoint']]} ({result['padding']})",
        }
        bins = result["bins"]
        centres = [(row["from_pixel"] + row["to_pixel"] - 1) / 2 for row in bins]
        changed = 100 - np.array([row["agreement"] for row in bins], float)  # None gives NaN, a gap
        panels[0].plot(centres, changed, **style)
        for axes, score in zip(panels[1:], scores, strict=True):
            axes.plot(centres, np.array([row[score]["cost"] for row in bins], float), **style)
            bounds = np.array([row[score]["interval"] for row in bins], float).T
            axes.fill_between(centres, *bounds, color=f"C{number}", alpha=0.15, lw=0)
    panels[0].set_ylabel("predictions differ (% of pixels)")
    panels[0].set_ylim(bottom=0)
    for axes, score in zip(panels[1:], scores, strict=True):
        axes.set_ylabel(f"{score} as interior minus as border (points)")
        axes.axhline(0, color="k", lw=0.8)
    for axes in panels:
        axes.set_xlabel("distance to the tile's seam (px)")
        axes.grid(alpha=0.3)
    handles = list(panels[0].lines)
    if scores:
        label = f"{results[0]['confidence']:.0%} interval over images"
        handles.append(Patch(color="grey", alpha=0.3, lw=0, label=label))
    legend_outside(figure, handles, "lower", handlelength=4)
    return figure
