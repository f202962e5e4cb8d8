"""Partial convolution based padding: a function, and convolution layers with it inside."""

import sys
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch._C import _are_functorch_transforms_active
from torch.autograd import forward_ad
from torch.fx import Proxy
from torch.overrides import handle_torch_function, has_torch_function_unary

from ..geometry import border_runs

# torch < 2.3 has it in torch._utils only.
_is_compiling = getattr(torch.compiler, "is_compiling", None) or torch._utils.is_compiling
# torch < 2.7 does not say whether what it compiles is for export.
_is_exporting = getattr(torch.compiler, "is_exporting", lambda: True)


class _Axis:
    """What one axis of a convolution looks like: plain integers, padding resolved."""

    __slots__ = (
        "after",
        "before",
        "dilation",
        "dim",
        "kernel_size",
        "never_empty",
        "span",
        "stride",
    )

    def __init__(
        self,
        dim: int,
        kernel_size: int,
        stride: int,
        padding: int | str | tuple[int, int],
        dilation: int,
    ) -> None:
        self.dim, self.kernel_size, self.stride, self.dilation = dim, kernel_size, stride, dilation
        # Pixels from the first to the last tap. The compiler of torch 2.1 follows no properties.
        self.span = dilation * (kernel_size - 1) + 1
        if isinstance(padding, tuple):
            self.before, self.after = padding
        elif padding == "same":
            # As in PyTorch: an odd total puts the extra pixel behind.
            total = self.span - 1
            self.before, self.after = total // 2, total - total // 2
        else:
            self.before = self.after = 0 if padding == "valid" else padding
        # True only if every window has a valid tap on a map of any length: one tap lies behind all
        # of the padding before, even in the first window, and before all after in the last. While
        # torch.jit.trace follows sizes, nothing is known of them.
        tap = -(-self.before // dilation)
        known = type(kernel_size) is int
        self.never_empty = known and self.after <= (kernel_size - 1 - tap) * dilation

    def counts(self, length: int, output: Tensor) -> Tensor:
        """Taps of every window that lie on ``length`` pixels, along this axis.

        Integers in float32, exact up to 2**24 pixels, since compilers vectorize no int64. Sums of
        ones over the taps of a 7x7 layer would take as long as its convolution.
        """
        first = torch.arange(output.shape[self.dim], dtype=torch.float32, device=output.device)
        first = first * self.stride - self.before
        missed, reached = -first, length - first
        if self.dilation > 1:
            # One by one, since the compiler of torch 2.1 unpacks no generator.
            missed, reached = (
                torch.ceil(missed / self.dilation),
                torch.ceil(reached / self.dilation),
            )
        counts = reached.clamp(0, self.kernel_size) - missed.clamp(0, self.kernel_size)
        return counts.clamp(min=0).view(-1, *(1,) * (-1 - self.dim))

    def window_sum(self, valid: Tensor) -> Tensor:
        """Sums of ``valid`` along this axis over the taps of every window, 0 outside.

        Integers in, so exact integers out.
        """
        padding = (0, 0) * (-1 - self.dim) + (self.before, self.after)
        windows = F.pad(valid, padding).unfold(self.dim, self.span, self.stride)
        return windows[..., :: self.dilation].sum(-1)


def _expand(value: int | str | Sequence[int], n: int) -> Sequence[int | str]:
    return (value,) * n if isinstance(value, (int, str)) else value


def _axes(kernel_size: Sequence[int], stride, padding, dilation) -> list[_Axis]:
    """One per spatial dimension; ``padding`` may also be a sequence of (before, after)."""
    n = len(kernel_size)
    stride, padding, dilation = _expand(stride, n), _expand(padding, n), _expand(dilation, n)
    return [_Axis(i - n, kernel_size[i], stride[i], padding[i], dilation[i]) for i in range(n)]


def _around(axes: list[_Axis]) -> tuple[int | tuple[int, ...], list[int] | None]:
    """The padding that a convolution takes itself, and what else is to be padded with zeros."""
    # Of lists, since the compiler of torch 2.1 follows no generator here.
    before = tuple([axis.before for axis in axes])
    if before == tuple([axis.after for axis in axes]):
        return before, None
    return 0, [p for axis in reversed(axes) for p in (axis.before, axis.after)]


# Borders with at most this share of an output of at least this many values are scaled faster than a
# pass over all values takes: a strip costs a call, and columns use a few bytes of each cache line.
_LARGEST_SHARE = 1 / 16
_FEWEST_VALUES = 2**20
# On a GPU the border is scaled by a kernel. In training that takes more of Python, there and back,
# than autograd's own multiplication, which hides it only behind outputs of more bytes than this.
_MOST_BYTES_BY_MAP_IN_TRAINING = 2**26


class _Plan:
    """What partial padding does to a map of one size.

    Attributes:
        around: Of :func:`_around`.
        size: Of the output.
        runs: Strips of outputs to scale, ``(dim, start, length, ratio)``.
        frame: The same for :func:`.border_kernel.scale_border_`, one entry per axis.
        side: Columns that miss taps at an end, rounded up to a power of two.
        thin: Whether the strips are a small part of the output.
    """

    __slots__ = ("around", "frame", "runs", "side", "size", "thin")

    def __init__(self, size: tuple[int, ...], axes: list[_Axis]) -> None:
        self.around, self.size, self.frame, runs, share = _around(axes), [], [], [], 0.0
        for axis in axes:
            length = size[axis.dim]
            outputs = (length + axis.before + axis.after - axis.span) // axis.stride + 1
            self.size.append(outputs)
            taps = axis.kernel_size, axis.stride, axis.before, axis.dilation
            ends = [0, 0]
            for start, stop, count in border_runs(length, outputs, *taps):
                ratio = axis.kernel_size / count if count else 0.0
                runs.append((axis.dim, start, stop - start, ratio))
                share += (stop - start) / outputs
                ends[start > ends[0]] += stop - start
            self.frame.append((length, *taps, outputs, *ends))
        # Windows without any valid tap last: nothing may be added to them afterwards.
        self.runs = sorted(runs, key=lambda run: run[-1] == 0)
        self.thin = share <= _LARGEST_SHARE
        self.side = 1 << max(max(self.frame[-1][-2:]) - 1, 0).bit_length()


# Pure in its arguments. It is kept because Python takes longer for it than a CPU for a small map.
@lru_cache(maxsize=4096)
def _plan(size: tuple[int, ...], kernel_size: tuple[int, ...], stride, padding, dilation) -> _Plan:
    return _Plan(size, _axes(kernel_size, stride, padding, dilation))


def partial_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    mask: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """2-d convolution in which padding, and whatever ``mask`` excludes, counts as missing data.

    From `Partial Convolution based Padding <https://arxiv.org/abs/1811.11718>`_ (Eq. 1-3). For a
    window of k taps X with validity M (1 on real data, 0 elsewhere)

        y = W · (X ⊙ M) · k / sum(M) + b,

    and 0 (not ``b``) where no tap is valid. Zero padding is the case where the factor is always 1.

    Without ``mask``, validity depends on sizes alone and no mask is ever convolved: what an
    ordinary convolution puts out is corrected in place, large outputs along the border alone (on a
    GPU by a Triton kernel), small ones in one pass with a map of ratios. For finite values the
    interior is bit-identical to ``F.conv2d``. Compilers and function transforms see one
    multiplication by a map of ratios.

    Args:
        input: ``Tensor[N, C_in, H, W]`` or ``Tensor[C_in, H, W]``, any floating dtype.
        weight: ``Tensor[C_out, C_in / groups, kh, kw]``.
        bias: ``Tensor[C_out]``.
        stride: Step between windows, one value or (vertical, horizontal).
        padding: Padding in pixels, one value or (vertical, horizontal), ``'same'`` or ``'valid'``.
        dilation: Step between taps, one value or (vertical, horizontal).
        groups: As in ``F.conv2d``.
        mask: Which input values are real (non-zero) and which are missing (zero), of any dtype:
            ``Tensor[N or 1, 1, H, W]`` for all channels alike, or ``Tensor[N or 1, C_in, H, W]``
            with k = kh * kw * C_in / groups. For an unbatched input also without the first
            dimension. Missing values never reach the output, not even NaN.

    Returns:
        ``Tensor[N, C_out, H', W']`` (or unbatched) in the dtype of ``F.conv2d``. With ``mask``
        a pair of that and the updated mask (Eq. 3; 1 where any tap was valid), in the dtype of
        ``mask``: ``[N or 1, 1, H', W']`` or, for a multi-channel mask, ``[N or 1, C_out, H', W']``.

    Raises:
        ValueError: if the shape of ``mask`` does not fit the input.
    """
    # One by one, since the compiler of torch 2.1 unpacks no generator.
    stride, padding, dilation = _hashable(stride), _hashable(padding), _hashable(dilation)
    return _partial_conv(input, weight, bias, stride, padding, dilation, groups, mask)


def _hashable(option: int | str | Sequence[int]) -> int | str | tuple[int, ...]:
    return option if isinstance(option, (int, str)) else tuple(option)


_CONVOLUTIONS = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}


