"""Padding of models that are already built: switch it, see it, record it."""

from .describe import scheme_of
from .hook import PaddingHook, add_padding, apply_padding
from .switch import SCHEMES, PaddingReport, set_padding
from .trace import PaddedOperation, PaddingTrace, padding_report

__all__ = [
    "SCHEMES",
    "PaddedOperation",
    "PaddingHook",
    "PaddingReport",
    "PaddingTrace",
    "add_padding",
    "apply_padding",
    "padding_report",
    "scheme_of",
    "set_padding",
]
