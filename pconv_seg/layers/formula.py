"""How partial padding scales what a convolution put out, in operations on tensors.

For compilers and function transforms, which follow operations, and for masks.
"""

from collections.abc import Sequence
from types import SimpleNamespace

import torch
from torch import Tensor

from .axes import Axis
from .compiling import is_compiling, is_exporting, is_known
from .plan import Plan
from .ratios import at_least_float32, new_ratio_map
from .scaling import as_column, is_recorded, not_kept


def scale_by_formula(
    output: Tensor, bias: Tensor | None, size: Sequence[int], axes: list[Axis]
) -> Tensor:
    """What :func:`.scaling.scale_` does, but to an output to which ``bias`` was not yet added.

    ``size`` is that of the input and may hold symbols.
    """
    compiling, never_empty = is_compiling() and not is_exporting(), True
    known = compiling
    for axis in axes:
        never_empty = never_empty and axis.never_empty
        known = known and is_known(size[axis.dim])
    if known:
        options = tuple([axis.options() for axis in axes])
        dtype = at_least_float32(output.dtype)
        name = _name_of_compiled_map(tuple(size), options, dtype, output.device)
        ratio = getattr(_compiled_maps, name)
    else:
        ratio = _ratio_by_formula(output, size, axes)
        if compiling:
            # This view needs its map in memory. Without it, every loop over all values computes
            # each one's ratio anew, in all channels.
            ratio = ratio.as_strided(ratio.shape, ratio.stride())
    if bias is None:
        return output.mul_(ratio)
    column = as_column(bias, output)
    # Not in place: bias alone may have a dimension of torch.vmap.
    # torch.jit.trace checks its graph in another mode of autograd, so it gets one for both.
    if not compiling or is_recorded(output, bias):
        # Added before the multiplication, the bias has for its gradient a sum of what the
        # convolution gets for its own, which is in memory anyway.
        divisor = ratio if never_empty else ratio.clamp(min=1)
        # Expanded: compilers may keep the product for the gradient where it is smaller than that.
        scaled = torch.addcmul(output, column.expand_as(output), 1 / divisor).mul_(ratio)
    else:
        scaled = torch.addcmul(column, output, ratio)
        if not never_empty:
            scaled = scaled * (ratio > 0)
    return scaled.to(output.dtype)


# Compiled code reads the maps of its layers here, so they stay. Made anew in each of its calls,
# they would take a launch each, which small networks on a GPU wait for.
_compiled_maps = SimpleNamespace()
_names_of_compiled_maps: dict[tuple, str] = {}


def _name_of_compiled_map(
    size: tuple[int, ...], options: tuple[tuple, ...], dtype: torch.dtype, device: torch.device
) -> str:
    """The attribute of ``_compiled_maps`` that is the ratio map of axes with these options."""
    key = size, options, dtype, device
    if key not in _names_of_compiled_maps:
        axes = [Axis(dim - len(size), *option) for dim, option in enumerate(options)]
        # Waits for the copy, so every stream of a GPU may read it.
        ratio_map = new_ratio_map(Plan(size, axes), dtype, False, device)
        _names_of_compiled_maps[key] = f"map{len(_names_of_compiled_maps)}"
        setattr(_compiled_maps, _names_of_compiled_maps[key], ratio_map)
    return _names_of_compiled_maps[key]


# It runs while a compiler follows its caller, in whose graph the map is an input then. This is all
# that torch.compiler.assume_constant_result does, but for importing the compiler, which takes long.
_name_of_compiled_map._dynamo_marked_constant = True


def _ratio_by_formula(output: Tensor, size: Sequence[int], axes: list[Axis]) -> Tensor:
    counts, taps = 1, 1
    for axis in axes:
        counts = counts * axis.counts(size[axis.dim], output)
        taps = taps * axis.kernel_size
    return ratio_of(counts, taps, output)


def ratio_of(counts: Tensor, taps: int, output: Tensor) -> Tensor:
    """k / sum(M), and 0 where no tap is valid, from integer ``counts``."""
    counts = counts.to(at_least_float32(output.dtype))
    # Exactly 1 where no tap is missing, also as a multiplication by 1 / counts.
    ratio = 1 + (taps - counts) / counts.clamp(min=1)
    return ratio * (counts > 0)


def reweight_(output: Tensor, bias: Tensor | None, ratio: Tensor) -> Tensor:
    """``output``, which may be changed, times ``ratio``, plus ``bias`` where ``ratio`` is not 0.

    Args:
        output: ``Tensor[N, C, *size]`` that a convolution gave without its bias.
        bias: ``Tensor[C]``.
        ratio: :func:`ratio_of`, of a shape that broadcasts to that of ``output``.
    """
    output = not_kept(output).mul_(ratio)
    if bias is None:
        return output
    # Not in place: bias alone may have a dimension of torch.vmap.
    return output + as_column(bias, output) * (ratio > 0)
