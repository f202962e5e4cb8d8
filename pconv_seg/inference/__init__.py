"""Prediction of images of any size."""

from .images import output_paths, predict_file
from .segmentor import TiledEncoderDecoder, tile_predictor
from .tiled import stream_tiles, tiled_inference

__all__ = [
    "TiledEncoderDecoder",
    "output_paths",
    "predict_file",
    "stream_tiles",
    "tile_predictor",
    "tiled_inference",
]
