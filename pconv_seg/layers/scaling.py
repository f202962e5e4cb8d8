"""How partial padding scales what a convolution put out: k / sum(M) times, around the bias.

In operations on tensors for compilers and function transforms; otherwise by a map of ratios, in
strips along the border, or by a kernel, whichever is fastest.
"""

import sys
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..geometry import border_runs
from .axes import Axis, axes_of, padding_around
from .compiling import is_compiling, is_exporting, is_known

# Strips with at most this share of an output of at least this many values are scaled faster than a
# pass over all values takes.
_LARGEST_SHARE = 1 / 3
_FEWEST_VALUES = 2**20
# At each end of a row a strip takes so many values at least: neighbours come from memory with those
# that miss taps, and vectors and threads want many.
_COLUMNS = 8
# On a GPU the border is scaled by a kernel, which takes more of Python than a multiplication, in
# training there and back, and hides it only behind outputs of more bytes than this.
_MOST_BYTES_BY_MAP = {False: 2**24, True: 2**26}  # by whether autograd records


class Plan:
    """What partial padding does to a map of one size.

    Attributes:
        around: Of :func:`padding_around`.
        size: Of the output.
        runs: Outputs to scale, ``(dim, start, length, ratio)``.
        holes: Outputs without any valid tap, ``(dim, start, length)``.
        frame: Both for :func:`.border_kernel.scale_border_`, one entry per axis.
        ends: By axis how many outputs miss taps, at the end where more of them do.
        thin: Whether strips of these are a small part of the output.
    """

    __slots__ = ("around", "ends", "frame", "holes", "runs", "size", "thin")

    def __init__(self, size: tuple[int, ...], axes: list[Axis]) -> None:
        self.around, self.size, self.frame, self.ends = padding_around(axes), [], [], []
        self.runs, self.holes = [], []
        for axis in axes:
            length = size[axis.dim]
            outputs = axis.outputs(length)
            self.size.append(outputs)
            taps = axis.kernel_size, axis.stride, axis.before, axis.dilation
            ends = [0, 0]
            for start, stop, count in border_runs(length, outputs, *taps):
                outside = axis.dim, start, stop - start
                if count:
                    self.runs.append((*outside, axis.kernel_size / count))
                else:
                    self.holes.append(outside)
                ends[start > ends[0]] += stop - start
            self.frame.append((length, *taps, outputs, *ends))
            self.ends.append(max(ends))
        widths = [*self.ends[:-1], max(self.ends[-1], _COLUMNS)]
        shares = [2 * width / max(n, 1) for width, n in zip(widths, self.size, strict=True)]
        self.thin = sum(shares) <= _LARGEST_SHARE


# Pure in their arguments. Plans are kept because Python takes longer for them than a CPU for a
# small map, and by whole shapes because slicing these takes longer than looking them up.
@lru_cache(maxsize=4096)
def plan_of(shape: tuple[int, ...], weight_shape: tuple[int, ...], *options) -> Plan:
    """Of a batch and weights of these shapes; ``options`` are stride, padding and dilation."""
    return plan_of_size(shape[2:], weight_shape[2:], *options)


@lru_cache(maxsize=4096)
def plan_of_size(
    size: tuple[int, ...], kernel_size: tuple[int, ...], stride, padding, dilation
) -> Plan:
    return Plan(size, axes_of(kernel_size, stride, padding, dilation))


def scale_(output: Tensor, bias: Tensor | None, plan: Plan) -> Tensor:
    """Scale every output around ``bias``, in place; with ratio 0 it becomes 0."""
    output = _not_kept(output)
    by_map = not plan.thin or output.numel() < _FEWEST_VALUES
    if by_map and output.is_cpu and type(output) is Tensor:
        scale, kernel = _kept_ratio_map(plan, output.dtype, bias is not None), None
    else:
        scale, kernel = _map_or_kernel(output, plan, by_map, bias is not None)
    if scale is None:
        scale_border_ = _ScaleBorder.apply if _is_recorded(output) else _scale_border_
        return scale_border_(output, bias, plan, kernel)
    if bias is None:
        return output.mul_(scale)
    output = output.lerp_(_column(bias.to(output.dtype), output), scale)
    return output.mul_(scale < 1) if plan.holes else output


def _not_kept(output: Tensor) -> Tensor:
    """A copy where who follows operations may keep what they put out (selective checkpoints)."""
    if not is_compiling() and torch._C._len_torch_dispatch_stack():
        return output.clone()
    return output


