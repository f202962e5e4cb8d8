"""Partial convolution based padding for mmsegmentation, and what padding does to a model.

Importing the package registers its parts with mmengine, so that ``conv_cfg=dict(type='PConv')``
works in any config. Here are all parts that configs can name, and the functions to start with.
"""

try:
    # First, because it lets mmengine report a broken import below as what it is (see registry.py).
    from . import registry  # noqa: F401, I001
    import mmcv  # noqa: F401
    import mmseg  # noqa: F401
except ModuleNotFoundError as error:
    if error.name not in ("mmcv", "mmengine", "mmseg"):
        raise
    raise ImportError(
        f"pconv_seg needs mmsegmentation, but there is no {error.name}. In a new environment: "
        "pip install 'pconv-seg[onedl]'. In one that holds original OpenMMLab packages: "
        "pip install mmsegmentation==1.2.2 mmcv==2.1.0 mmengine==0.10.7 ftfy regex "
        "(docs/install.md says how mmcv is built). Never both families in one environment: they "
        "install the same files."
    ) from error

from .checkpoints import PublishedWeightsInit
from .datasets import (
    CamVidDataset,
    CityscapesSplitDataset,
    ClassUniformSampler,
    ColorJitter,
    DrawnDataset,
    GaussianBlur,
    RandomScaleCrop,
    ResizeOriginal,
    ResumableSampler,
)
from .engine import (
    FiniteLossHook,
    ResumableCheckpointHook,
    ResumableTrainLoop,
    StopOnSignalHook,
)
from .evaluation import BorderIoUMetric, PaddingEvalHook
from .inference import TiledEncoderDecoder, tiled_inference
from .layers import PConv1d, PConv2d, PConv3d, partial_conv2d
from .models import DeepLabV3PlusHead, PaddingAwareDepthwiseSeparableASPPHead, WideResNet38
from .padding import PaddedBatchHook, PaddingHook, padding_report, set_padding
from .study import StartDigestHook
from .version import __version__

__all__ = [
    "BorderIoUMetric",
    "CamVidDataset",
    "CityscapesSplitDataset",
    "ClassUniformSampler",
    "ColorJitter",
    "DeepLabV3PlusHead",
    "DrawnDataset",
    "FiniteLossHook",
    "GaussianBlur",
    "PConv1d",
    "PConv2d",
    "PConv3d",
    "PaddedBatchHook",
    "PaddingAwareDepthwiseSeparableASPPHead",
    "PaddingEvalHook",
    "PaddingHook",
    "PublishedWeightsInit",
    "RandomScaleCrop",
    "ResizeOriginal",
    "ResumableCheckpointHook",
    "ResumableSampler",
    "ResumableTrainLoop",
    "StartDigestHook",
    "StopOnSignalHook",
    "TiledEncoderDecoder",
    "WideResNet38",
    "__version__",
    "padding_report",
    "partial_conv2d",
    "set_padding",
    "tiled_inference",
]
