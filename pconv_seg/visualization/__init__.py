"""Figures. None of them needs a display."""

from .comparison import draw_comparison
from .curves import plot_leave_out
from .files import save_figure
from .padding import plot_padding

__all__ = ["draw_comparison", "plot_leave_out", "plot_padding", "save_figure"]
