"""Data sets: CamVid, and drawn street scenes in Cityscapes layout."""

from .camvid import CamVidDataset
from .street_scenes import render_street_scene, write_street_scenes

__all__ = ["CamVidDataset", "render_street_scene", "write_street_scenes"]
