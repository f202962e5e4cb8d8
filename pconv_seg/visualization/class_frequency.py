"""How often training sees each class."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from pconv_seg.datasets.sampling import ClassFrequency

from .styles import bar_style


def plot_class_frequency(classes: Sequence[str], found: Mapping[str, ClassFrequency]) -> Figure:
    """Bars of the share of pixels and of samples that show each class.

    Args:
        classes: Names of the classes.
        found: Frequencies by kind of sampling.
    """
    figure = Figure(figsize=(10, 1.5 + 0.3 * len(classes)), layout="constrained")
    places = np.arange(len(classes))
    height = 0.8 / len(found)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, measure in zip(panels, ("pixel", "sample"), strict=True):
        for i, (name, frequency) in enumerate(found.items()):
            axes.barh(
                places + i * height,
                getattr(frequency, f"{measure}_percent"),
                height,
                align="edge",
                label=name,
                **bar_style(i),
            )
        axes.set_xlabel(f"% of {measure}s")
        axes.grid(axis="x", alpha=0.3)
    # Roads have far more pixels than trains.
    panels[0].set_xscale("log")
    panels[0].set_yticks(places + 0.4, classes)
    panels[0].set_ylim(len(classes), -0.2)
    panels[1].legend(fontsize="small")
    return figure
