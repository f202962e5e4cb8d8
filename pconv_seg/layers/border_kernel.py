"""Partial padding's scaling as one Triton kernel, which reads and writes border outputs alone.

PyTorch's own operations take one launch for each strip, or a pass over the whole map. Where a bias
is yet to be added, which takes such a pass anyway, the kernel does both in one. Importing this
module needs Triton 3, which builds of PyTorch >= 2.4 for CUDA bring along.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

if triton.__version__ < "3":
    raise ImportError(f"the kernel needs Triton 3.0 or newer, not {triton.__version__}")

# Values of one program: along what lies side by side in memory, and across it.
_ALONG, _ACROSS = 64, 16

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
    place = i * stride - before
    count = place * 0
    for _ in range(kernel_size):
        count += ((place >= 0) & (place < length)).to(tl.int32)
        place += dilation
    ratio = kernel_size / tl.maximum(count, 1).to(float_type)
    return tl.where(count > 0, ratio, 0)


@triton.jit
def _scale(
    values,
    bias,
    sums,
    channel,
    pixel,
    inside,
    ratio,
    channels,
    pixels,
    adds_bias: tl.constexpr,
    channels_last: tl.constexpr,
    float_type: tl.constexpr,
):
    """Scale pixels of one image; ``sums`` is of this program alone."""
    # What lies side by side in memory goes last: threads take values in this order.
    if channels_last:
        place = pixel[:, None] * channels + channel[None, :]
        mask = inside[:, None] & (channel < channels)[None, :]
        ratio = ratio[:, None]
    else:
        place = channel[:, None] * pixels + pixel[None, :]
        mask = (channel < channels)[:, None] & inside[None, :]
        ratio = ratio[None, :]
    old = tl.load(values + place, mask, 0).to(float_type)
    new = old * ratio
    if bias is not None:
        shift = tl.load(bias + channel, channel < channels, 0).to(float_type)
        shift = shift[None, :] if channels_last else shift[:, None]
        new += shift if adds_bias else shift * (1 - ratio)
    tl.store(values + place, tl.where(ratio == 0, 0, new), mask)
    if sums is not None:
        parts = tl.where(ratio == 0, 0, old if adds_bias else old * (1 - ratio))
        tl.store(sums + channel, tl.sum(parts, 0 if channels_last else 1), channel < channels)


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
    adds_bias: tl.constexpr,
    channels_last: tl.constexpr,
    float_type: tl.constexpr,
    pixel_block: tl.constexpr,
    side: tl.constexpr,
    channel_block: tl.constexpr,
):
    channel = (tl.program_id(1) * channel_block + tl.arange(0, channel_block)).to(tl.int64)
    image = tl.program_id(2).to(tl.int64)
    values += image * channels * rows * columns
    if sums is not None:
        sums += (image * tl.num_programs(0) + tl.program_id(0)) * channels
    lane = tl.arange(0, pixel_block)
    # In turns at the start and at the end: first of the map, then of the rows between.
    at_end = tl.program_id(0) % 2 == 1
    piece = tl.program_id(0) // 2
    row_pieces = tl.cdiv(tl.maximum(top, bottom) * columns, pixel_block)
    # In two branches, so that the compiler sees of each which of its pixels are neighbours.
    if piece < row_pieces:
        along = piece * pixel_block + lane
        inside = along < tl.where(at_end, bottom, top) * columns
        pixel = tl.where(at_end, (rows - bottom) * columns, 0) + along
        ratio = _ratio(
            pixel // columns, height, kernel_height, stride_y, before_y, dilation_y, float_type
        ) * _ratio(pixel % columns, width, kernel_width, stride_x, before_x, dilation_x, float_type)
        _scale(
            values,
            bias,
            sums,
            channel,
            pixel.to(tl.int64),
            inside,
            ratio,
            channels,
            rows * columns,
            adds_bias,
            channels_last,
            float_type,
        )
    else:
        piece -= row_pieces
        pieces = tl.cdiv(tl.maximum(left, right), side)
        along = piece % pieces * side + lane % side
        y = top + piece // pieces * (pixel_block // side) + lane // side
        x = tl.where(at_end, columns - right, 0) + along
        inside = (y < rows - bottom) & (along < tl.where(at_end, right, left))
        ratio = _ratio(
            y, height, kernel_height, stride_y, before_y, dilation_y, float_type
        ) * _ratio(x, width, kernel_width, stride_x, before_x, dilation_x, float_type)
        _scale(
            values,
            bias,
            sums,
            channel,
            (y * columns + x).to(tl.int64),
            inside,
            ratio,
            channels,
            rows * columns,
            adds_bias,
            channels_last,
            float_type,
        )


def load(
    device: torch.device, dtype: torch.dtype, contiguous: bool, adds_bias: bool, side: int
) -> None:
    """Compile and load all that :func:`scale_border_` launches for values like these.

    Args:
        device: That of the values.
        dtype: That of the values.
        contiguous: Whether they are contiguous; otherwise they are channels_last.
        adds_bias: As in :func:`scale_border_`.
        side: How many columns at a row's end miss taps, the larger of both ends.
    """
    memory_format = torch.contiguous_format if contiguous else torch.channels_last
    columns = max(side, 1)
    values = torch.zeros(1, 2, 2, columns, dtype=dtype, device=device)
    values = values.contiguous(memory_format=memory_format)
    frame = (2, 1, 1, 0, 1, 2, 0, 0), (columns, 1, 1, 0, 1, columns, side, 0)
    for bias in (None, values[0, :, 0, 0].clone()):
        scale_border_(values, bias, adds_bias, frame, False)
    scale_border_(values, None, adds_bias, frame, True)


def scale_border_(
    values: Tensor,
    bias: Tensor | None,
    adds_bias: bool,
    frame: tuple[tuple[int, ...], tuple[int, ...]],
    sums: bool,
) -> Tensor | None:
    """Scale the border of ``values`` around ``bias``, in place; with ratio 0 they become 0.

    Args:
        values: ``Tensor[N, C, H, W]`` of a floating dtype, contiguous or channels_last, beginning
            at a multiple of 16 bytes; N below 65536.
        bias: ``Tensor[C]``.
        adds_bias: Whether ``bias`` is not in ``values`` yet: then it is added to all of them that
            have a ratio other than 0.
        frame: For rows, then for columns: input length, kernel size, stride, padding before,
            dilation, number of outputs, and how many of them miss taps at the start and at the end.
        sums: Whether to return sums.

    Returns:
        With ``sums`` the bias' gradient, ``Tensor[C]`` in at least float32, if ``values`` were the
        gradient of what this function gave: the sum of ``values`` or, unless ``adds_bias``, of
        (1 - ratio) times them, where ratio is not 0.
    """
    images, channels, rows, columns = values.shape
    (*taps, top, bottom), (*taps_of_columns, left, right) = frame
    if adds_bias:
        top, bottom, left, right = rows - rows // 2, rows // 2, 0, 0
    if bias is not None:
        bias = bias.to(values.dtype).contiguous()
        if bias.data_ptr() % 16:
            bias = bias.clone()
    channels_last = not values.is_contiguous()
    pixel_block, channel_block = (_ACROSS, _ALONG) if channels_last else (_ALONG, _ACROSS)
    width = max(left, right)
    side = min(triton.next_power_of_2(max(width, 1)), pixel_block)
    blocks = 2 * triton.cdiv(max(top, bottom) * columns, pixel_block)
    blocks += 2 * triton.cdiv(width, side) * triton.cdiv(rows - top - bottom, pixel_block // side)
    double = values.dtype == torch.float64
    parts = None
    if sums:
        dtype = torch.float64 if double else torch.float32
        parts = values.new_empty(images * blocks, channels, dtype=dtype)
    if blocks * channels * images:
        # Triton launches on the current device.
        with torch.cuda.device_of(values):
            _scale_border[(blocks, triton.cdiv(channels, channel_block), images)](
                values,
                bias,
                parts,
                channels,
                *taps,
                top,
                bottom,
                *taps_of_columns,
                left,
                right,
                adds_bias=adds_bias,
                channels_last=channels_last,
                float_type=tl.float64 if double else tl.float32,
                pixel_block=pixel_block,
                side=side,
                channel_block=channel_block,
                num_warps=2 if channels_last else 4,
            )
    return parts.sum(0) if sums else None
