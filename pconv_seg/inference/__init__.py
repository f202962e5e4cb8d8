"""Prediction of images of any size."""

from .segmentor import TiledEncoderDecoder, tile_predictor
from .tiled import stream_tiles, tiled_inference

__all__ = ["TiledEncoderDecoder", "stream_tiles", "tile_predictor", "tiled_inference"]
