"""Padding made from the input, against PyTorch's own and against a slow reference."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import Conv2dAdaptivePadding
from torch import nn

from pconv_seg import partial_conv2d, set_padding
from pconv_seg.layers import (
    AdaptivePaddedConv2d,
    AdaptivePConv2d,
    PaddedConv1d,
    PaddedConv2d,
    PaddedConv3d,
    distribution_pad,
)

MODES = ["reflect", "replicate", "circular", "distribution"]


def padded(conv, mode):
    """``conv`` turned into its padded form."""
    form = {
        nn.Conv1d: PaddedConv1d,
        nn.Conv2d: PaddedConv2d,
        nn.Conv3d: PaddedConv3d,
        Conv2dAdaptivePadding: AdaptivePaddedConv2d,
    }[type(conv)]
    conv = copy.deepcopy(conv)
    conv.__class__, conv.padding_mode = form, mode
    return conv


def distribution_reference(array, padding):
    """The docstring of distribution_pad, one padded value at a time; padding in axis order."""
    sizes = array.shape[2:]
    shape = [size + before + after for size, (before, after) in zip(sizes, padding, strict=True)]
    output = np.zeros((*array.shape[:2], *shape))
    for position in np.ndindex(*shape):
        window, inside = [], True
        for index, size, (before, after) in zip(position, sizes, padding, strict=True):
            nearest = min(max(index - before, 0), size - 1)
            inside &= nearest == index - before
            reach = max(before, after)
            window.append(slice(max(nearest - reach, 0), nearest + reach + 1))
        if inside:
            window = [i - before for i, (before, _) in zip(position, padding, strict=True)]
        values = array[(slice(None), slice(None), *window)]
        output[(slice(None), slice(None), *position)] = values.reshape(*array.shape[:2], -1).mean(
            -1
        )
    return output


@pytest.mark.parametrize(
    ("sizes", "padding"),
    [
        ((6,), [(2, 2)]),
        ((5, 7), [(1, 1), (1, 1)]),
        ((5, 7), [(0, 0), (3, 3)]),
        ((4, 6), [(1, 2), (0, 1)]),
        ((3, 4), [(12, 12), (6, 6)]),
        ((1, 1), [(2, 2), (2, 2)]),
        ((3, 4, 5), [(1, 1), (2, 2), (0, 0)]),
    ],
)
def test_distribution_equals_its_description(sizes, padding):
    input = torch.randn(2, 3, *sizes, dtype=torch.float64)
    expected = torch.from_numpy(distribution_reference(input.numpy(), padding))
    flat = [pixels for axis in reversed(padding) for pixels in axis]
    torch.testing.assert_close(distribution_pad(input, flat), expected)
    torch.testing.assert_close(distribution_pad(input[0], flat), expected[0])
    assert distribution_pad(input[:0], flat).shape == (0, *expected.shape[1:])


def test_distribution_of_a_known_map():
    input = torch.arange(12.0).view(1, 1, 3, 4)
    output = distribution_pad(input, [1, 1, 1, 1])[0, 0]
    assert torch.equal(output[1:-1, 1:-1], input[0, 0])
    # Corner: mean of 0, 1, 4, 5. Right of it, at the top edge: the same window; then 0..2, 4..6.
    assert output[0, :3].tolist() == [2.5, 2.5, 3.0]


def test_no_gradient_passes_through_distribution_padding():
    input = torch.randn(1, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    distribution_pad(input, [2, 2, 2, 2]).sum().backward()
    assert torch.equal(input.grad, torch.ones_like(input))


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize(
    ("conv", "shape"),
    [
        (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 7, 9)),
        (nn.Conv2d(2, 3, (1, 4), padding=(0, 2), dilation=(1, 2), bias=False), (2, 2, 7, 9)),
        (nn.Conv2d(2, 3, 4, padding="same", dilation=2), (2, 2, 7, 9)),
        (nn.Conv2d(2, 3, 3, padding=1), (2, 7, 9)),
        (nn.Conv2d(2, 3, 3, padding=1), (0, 2, 7, 9)),
        (nn.Conv1d(2, 3, 5, padding=2), (2, 2, 7)),
        (nn.Conv3d(2, 3, 3, padding=(1, 0, 1)), (2, 2, 4, 5, 6)),
    ],
    ids=repr,
)
def test_equals_pytorch_where_pytorch_has_the_mode(conv, shape, mode):
    if mode == "replicate" and shape[0] == 0 and torch.__version__ < "2.3":
        pytest.skip("this torch cannot")
    native = copy.deepcopy(conv)
    native.padding_mode = mode
    input = torch.randn(*shape)
    assert torch.equal(padded(conv, mode)(input), native(input))


def test_distribution_convolves_the_padded_map():
    conv = nn.Conv2d(2, 3, 3, stride=2, padding=2, dilation=2)
    input = torch.randn(2, 2, 9, 8)
    expected = F.conv2d(
        distribution_pad(input, [2, 2, 2, 2]), conv.weight, conv.bias, stride=2, dilation=2
    )
    assert torch.equal(padded(conv, "distribution")(input), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding", [(2, 2), (2,), "same"], ids=repr)
def test_layers_are_built_with_their_mode(mode, padding):
    layer = PaddedConv2d(2, 3, 5, padding=padding, padding_mode=mode, bias=False)
    plain = nn.Conv2d(2, 3, 5, padding=2, bias=False)
    plain.load_state_dict(layer.state_dict())
    input = torch.randn(2, 2, 9, 8)
    assert torch.equal(layer(input), padded(plain, mode)(input))
    adaptive = AdaptivePaddedConv2d(2, 3, 5, bias=False, padding_mode=mode)
    adaptive.load_state_dict(layer.state_dict())
    assert torch.equal(adaptive(input), layer(input))


def test_modes_that_are_not_made_from_the_input_are_refused():
    for cls in (PaddedConv1d, PaddedConv2d, PaddedConv3d):
        with pytest.raises(ValueError, match="padding_mode='zeros': choose one of reflect, "):
            cls(1, 4, 3, padding=1, padding_mode="zeros")
    with pytest.raises(TypeError, match="padding_mode"):
        PaddedConv2d(1, 4, 3, padding=1)


def test_maps_too_small_are_named():
    for mode, fits in (("reflect", 7), ("replicate", 6), ("circular", 6)):
        conv = padded(nn.Conv2d(1, 1, 3, padding=6, dilation=6), mode)
        conv.layer_name = "head.aspp.1"
        conv(torch.zeros(1, 1, fits, fits))
        for height, width in ((fits, fits - 1), (fits - 1, fits)):
            message = (
                rf"head\.aspp\.1: a map of {height}x{width} is too small for {mode} padding of 6 "
                rf"pixels, which needs at least {fits}\."
            )
            with pytest.raises(ValueError, match=message):
                conv(torch.zeros(1, 1, height, width))
    conv = padded(nn.Conv2d(1, 1, 3, padding=6, dilation=6), "distribution")
    assert conv(torch.zeros(1, 1, 1, 2)).shape == (1, 1, 1, 2)


ADAPTIVE = [
    (Conv2dAdaptivePadding(2, 3, 3, stride=2, padding=1), (8, 9)),
    (Conv2dAdaptivePadding(2, 3, (4, 5), stride=(3, 2), dilation=(1, 3)), (10, 9)),
    (Conv2dAdaptivePadding(2, 2, 3, groups=2, dilation=2, bias=False), (6, 5)),
    (Conv2dAdaptivePadding(2, 3, 1, stride=2), (6, 5)),
]


@pytest.mark.parametrize(("conv", "sizes"), ADAPTIVE, ids=repr)
def test_adaptive_padding_is_that_of_mmcv(conv, sizes):
    """With weights and input of ones, the count of real taps is what mmcv's zeros leave."""
    input = torch.randn(2, 2, *sizes, dtype=torch.float64)
    conv = copy.deepcopy(conv).double()
    zeros, ones = conv(input), copy.deepcopy(conv)
    nn.init.ones_(ones.weight)
    if conv.bias is not None:
        nn.init.zeros_(ones.bias)
    taps = conv.weight[0].numel()
    ratio = taps / ones(torch.ones_like(input))
    bias = 0 if conv.bias is None else conv.bias[:, None, None]
    partial = copy.deepcopy(conv)
    partial.__class__ = AdaptivePConv2d
    for enabled in (False, True):
        with torch.set_grad_enabled(enabled):
            torch.testing.assert_close(partial(input), (zeros - bias) * ratio + bias)
    torch.testing.assert_close(partial(input[0]), partial(input)[0])
    full = torch.ones(1, 1, *sizes)
    torch.testing.assert_close(partial(input, full), partial(input))
    # The other schemes pad as much.
    replicated = padded(conv, "replicate")
    assert replicated(input).shape == zeros.shape
    constant = torch.ones_like(input)
    torch.testing.assert_close(
        replicated(constant), (conv.weight.sum((1, 2, 3))[:, None, None] + bias).expand_as(zeros)
    )


