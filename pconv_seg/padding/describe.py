"""What a layer pads with, how much, and whether its padding can be switched."""

from collections.abc import Sequence
from typing import Any

from mmcv.cnn.bricks import Conv2dAdaptivePadding, wrappers
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.modules.pooling import _MaxUnpoolNd
from torch.nn.utils import parametrize

from pconv_seg.layers import (
    AdaptivePaddedConv2d,
    AdaptivePConv2d,
    PaddedConv1d,
    PaddedConv2d,
    PaddedConv3d,
    PConv1d,
    PConv2d,
    PConv3d,
)
from pconv_seg.layers.axes import axes_of_layer

# Plain class of a convolution: its partial form, and its form with padding made from the input.
FORMS = {
    nn.Conv1d: (PConv1d, PaddedConv1d),
    nn.Conv2d: (PConv2d, PaddedConv2d),
    nn.Conv3d: (PConv3d, PaddedConv3d),
    Conv2dAdaptivePadding: (AdaptivePConv2d, AdaptivePaddedConv2d),
}
PLAIN = {form: plain for plain, forms in FORMS.items() for form in forms}

# Layers that pad and are not convolutions, by part of the class name: scheme and why it stays.
# Average pooling comes in two kinds; see below.
AVERAGE_POOLING = "average pooling; count_include_pad=False leaves padding out"
TRANSPOSED = "transposed: there are no padded values to choose"
_EXPLICIT = "explicit padding: later layers cannot tell it from data"
_OTHERS = {
    "MaxPool": ("-inf", "max pooling never picks its padding"),
    "AvgPool": ("zeros", AVERAGE_POOLING),
    "ReflectionPad": ("reflect", _EXPLICIT),
    "ReplicationPad": ("replicate", _EXPLICIT),
    "CircularPad": ("circular", _EXPLICIT),
    "ConstantPad": ("constant", _EXPLICIT),
    "ZeroPad": ("zeros", _EXPLICIT),
    "AdaptivePadding": ("zeros", _EXPLICIT),
}


def plain_class(layer: nn.Module) -> type:
    """The class that a convolution has under zero padding."""
    cls = layer_class(layer)
    return PLAIN.get(cls, cls)


def layer_class(layer: nn.Module) -> type:
    """The class of a layer without what PyTorch's parametrizations put on top of it."""
    cls = type(layer)
    return cls.__bases__[0] if parametrize.is_parametrized(layer) else cls


def is_padded_convolution(module: nn.Module) -> bool:
    """Whether ``module`` is a convolution, other than a transposed one, that pads its input."""
    if not isinstance(module, _ConvNd) or isinstance(module, _ConvTransposeNd):
        return False
    if isinstance(module, Conv2dAdaptivePadding):
        return any(size > 1 for size in module.kernel_size)
    return any(axis.before or axis.after for axis in axes_of_layer(module))


def padding_of(module: nn.Module) -> str | None:
    """What ``module`` itself pads with; None if it does not pad.

    Beside the schemes of ``set_padding``: ``'-inf'`` (max pooling) and ``'constant'`` (explicit
    padding with a value other than 0). Average pooling that leaves padding out is ``'partial'``:
    that is what a partial convolution with equal weights does. A transposed convolution pads with
    zeros where its windows overlap, because outputs near the border miss terms; its ``padding``
    crops.
    """
    if isinstance(module, _ConvTransposeNd):
        overlaps = any(
            dilation * (size - 1) >= stride
            for dilation, size, stride in zip(
                module.dilation, module.kernel_size, module.stride, strict=True
            )
        )
        return "zeros" if overlaps else None
    if isinstance(module, _ConvNd):
        if not is_padded_convolution(module):
            return None
        return "partial" if isinstance(module, (PConv1d, PConv2d, PConv3d)) else module.padding_mode
    # A container repeats the padding of the layer in it (ConvModule does).
    if next(module.children(), None) is not None and not module._parameters:
        return None
    # What these call padding is cropped.
    if isinstance(module, (nn.Fold, _MaxUnpoolNd)) or not _pads(getattr(module, "padding", 0)):
        return None
    if getattr(module, "count_include_pad", True) is False:
        return "partial"
    kinds = (scheme for kind, (scheme, _) in _OTHERS.items() if kind in type(module).__name__)
    scheme = next(kinds, "zeros")
    return "zeros" if scheme == "constant" and getattr(module, "value", None) == 0 else scheme


def _pads(padding: Any) -> bool:
    """Whether a layer's attribute asks for any padding; explicit padding's may be nested."""
    if hasattr(padding, "tolist"):  # of an array or a tensor
        padding = padding.tolist()
    if isinstance(padding, tuple | list):
        return any(map(_pads, padding))
    return bool(padding) and padding != "valid"


def scheme_of(model: nn.Module) -> str:
    """The scheme of a model's padded convolutions; ``'none'`` if it has none.

    Several are joined: ``'partial+zeros'`` if some are partial and the others pad with zeros.
    """
    schemes = {padding_of(layer) for layer in model.modules() if is_padded_convolution(layer)}
    return "+".join(sorted(schemes)) or "none"


def why_not_convertible(module: nn.Module) -> str:
    """Why ``set_padding`` leaves this padded layer as it is; empty if it does not."""
    cls = plain_class(module)
    if isinstance(module, _ConvTransposeNd):
        return TRANSPOSED
    if not isinstance(module, _ConvNd):
        reasons = (reason for kind, (_, reason) in _OTHERS.items() if kind in cls.__name__)
        return next(reasons, f"{cls.__name__} is not a convolution of PyTorch's")
    if isinstance(module, LazyModuleMixin):
        return "not initialised yet: run the model once before"
    if getattr(module, "return_mask", False):
        return "returns masks"
    if "forward" in vars(module) or "_conv_forward" in vars(module):
        return "its forward has been replaced"
    return "" if is_plain_convolution(cls) else f"{cls.__name__} has a forward of its own"


def first_of(layers: Sequence[str]) -> str:
    """Three layers at most, for messages."""
    return ", ".join([*layers[:3], *(["..."] if len(layers) > 3 else [])])


def is_plain_convolution(cls: type) -> bool:
    """Whether instances of a class compute what PyTorch's (or mmcv's adaptive) convolution does."""
    # The forward of mmcv's wrappers differs for empty batches in torch < 1.5 only.
    return cls in (wrappers.Conv2d, wrappers.Conv3d) or any(
        issubclass(cls, base)
        and cls.forward is base.forward
        and cls._conv_forward is base._conv_forward
        for base in FORMS
    )
