"""Partial convolution based padding for mmsegmentation, and what padding does to a model.

Importing the package registers its parts with mmengine, so that ``conv_cfg=dict(type='PConv')``
works in any config.
"""

# First, because it lets mmengine report a broken import below as what it is (see that module).
from . import registry  # noqa: F401
from .datasets import CamVidDataset
from .inference import tiled_inference
from .layers import PConv2d, partial_conv2d
from .version import __version__

__all__ = ["CamVidDataset", "PConv2d", "__version__", "partial_conv2d", "tiled_inference"]
