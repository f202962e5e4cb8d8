"""A drawing of the border regions, made from the maps that the counting uses.

``python -m pconv_seg.visualization.regions FILE.svg`` writes the drawing of the documentation.
"""

import sys
from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure

from pconv_seg.geometry import BorderRegions, TileGrid

from .files import save_figure
from .styles import outline

_SIZE, _TILE, _OVERLAP = (256, 512), 256, "1/3"


def draw_regions() -> Figure:
    """Draw leave-outs of the image and of tiles, and bands by distance to border and seams."""
    image, bands = BorderRegions(("0", "1/2", "3/4")), BorderRegions(bands=(16, 48), tile=_TILE)
    area, tiles = replace(image, proportion="area"), replace(image, region="tile", tile=_TILE)
    overlapping = replace(tiles, overlap=_OVERLAP)
    panels = [
        ("counted at a leave-out of the image's side", image, "leave_out"),
        ("... of the image's area", area, "leave_out"),
        ("... of each tile's side", tiles, "leave_out"),
        (f"... of the side of tiles that overlap by {_OVERLAP}", overlapping, "leave_out"),
        ("distance to the image border (pixels)", bands, "border_distance"),
        ("distance to the nearest tile seam (pixels)", bands, "seam_distance"),
    ]
    figure = Figure(figsize=(9, 7.5), layout="constrained")
    for axes, (title, regions, kind) in zip(figure.subplots(3, 2).flat, panels, strict=True):
        cells, members = regions.map(_SIZE)
        names = [i for i, region in enumerate(regions.regions) if region.kind == kind]
        nested = kind == "leave_out"
        last = np.max([k * members[i] for k, i in enumerate(names)], axis=0)[cells]
        axes.imshow(last, cmap="Greys", vmin=-0.5, vmax=len(names) - 0.5)
        for k, i in enumerate(names):
            rows, columns = np.nonzero(last == k)
            top = np.argmin(rows)
            axes.annotate(
                # The bands of the seams reach the top side by side: their names go below.
                ", ".join(str(regions.regions[j]) for j in (names[: k + 1] if nested else [i])),
                (columns[top] + 6, rows[top] + 6 + (24 * k if kind == "seam_distance" else 0)),
                va="top",
                fontsize="small",
                color="white" if k > len(names) / 2 else "black",
            )
        if regions.tile is not None:
            for window in TileGrid(_SIZE, regions.tile, regions.overlap):
                outline(axes, window, color="red", ls="--", lw=1)
        axes.set_title(title, fontsize="medium")
        axes.set_axis_off()
    return figure


if __name__ == "__main__":
    save_figure(draw_regions(), sys.argv[1])
