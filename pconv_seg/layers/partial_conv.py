"""Partial convolution based padding: a function, and convolution layers with it inside."""

from collections.abc import Sequence

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch._C import (
    _are_functorch_transforms_active,
    _get_tracing_state,
    _len_torch_dispatch_stack,
)
from torch.fx import Proxy
from torch.overrides import handle_torch_function, has_torch_function_unary

from .axes import Axis, axes_of, convolve, padding_around
from .compiling import is_compiling, is_dynamo_compiling
from .formula import ratio_of, reweight_, scale_by_formula
from .plan import plan_of
from .ratios import views
from .scaling import is_bias_apart, plan_on_cpu, scale_, scale_each_


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
    GPU by a Triton kernel), small ones in one pass with a map of ratios. Where PyTorch would add
    the bias in a pass of its own (on a GPU), the correction adds it. For finite values the
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
        TypeError: if padding is to be added to an input of integers.
        ValueError: if the input is neither batched nor unbatched, the shape of ``mask`` does not
            fit it, or ``F.conv2d`` would not take ``stride``, ``padding`` or ``dilation``.
    """
    return _partial_conv(input, weight, bias, stride, padding, dilation, groups, mask)


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

    Between two convolutions Python is slow (its code has left the caches of the CPU), so small maps
    pay for every line of this.
    """
    if isinstance(stride, list) or isinstance(padding, list) or isinstance(dilation, list):
        # Lists have no hash.
        options = [tuple(o) if isinstance(o, list) else o for o in (stride, padding, dilation)]
        stride, padding, dilation = options
    plain = mask is None and _is_plain(input) and input.dim() == weight.dim()
    if plain and input.is_cpu:
        bias_dtype = None if bias is None else bias.dtype
        plan, ratio_map, strips = plan_on_cpu(
            input.shape, weight.shape, stride, padding, dilation, input.dtype, bias_dtype
        )
        output = convolve(input, weight, bias, stride, plan.around, dilation, groups)
        # Under autocast it has another dtype, by weights of another class another class.
        if output.dtype is input.dtype and type(output) is Tensor:
            if ratio_map is not None:
                if bias is None:
                    return output.mul_(ratio_map)
                return output.lerp_(bias.view(plan.column), ratio_map)
            if strips and output.is_contiguous() and not output.requires_grad:
                return scale_each_(output, views(output, strips), bias)
        return scale_(output, bias, plan) if plan.runs or plan.holes else output
    compiling = not plain and is_compiling()
    # Not while compiling, which the compiler of torch 2.1 cannot follow.
    if (
        not compiling
        and has_torch_function_unary(input)
        and (isinstance(weight, Proxy) or weight.dim() == 4)
    ):
        # Seen as one operation, like F.conv2d, by whoever follows operations (padded batches do).
        args = (input, weight, bias, stride, padding, dilation, groups, mask)
        return handle_torch_function(partial_conv2d, (input,), *args)
    if mask is None and input.dim() != weight.dim():
        batch = _batch_of_one(input, weight)
        return _partial_conv(batch, weight, bias, stride, padding, dilation, groups)[0]
    shape = input.shape
    if plain or (
        mask is None
        and not compiling
        and type(sum(shape)) is int  # and no symbol or traced value
        and not _are_functorch_transforms_active()
    ):
        plan = plan_of(shape, weight.shape, stride, padding, dilation)
        scales = plan.runs or plan.holes
        adds_bias = scales and is_bias_apart(input, weight, bias)
        convs_bias = None if adds_bias else bias
        output = convolve(input, weight, convs_bias, stride, plan.around, dilation, groups)
        return scale_(output, bias, plan, adds_bias) if scales else output

    axes = axes_of(weight.shape[2:], stride, padding, dilation)
    if mask is not None:
        return _masked(input, weight, bias, stride, axes, dilation, groups, mask)
    # No symbol is asked whether it is 0, as in padding_around.
    if not any(type(p) is not int or p for axis in axes for p in (axis.before, axis.after)):
        return convolve(input, weight, bias, stride, padding_around(axes), dilation, groups)
    output = convolve(input, weight, None, stride, padding_around(axes), dilation, groups)
    return scale_by_formula(output, bias, shape[2:], axes)


