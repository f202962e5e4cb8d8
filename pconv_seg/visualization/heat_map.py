"""Heat maps of scores."""

import numpy as np
from matplotlib.figure import Figure


def plot_matrices(matrices: list[dict]) -> Figure:
    """Draw one heat map per matrix, with the numbers in it and one colour scale for all.

    Args:
        matrices: Of :func:`pconv_seg.evaluation.cross.cross_matrices`.
    """
    values = [np.array(matrix["mIoU"], float) for matrix in matrices]
    low, high = (f([f(v) for v in values]) for f in (np.nanmin, np.nanmax))
    rows, columns = values[0].shape
    figure = Figure(
        figsize=(3 + 1.1 * columns, len(values) * (1.2 + 0.6 * rows)), layout="constrained"
    )
    for axes, matrix, scores in zip(
        figure.subplots(len(values), squeeze=False).flat, matrices, values, strict=True
    ):
        image = axes.imshow(scores, vmin=low, vmax=high, cmap="viridis", aspect="auto")
        axes.set_title(matrix["title"], fontsize="medium")
        axes.set_xticks(range(columns), matrix["columns"])
        axes.set_xlabel("padding in the test")
        axes.set_yticks(range(rows), matrix["rows"])
        for (row, column), score in np.ndenumerate(scores):
            # White on the dark half of the scale, black on the light one.
            colour = "w" if score < (low + high) / 2 else "k"
            text = "absent" if np.isnan(score) else f"{score:.2f}"
            axes.text(column, row, text, ha="center", va="center", color=colour)
        figure.colorbar(image, ax=axes, label="mIoU (%)")
    return figure
