"""Drawn street scenes in Cityscapes layout, for demonstrations and tests without a download.

Classes share their colours on purpose (walls with buildings, pavement with asphalt, grass with
leaves, riders with pedestrians): a network has to use context, which is what padding disturbs.
Things of all kinds are cut by all four sides of the frame.
"""

from .canvas import TRAIN_IDS
from .dataset import write_street_scenes
from .street import render_street_scene

__all__ = ["TRAIN_IDS", "render_street_scene", "write_street_scenes"]