def test_adaptive_partial_convolution_takes_masks():
    conv = copy.deepcopy(ADAPTIVE[0][0])
    conv.__class__, conv.return_mask = AdaptivePConv2d, True
    input, mask = torch.randn(2, 2, 8, 9), (torch.rand(2, 1, 8, 9) > 0.5).float()
    # Height 8 with stride 2 gets its one pixel behind, width 9 one on either side.
    pads = (1, 1, 0, 1)
    expected = partial_conv2d(F.pad(input, pads), conv.weight, conv.bias, 2, mask=F.pad(mask, pads))
    for ours, theirs in zip(conv(input, mask), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_adaptive_partial_convolution_is_built_like_mmcvs():
    built = AdaptivePConv2d(2, 3, 3, stride=2, padding=1, dilation=2, bias=False)
    plain = Conv2dAdaptivePadding(2, 3, 3, stride=2, padding=1, dilation=2, bias=False)
    built.load_state_dict(plain.state_dict())
    set_padding(plain, "partial")
    assert type(plain) is type(built)
    input = torch.randn(2, 2, 8, 9)
    assert torch.equal(built(input), plain(input))


@pytest.mark.parametrize("mode", ["partial", *MODES])
def test_compiles_traces_and_keeps_dtypes(mode):
    net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=2, dilation=2), nn.ReLU())
    net.append(Conv2dAdaptivePadding(4, 4, 3, stride=2))
    set_padding(net, mode)
    torch._dynamo.reset()
    # Older compilers cannot compare symbolic amounts of padding.
    dynamic = torch.__version__ >= "2.6"
    compiled = torch.compile(net, fullgraph=True, dynamic=dynamic, backend="eager")
    traced = torch.fx.symbolic_trace(net)
    assert [n.target for n in traced.graph.nodes if n.op == "call_module"] == ["0", "1", "2"]
    for size in ((16, 17), (20, 12)):
        input = torch.randn(2, 3, *size)
        torch.testing.assert_close(compiled(input), net(input))
        assert torch.equal(traced(input), net(input))
        with torch.autocast("cpu", torch.bfloat16):
            output = net(input)
        assert output.dtype == torch.bfloat16
        torch.testing.assert_close(output.float(), net(input), atol=0.05, rtol=0.05)
