"""Writing figures."""

from pathlib import Path

from matplotlib.figure import Figure

from pconv_seg.files import atomic_path


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure; the suffix decides the format (``.png``, ``.svg``, ``.pdf``, ...)."""
    # Without its date an SVG of the same figure is the same but for random identifiers.
    metadata = {"Date": None} if Path(path).suffix == ".svg" else None
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, metadata=metadata)
