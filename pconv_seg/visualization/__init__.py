"""Figures. None of them needs a display."""

from .class_frequency import plot_class_frequency
from .comparison import draw_comparison
from .curves import plot_leave_out, plot_shift
from .files import figure_path, save_figure
from .padding import plot_padding

__all__ = [
    "draw_comparison",
    "figure_path",
    "plot_class_frequency",
    "plot_leave_out",
    "plot_padding",
    "plot_shift",
    "save_figure",
]
