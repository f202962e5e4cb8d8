"""Predictions side by side, as in the paper's Figures 6 to 8."""

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from pconv_seg.geometry import TileGrid

from .styles import outline, title_panels


def draw_comparison(
    image: np.ndarray,
    label: np.ndarray,
    predictions: dict[str, np.ndarray],
    palette: np.ndarray | list,
    ignore_index: int = 255,
    grid: TileGrid | None = None,
) -> Figure:
    """Draw input, ground truth, predictions with tile seams, and where they differ.

    With two predictions the last panel tells which of them is right where they differ; with
    another number it marks where the last prediction is wrong.

    Args:
        image: ``uint8[H, W, 3]``, or floats in [0, 1], RGB.
        label: ``int[H, W]``.
        predictions: Name and ``int[H, W]`` of each network.
        palette: ``uint8[C, 3]``, RGB of the classes, or a list as in mmseg's ``metainfo``.
        ignore_index: Label of pixels that have no class; they are black and never wrong.
        grid: Tiles whose seams are drawn, as far as they lie in the image; it may be the grid of
            an image padded on the right and at the bottom.
    """
    palette = np.asarray(palette, np.uint8)
    ignored = label == ignore_index
    maps = [np.where(ignored[..., None], 0, palette[np.where(ignored, 0, label)])]
    maps += [palette[prediction] for prediction in predictions.values()]
    titles = ["input", "ground truth", *predictions, "differences"]
    height, width = label.shape
    columns = len(titles)
    figure = Figure(figsize=(4 * columns, 4 * height / width + 0.6), layout="constrained")
    panels = figure.subplots(1, columns)
    title_panels(panels, titles)
    for axes in panels:
        axes.set_axis_off()
    for axes, shown in zip(panels, [image, *maps], strict=False):
        axes.imshow(shown, interpolation="nearest")
    _mark_differences(panels[-1], label, ignored, list(predictions.items()))
    for axes in panels[2:] if grid is not None else []:
        for window in grid:
            outline(axes, window, color="white", lw=1.6)
            outline(axes, window, color="red", lw=0.8, ls="--")
    return figure


def _mark_differences(
    axes, label: np.ndarray, ignored: np.ndarray, predictions: list[tuple[str, np.ndarray]]
) -> None:
    if len(predictions) == 2:
        (first_name, first), (second_name, second) = predictions
        differ = (first != second) & ~ignored
        names = [
            "agree, or no label",
            "differ, both wrong",
            f"only {first_name} right",
            f"only {second_name} right",
        ]
        colours = ["#e6e6e6", "#000000", "#e69f00", "#0072b2"]
        code = np.where(differ, 1 + (first == label) + 2 * (second == label), 0)
    else:
        name, prediction = predictions[-1]
        names, colours = [f"{name} right, or no label", "wrong"], ["#e6e6e6", "#d55e00"]
        code = ((prediction != label) & ~ignored).astype(int)
    axes.imshow(
        code, cmap=ListedColormap(colours), vmin=0, vmax=len(colours) - 1, interpolation="nearest"
    )
    handles = [Patch(facecolor=c, label=n, ec="grey") for n, c in zip(names, colours, strict=True)]
    axes.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2, fontsize="x-small"
    )
