"""Figures. None of them needs a display."""

from .comparison import draw_comparison
from .curves import plot_leave_out
from .files import save_figure

__all__ = ["draw_comparison", "plot_leave_out", "save_figure"]
