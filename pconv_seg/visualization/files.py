"""Writing figures."""

from argparse import ArgumentTypeError
from pathlib import Path

from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure

from pconv_seg.files import atomic_path
from pconv_seg.outputs import output_file


def figure_path(text: str) -> Path:
    """A command line argument that names a figure to write, as argparse's ``type``.

    Raises:
        ArgumentTypeError: If the suffix is of no format that figures are written in, or the file
            could not be written.
    """
    path = Path(text)
    # PGF needs LaTeX, whose absence shows only when a figure is written.
    formats = [name for name in FigureCanvasBase.get_supported_filetypes() if name != "pgf"]
    if path.suffix[1:].lower() not in formats:
        raise ArgumentTypeError(f"{path}: the suffix must be one of .{', .'.join(formats)}")
    return output_file(text)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure; the suffix decides the format (``.png``, ``.svg``, ``.pdf``, ...)."""
    # Without its date an SVG of the same figure is the same but for random identifiers.
    metadata = {"Date": None} if Path(path).suffix.lower() in (".svg", ".svgz") else None
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, metadata=metadata)
