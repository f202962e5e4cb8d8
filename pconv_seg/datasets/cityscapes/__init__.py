"""Cityscapes: cities and splits, the data set, and the preparation of a download."""

from .dataset import CityscapesSplitDataset
from .preparation import prepare_cityscapes

__all__ = ["CityscapesSplitDataset", "prepare_cityscapes"]