def _is_plain(input: Tensor) -> bool:
    """Whether nobody compiles, follows or transforms operations on it."""
    return (
        not is_dynamo_compiling()
        and type(input) is Tensor
        # Modes count, too, and see whatever a tensor is asked.
        and not has_torch_function_unary(input)
        and not _are_functorch_transforms_active()
        and not _len_torch_dispatch_stack()
        and not _get_tracing_state()
    )


def _batch_of_one(input: Tensor, weight: Tensor) -> Tensor:
    n = weight.dim()
    if input.dim() != n - 1:
        raise ValueError(
            f"input of shape {tuple(input.shape)} must have {n} dimensions, or {n - 1} without a "
            f"batch, for weights of shape {tuple(weight.shape)}"
        )
    return input[None]


def _masked(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride,
    axes: list[Axis],
    dilation,
    groups: int,
    mask: Tensor,
) -> tuple[Tensor, Tensor]:
    batched = input if input.dim() == weight.dim() else _batch_of_one(input, weight)
    # For a batch a dimension less could be meant to be that of the channels.
    lacks_batch = max(mask.dim(), input.dim()) < weight.dim()
    valid = (mask[None] if lacks_batch else mask) != 0
    batch, channels = batched.shape[:2]
    # Compilers find no symbol in a tuple: `not in (1, batch)` is true for them.
    if (
        valid.shape[2:] != batched.shape[2:]
        or (valid.shape[0] != 1 and valid.shape[0] != batch)
        or (valid.shape[1] != 1 and valid.shape[1] != channels)
    ):
        raise ValueError(
            f"mask of shape {tuple(mask.shape)} does not fit input of shape {tuple(input.shape)}: "
            "the batch dimension, which a mask may lack if the input does, must be 1 or that of "
            "the input, the channels 1 or those of the input, all other sizes those of the input"
        )
    mask_groups = 1 if valid.shape[1] == 1 else groups
    depth = valid.shape[1] // mask_groups
    # Sums of integers: exact under autocast, TF32 and in every dtype, unlike a mask convolution.
    counts = valid.unflatten(1, (mask_groups, depth)).sum(2)
    for axis in axes:
        counts = axis.window_sum(counts)
    ratio, updated = ratio_of(counts, depth * weight[0, 0].numel(), batched), counts > 0
    if valid.shape[1] > 1:
        ratio, updated = (
            tensor.repeat_interleave(weight.shape[0] // groups, dim=1)
            for tensor in (ratio, updated)
        )
    # `where`, not a product: NaN * 0 is NaN.
    real = torch.where(valid, batched, torch.zeros((), dtype=input.dtype, device=input.device))
    output = convolve(real, weight, None, stride, padding_around(axes), dilation, groups)
    output = reweight_(output, bias, ratio)
    updated = updated.to(mask.dtype)
    return (
        output if input.dim() == weight.dim() else output[0],
        updated[0] if lacks_batch else updated,
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
        # mmcv's Conv2dAdaptivePadding takes neither.
        factory = {"device": device, "dtype": dtype}
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            **{name: value for name, value in factory.items() if value is not None},
        )
        self.multi_channel = multi_channel
        self.return_mask = return_mask

    # mmcv and mmengine call this directly with weights of their own (efficient conv-bn
    # evaluation): re-weighting in `forward` would be skipped there.
    def _conv_forward(
        self, input: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        # Most layers have no padding, and all of Python's time is lost on these.
        if (
            mask is None
            and type(self.padding) is tuple
            and not any(self.padding)
            # Not every compiler follows `type(input)`; none follows tensors that track padded
            # batches.
            and (is_dynamo_compiling() or type(input) is Tensor)
            and input.dim() == weight.dim()
        ):
            around = self.padding, None
            return convolve(input, weight, bias, self.stride, around, self.dilation, self.groups)
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
        elif mask_in.dim() <= n or mask_in.shape[-n - 1] != channels:
            raise ValueError(
                f"mask_in of shape {tuple(mask_in.shape)} must have {channels} channel(s), because "
                f"multi_channel={self.multi_channel} and in_channels={self.in_channels}"
            )
        output, mask = self._conv_forward(input, self.weight, self.bias, mask_in)
        if self.multi_channel:
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
    if tracer.root is layer:
        name = type(layer).__name__
        raise TypeError(
            f"fx has no name for a {name} that is traced alone: trace nn.Sequential({name}(...))"
        )
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
