"""Prediction of images of any size."""

from .images import output_paths, predict_file, read_input, read_pixels
from .segmentor import (
    TiledEncoderDecoder,
    image_preprocessor,
    predicted_labels,
    tile_predictor,
)
from .tiled import stream_tiles, tiled_inference

__all__ = [
    "TiledEncoderDecoder",
    "image_preprocessor",
    "output_paths",
    "predict_file",
    "predicted_labels",
    "read_input",
    "read_pixels",
    "stream_tiles",
    "tile_predictor",
    "tiled_inference",
]
