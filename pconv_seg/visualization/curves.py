"""Curves of scores."""

from itertools import groupby
from pathlib import Path

from matplotlib.figure import Figure

_MODE_STYLES = {"regular": "-", "tile": "--", "tile_overlap": ":"}
# Colour is never the only difference: grey prints differ by marker and line style.
_MARKERS = "osD^vPX*<>"


def plot_leave_out(results: list[dict]) -> Figure:
    """Plot mIoU against the leave-out proportion, one line per checkpoint and mode.

    Args:
        results: ``results`` of :meth:`pconv_seg.evaluation.report.Report.as_dict`.
    """
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    networks = list(dict.fromkeys(result["checkpoint"] for result in results))
    for (checkpoint, padding, mode), line in groupby(
        results, key=lambda result: (result["checkpoint"], result["padding"], result["mode"])
    ):
        line = list(line)
        number = networks.index(checkpoint)
        axes.plot(
            [result["leave_out"] for result in line],
            # None, where all classes are absent, leaves a gap.
            [float("nan") if r["mIoU"] is None else r["mIoU"] for r in line],
            linestyle=_MODE_STYLES[mode],
            marker=_MARKERS[number % len(_MARKERS)],
            color=f"C{number}",
            label=f"{'/'.join(Path(checkpoint).parts[-2:])} ({padding}), {mode}",
        )
    axes.set_xlabel(
        f"ignored centre: share of the {results[0]['region']}'s {results[0]['proportion']}"
    )
    axes.set_ylabel("mIoU (%)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", handlelength=4)
    return figure
