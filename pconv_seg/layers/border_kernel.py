"""Partial padding's scaling as one Triton kernel, which reads and writes border outputs alone.

PyTorch's own operations take one launch for each strip, or a pass over the whole map. Importing
this module needs Triton, which PyTorch's builds for CUDA bring along.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

# Values of one program: along what lies side by side in memory, and across it.
_ALONG, _ACROSS = 64, 16


@triton.jit
def _ratio(i, length, kernel_size, stride, before, dilation, float_type: tl.constexpr):
    """k over the taps of window ``i`` that lie on ``length`` pixels; 0 where none does."""
    first = i * stride - before
    missed = (tl.maximum(-first, 0) + dilation - 1) // dilation
    reached = (tl.maximum(length - first, 0) + dilation - 1) // dilation
    count = tl.minimum(reached, kernel_size) - tl.minimum(missed, kernel_size)
    taps = tl.full(count.shape, 0, float_type) + kernel_size
    return tl.where(count > 0, taps / tl.maximum(count, 1).to(float_type), 0)


# Sizes differ from layer to layer; without a value of its own in the kernel each would be
# compiled for, when it is 1 or a multiple of 16.
_SIZES = (
    *("channels", "pixels", "pixel_blocks", "channel_blocks"),
    *("height", "kernel_height", "stride_y", "before_y", "dilation_y", "rows", "top", "bottom"),
    *("width", "kernel_width", "stride_x", "before_x", "dilation_x", "columns", "left", "right"),
)


@triton.jit(do_not_specialize=_SIZES)
def _scale_border(
    values,
    bias,
    sums,
    channels,
    pixels,
    pixel_blocks,
    channel_blocks,
    height,
    kernel_height,
    stride_y,
    before_y,
    dilation_y,
    rows,
    top,
    bottom,
    width,
    kernel_width,
    stride_x,
    before_x,
    dilation_x,
    columns,
    left,
    right,
    has_bias: tl.constexpr,
    has_sums: tl.constexpr,
    channels_last: tl.constexpr,
    float_type: tl.constexpr,
    pixel_block: tl.constexpr,
    channel_block: tl.constexpr,
):
    program = tl.program_id(0)
    image = (program // pixel_blocks // channel_blocks).to(tl.int64)
    channel = program // pixel_blocks % channel_blocks * channel_block
    channel += tl.arange(0, channel_block)
    pixel = program % pixel_blocks * pixel_block + tl.arange(0, pixel_block)

    # Rows above and below, then left and right ends of the rows between.
    outer = (top + bottom) * columns
    outer_y = pixel // columns
    outer_y += tl.where(outer_y < top, 0, rows - top - bottom)
    ends = tl.maximum(left + right, 1)
    inner = pixel - outer
    inner_x = inner % ends
    inner_x += tl.where(inner_x < left, 0, columns - left - right)
    y = tl.where(pixel < outer, outer_y, top + inner // ends)
    x = tl.where(pixel < outer, pixel % columns, inner_x)
    ratio = _ratio(y, height, kernel_height, stride_y, before_y, dilation_y, float_type)
    ratio *= _ratio(x, width, kernel_width, stride_x, before_x, dilation_x, float_type)

    # What lies side by side in memory goes last: threads take values in this order.
    if channels_last:
        place = ((image * rows + y) * columns + x)[:, None] * channels + channel[None, :]
        mask = (pixel < pixels)[:, None] & (channel < channels)[None, :]
        ratio = ratio[:, None]
    else:
        place = (image * channels + channel)[:, None] * rows * columns + (y * columns + x)[None, :]
        mask = (channel < channels)[:, None] & (pixel < pixels)[None, :]
        ratio = ratio[None, :]
    old = tl.load(values + place, mask, 0).to(float_type)
    new = old * ratio
    if has_bias:
        shift = tl.load(bias + channel, channel < channels, 0).to(values.dtype.element_ty)
        shift = shift.to(float_type)
        shift = shift[None, :] if channels_last else shift[:, None]
        new += shift * (1 - ratio)
    new = tl.where(ratio == 0, 0, new)
    tl.store(values + place, new, mask)
    if has_sums:
        parts = tl.where(ratio == 0, 0, old * (1 - ratio))
        part = tl.sum(parts, 0 if channels_last else 1)
        block = image * pixel_blocks + program % pixel_blocks
        tl.store(sums + block * channels + channel, part, channel < channels)


def scale_border_(
    values: Tensor, bias: Tensor | None, frame: tuple[tuple[int, ...], tuple[int, ...]], sums: bool
) -> Tensor | None:
    """Scale the border of ``values`` around ``bias``, in place; with ratio 0 they become 0.

    Args:
        values: ``Tensor[N, C, H, W]`` of a floating dtype, contiguous or channels_last.
        bias: ``Tensor[C]``.
        frame: For rows, then for columns: input length, kernel size, stride, padding before,
            dilation, number of outputs, and how many of them miss taps at the start and at the end.
        sums: Whether to return sums.

    Returns:
        With ``sums`` what the scaling took away from every channel, ``Tensor[C]`` in at least
        float32: the sum of (1 - ratio) times the values before, where ratio is not 0.
    """
    images, channels, rows, columns = values.shape
    (*_, top, bottom), (*_, left, right) = frame
    pixels = rows * columns - (rows - top - bottom) * (columns - left - right)
    channels_last = not values.is_contiguous()
    pixel_block, channel_block = (_ACROSS, _ALONG) if channels_last else (_ALONG, _ACROSS)
    pixel_blocks, channel_blocks = -(-pixels // pixel_block), -(-channels // channel_block)
    double = values.dtype == torch.float64
    parts = None
    if sums:
        parts = values.new_empty(
            images * pixel_blocks, channels, dtype=torch.float64 if double else torch.float32
        )
    programs = images * pixel_blocks * channel_blocks
    if programs:
        # Triton launches on the current device.
        with torch.cuda.device_of(values):
            _scale_border[(programs,)](
                values,
                bias,
                parts,
                channels,
                pixels,
                pixel_blocks,
                channel_blocks,
                *frame[0],
                *frame[1],
                has_bias=bias is not None,
                has_sums=sums,
                channels_last=channels_last,
                float_type=tl.float64 if double else tl.float32,
                pixel_block=pixel_block,
                channel_block=channel_block,
            )
    return parts.sum(0) if sums else None
