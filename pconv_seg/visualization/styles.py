"""How figures tell lines and bars apart, make room for names, and outline tiles."""

import textwrap
from collections.abc import Iterable
from typing import Any, Literal

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

# Characters of a medium title above a panel that is 4 inches wide.
_TITLE_WIDTH = 38

# Colour is never the only difference: these tell lines and bars apart in grey prints.
_MARKERS, _LINES = "osD^vPX*<>", ("-", "--", "-.", ":")
_HATCHES = ("", "//", "..", "\\\\", "xx", "++")


def line_style(number: int) -> dict[str, str]:
    """Of the line with this number: colour, marker and line style, as keywords of ``plot``."""
    return {
        "color": f"C{number}",
        "marker": _MARKERS[number % len(_MARKERS)],
        "linestyle": _LINES[number % len(_LINES)],
    }


def bar_style(number: int) -> dict[str, str]:
    """Of the bars with this number: colour and hatching, as keywords of ``bar``."""
    return {
        "color": f"C{number}",
        "hatch": _HATCHES[number % len(_HATCHES)],
        "edgecolor": "white",
    }


def title_panels(panels: Iterable[Axes], titles: Iterable[str]) -> None:
    """Title panels that are 4 inches wide, and make their figure higher for what takes more lines.

    Names of checkpoints may be longer than a panel is wide.

    Args:
        panels: Side by side.
        titles: Of one or more lines each.
    """
    more = 0
    for axes, title in zip(panels, titles, strict=True):
        given = title.split("\n")
        lines = [part for line in given for part in textwrap.wrap(line, _TITLE_WIDTH)]
        axes.set_title("\n".join(lines), fontsize="medium")
        more = max(more, len(lines) - len(given))
    axes.figure.set_figheight(axes.figure.get_figheight() + 0.2 * more)


def legend_outside(
    figure: Figure, handles: Iterable[Artist], side: Literal["upper", "lower"], **options: Any
) -> None:
    """Name lines beside the axes, and make the figure as large as their names need.

    In the axes many lines leave no room for their names, which may be long.

    Args:
        figure: With a constrained layout.
        handles: What is named, each with its label.
        side: Of the axes.
        options: Keywords of ``Figure.legend``.
    """
    legend = figure.legend(
        handles=list(handles), loc=f"outside {side} center", fontsize="small", **options
    )
    box = legend.get_window_extent()
    figure.set_figwidth(max(figure.get_figwidth(), box.width / figure.dpi + 0.2))
    figure.set_figheight(figure.get_figheight() + box.height / figure.dpi)


def outline(axes: Axes, window: tuple[float, float, float, float], **style) -> None:
    """Outline a window of an image that is drawn, as far as it lies in the image.

    Args:
        axes: With the image.
        window: ``(y0, y1, x0, x1)``, half open, in pixels.
        style: Keywords of matplotlib's ``Rectangle``.
    """
    y0, y1, x0, x1 = window
    axes.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, **style))
