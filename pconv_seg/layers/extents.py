"""Convolution of a batch in which every image fills only the top left of its place."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .axes import axes_of, convolve, padding_around
from .formula import ratio_of, reweight_

Extents = tuple[tuple[int, int], ...]


def validity(
    extents: Extents, size: Sequence[int], device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Which rows and which columns of every sample are real.

    Args:
        extents: (height, width) of the real area of every sample, in pixels.
        size: (height, width) of the batch.
        device: Where to put the result.

    Returns:
        ``BoolTensor[N, 1, H, 1]`` and ``BoolTensor[N, 1, 1, W]``; their conjunction is the mask.
    """
    lengths = torch.tensor(extents, device=device)[:, :, None]
    rows, cols = (
        torch.arange(length, device=device) < lengths[:, axis] for axis, length in enumerate(size)
    )
    return rows[:, None, :, None], cols[:, None, None, :]


def conv2d_within(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int | Sequence[int],
    padding: int | Sequence[int] | Sequence[tuple[int, int]] | str,
    dilation: int | Sequence[int],
    groups: int,
    extents: Extents,
    *,
    partial: bool,
) -> tuple[Tensor, Extents]:
    """Convolve every sample as if the batch ended where its real area does.

    One convolution of the whole batch; no mask is convolved, because the count of real taps is
    a product of a count of rows and a count of columns.

    The real area of the result is what the layer has outputs for when the sample is alone. Eq. 3
    of the paper (a window with any real tap is real) adds to it the windows centred on the
    batch's padding, as many as the batch happens to have room for; they are left out, so that a
    sample's result depends on the sample only.

    Args:
        input: ``Tensor[N, C_in, H, W]``; what lies outside the extents is never used.
        weight: As in ``F.conv2d``, and so are ``bias``, ``stride``, ``dilation`` and ``groups``.
        padding: As in ``F.conv2d``, or (before, after) of each axis.
        extents: (height, width) of the real area of every sample, in pixels.
        partial: Padding is missing data (``partial_conv2d``); else zeros (``F.conv2d``).

    Returns:
        ``Tensor[N, C_out, H', W']``, arbitrary outside its real area, and the extents of that.
    """
    axes = axes_of(weight.shape[2:], stride, padding, dilation)
    # Without padding no window of the output's real area reaches beyond the input's.
    padded = any(axis.before or axis.after for axis in axes)
    if padded:
        rows, cols = validity(extents, input.shape[-2:], input.device)
        input = torch.where(rows & cols, input, input.new_zeros(()))
    partial = partial and padded
    conv_bias, around = None if partial else bias, padding_around(axes)
    output = convolve(input, weight, conv_bias, stride, around, dilation, groups)
    if partial:
        counts = axes[0].window_sum(rows) * axes[1].window_sum(cols)
        output = reweight_(output, bias, ratio_of(counts, weight[0, 0].numel(), output))
    return output, tuple(
        tuple(axis.outputs(length) for length, axis in zip(extent, axes, strict=True))
        for extent in extents
    )
