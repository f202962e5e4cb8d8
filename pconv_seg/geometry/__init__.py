"""Pure numbers, no torch: where taps fall, how an image splits into tiles and border regions."""

from .taps import border_runs, tap_count

__all__ = ["border_runs", "tap_count"]
