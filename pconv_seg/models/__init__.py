"""Networks in which every padded convolution follows ``conv_cfg``."""

from .deeplabv3plus import DeepLabV3PlusHead, PaddingAwareDepthwiseSeparableASPPHead
from .wide_resnet import WideResNet38

__all__ = ["DeepLabV3PlusHead", "PaddingAwareDepthwiseSeparableASPPHead", "WideResNet38"]
