"""How partial padding scales what a convolution put out: k / sum(M) times, around the bias.

By a map of ratios, in strips along the border, or by a kernel, whichever is fastest. Compilers and
function transforms see :mod:`.formula` instead.
"""

import sys
import warnings
from array import array
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, wraps
from math import prod

import torch
from torch import Tensor
from torch._C import _len_torch_dispatch_stack
from torch.autograd import forward_ad

from pconv_seg.geometry import border_runs

from .axes import Axis, axes_of, padding_around
from .compiling import is_compiling, is_dynamo_compiling

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


class Plan:
    """What partial padding does to a map of one size.

    Attributes:
        around: What :func:`padding_around` returns.
        column: The shape that a bias takes beside an output.
        size: Output length per axis.
        runs: Outputs to scale, ``(dim, start, length, ratio)``.
        holes: Outputs without any valid tap, ``(dim, start, length)``.
        frame: Both for :func:`.border_kernel.scale_border_`, one entry per axis.
        ends: By axis how many outputs miss taps, at the end where more of them do.
        thin: Whether strips of these are a small part of the output.
    """

    __slots__ = ("around", "column", "ends", "frame", "holes", "runs", "size", "thin")

    def __init__(self, size: tuple[int, ...], axes: list[Axis]) -> None:
        self.around, self.size, self.frame, self.ends = padding_around(axes), [], [], []
        self.runs, self.holes = [], []
        self.column = -1, *(1,) * len(axes)
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


# (size, stride, offset, ratios) of a strip of values that lie densely in memory.
Strip = tuple[tuple[int, ...], tuple[int, ...], int, Tensor]


# Pure in their arguments. Plans are kept because Python takes longer for them than a CPU for a
# small map, and by whole shapes because slicing these takes longer than looking them up.
@lru_cache(maxsize=4096)
def plan_of(shape: tuple[int, ...], weight_shape: tuple[int, ...], *options) -> Plan:
    """The plan for a batch of ``shape`` and weights of ``weight_shape``; cached.

    ``options`` are stride, padding and dilation, as a convolution takes them.
    """
    return plan_of_size(shape[2:], weight_shape[2:], *options)


@lru_cache(maxsize=4096)
def plan_of_size(
    size: tuple[int, ...], kernel_size: tuple[int, ...], stride, padding, dilation
) -> Plan:
    """The plan for maps of ``size``; cached, and shared by batches and channels of any number."""
    return Plan(size, axes_of(kernel_size, stride, padding, dilation))


# Fewer than plans, since maps take memory.
@lru_cache(maxsize=256)
def plan_on_cpu(
    shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    stride,
    padding,
    dilation,
    dtype: torch.dtype,
    bias_dtype: torch.dtype | None,
) -> tuple[Plan, Tensor | None, list[Strip] | None]:
    """:func:`plan_of`, and the map or the strips by which to scale an output of ``dtype``.

    Neither where :func:`scale_` is to scale, or nothing is. The strips are those of a contiguous
    output.
    """
    plan = plan_of_size(shape[2:], weight_shape[2:], stride, padding, dilation)
    # Sizes without any window are for the convolution to refuse.
    if plan.holes or not plan.runs or bias_dtype not in (None, dtype) or min(plan.size) < 1:
        return plan, None, None
    size = shape[0], weight_shape[0], *plan.size
    if _is_map_fastest_on_cpu(plan, prod(size)):
        return plan, _kept_ratio_map(plan, dtype, bias_dtype is not None), None
    strides = tuple(prod(size[dim + 1 :]) for dim in range(len(size)))
    return plan, None, _dense_strips(plan, size, strides, dtype, bias_dtype is not None)


def _is_map_fastest_on_cpu(plan: Plan, values: int) -> bool:
    return not plan.thin or values < _FEWEST_VALUES


