"""The padding schemes that are compared, as ways to switch one and the same network."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pconv_seg import set_padding
from pconv_seg.geometry import border_runs
from pconv_seg.layers import plan, ratios, scaling

ZEROS, PARTIAL, MASKS = "zeros", "partial", "mask convolution"
PEERS = (MASKS, "reflect", "replicate")
CONTENDERS = (ZEROS, PARTIAL, *PEERS)


class MaskConv2d(nn.Conv2d):
    """Partial convolution by convolving a mask, written after the method's public description.

    A mask of ones is convolved with a kernel of ones; the ratio of all taps to valid taps is
    kept until the input has another shape. Each call multiplies the whole output by it, with the
    bias taken off before and put back after, and clears outputs without any valid tap.
    """

    kept = None

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        args = (self.stride, self.padding, self.dilation)
        if self.kept is None or self.kept[0] != input.shape:
            with torch.no_grad():
                mask = input.new_ones(1, 1, *input.shape[2:])
                counts = F.conv2d(mask, weight.new_ones(1, 1, *weight.shape[2:]), None, *args)
                valid = counts.clamp(0, 1)
                ratio = weight[0, 0].numel() / (counts + 1e-8) * valid
            self.kept = input.shape, ratio, valid
        _, ratio, valid = self.kept
        output = F.conv2d(input, weight, bias, *args, self.groups)
        if bias is None:
            return output * ratio
        column = bias.view(-1, 1, 1)
        return ((output - column) * ratio + column) * valid


def switch(model: nn.Module, contender: str) -> None:
    """Give all padded convolutions of ``model`` the padding of ``contender``, in place."""
    for module in model.modules():
        if type(module) is MaskConv2d:
            module.__class__ = nn.Conv2d
    set_padding(model, ZEROS if contender == MASKS else contender)
    if contender == MASKS:
        for module in model.modules():
            if type(module) is nn.Conv2d and any(module.padding):
                module.__class__ = MaskConv2d


def forget(model: nn.Module) -> None:
    """Drop what any contender has kept from earlier calls, except a loaded kernel."""
    plans = plan.plan_of, plan.plan_of_size, scaling.plan_on_cpu, ratios.are_strips_thin
    for function in (border_runs, *plans, scaling._kept_ratio_map, ratios.dense_strips):
        function.cache_clear()
    for module in model.modules():
        vars(module).pop("kept", None)


def check_close(what: str, ours: Tensor, expected: Tensor, tolerance: float) -> None:
    """Stop with a message unless the largest error is within ``tolerance`` of the largest value."""
    error = (ours.double() - expected.double()).abs().max() / expected.double().abs().max()
    if not error <= tolerance:
        raise SystemExit(f"{what}: outputs differ by {error:.1e} of the largest value")
