"""Convolutions that treat their padding in other ways than filling it with zeros."""

from .partial_conv import PConv2d, partial_conv2d

__all__ = ["PConv2d", "partial_conv2d"]
