"""Prediction of images of any size."""

from .tiled import stream_tiles, tiled_inference

__all__ = ["stream_tiles", "tiled_inference"]
