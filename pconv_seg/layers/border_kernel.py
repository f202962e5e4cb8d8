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

# Pixels and channels of one program, and its warps, by whether channels lie side by side in memory.
_BLOCKS = {False: (64, 16, 4), True: (16, 64, 2)}

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
    channel_block: tl.constexpr,
):
    number = tl.program_id(0) * pixel_block + tl.arange(0, pixel_block)
    y, x = number // columns, number % columns
    if adds_bias:
        pixel, inside = number, y < rows
    else:
        # First the rows at the top and at the bottom, then both ends of the rows between.
        y += tl.where(y < top, 0, rows - top - bottom)
        sides = left + right
        beside = number - (top + bottom) * columns
        of_row = beside % tl.maximum(sides, 1)
        y = tl.where(beside < 0, y, top + beside // tl.maximum(sides, 1))
        x = tl.where(beside < 0, x, of_row + tl.where(of_row < left, 0, columns - sides))
        inside = beside < (rows - top - bottom) * sides
        # Most of them are neighbours, and threads are to take them in this order. No vector is
        # loaded by it, which would need alignment, and nothing says that there is any.
        pixel = tl.max_contiguous(y * columns + x, pixel_block)
    ratio = _ratio(y, height, kernel_height, stride_y, before_y, dilation_y, float_type) * _ratio(
        x, width, kernel_width, stride_x, before_x, dilation_x, float_type
    )
    pixel = pixel.to(tl.int64)
    channel = (tl.program_id(1) * channel_block + tl.arange(0, channel_block)).to(tl.int64)
    image = tl.program_id(2).to(tl.int64)
    values += image * channels * rows * columns
    # What lies side by side in memory goes last: threads take values in this order.
    if channels_last:
        place = pixel[:, None] * channels + channel[None, :]
        mask = inside[:, None] & (channel < channels)[None, :]
        ratio = ratio[:, None]
    else:
        place = channel[:, None] * (rows * columns) + pixel[None, :]
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
        sums += (image * tl.num_programs(0) + tl.program_id(0)) * channels
        tl.store(sums + channel, tl.sum(parts, 0 if channels_last else 1), channel < channels)


def load(device: torch.device, dtype: torch.dtype, contiguous: bool, adds_bias: bool) -> None:
    """Compile and load all that :func:`scale_border_` launches for values like these.

    Args:
        device: That of the values.
        dtype: That of the values.
        contiguous: Whether they are contiguous; otherwise they are channels_last.
        adds_bias: As in :func:`scale_border_`.
    """
    memory_format = torch.contiguous_format if contiguous else torch.channels_last
    values = torch.zeros(1, 2, 2, 1, dtype=dtype, device=device)
    values = values.contiguous(memory_format=memory_format)
    frame = (2, 1, 1, 0, 1, 2, 1, 0), (1, 1, 1, 0, 1, 1, 0, 0)
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
    (*_, top, bottom), (*_, left, right) = frame
    pixels = rows * columns
    if not adds_bias:
        pixels -= (rows - top - bottom) * (columns - left - right)
    if bias is not None:
        bias = bias.to(values.dtype).contiguous()
        if bias.data_ptr() % 16:
            bias = bias.clone()
    channels_last = not values.is_contiguous()
    pixel_block, channel_block, num_warps = _BLOCKS[channels_last]
    blocks = triton.cdiv(pixels, pixel_block)
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
                *frame[0],
                *frame[1],
                adds_bias=adds_bias,
                channels_last=channels_last,
                float_type=tl.float64 if double else tl.float32,
                pixel_block=pixel_block,
                channel_block=channel_block,
                num_warps=num_warps,
            )
    return parts.sum(0) if sums else None