def _convolve(
    input: Tensor, weight: Tensor, bias: Tensor | None, stride, around, dilation, groups
) -> Tensor:
    """Convolve with zeros around, not necessarily as many behind as before (:func:`_around`)."""
    padding, pads = around
    if pads:
        input = F.pad(input, pads)
    return _CONVOLUTIONS[weight.dim()](input, weight, bias, stride, padding, dilation, groups)


def _partial_conv(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride,
    padding,
    dilation,
    groups: int,
    mask: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """:func:`partial_conv2d` for as many spatial dimensions as ``weight`` has.

    ``stride``, ``padding`` and ``dilation`` must be hashable. Between two convolutions Python is
    slow (its code has left the caches of the CPU), so small maps pay for every line of this.
    """
    compiling = _is_compiling()
    # Not while compiling, which the compiler of torch 2.1 cannot follow.
    if (
        not compiling
        and has_torch_function_unary(input)
        and (isinstance(weight, Proxy) or weight.dim() == 4)
    ):
        # Seen as one operation, like F.conv2d, by whoever follows operations (padded batches do).
        args = (input, weight, bias, stride, padding, dilation, groups, mask)
        return handle_torch_function(partial_conv2d, (input,), *args)
    if mask is None and input.dim() < weight.dim():
        return _partial_conv(input[None], weight, bias, stride, padding, dilation, groups)[0]
    size = input.shape[2:]
    if (
        mask is None
        and not compiling
        and type(sum(size)) is int  # and no symbol or traced value
        and not _are_functorch_transforms_active()
    ):
        plan = _plan(size, weight.shape[2:], stride, padding, dilation)
        output = _convolve(input, weight, bias, stride, plan.around, dilation, groups)
        if not plan.runs:
            return output
        recorded = output.requires_grad and torch.is_grad_enabled()
        if _by_map(output, plan, recorded):
            return _scale_by_map_(output, bias, plan)
        if recorded:
            return _ScaleBorder.apply(output, bias, plan)
        return _scale_border_(output, bias, plan)

    axes = _axes(weight.shape[2:], stride, padding, dilation)
    if mask is not None:
        return _masked(input, weight, bias, stride, axes, dilation, groups, mask)
    if not any(axis.before or axis.after for axis in axes):
        return _convolve(input, weight, bias, stride, _around(axes), dilation, groups)
    # Sizes may be symbols here: say the counts in tensors and leave the rest to the compiler.
    output = _convolve(input, weight, None, stride, _around(axes), dilation, groups)
    ratio, never_empty = 1.0, True
    for axis in axes:
        counts = axis.counts(input.shape[axis.dim], output)
        ratio = ratio * _ratio(counts, axis.kernel_size, output)
        never_empty = never_empty and axis.never_empty
    if compiling and not _is_exporting():
        # This view needs its map in memory. Without it, the loop over all values computes each
        # one's ratio anew, in all channels.
        ratio = ratio.as_strided(ratio.shape, ratio.stride())
    return _reweight_(output, bias, ratio, never_empty)


def _by_map(output: Tensor, plan: _Plan, recorded: bool) -> bool:
    """Whether a pass over the output is faster than one over its border."""
    if output.numel() < _FEWEST_VALUES:
        # A graph that is captured can keep no map, so it would make it anew on every replay.
        return not (output.is_cuda and _capturing() and _kernel_for(output, plan))
    if not _kernel_for(output, plan):
        return not plan.thin
    size = output.numel() * output.element_size()
    return recorded and size <= _MOST_BYTES_BY_MAP_IN_TRAINING and not _capturing()


def _capturing() -> bool:
    return torch.cuda.is_current_stream_capturing()


def _scale_by_map_(output: Tensor, bias: Tensor | None, plan: _Plan) -> Tensor:
    """Scale every output around ``bias``, in place; with ratio 0 it becomes 0."""
    # Tensors that belong to a trace or a CUDA graph must not outlive it.
    if type(output) is not Tensor or (output.is_cuda and _capturing()):
        scale = _ratio_map(plan, output, bias is not None)
    else:
        device = output.device
        stream = torch._C._cuda_getCurrentRawStream(device.index) if output.is_cuda else 0
        scale = _kept_ratio_map(
            plan, output.dtype, device, stream, bias is not None, output.is_contiguous()
        )
    if bias is None:
        return output.mul_(scale)
    output = output.lerp_(_column(bias.to(output.dtype), output), scale)
    return output if all(ratio for *_, ratio in plan.runs) else output.mul_(scale < 1)


def _ratio_map(plan: _Plan, like: Tensor, for_bias: bool) -> Tensor:
    """Ratios; or, if there is a bias, 1 minus them: what scaling takes from it."""
    ones = like.new_ones(plan.size, dtype=_at_least_float32(like.dtype))
    ratio = _scale_strips_(ones, None, plan.runs).to(like.dtype)
    return 1 - ratio if for_bias else ratio


# Everything that the maps follow from is in the key, so no call can see what another one left. The
# stream is there because a map may be read on the stream alone that wrote it.
@lru_cache(maxsize=64)
def _kept_ratio_map(
    plan: _Plan,
    dtype: torch.dtype,
    device: torch.device,
    stream: int,
    for_bias: bool,
    contiguous: bool,
) -> Tensor:
    if device.type == "cuda" and len(plan.frame) == 2:
        # Should a graph be captured next, it needs the kernel.
        _border_kernel(device, dtype, contiguous, plan.side)
    # No inference tensors even where they are first needed in inference mode: training may be next.
    with torch.inference_mode(False), torch.no_grad():
        return _ratio_map(plan, torch.empty(0, dtype=dtype, device=device), for_bias)


def _scale_strips_(output: Tensor, bias: Tensor | None, runs: list[tuple]) -> Tensor:
    if bias is not None:
        bias = _column(bias.to(output.dtype), output)
    for dim, start, length, ratio in runs:
        strip = output.narrow(dim, start, length)
        if bias is None or ratio == 0:
            strip.mul_(ratio)
        else:
            strip.lerp_(bias, 1 - ratio)
    return output


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


def _kernel_for(values: Tensor, plan: _Plan) -> Callable | None:
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
    return _border_kernel(values.device, values.dtype, values.is_contiguous(), plan.side)


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


def _scale_border_(output: Tensor, bias: Tensor | None, plan: _Plan) -> Tensor:
    """:func:`_scale_by_map_` without the interior."""
    kernel = _kernel_for(output, plan)
    if kernel is None:
        return _scale_strips_(output, bias, plan.runs)
    kernel(output, bias, plan.frame, False)
    return output


class _ScaleBorder(torch.autograd.Function):
    """:func:`_scale_border_` with at most one copy of the gradient; autograd makes several."""

    @staticmethod
    def forward(ctx, output: Tensor, bias: Tensor | None, plan: _Plan) -> Tensor:
        ctx.mark_dirty(output)
        ctx.plan, ctx.bias_dtype = plan, None if bias is None else bias.dtype
        ctx.free = _holders_of_free_gradient()
        return _scale_border_(output, bias, plan)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        # Nothing else follows what is done to the gradient.
        alone = not (torch.is_grad_enabled() or _is_compiling())
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
            # What lies in several strips is scaled several times, around the bias each time.
            for dim, start, length, ratio in reversed(ctx.plan.runs):
                strip = gradient.narrow(dim, start, length)
                if of_bias is not None and ratio:
                    others = [d for d in range(strip.dim()) if d != 1]
                    of_bias = of_bias + (1 - ratio) * strip.sum(others, dtype=of_bias.dtype)
                strip.mul_(ratio)
        else:
            of_bias = kernel(gradient, None, ctx.plan.frame, ctx.needs_input_grad[1])
        return gradient, None if of_bias is None else of_bias.to(ctx.bias_dtype), None

    @staticmethod
    def jvp(ctx, tangent: Tensor, bias_tangent: Tensor | None, _) -> Tensor:
        return _scale_strips_(tangent, bias_tangent, ctx.plan.runs)


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


def _ratio(counts: Tensor, taps: int, output: Tensor) -> Tensor:
    """k / sum(M), and 0 where no tap is valid, from integer ``counts``."""
    ratio = taps / counts.clamp(min=1).to(_at_least_float32(output.dtype))
    return ratio * (counts > 0)


def _reweight_(
    output: Tensor, bias: Tensor | None, ratio: Tensor, never_empty: bool = False
) -> Tensor:
    output = output.mul_(ratio)
    if bias is None:
        return output
    bias = _column(bias.to(output.dtype), output)
    # Not in place: bias alone may have a dimension of torch.vmap.
    return output + (bias if never_empty else bias * (ratio > 0))


def _column(bias: Tensor, output: Tensor) -> Tensor:
    return bias.reshape(-1, *(1,) * (output.dim() - 2))


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _masked(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride,
    axes: list[_Axis],
    dilation,
    groups: int,
    mask: Tensor,
) -> tuple[Tensor, Tensor]:
    batched = input if input.dim() == weight.dim() else input[None]
    valid = (mask if mask.dim() == weight.dim() else mask[None]) != 0
    batch, channels = batched.shape[:2]
    if (
        valid.shape[0] not in (1, batch)
        or valid.shape[1] not in (1, channels)
        or valid.shape[2:] != batched.shape[2:]
    ):
        raise ValueError(
            f"mask of shape {tuple(mask.shape)} does not fit input of shape {tuple(input.shape)}: "
            "the batch dimension must be 1 or that of the input, the channels 1 or those of the "
            "input, all other sizes those of the input"
        )
    mask_groups = 1 if valid.shape[1] == 1 else groups
    depth = valid.shape[1] // mask_groups
    # Sums of integers: exact under autocast, TF32 and in every dtype, unlike a mask convolution.
    counts = valid.unflatten(1, (mask_groups, depth)).sum(2)
    for axis in axes:
        counts = axis.window_sum(counts)
    ratio_of_groups = _ratio(counts, depth * weight[0, 0].numel(), batched)
    ratio, updated = ratio_of_groups, counts > 0
    if valid.shape[1] > 1:
        ratio, updated = (
            tensor.repeat_interleave(weight.shape[0] // groups, dim=1)
            for tensor in (ratio, updated)
        )
    # `where`, not a product: NaN * 0 is NaN.
    real = torch.where(valid, batched, torch.zeros((), dtype=input.dtype, device=input.device))
    output = _convolve(real, weight, None, stride, _around(axes), dilation, groups)
    output = _reweight_(output, bias, ratio)
    updated = updated.to(mask.dtype)
    return (
        output if input.dim() == weight.dim() else output[0],
        updated if mask.dim() == weight.dim() else updated[0],
    )


class _PConvNd(nn.modules.conv._ConvNd):
    """What the partial convolution layers have in common; nn.Conv1d, 2d or 3d comes after it."""

    # On the class too: a plain convolution may be turned into a partial one after construction.
    multi_channel = False
    return_mask = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] | str = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        multi_channel: bool = False,
        return_mask: bool = False,
    ) -> None:
        if padding_mode != "zeros":
            raise ValueError(
                f"{type(self).__name__} does not take padding_mode={padding_mode!r}: it treats "
                "padding as missing data, so there is no padded value to choose. Leave "
                "padding_mode at 'zeros', or use PyTorch's convolution for "
                f"{padding_mode!r}."
            )
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )
        self.multi_channel = multi_channel
        self.return_mask = return_mask

    # mmcv and mmengine call this directly with weights of their own (efficient conv-bn
    # evaluation): re-weighting in `forward` would be skipped there.
    def _conv_forward(
        self, input: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        return _partial_conv(
            input, weight, bias, self.stride, self.padding, self.dilation, self.groups, mask
        )

    def forward(
        self, input: Tensor, mask_in: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Convolve ``Tensor[N, C_in, *size]`` (or unbatched), see :func:`partial_conv2d`.

        Args:
            input: ``Tensor[N, C_in, *size]`` or ``Tensor[C_in, *size]``; ``size`` is (H, W) for
                a 2-d layer.
            mask_in: ``Tensor[N or 1, 1, *size]``, with ``multi_channel``
                ``Tensor[N or 1, C_in, *size]``; None means that all of the input is real.

        Returns:
            ``Tensor[N, C_out, *size']``, with ``return_mask`` a pair of that and the updated mask.

        Raises:
            ValueError: if the shape of ``mask_in`` does not fit.
        """
        if isinstance(input, Proxy):
            return fx_node(self, input, *(() if mask_in is None else (mask_in,)))
        if mask_in is None and not self.return_mask:
            return self._conv_forward(input, self.weight, self.bias)
        n = self.weight.dim() - 2
        channels = self.in_channels if self.multi_channel else 1
        if mask_in is None:
            mask_in = input.new_ones(1, channels, *input.shape[-n:])
            if input.dim() == n + 1:
                mask_in = mask_in[0]
        elif mask_in.shape[-n - 1] != channels:
            raise ValueError(
                f"mask_in of shape {tuple(mask_in.shape)} must have {channels} channel(s), because "
                f"multi_channel={self.multi_channel} and in_channels={self.in_channels}"
            )
        output, mask = self._conv_forward(input, self.weight, self.bias, mask_in)
        if self.multi_channel and self.in_channels == 1:
            mask = mask.expand(*mask.shape[: -n - 1], self.out_channels, *mask.shape[-n:])
        return (output, mask) if self.return_mask else output

    def extra_repr(self) -> str:
        flags = [name for name in ("multi_channel", "return_mask") if getattr(self, name)]
        return ", ".join([super().extra_repr(), *(f"{name}=True" for name in flags)])


def fx_node(layer: nn.Module, *args: Proxy) -> Proxy:
    """The call of ``layer`` as one node of the graph that is being traced.

    fx does this for classes of torch.nn alone; mmengine's graph rewriting finds convolutions by it.
    """
    tracer = args[0].tracer
    return tracer.create_proxy("call_module", tracer.path_of_module(layer), args, {})


@MODELS.register_module("PConv")
class PConv2d(_PConvNd, nn.Conv2d):
    """``nn.Conv2d`` with partial convolution based padding: see :func:`partial_conv2d`.

    Parameters and state-dict keys are those of ``nn.Conv2d``; checkpoints pass freely between the
    two. The arguments and ``forward`` are also those of ``PartialConv2d`` in NVIDIA/partialconv.
    In configs: ``conv_cfg=dict(type='PConv')``.

    Args:
        multi_channel: Masks have one channel per input channel instead of one for all.
        return_mask: ``forward`` returns ``(output, updated mask)``.

    Raises:
        ValueError: if ``padding_mode`` is not ``'zeros'``.
    """


@MODELS.register_module("PConv1d")
class PConv1d(_PConvNd, nn.Conv1d):
    """``nn.Conv1d`` with partial convolution based padding, see :class:`PConv2d`."""


@MODELS.register_module("PConv3d")
class PConv3d(_PConvNd, nn.Conv3d):
    """``nn.Conv3d`` with partial convolution based padding, see :class:`PConv2d`."""
