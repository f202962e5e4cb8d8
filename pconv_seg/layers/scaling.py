"""How partial padding scales what a convolution put out: k / sum(M) times, around the bias.

By a map of ratios, in strips along the border, or by a kernel, whichever is fastest. Compilers and
function transforms see :mod:`.formula` instead.
"""

import warnings
from collections.abc import Callable
from functools import lru_cache
from math import prod

import torch
from torch import Tensor
from torch._C import _len_torch_dispatch_stack
from torch.autograd import forward_ad

from .compiling import is_compiling, is_dynamo_compiling
from .holders import holders, holders_of_free_gradient
from .plan import Plan, plan_of_size
from .ratios import (
    Strip,
    are_strips_thin,
    dense_strips,
    new_ratio_map,
    of_dtype,
    views,
)

# Of outputs of fewer values than this, a pass over all of them takes no longer than strips.
_FEWEST_VALUES = 2**20
# On a GPU the border is scaled by a kernel, which takes more of Python than a multiplication, in
# training there and back, and hides it only behind outputs of more bytes than this.
_MOST_BYTES_BY_MAP = {False: 2**24, True: 2**26}  # by whether autograd records


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
    """:func:`.plan.plan_of`, and the map or the strips by which to scale an output of ``dtype``.

    Neither where :func:`scale_` is to scale, or nothing is. The strips are those of a contiguous
    output.
    """
    plan = plan_of_size(shape[2:], weight_shape[2:], stride, padding, dilation)
    if (plan.runs or plan.holes) and not (dtype.is_floating_point or dtype.is_complex):
        raise TypeError(f"partial padding needs an input of a floating dtype, not {dtype}")
    # Sizes without any window are for the convolution to refuse.
    if plan.holes or not plan.runs or bias_dtype not in (None, dtype) or min(plan.size) < 1:
        return plan, None, None
    size = shape[0], weight_shape[0], *plan.size
    if _is_map_fastest_on_cpu(plan, prod(size)):
        return plan, _kept_ratio_map(plan, dtype, bias_dtype is not None), None
    strides = tuple(prod(size[dim + 1 :]) for dim in range(len(size)))
    return plan, None, dense_strips(plan, size, strides, dtype, bias_dtype is not None)


def _is_map_fastest_on_cpu(plan: Plan, values: int) -> bool:
    return values < _FEWEST_VALUES or not are_strips_thin(plan)


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
        return output.mul_(scale != 0) if plan.holes else output
    output = output.lerp_(column, scale)
    return output.mul_(scale != 1) if plan.holes else output


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


def _clear_holes_(output: Tensor, plan: Plan) -> Tensor:
    for hole in plan.holes:
        output.narrow(*hole).zero_()
    return output


def _strips(values: Tensor, plan: Plan, around_bias: bool) -> list[tuple[Tensor, Tensor | float]]:
    """What to scale one after the other, ``Tensor[N, ..., C]``, and by what.

    By ratios; or, around a bias, 1 minus them. What lies in two strips is scaled twice.
    """
    if values.is_cpu and _is_dense_memory(values):
        strips = dense_strips(plan, values.shape, values.stride(), values.dtype, around_bias)
        if strips:
            return views(values, strips)
    values = values.movedim(1, -1)
    return [
        (values.narrow(dim - 1, start, length), 1 - ratio if around_bias else ratio)
        for dim, start, length, ratio in plan.runs
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


def _load_border_kernel(device: torch.device, *values: torch.dtype | bool) -> Callable | None:
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
        and (tensor.is_contiguous() or tensor.is_contiguous(memory_format=torch.channels_last))
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
        ctx.plan, ctx.free = plan, holders_of_free_gradient()
        return _scale_border_(output, bias, adds_bias, plan, kernel)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        # Nothing else follows what is done to the gradient.
        alone = not (torch.is_grad_enabled() or is_compiling())
        # Whoever else holds it must not see it scaled. Autograd itself takes a gradient over as
        # .grad by the same rule, without a copy if nobody else holds it.
        if not (alone and _is_dense_memory(gradient) and holders(gradient) == ctx.free):
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
    # Not :func:`at_least_float32`, which would leave imaginary parts out.
    values = values.to(torch.promote_types(values.dtype, torch.float32)) * factor
    return values.sum([d for d in range(values.dim()) if d != channel_dim])


def as_column(bias: Tensor, output: Tensor) -> Tensor:
    return of_dtype(bias, output.dtype).reshape(-1, *(1,) * (output.dim() - 2))
