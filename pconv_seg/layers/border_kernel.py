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
# Bytes of a row that are written together at its ends. 
_WIDEN = 64
_WARPS = 4

# Each layer has its own sizes: the kernel is not to be compiled anew where one is 1 or a multiple
# of 16.
_SIZES = (
    "channels",
    *("height", "kernel_height", "stride_y", "before_y", "dilation_y", "rows", "top", "bottom"),
    *("width", "kernel_width", "stride_x", "before_x", "dilation_x", "columns", "left", "right"),
)


@triton.jit
def _ratio(i, length, kernel_size, stride, before, dilation, float_type: tl.constexpr):
    """k over the taps of window ``i`` that lie on ``length`` pixels; 0 where none does."""
    count = tl.zeros_like(i)
    place = i * stride - before
    for _ in range(kernel_size):
        count += ((place >= 0) & (place < length)).to(tl.int32)
        place += dilation
    ratio = kernel_size / tl.maximum(count, 1).to(float_type)
    return tl.where(count > 0, ratio, 0)


@triton.jit(do_not_specialize=_SIZES)
def _scale_border(
    values,
    bias,
    sums,
    channels,
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
    pixels: tl.constexpr,
    ends: tl.constexpr,
    channel_block: tl.constexpr,
):
    block = tl.program_id(0)
    channel = tl.program_id(1) * channel_block + tl.arange(0, channel_block)
    image = tl.program_id(2).to(tl.int64)
    pixel = tl.arange(0, pixels)

    # First come pieces of the rows above and below ...
    pieces = tl.cdiv(columns, pixels)
    row = block // pieces
    row_x = block % pieces * pixels + pixel
    row_y = row + tl.where(row < top, 0, rows - top - bottom)
    # ... then of the rows between, both ends together.
    side = block - (top + bottom) * pieces
    side_pieces = tl.cdiv(left + right, ends)
    end = side % side_pieces * ends + pixel % ends
    side_x = end + tl.where(end < left, 0, columns - left - right)
    side_y = top + side // side_pieces * (pixels // ends) + pixel // ends
    y = tl.where(side < 0, row_y, side_y)
    x = tl.where(side < 0, row_x, side_x)
    inside = tl.where(side < 0, row_x < columns, (side_y < rows - bottom) & (end < left + right))

    ratio = _ratio(y, height, kernel_height, stride_y, before_y, dilation_y, float_type)
    ratio *= _ratio(x, width, kernel_width, stride_x, before_x, dilation_x, float_type)

    # What lies side by side in memory goes last: threads take values in this order.
    if channels_last:
        place = (image * rows * columns + y * columns + x)[:, None] * channels + channel[None, :]
        mask = inside[:, None] & (channel < channels)[None, :]
        ratio = ratio[:, None]
    else:
        place = (image * channels + channel)[:, None] * rows * columns + (y * columns + x)[None, :]
        mask = (channel < channels)[:, None] & inside[None, :]
        ratio = ratio[None, :]
    old = tl.load(values + place, mask, 0).to(float_type)
    new = old * ratio
    if has_bias:
        shift = tl.load(bias + channel, channel < channels, 0).to(values.dtype.element_ty)
        shift = shift.to(float_type)
        shift = shift[None, :] if channels_last else shift[:, None]
        new += shift * (1 - ratio)
    new = tl.where(ratio == 0, 0, tl.where(ratio == 1, old, new))
    tl.store(values + place, new, mask)
    if has_sums:
        parts = tl.where(ratio == 0, 0, old * (1 - ratio))
        part = tl.sum(parts, 0 if channels_last else 1)
        row = image * tl.num_programs(0) + block
        tl.store(sums + row * channels + channel, part, channel < channels)


def scale_border_(
    values: Tensor, bias: Tensor | None, frame: tuple[tuple[int, ...], tuple[int, ...]], sums: bool
) -> Tensor | None:
    """Scale the border of ``values`` around ``bias``, in place; with ratio 0 they become 0.

    Args:
        values: ``Tensor[N, C, H, W]`` of a floating dtype, contiguous or channels_last; N below
            65536.
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
    channels_last = not values.is_contiguous()
    pixels, channel_block = (_ACROSS, _ALONG) if channels_last else (_ALONG, _ACROSS)
    if not channels_last and _WIDEN and left + right:
        granule = _WIDEN // values.element_size()
        left = min(-(-left // granule) * granule, columns)
        right = min(-(-right // granule) * granule, columns - left)
    ends = min(triton.next_power_of_2(max(left + right, 1)), pixels)
    blocks = (top + bottom) * -(-columns // pixels)
    blocks += -(-(left + right) // ends) * -(-(rows - top - bottom) // (pixels // ends))
    double = values.dtype == torch.float64
    parts = None
    if sums:
        parts = values.new_empty(
            images * blocks, channels, dtype=torch.float64 if double else torch.float32
        )
    if blocks * channels * images:
        # Triton launches on the current device.
        with torch.cuda.device_of(values):
            _scale_border[(blocks, -(-channels // channel_block), images)](
                values,
                bias,
                parts,
                channels,
                *frame[0],
                *frame[1][:-2],
                left,
                right,
                has_bias=bias is not None,
                has_sums=sums,
                channels_last=channels_last,
                float_type=tl.float64 if double else tl.float32,
                pixels=pixels,
                ends=ends,
                channel_block=channel_block,
                num_warps=_WARPS,
            )
    return parts.sum(0) if sums else None
