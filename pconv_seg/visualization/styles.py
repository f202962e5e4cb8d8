"""How figures tell lines and bars apart, and how they outline tiles."""

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

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


def outline(axes: Axes, window: tuple[float, float, float, float], **style) -> None:
    """Outline a window of an image that is drawn, as far as it lies in the image.

    Args:
        axes: With the image.
        window: ``(y0, y1, x0, x1)``, half open, in pixels.
        style: Keywords of matplotlib's ``Rectangle``.
    """
    y0, y1, x0, x1 = window
    axes.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, **style))