def _map_or_kernel(
    output: Tensor, plan: Plan, by_map: bool, for_bias: bool
) -> tuple[Tensor | None, Callable | None]:
    """What to scale by: one or neither of them."""
    capturing = False
    if _on_gpu(output):
        capturing = _capturing()
        if capturing or output.nbytes > _MOST_BYTES_BY_MAP[_is_recorded(output)]:
            # A graph that is captured can keep no map, so it would make it anew on every replay.
            kernel = _kernel_for(output, plan)
            if kernel is not None:
                return None, kernel
        else:
            by_map = True
    if not by_map:
        return None, None
    # Tensors that belong to a trace or a CUDA graph must not outlive it.
    if capturing or type(output) is not Tensor:
        return _ratio_map(plan, output, for_bias), None
    cuda = ()
    if output.is_cuda:
        # A map may be read on the stream alone that wrote it.
        cuda = torch._C._cuda_getCurrentRawStream(output.device.index), output.is_contiguous()
    return _kept_ratio_map(plan, output.dtype, for_bias, output.device, *cuda), None


def _is_recorded(output: Tensor) -> bool:
    """Whether autograd records what is done to it."""
    return output.requires_grad and torch.is_grad_enabled()


def _capturing() -> bool:
    return torch.cuda.is_current_stream_capturing()


def _ratio_map(plan: Plan, like: Tensor, for_bias: bool) -> Tensor:
    """Ratios; or, if there is a bias, 1 minus them: what scaling takes from it."""
    ratio = like.new_ones(plan.size, dtype=_at_least_float32(like.dtype))
    for dim, start, length, factor in plan.runs:
        ratio.narrow(dim, start, length).mul_(factor)
    ratio = _clear_holes_(ratio, plan).to(like.dtype)
    return 1 - ratio if for_bias else ratio


# Everything that the maps follow from is in the key, so no call can see what another one left.
@lru_cache(maxsize=64)
def _kept_ratio_map(
    plan: Plan,
    dtype: torch.dtype,
    for_bias: bool,
    device: torch.device | str = "cpu",
    stream: int | None = None,
    contiguous: bool = True,
) -> Tensor:
    if stream is not None and len(plan.frame) == 2:
        # Should a graph be captured next, it needs the kernel.
        _border_kernel(device, dtype, contiguous, plan.ends[-1])
    return _new_ratio_map(plan, dtype, for_bias, device, stream is not None)


def _new_ratio_map(
    plan: Plan,
    dtype: torch.dtype,
    for_bias: bool,
    device: torch.device | str,
    non_blocking: bool = False,
) -> Tensor:
    # No inference tensors even where they are first needed in inference mode: training may be next.
    with torch.inference_mode(False), torch.no_grad():
        # A copy takes a GPU fewer launches than all the steps. CUDA has read memory that is not
        # pinned when it returns, blocking or not.
        ratio_map = _ratio_map(plan, torch.empty(0, dtype=dtype, device="cpu"), for_bias)
        return ratio_map.to(device, non_blocking=non_blocking)


def _clear_holes_(output: Tensor, plan: Plan) -> Tensor:
    for hole in plan.holes:
        output.narrow(*hole).zero_()
    return output


def _strips(values: Tensor, plan: Plan, for_bias: bool) -> list[tuple[Tensor, Tensor | float]]:
    """What to scale one after the other, ``Tensor[N, C, ...]``, and by what.

    By ratios; or, if there is a bias, 1 minus them. What lies in two strips is scaled twice.
    """
    rows, columns = plan.ends[0], plan.ends[-1]
    if len(plan.size) == 2 and columns and values.is_cpu and _is_dense_memory(values):
        height, width = plan.size
        # The first and the last row also take what the columns' strip leaves.
        rows = max(rows, 1)
        columns = max(columns, _COLUMNS if values.is_contiguous() else 1)
        if 2 * rows <= height and 2 * columns <= width:
            of_ends, of_sides = _strip_ratios(plan, values.dtype, for_bias, rows, columns)
            batch, (*dense, row, column) = values.shape[:2], values.stride()
            ends = values.as_strided(
                (*batch, 2, rows, width), (*dense, (height - rows) * row, row, column)
            )
            # In memory the end of a row has the start of the next one beside it.
            sides = values.as_strided(
                (*batch, height - 1, 2 * columns),
                values.stride(),
                values.storage_offset() + (width - columns) * column,
            )
            return [(ends, of_ends), (sides, of_sides)]
    return [
        (values.narrow(*outside), 1 - ratio if for_bias else ratio) for *outside, ratio in plan.runs
    ]


