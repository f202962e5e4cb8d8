"""Data sets: CamVid and drawn street scenes in Cityscapes layout."""

from .camvid import CamVidDataset

__all__ = ["CamVidDataset"]
