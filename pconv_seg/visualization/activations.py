"""Responses of networks near the border of their maps, as in the paper's Figure 5."""

import math

import numpy as np
from matplotlib.figure import Figure

from .styles import legend_outside, line_style, outline, title_panels

_COLUMNS = 5


def draw_responses(image: np.ndarray, networks: list[tuple[str, np.ndarray, np.ndarray]]) -> Figure:
    """Draw an image and the response of each network to it, border responses outlined in red.

    Args:
        image: ``uint8[H, W, 3]``, RGB.
        networks: Title, response ``float[h, w]`` and what to outline, ``bool[h, w]``. Responses of
            different networks differ in scale, so each is drawn in units of its median.
    """
    height, width = image.shape[:2]
    figure = Figure(
        figsize=(4 * (1 + len(networks)), 4 * height / width + 0.8), layout="constrained"
    )
    panels = figure.subplots(1, 1 + len(networks))
    panels[0].imshow(image)
    scaled = [response / (np.median(response) or 1) for _, response, _ in networks]
    for axes, (_, _, marked), response in zip(panels[1:], networks, scaled, strict=True):
        drawn = axes.imshow(
            response,
            vmin=0,
            vmax=max(map(np.max, scaled)),
            extent=(-0.5, width - 0.5, height - 0.5, -0.5),
            interpolation="nearest",
        )
        down, across = height / marked.shape[0], width / marked.shape[1]
        for y, x in np.argwhere(marked):
            window = (y * down, (y + 1) * down, x * across, (x + 1) * across)
            outline(axes, window, color="red", lw=0.8)
    title_panels(panels, ["input", *(title for title, _, _ in networks)])
    for axes in panels:
        axes.set_axis_off()
    figure.colorbar(drawn, ax=list(panels), label="mean |activation| / median", shrink=0.8)
    return figure


def plot_profiles(networks: list[tuple[str, dict[str, np.ndarray]]]) -> Figure:
    """Plot the response by distance to the border, one panel per layer, one line per network.

    Args:
        networks: Name, and the relative profile ``float[distances]`` of each layer.
    """
    layers = list(dict.fromkeys(layer for _, profiles in networks for layer in profiles))
    columns = min(_COLUMNS, len(layers))
    rows = math.ceil(len(layers) / columns)
    figure = Figure(figsize=(0.5 + 2.6 * columns, 0.6 + 2 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(layers) :]:
        axes.set_axis_off()
    for axes, layer in zip(grid, layers, strict=False):
        axes.axhline(1, color="k", lw=0.5)
        for number, (name, profiles) in enumerate(networks):
            if layer in profiles:
                style = {**line_style(number), "marker": "."}
                axes.plot(profiles[layer], ms=3, label=name, **style)
        axes.set_ylim(bottom=0)
        axes.set_title(layer, fontsize="x-small")
        axes.tick_params(labelsize="x-small")
        axes.xaxis.get_major_locator().set_params(integer=True)
    lines = {line.get_color(): line for axes in grid for line in axes.lines[1:]}
    legend_outside(figure, lines.values(), "upper", ncols=2)
    figure.supxlabel("distance to the border of the layer's map (px of that map)", fontsize="small")
    figure.supylabel("mean |activation| / that in the interior", fontsize="small")
    return figure
