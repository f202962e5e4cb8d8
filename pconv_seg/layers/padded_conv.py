"""Convolutions whose padding is filled with values made from the input."""

from collections.abc import Sequence
from math import prod

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary

from .axes import CONVOLUTIONS, axes_of_layer, flat_padding
from .compiling import is_compiling
from .partial_conv import fx_node


def distribution_pad(input: Tensor, padding: Sequence[int]) -> Tensor:
    """Pad with means of the input near its border.

    After *Distribution Padding in Convolutional Neural Networks* (Nguyen et al., ICIP 2019), which
    pads with means of border patches of ``2 * padding + 1`` pixels and lets no gradient pass
    through them. The authors stretch a smaller map of means over the border by interpolation.
    Here, every padded value is the mean of the real values in one window: of
    ``2 * max(before, after) + 1`` pixels per axis, centred on the input pixel nearest to the
    padded position, and cut off where the input ends. With padding 1 that is 2x3 pixels along
    edges and 2x2 in corners.

    Args:
        input: ``Tensor[N, C, *size]`` or ``Tensor[C, *size]`` with 1 to 3 spatial dimensions, of
            any floating dtype.
        padding: Pixels before and after the last axis, before and after the last but one, and so
            on, as in ``F.pad``; any number of pixels, for all spatial dimensions.

    Returns:
        ``Tensor[N, C, *padded size]`` (or unbatched); no gradient flows through padded values.
    """
    if not is_compiling() and has_torch_function_unary(input):
        # Seen as one operation, like F.pad, by whoever follows operations (padded batches do).
        return handle_torch_function(distribution_pad, (input,), input, padding)
    n, shape = len(padding) // 2, input.shape
    means = input.detach()
    for axis in range(n):
        reach = max(padding[2 * axis], padding[2 * axis + 1])
        dim = len(shape) - 1 - axis
        # Means of means along axes: all rows of a window have equally many values.
        rows = means.reshape(prod(shape[:dim]), 1, shape[dim], prod(shape[dim + 1 :]))
        kernel_size, pads = (2 * reach + 1, 1), (reach, 0)
        means = F.avg_pool2d(rows, kernel_size, 1, pads, count_include_pad=False).reshape(shape)
    padded = F.pad(means, padding, mode="replicate")
    # Indices, not `narrow`, of which the TorchScript exporter to ONNX would lose what is written.
    interior = [
        slice(padding[2 * axis], padding[2 * axis] + shape[-1 - axis])
        for axis in range(n - 1, -1, -1)
    ]
    padded[(..., *interior)] = input
    return padded


def checked_pad(input: Tensor, padding: Sequence[int], mode: str, layer_name: str) -> Tensor:
    """``F.pad`` with values of the input, which names the layer where a map is too small for it.

    Raises:
        ValueError: if padding reaches beyond the map.
    """
    if not is_compiling() and has_torch_function_unary(input):
        # As one operation: each image of a padded batch has a size of its own.
        return handle_torch_function(checked_pad, (input,), input, padding, mode, layer_name)
    # Reflection leaves out the border pixel itself. Replication could go on for ever, but where
    # it exceeds the map, the outer taps would see nothing else than copies of one pixel.
    spare = 1 if mode == "reflect" else 0
    for i, pixels in enumerate(padding):
        if pixels > input.shape[-1 - i // 2] - spare:
            size = "x".join(str(length) for length in input.shape[-(len(padding) // 2) :])
            raise ValueError(
                f"{layer_name}: a map of {size} is too small for {mode} padding of {pixels} "
                f"pixels, which needs at least {pixels + spare}. Use larger images or tiles, or "
                "another scheme for this layer (`where` of set_padding)"
            )
    return F.pad(input, padding, mode)


_MODES = ("reflect", "replicate", "circular", "distribution")


class _PaddedConvNd(nn.modules.conv._ConvNd):
    """What the padded convolution layers have in common; nn.Conv1d, 2d or 3d comes after it."""

    layer_name = "convolution"

    def __init__(self, *args, padding_mode: str, **kwargs) -> None:
        if padding_mode not in _MODES:
            raise ValueError(
                f"{type(self).__name__} does not take padding_mode={padding_mode!r}: choose one of "
                f"{', '.join(_MODES)}, or use PyTorch's convolution to pad with zeros"
            )
        # PyTorch's does not know all of them.
        super().__init__(*args, **kwargs)
        self.padding_mode = padding_mode
        self._reversed_padding_repeated_twice = flat_padding(axes_of_layer(self))

    # A hook that the subclass whose padding depends on the input overrides.
    def _pads(self, input: Tensor) -> Sequence[int]:
        return self._reversed_padding_repeated_twice

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        pads = self._pads(input)
        if self.padding_mode == "distribution":
            padded = distribution_pad(input, pads)
        else:
            padded = checked_pad(input, pads, self.padding_mode, self.layer_name)
        return CONVOLUTIONS[weight.dim()](
            padded, weight, bias, self.stride, 0, self.dilation, self.groups
        )

    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``Tensor[N, C_in, *size]`` (or unbatched).

        Raises:
            ValueError: if the map is too small for this padding (any but distribution).
        """
        if isinstance(input, torch.fx.Proxy):
            return fx_node(self, input)
        return self._conv_forward(input, self.weight, self.bias)


class PaddedConv1d(_PaddedConvNd, nn.Conv1d):
    """``nn.Conv1d`` with padding made from the input, see :class:`PaddedConv2d`."""


class PaddedConv2d(_PaddedConvNd, nn.Conv2d):
    """``nn.Conv2d`` whose ``padding_mode`` is reflect, replicate, circular or distribution.

    Unlike PyTorch's it knows ``'distribution'`` (see :func:`distribution_pad`), and says which
    layer it was when a map is too small. ``set_padding`` makes it from a plain convolution.

    Args:
        padding_mode: One of these, by keyword; all other arguments are those of ``nn.Conv2d``.

    Raises:
        ValueError: if ``padding_mode`` is another one.
    """


class PaddedConv3d(_PaddedConvNd, nn.Conv3d):
    """``nn.Conv3d`` with padding made from the input, see :class:`PaddedConv2d`."""