def is_bias_apart(input: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether PyTorch adds the bias of a convolution in a pass of its own: after cuDNN's.

    Depthwise layers, with one channel in a group, have other kernels. A bias that the convolution
    would refuse is left to it.
    """
    return (
        bias is not None
        and _on_gpu(input)
        and weight.shape[1] > 1
        and torch._C._get_cudnn_enabled()
        and bias.shape == weight.shape[:1]
        and bias.dtype == weight.dtype
    )


def scale_(output: Tensor, bias: Tensor | None, plan: Plan, adds_bias: bool = False) -> Tensor:
    """Scale every output around ``bias``, in place; with ratio 0 it becomes 0.

    With ``adds_bias`` the convolution has not added it yet.
    """
    output = not_kept(output)
    scale = _map_if_fastest(output, bias, adds_bias, plan)
    if scale is None:
        scale_border_ = _ScaleBorder.apply if is_recorded(output, bias) else _scale_border_
        return scale_border_(output, bias, adds_bias, plan, _kernel_for(output, plan, adds_bias))
    if bias is None:
        return output.mul_(scale)
    column = as_column(bias, output)
    if adds_bias:
        # Neither kind of differentiation can follow `out`.
        followed = is_recorded(output, bias) or forward_ad._current_level >= 0
        output = torch.addcmul(column, output, scale, out=None if followed else output)
        return output.mul_(scale > 0) if plan.holes else output
    output = output.lerp_(column, scale)
    return output.mul_(scale < 1) if plan.holes else output


def not_kept(output: Tensor) -> Tensor:
    """A copy where a mode may keep what operations put out (selective checkpoints do)."""
    # What is quick to answer comes first; compilers cannot follow the second question.
    if is_dynamo_compiling() or not _len_torch_dispatch_stack() or is_compiling():
        return output
    return output.clone()


def _map_if_fastest(
    output: Tensor, bias: Tensor | None, adds_bias: bool, plan: Plan
) -> Tensor | None:
    """The kept map to scale by; None where a kernel or strips are to scale the border alone."""
    if _on_gpu(output):
        # A graph that is captured can keep no map, so it would make it anew on every replay. Large
        # outputs take strips where there is no kernel, never a map: what autograd saves must not
        # depend on who follows operations.
        by_map = not _capturing() and (
            output.nbytes <= _MOST_BYTES_BY_MAP[is_recorded(output, bias)]
        )
    else:
        by_map = _is_map_fastest_on_cpu(plan, output.numel())
    # Tensors that belong to a trace must not outlive it, as a kept map would.
    if not by_map or type(output) is not Tensor:
        return None
    around_bias = bias is not None and not adds_bias
    if output.is_cpu:
        return _kept_ratio_map(plan, output.dtype, around_bias)
    cuda = ()
    if output.is_cuda:
        # A map may be read on the stream alone that wrote it.
        stream = torch._C._cuda_getCurrentRawStream(output.device.index)
        cuda = stream, output.is_contiguous(), adds_bias
    return _kept_ratio_map(plan, output.dtype, around_bias, output.device, *cuda)


def is_recorded(output: Tensor, bias: Tensor | None) -> bool:
    """Whether autograd records what is done to them."""
    requires_grad = output.requires_grad or (bias is not None and bias.requires_grad)
    return requires_grad and torch.is_grad_enabled()


def _capturing() -> bool:
    return torch.cuda.is_current_stream_capturing()


# Everything that the maps follow from is in the key, so no call can see what another one left.
@lru_cache(maxsize=64)
def _kept_ratio_map(
    plan: Plan,
    dtype: torch.dtype,
    around_bias: bool,
    device: torch.device | str = "cpu",
    stream: int | None = None,
    contiguous: bool = True,
    adds_bias: bool = False,
) -> Tensor:
    if stream is not None and len(plan.frame) == 2:
        # Should a graph be captured next, it needs the kernel.
        _border_kernel(device, dtype, contiguous, adds_bias)
    return new_ratio_map(plan, dtype, around_bias, device, stream is not None)


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
    typecode = "d" if dtype == torch.float64 else "f"
    by_axis = [array(typecode, [1]) * outputs for outputs in plan.size]
    for dim, start, length, ratio in (*plan.runs, *((*hole, 0) for hole in plan.holes)):
        by_axis[dim][start : start + length] = array(typecode, [ratio]) * length
    return by_axis


def _clear_holes_(output: Tensor, plan: Plan) -> Tensor:
    for hole in plan.holes:
        output.narrow(*hole).zero_()
    return output


def _strips(values: Tensor, plan: Plan, around_bias: bool) -> list[tuple[Tensor, Tensor | float]]:
    """What to scale one after the other, ``Tensor[N, ..., C]``, and by what.

    By ratios; or, around a bias, 1 minus them. What lies in two strips is scaled twice.
    """
    if values.is_cpu and _is_dense_memory(values):
        strips = _dense_strips(plan, values.shape, values.stride(), values.dtype, around_bias)
        if strips:
            return views(values, strips)
    values = values.movedim(1, -1)
    return [
        (values.narrow(dim - 1, start, length), 1 - ratio if around_bias else ratio)
        for dim, start, length, ratio in plan.runs
    ]


def views(values: Tensor, strips: list[Strip]) -> list[tuple[Tensor, Tensor]]:
    """The strips of dense ``values``, and their ratios."""
    start = values.storage_offset()
    return [
        (values.as_strided(size, stride, start + offset), ratios)
        for size, stride, offset, ratios in strips
    ]


@lru_cache(maxsize=256)
@_outside_inference_mode
def _dense_strips(
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


_border_kernels: dict[tuple, Callable | None] = {}


def _border_kernel(
    device: torch.device, dtype: torch.dtype, contiguous: bool, adds_bias: bool
) -> Callable | None:
    """:func:`.border_kernel.scale_border_`, if it can be launched for such values."""
    key = device, dtype, contiguous, adds_bias
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


def _kernel_for(values: Tensor, plan: Plan, adds_bias: bool) -> Callable | None:
    if not _on_gpu(values):
        return None
    if (
        len(plan.frame) != 2
        # Bounds of CUDA's grid and of the kernel's integers.
        or len(values) > 65535
        or plan.size[0] * plan.size[1] > 2**30
        or values.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
        # Whatever follows PyTorch's operations would not see the kernel.
        or _len_torch_dispatch_stack()
        or forward_ad._current_level >= 0
        or not _is_dense_memory(values)
        # It would be compiled anew for such addresses.
        or values.data_ptr() % 16
    ):
        return None
    contiguous = values.is_contiguous()
    return _border_kernel(values.device, values.dtype, contiguous, adds_bias)


def _is_dense_memory(tensor: Tensor) -> bool:
    """Whether it is a plain tensor whose values lie side by side in memory, each in one place."""
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
    output: Tensor, bias: Tensor | None, adds_bias: bool, plan: Plan, kernel: Callable | None
) -> Tensor:
    """:func:`scale_` without a pass over the interior, but for a bias that is yet to be added."""
    if kernel is not None:
        kernel(output, bias, adds_bias, plan.frame, False)
        return output
    around = None if bias is None or adds_bias else of_dtype(bias, output.dtype)
    output = scale_each_(output, _strips(output, plan, around is not None), around)
    if adds_bias:
        output.add_(as_column(bias, output))
    return _clear_holes_(output, plan)


def scale_each_(
    output: Tensor, strips: list[tuple[Tensor, Tensor | float]], bias: Tensor | None
) -> Tensor:
    """Scale strips of ``output`` around ``bias`` by what :func:`_strips` says."""
    for strip, ratio in strips:
        if bias is None:
            strip.mul_(ratio)
        else:
            strip.lerp_(bias, ratio)
    return output


class _ScaleBorder(torch.autograd.Function):
    """:func:`_scale_border_` with at most one copy of the gradient; autograd makes several."""

    @staticmethod
    def forward(
        ctx,
        output: Tensor,
        bias: Tensor | None,
        adds_bias: bool,
        plan: Plan,
        kernel: Callable | None,
    ) -> Tensor:
        ctx.mark_dirty(output)
        ctx.adds_bias, ctx.bias_dtype = adds_bias, None if bias is None else bias.dtype
        ctx.plan, ctx.free = plan, _holders_of_free_gradient()
        return _scale_border_(output, bias, adds_bias, plan, kernel)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        # Nothing else follows what is done to the gradient.
        alone = not (torch.is_grad_enabled() or is_compiling())
        # Whoever else holds it must not see it scaled. Autograd itself takes a gradient over as
        # .grad by the same rule, without a copy if nobody else holds it.
        if not (alone and _is_dense_memory(gradient) and _holders(gradient) == ctx.free):
            gradient = gradient.clone()
        of_bias = None
        for_bias = ctx.needs_input_grad[1]
        of_all = for_bias and ctx.adds_bias
        kernel = _kernel_for(gradient, ctx.plan, of_all) if alone else None
        if kernel is None:
            _clear_holes_(gradient, ctx.plan)
            if for_bias:
                # The convolution has the rest for its bias, unless that was added here.
                of_bias = _sum_of_channels(gradient if ctx.adds_bias else gradient[:0], 1)
            for strip, ratio in reversed(_strips(gradient, ctx.plan, False)):
                if for_bias and not ctx.adds_bias:
                    of_bias = of_bias + _sum_of_channels(strip, strip.dim() - 1, 1 - ratio)
                strip.mul_(ratio)
        else:
            of_bias = kernel(gradient, None, of_all, ctx.plan.frame, for_bias)
        return gradient, None if of_bias is None else of_bias.to(ctx.bias_dtype), None, None, None

    @staticmethod
    def jvp(ctx, tangent: Tensor, bias_tangent: Tensor | None, *_) -> Tensor:
        return _scale_border_(tangent, bias_tangent, ctx.adds_bias, ctx.plan, None)


def _sum_of_channels(values: Tensor, channel_dim: int, factor: Tensor | float = 1) -> Tensor:
    values = values.to(at_least_float32(values.dtype)) * factor
    return values.sum([d for d in range(values.dim()) if d != channel_dim])


def _holders(tensor: Tensor) -> tuple[int, ...] | None:
    """How many hold the tensor, its memory and the Python objects of both; None if unknown."""
    # Older versions of PyTorch do not say.
    if not hasattr(tensor, "_use_count"):
        return None
    storage = tensor.untyped_storage()
    in_memory = torch._C._storage_Use_Count(storage._cdata)
    return tensor._use_count(), in_memory, sys.getrefcount(storage), sys.getrefcount(tensor)


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
def _holders_of_free_gradient() -> tuple[int, ...]:
    """:func:`_holders` of a gradient that nobody but autograd holds."""
    counts = []

    def differentiate() -> None:
        (_Held.apply(torch.zeros(1, requires_grad=True), counts) * 2).sum().backward()

    # In a thread of its own, where no mode, transform or profiler of the caller is active.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(differentiate).result()
    return counts[0] or ()


def as_column(bias: Tensor, output: Tensor) -> Tensor:
    return of_dtype(bias, output.dtype).reshape(-1, *(1,) * (output.dim() - 2))


def of_dtype(bias: Tensor, dtype: torch.dtype) -> Tensor:
    # Asking is faster than a conversion that changes nothing.
    return bias if bias.dtype == dtype else bias.to(dtype)


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
