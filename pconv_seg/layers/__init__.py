"""Convolutions that treat their padding in other ways than filling it with zeros."""

from .adaptive_padding import AdaptivePaddedConv2d, AdaptivePConv2d
from .padded_conv import PaddedConv1d, PaddedConv2d, PaddedConv3d, distribution_pad
from .partial_conv import PConv1d, PConv2d, PConv3d, partial_conv2d

__all__ = [
    "AdaptivePConv2d",
    "AdaptivePaddedConv2d",
    "PConv1d",
    "PConv2d",
    "PConv3d",
    "PaddedConv1d",
    "PaddedConv2d",
    "PaddedConv3d",
    "distribution_pad",
    "partial_conv2d",
]