@lru_cache(maxsize=64)
def _strip_ratios(
    plan: Plan, dtype: torch.dtype, for_bias: bool, rows: int, columns: int
) -> tuple[Tensor, Tensor]:
    """For the first and last ``rows``, and for ``columns`` at a row's end and the next's start."""
    with torch.inference_mode(False), torch.no_grad():
        floats = dict(dtype=_at_least_float32(dtype), device="cpu")
        by_axis = [torch.ones(outputs, **floats) for outputs in plan.size]
        for dim, start, length, ratio in plan.runs:
            by_axis[dim].narrow(0, start, length).fill_(ratio)
        vertical, horizontal = by_axis
        ends = torch.stack([vertical[:rows], vertical[-rows:]])
        ends = ends[..., None].repeat(1, 1, len(horizontal))
        ends[0, 0, :columns] *= horizontal[:columns]
        ends[-1, -1, -columns:] *= horizontal[-columns:]
        sides = torch.cat([horizontal[-columns:], horizontal[:columns]])
        ends, sides = ends.to(dtype), sides.to(dtype)
        return (1 - ends, 1 - sides) if for_bias else (ends, sides)


_border_kernels: dict[tuple, Callable | None] = {}


def _border_kernel(
    device: torch.device, dtype: torch.dtype, contiguous: bool, side: int
) -> Callable | None:
    """:func:`.border_kernel.scale_border_`, if it can be launched for such values."""
    key = device, dtype, contiguous, side
    if key not in _border_kernels:
        if _capturing():
            return None  # CUDA loads no code then.
        _border_kernels[key] = _load_border_kernel(*key)
    return _border_kernels[key]


def _load_border_kernel(device: torch.device, *values: torch.dtype | bool | int) -> Callable | None:
    try:
        from . import border_kernel

        border_kernel.load(device, *values)
    except ImportError:
        return None
    except Exception as error:
        warnings.warn(
            f"Triton does not work on {device}, so partial padding takes more launches there: "
            f"{type(error).__name__}: {error}",
            stacklevel=2,
        )
        return None
    return border_kernel.scale_border_


def _on_gpu(tensor: Tensor) -> bool:
    return tensor.is_cuda


def _kernel_for(values: Tensor, plan: Plan) -> Callable | None:
    if not _on_gpu(values):
        return None
    if (
        len(plan.frame) != 2
        # Bounds of CUDA's grid and of the kernel's integers.
        or len(values) > 65535
        or plan.size[0] * plan.size[1] >= 2**31
        or values.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
        # Whatever follows PyTorch's operations would not see the kernel.
        or torch._C._len_torch_dispatch_stack()
        or forward_ad._current_level >= 0
        or not _is_dense_memory(values)
        # It would be compiled anew for such places.
        or values.data_ptr() % 16
    ):
        return None
    return _border_kernel(values.device, values.dtype, values.is_contiguous(), plan.ends[-1])


def _is_dense_memory(tensor: Tensor) -> bool:
    """Whether it is no more than memory, in which every value has one place, side by side."""
    return (
        type(tensor) is Tensor
        # What torch.vmap and its like hand on has the type of a tensor, too, but no memory.
        and torch._C._has_storage(tensor)
        and (
            tensor.is_contiguous()
            or (tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last))
        )
    )


def _scale_border_(
    output: Tensor, bias: Tensor | None, plan: Plan, kernel: Callable | None
) -> Tensor:
    """:func:`scale_` without a pass over the interior."""
    if kernel is not None:
        kernel(output, bias, plan.frame, False)
        return output
    if bias is not None:
        bias = bias.to(output.dtype)
    for strip, ratio in _strips(output, plan, bias is not None):
        if bias is None:
            strip.mul_(ratio)
        else:
            strip.lerp_(_column(bias, strip), ratio)
    return _clear_holes_(output, plan)


