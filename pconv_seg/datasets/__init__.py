"""Data sets, the samples that training draws from them, and their augmentation."""

from .camvid import CamVidDataset
from .cityscapes import CityscapesSplitDataset, prepare_cityscapes
from .sampling import (
    CentroidIndex,
    ClassUniformSampler,
    DecodedCache,
    Draw,
    DrawnDataset,
    ResumableSampler,
    SampleError,
    centroid_index,
)
from .street_scenes import render_street_scene, write_street_scenes
from .transforms import ColorJitter, GaussianBlur, RandomScaleCrop, ResizeOriginal

__all__ = [
    "CamVidDataset",
    "CentroidIndex",
    "CityscapesSplitDataset",
    "ClassUniformSampler",
    "ColorJitter",
    "DecodedCache",
    "Draw",
    "DrawnDataset",
    "GaussianBlur",
    "RandomScaleCrop",
    "ResizeOriginal",
    "ResumableSampler",
    "SampleError",
    "centroid_index",
    "prepare_cityscapes",
    "render_street_scene",
    "write_street_scenes",
]
