"""Padding of models that are already built: switch it, see it, record it, follow it in batches."""

from .batch import PaddedBatchHook
from .describe import scheme_of
from .hook import PaddingHook, add_padding, apply_padding, trained_padding
from .switch import SCHEMES, PaddingReport, set_padding
from .trace import PaddedOperation, PaddingTrace, padding_report
from .tracking import extents_of, track_extents

__all__ = [
    "SCHEMES",
    "PaddedBatchHook",
    "PaddedOperation",
    "PaddingHook",
    "PaddingReport",
    "PaddingTrace",
    "add_padding",
    "apply_padding",
    "extents_of",
    "padding_report",
    "scheme_of",
    "set_padding",
    "track_extents",
    "trained_padding",
]