class _ScaleBorder(torch.autograd.Function):
    """:func:`_scale_border_` with at most one copy of the gradient; autograd makes several."""

    @staticmethod
    def forward(
        ctx, output: Tensor, bias: Tensor | None, plan: Plan, kernel: Callable | None
    ) -> Tensor:
        ctx.mark_dirty(output)
        ctx.plan, ctx.bias_dtype = plan, None if bias is None else bias.dtype
        ctx.free = _holders_of_free_gradient()
        return _scale_border_(output, bias, plan, kernel)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        # Nothing else follows what is done to the gradient.
        alone = not (torch.is_grad_enabled() or is_compiling())
        # Whoever else holds it must not see it scaled. Autograd itself takes a gradient over as
        # .grad by the same rule, without a copy if nobody else holds it.
        if not (alone and _is_dense_memory(gradient) and _holders(gradient) == ctx.free):
            gradient = gradient.clone()
        of_bias = None
        kernel = _kernel_for(gradient, ctx.plan) if alone else None
        if kernel is None:
            if ctx.needs_input_grad[1]:
                dtype = _at_least_float32(gradient.dtype)
                of_bias = gradient.new_zeros(gradient.shape[1], dtype=dtype)
            _clear_holes_(gradient, ctx.plan)
            for strip, ratio in reversed(_strips(gradient, ctx.plan, False)):
                if of_bias is not None:
                    taken = strip.to(of_bias.dtype) * (1 - ratio)
                    of_bias = of_bias + taken.sum([d for d in range(strip.dim()) if d != 1])
                strip.mul_(ratio)
        else:
            of_bias = kernel(gradient, None, ctx.plan.frame, ctx.needs_input_grad[1])
        return gradient, None if of_bias is None else of_bias.to(ctx.bias_dtype), None, None

    @staticmethod
    def jvp(ctx, tangent: Tensor, bias_tangent: Tensor | None, *_) -> Tensor:
        return _scale_border_(tangent, bias_tangent, ctx.plan, None)


def _holders(tensor: Tensor) -> tuple[int, int, int] | None:
    """How many hold the tensor, its memory and its Python object; None if PyTorch does not say."""
    if not hasattr(tensor, "_use_count"):
        return None
    storage = torch._C._storage_Use_Count(tensor.untyped_storage()._cdata)
    return tensor._use_count(), storage, sys.getrefcount(tensor)


class _Held(torch.autograd.Function):
    """Appends to ``counts`` what :func:`_holders` counts in a backward function."""

    @staticmethod
    def forward(ctx, output: Tensor, counts: list) -> Tensor:
        ctx.counts = counts
        return output.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        ctx.counts.append(_holders(gradient))
        return gradient, None


# Read off an example, since the versions of Python and PyTorch count differently.
@lru_cache(maxsize=1)
def _holders_of_free_gradient() -> tuple[int, int, int] | tuple[()]:
    """:func:`_holders` of a gradient that nobody but autograd holds."""
    counts = []

    def differentiate() -> None:
        (_Held.apply(torch.zeros(1, requires_grad=True), counts) * 2).sum().backward()

    # In a thread of its own, where no mode, transform or profiler of the caller is active.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(differentiate).result()
    return counts[0] or ()


def scale_by_formula(
    output: Tensor, bias: Tensor | None, size: Sequence[int], axes: list[Axis]
) -> Tensor:
    """:func:`scale_` in operations on tensors, for whoever follows them: ``size`` may be symbols.

    Here ``bias`` was not yet added.
    """
    compiling, never_empty = is_compiling() and not is_exporting(), True
    known = compiling
    for axis in axes:
        never_empty = never_empty and axis.never_empty
        known = known and is_known(size[axis.dim])
    if known:
        options = tuple([axis.options() for axis in axes])
        dtype = _at_least_float32(output.dtype)
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
    # Added before the multiplication, the bias has for its gradient a sum of what the convolution
    # gets for its own, which is in memory anyway.
    inverse = 1 / ratio if never_empty else (ratio > 0) / ratio.clamp(min=1)
    # Not in place: bias alone may have a dimension of torch.vmap.
    scaled = torch.addcmul(output, _column(bias.to(output.dtype), output), inverse).mul_(ratio)
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
        ratio_map = _new_ratio_map(Plan(size, axes), dtype, False, device)
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
    counts = counts.to(_at_least_float32(output.dtype))
    # Exactly 1 where no tap is missing, also as a multiplication by 1 / counts.
    ratio = 1 + (taps - counts) / counts.clamp(min=1)
    return ratio * (counts > 0)


def reweight_(output: Tensor, bias: Tensor | None, ratio: Tensor) -> Tensor:
    output = _not_kept(output).mul_(ratio)
    if bias is None:
        return output
    # Not in place: bias alone may have a dimension of torch.vmap.
    return output + _column(bias.to(output.dtype), output) * (ratio > 0)


def _column(bias: Tensor, output: Tensor) -> Tensor:
    return bias.reshape(-1, *(1,) * (output.dim() - 2))


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
