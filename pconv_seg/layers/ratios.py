"""Ratios in memory: maps of the size of an output, and strips along its border.

They are kept, so what is made here depends on the arguments alone.
"""

from array import array
from collections.abc import Callable
from functools import lru_cache, wraps

import torch
from torch import Tensor

from .plan import Plan

# A pass over strips with at most this share of all values takes less time than one over all.
_LARGEST_SHARE = 1 / 3
# At each end of a row a strip takes so many values at least: neighbours come from memory with those
# that miss taps, and vectors and threads want many.
_COLUMNS = 8


def _outside_inference_mode(make: Callable) -> Callable:
    """Make ordinary tensors in inference mode too: they are kept, and training may be next."""

    @wraps(make)
    def made(*args):
        if not torch.is_inference_mode_enabled():  # Asking is faster than leaving it.
            return make(*args)
        # What torch.inference_mode enters, without the time that it takes itself.
        with torch._C._InferenceMode(False):
            return make(*args)

    return made


@_outside_inference_mode
def new_ratio_map(
    plan: Plan,
    dtype: torch.dtype,
    around_bias: bool,
    device: torch.device | str,
    non_blocking: bool = False,
) -> Tensor:
    """Ratios; or, around a bias, 1 minus them: what scaling takes from it."""
    *outer_axes, values = _ratios_by_axis(plan, dtype)
    for ratios in reversed(outer_axes):
        code = values.typecode
        inner = {ratio: array(code, [ratio * value for value in values]) for ratio in {*ratios}}
        values = array(code)
        for ratio in ratios:
            values += inner[ratio]
    ratio_map = torch.frombuffer(values, dtype=at_least_float32(dtype)).view(plan.size)
    ratio_map = of_dtype(ratio_map, dtype)
    if around_bias:
        ratio_map = 1 - ratio_map
    if device == "cpu":
        return ratio_map
    # A copy takes a GPU fewer launches than all the steps. CUDA has read memory that is not pinned
    # when it returns, blocking or not.
    return ratio_map.to(device, non_blocking=non_blocking)


def _ratios_by_axis(plan: Plan, dtype: torch.dtype) -> list[array]:
    """Made by Python, since the first call waits for operations on tensors, slow to start."""
    typecode = "d" if at_least_float32(dtype) == torch.float64 else "f"
    by_axis = [array(typecode, [1]) * outputs for outputs in plan.size]
    for dim, start, length, ratio in (*plan.runs, *((*hole, 0) for hole in plan.holes)):
        by_axis[dim][start : start + length] = array(typecode, [ratio]) * length
    return by_axis


# (size, stride, offset, ratios) of a strip of values that lie densely in memory.
Strip = tuple[tuple[int, ...], tuple[int, ...], int, Tensor]


# Kept, since training on a CPU asks in every call with a large output.
@lru_cache(maxsize=4096)
def are_strips_thin(plan: Plan) -> bool:
    """Whether strips of the border are a small part of the output."""
    widths = [*plan.ends[:-1], max(plan.ends[-1], _COLUMNS)]
    shares = [2 * width / max(n, 1) for width, n in zip(widths, plan.size, strict=True)]
    return sum(shares) <= _LARGEST_SHARE


@lru_cache(maxsize=256)
@_outside_inference_mode
def dense_strips(
    plan: Plan,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    dtype: torch.dtype,
    around_bias: bool,
) -> list[Strip] | None:
    """Two strips that hold all ends of both axes; None where there are none.

    The first and last rows; and the columns at a row's end, which in memory lie beside those at
    the next one's start.
    """
    if len(plan.size) != 2 or not plan.ends[1]:
        return None
    (height, width), (batch, channels) = plan.size, shape[:2]
    of_image, of_channel, of_row, of_column = stride
    # The first and the last row also take what the columns' strip leaves.
    rows = max(plan.ends[0], 1)
    columns = max(plan.ends[1], _COLUMNS if of_column == 1 else 1)
    if 2 * rows > height or 2 * columns > width:
        return None
    vertical, horizontal = (
        torch.frombuffer(ratios, dtype=at_least_float32(dtype))
        for ratios in _ratios_by_axis(plan, dtype)
    )
    ends = torch.stack([vertical[:rows], vertical[-rows:]])
    ends = ends[..., None].repeat(1, 1, width)
    ends[0, 0, :columns] *= horizontal[:columns]
    ends[-1, -1, -columns:] *= horizontal[-columns:]
    sides = torch.cat([horizontal[-columns:], horizontal[:columns]])
    ends, sides = ends.to(dtype)[..., None], sides.to(dtype)[..., None]
    if around_bias:
        ends, sides = 1 - ends, 1 - sides
    return [
        (
            (batch, 2, rows, width, channels),
            (of_image, (height - rows) * of_row, of_row, of_column, of_channel),
            0,
            ends,
        ),
        (
            (batch, height - 1, 2 * columns, channels),
            (of_image, of_row, of_column, of_channel),
            (width - columns) * of_column,
            sides,
        ),
    ]


def views(values: Tensor, strips: list[Strip]) -> list[tuple[Tensor, Tensor]]:
    """The strips of dense ``values``, and their ratios."""
    start = values.storage_offset()
    return [
        (values.as_strided(size, stride, start + offset), ratios)
        for size, stride, offset, ratios in strips
    ]


def of_dtype(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    # Asking is faster than a conversion that changes nothing.
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype in (torch.float64, torch.complex128) else torch.float32
