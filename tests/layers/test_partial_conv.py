"""The layer's arithmetic against a slow reference that loops over windows and taps."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from pconv_seg import PConv2d, partial_conv2d
from pconv_seg.geometry import tap_count
from pconv_seg.layers import PConv1d, PConv3d, axes, ratios, scaling
from pconv_seg.layers.plan import plan_of_size


def reference(input, weight, bias, stride, before, after, dilation, groups, mask):
    """Eq. 1-3 of arXiv 1811.11718, one window at a time, in float64.

    ``mask`` is ``[N, C, H, W]`` with C = 1 or the input's channels, or None.
    """
    x, w = input.double().numpy(), weight.double().numpy()
    (n, _, height, width), (c_out, per_group, kh, kw) = x.shape, w.shape
    out_h = (height + before[0] + after[0] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    out_w = (width + before[1] + after[1] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    output, updated = np.zeros((n, c_out, out_h, out_w)), np.zeros((n, c_out, out_h, out_w))
    for b, o, i, j in np.ndindex(output.shape):
        group = o // (c_out // groups)
        total, valid = 0.0, 0
        for c, p, q in np.ndindex(per_group, kh, kw):
            row = i * stride[0] - before[0] + p * dilation[0]
            col = j * stride[1] - before[1] + q * dilation[1]
            channel = group * per_group + c
            if not (0 <= row < height and 0 <= col < width):
                continue
            if mask is not None and not mask[b, channel if mask.shape[1] > 1 else 0, row, col]:
                continue
            valid += 1
            total += w[o, c, p, q] * x[b, channel, row, col]
        if valid:
            offset = 0.0 if bias is None else float(bias[o])
            output[b, o, i, j] = total * per_group * kh * kw / valid + offset
            updated[b, o, i, j] = 1
    return torch.from_numpy(output), torch.from_numpy(updated)


def pair(value):
    return (value, value) if isinstance(value, int) else value


# in, out, kernel, stride, padding, dilation, groups, height, width
LAYERS = [
    (2, 3, 3, 1, 1, 1, 1, 6, 7),
    (2, 3, 3, 2, 1, 1, 1, 7, 6),
    (1, 2, (7, 3), (2, 1), (3, 1), 1, 1, 9, 8),
    (4, 4, 3, 1, 2, 2, 4, 6, 5),
    (4, 6, 3, 1, 1, 1, 2, 5, 5),
    (2, 2, 3, 1, 12, 12, 1, 6, 7),
    (2, 2, 3, 1, 4, 4, 1, 6, 13),
    (2, 2, (1, 5), (1, 3), (0, 2), (1, 2), 1, 4, 9),
    (2, 2, (4, 2), (2, 1), (2, 1), (1, 3), 1, 6, 6),
    (2, 2, (1, 3), 1, (0, 1), 1, 1, 5, 7),
    (2, 2, 1, 1, 1, 1, 1, 4, 3),
    (2, 2, 2, 3, 2, 3, 1, 1, 4),
    (2, 2, 3, 1, 0, 1, 1, 5, 5),
]


def draw(layer, dtype=torch.float64, batch=2, seed=0):
    c_in, c_out, kernel, _, _, _, groups, height, width = layer
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    weight = randn(c_out, c_in // groups, *pair(kernel))
    return randn(batch, c_in, height, width), weight, randn(c_out)


def expect(layer, input, weight, bias, mask=None):
    stride, padding, dilation = map(pair, layer[3:6])
    return reference(input, weight, bias, stride, padding, padding, dilation, layer[6], mask)


def conv_args(layer):
    return layer[3:7]


@pytest.mark.parametrize("dilation", [1, 2, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel_size", [1, 2, 3, 7])
def test_counts_in_tensors_equal_those_of_geometry(kernel_size, stride, dilation):
    for length, before in itertools.product((1, 5, 16, 40), (0, 1, 3, 20)):
        axis = axes.Axis(-2, kernel_size, stride, (before, before), dilation)
        outputs = (length + 2 * before - axis.span) // stride + 1
        if outputs < 1:
            continue
        counts = axis.counts(length, torch.empty(1, 1, outputs, 1))
        assert counts.flatten().tolist() == [
            tap_count(i, length, kernel_size, stride, before, dilation) for i in range(outputs)
        ]


def test_counts_of_large_maps_are_exact():
    """The places of taps fit neither into bfloat16 nor into float16."""
    axis = axes.Axis(-2, 3, 2**20, (1, 1), 1)
    counts = axis.counts(15 * 2**20 + 1, torch.empty(1, 1, 16, 1, dtype=torch.bfloat16))
    assert counts.flatten().tolist() == [2, *[3] * 14, 2]


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 7])
def test_windows_are_known_to_be_never_empty_without_the_length(kernel_size):
    options = itertools.product((1, 2, 3), (1, 2, 5), (0, 1, 3, 6), (0, 1, 3, 6))
    for stride, dilation, before, after in options:
        axis = axes.Axis(-2, kernel_size, stride, (before, after), dilation)
        counts = [
            tap_count(i, length, kernel_size, stride, before, dilation)
            for length in range(1, 20)
            for i in range((length + before + after - axis.span) // stride + 1)
        ]
        assert all(counts) or not axis.never_empty
    assert axes.Axis(-2, kernel_size, 2, (kernel_size - 1) // 2, 1).never_empty


@pytest.fixture(params=["by map", "in strips"])
def way(request, monkeypatch, fresh_plans):
    """Both ways to scale the border, on maps of any size."""
    strips = request.param == "in strips"
    monkeypatch.setattr(ratios, "_LARGEST_SHARE", math.inf)
    monkeypatch.setattr(scaling, "_FEWEST_VALUES", 0 if strips else math.inf)
    monkeypatch.setattr(ratios, "_COLUMNS", 2)
    return request.param


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_without_mask_equals_reference_with_and_without_gradients(layer, with_bias, way):
    input, weight, bias = draw(layer)
    bias = bias if with_bias else None
    expected, _ = expect(layer, input, weight, bias)
    torch.testing.assert_close(partial_conv2d(input, weight, bias, *conv_args(layer)), expected)
    recorded = partial_conv2d(input, weight.requires_grad_(), bias, *conv_args(layer))
    torch.testing.assert_close(recorded.detach(), expected)


@pytest.mark.parametrize("kind", ["single", "shared", "multi"])
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_masks_equal_reference(layer, kind):
    input, weight, bias = draw(layer)
    channels = input.shape[1] if kind == "multi" else 1
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(2, channels, *input.shape[2:], generator=generator) > 0.6
    mask[:, :, : input.shape[2] // 2 + 1, :3] = False  # windows without any valid tap
    given = mask[:1] if kind == "shared" else mask
    expected, updated = expect(layer, input, weight, bias, given.expand_as(mask).numpy())
    # Whatever lies under the mask must not show.
    poison = torch.tensor([math.nan, math.inf]).repeat(input.numel())[: input.numel()]
    poisoned = torch.where(given, input, poison.view_as(input).to(input))
    output, mask_out = partial_conv2d(poisoned, weight, bias, *conv_args(layer), given)
    torch.testing.assert_close(output, expected)
    assert mask_out.dtype == torch.bool
    assert mask_out.shape[0] == given.shape[0]
    assert mask_out.shape[1] == (1 if channels == 1 else weight.shape[0])
    assert torch.equal(mask_out.expand_as(updated).double(), updated)


def test_full_mask_equals_no_mask():
    layer = LAYERS[0]
    input, weight, bias = draw(layer)
    masked, mask = partial_conv2d(input, weight, bias, *conv_args(layer), torch.ones(1, 1, 6, 7))
    torch.testing.assert_close(masked, partial_conv2d(input, weight, bias, *conv_args(layer)))
    assert mask.dtype == torch.float32
    assert mask.all()


def test_full_mask_leaves_the_interior_alone():
    """Exactly, though in float32 121 * (1 / 121) is not 1."""
    input, weight = torch.randn(1, 2, 13, 14), torch.randn(3, 2, 11, 11)
    masked, _ = partial_conv2d(input, weight, padding=5, mask=torch.ones(1, 1, 13, 14))
    plain = F.conv2d(input, weight, padding=5)
    assert torch.equal(masked[..., 5:-5, 5:-5], plain[..., 5:-5, 5:-5])


@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
@pytest.mark.parametrize("dilation", [1, 3])
def test_same_and_valid_padding(kernel, dilation, way):
    input, weight, bias = draw((2, 3, kernel, 1, 0, 1, 1, 8, 9))
    total = dilation * (kernel - 1)
    before, after = (total // 2,) * 2, (total - total // 2,) * 2
    expected, _ = reference(input, weight, bias, (1, 1), before, after, (dilation,) * 2, 1, None)
    same = partial_conv2d(input, weight, bias, 1, "same", dilation)
    torch.testing.assert_close(same, expected)
    assert same.shape[2:] == input.shape[2:]
    if total < 8:
        valid = partial_conv2d(input, weight, bias, 2, "valid", dilation)
        assert torch.equal(valid, F.conv2d(input, weight, bias, 2, "valid", dilation))


def test_border_ratios_of_the_paper_layer(way):
    """3x3 with padding 1 on ones: 1.5 on edges and 2.25 in corners make up for zeros exactly."""
    weight = torch.ones(1, 1, 3, 3)
    for input in (torch.ones(1, 1, 4, 6), torch.ones(1, 1, 4, 6, requires_grad=True)):
        output = partial_conv2d(input, weight, padding=1)
        assert torch.equal(output, torch.full((1, 1, 4, 6), 9.0))


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("records_gradient", [False, True])
def test_interior_is_bit_identical_to_zero_padding(records_gradient, with_bias, way):
    input, weight, bias = draw((8, 16, 3, 1, 2, 2, 1, 16, 16), torch.float32)
    bias = bias if with_bias else None
    weight.requires_grad_(records_gradient)
    ours = partial_conv2d(input, weight, bias, 1, 2, 2)
    assert torch.equal(
        ours[..., 2:-2, 2:-2], F.conv2d(input, weight, bias, 1, 2, 2)[..., 2:-2, 2:-2]
    )


# Groups; overlapping strips, some without any valid tap; strides; no interior.
@pytest.mark.parametrize("layer", [LAYERS[i] for i in (4, 5, 7, 9, 10, 11)], ids=str)
def test_gradients(layer, way):
    input, weight, bias = (tensor.requires_grad_() for tensor in draw(layer, batch=1))
    mask = torch.rand(input.shape, generator=torch.Generator().manual_seed(0)) > 0.3

    def unmasked(*tensors):
        return partial_conv2d(*tensors, *conv_args(layer))

    def masked(*tensors):
        return partial_conv2d(*tensors, *conv_args(layer), mask)[0]

    assert torch.autograd.gradcheck(unmasked, (input, weight, bias), check_forward_ad=True)
    assert torch.autograd.gradcheck(masked, (input, weight, bias))
    assert torch.autograd.gradgradcheck(unmasked, (input, weight, bias))


def test_no_gradient_reaches_masked_values():
    layer = LAYERS[0]
    input, weight, bias = draw(layer)
    mask = torch.ones(1, 1, 6, 7)
    mask[..., 3:] = 0
    input[..., 3:] = math.nan
    input.requires_grad_()
    partial_conv2d(input, weight, bias, *conv_args(layer), mask)[0].sum().backward()
    assert torch.isfinite(input.grad).all()
    assert (input.grad[..., 3:] == 0).all()


def test_function_transforms_see_the_reweighting():
    input, weight, bias = draw(LAYERS[0])

    def loss(weight, image):
        return partial_conv2d(image, weight, bias, padding=1).square().sum()

    per_image = torch.func.vmap(torch.func.grad(loss), (None, 0))(weight, input)
    for image, gradient in zip(input, per_image, strict=True):
        leaf = weight.clone().requires_grad_()
        loss(leaf, image).backward()
        torch.testing.assert_close(gradient, leaf.grad)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("mapped", range(3), ids=["input", "weight", "bias"])
def test_vmap_over_one_argument(mapped, masked):
    tensors = list(draw((2, 3, 3, 1, 2, 1, 1, 5, 4)))
    mask = torch.ones(1, 1, 5, 4) if masked else None

    def convolve(*tensors):
        output = partial_conv2d(*tensors, padding=2, mask=mask)
        return output[0] if masked else output

    tensors[mapped] = torch.stack([tensors[mapped], -tensors[mapped]])
    in_dims = tuple(0 if i == mapped else None for i in range(3))
    outputs = torch.vmap(convolve, in_dims)(*tensors)
    for output, one in zip(outputs, tensors[mapped], strict=True):
        expected = convolve(*tensors[:mapped], one, *tensors[mapped + 1 :])
        torch.testing.assert_close(output, expected)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.complex64, 1e-5), (torch.complex128, 1e-13)]
)
def test_complex_layers_are_real_ones_of_their_parts(dtype, tolerance, way):
    layer = (2, 3, 5, 1, 5, 1, 1, 9, 12)  # the outermost outputs see nothing
    parts = zip(draw(layer, seed=0), draw(layer, seed=1), strict=True)
    input, weight, bias = (torch.complex(*part).to(dtype) for part in parts)
    (a, b), (c, d) = (torch.view_as_real(x).double().unbind(-1) for x in (input, weight))

    def of_parts(x, w):
        return partial_conv2d(x, w, None, *conv_args(layer))

    expected = torch.complex(of_parts(a, c) - of_parts(b, d), of_parts(a, d) + of_parts(b, c))
    seen = expected != 0
    assert not seen[..., 0, :].any()
    expected = (expected.to(dtype) + bias[:, None, None]) * seen
    output = partial_conv2d(input, weight, bias.requires_grad_(), *conv_args(layer))
    scale = expected.abs().max().item()
    torch.testing.assert_close(output, expected, rtol=0, atol=tolerance * scale)
    output.backward(expected.detach())
    total = expected.detach().sum((0, 2, 3))
    torch.testing.assert_close(bias.grad, total, rtol=10 * tolerance, atol=0)


@pytest.mark.parametrize("records_gradient", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2**-6), (torch.float16, 2**-9)])
def test_low_precision_counts_exactly(dtype, tolerance, records_gradient, way):
    """961 taps do not fit into bfloat16's 8 bits: a count computed there would be off."""
    if dtype == torch.float16 and torch.__version__ < "2.4":
        pytest.skip("this torch has no float16 convolution on the CPU")
    layer = (1, 2, 31, 1, 15, 1, 1, 33, 40)
    input, weight, bias = draw(layer, dtype, batch=1)
    weight = weight / 31
    # float64 is checked against the loops above.
    expected = partial_conv2d(*(x.double() for x in (input, weight, bias)), *conv_args(layer))
    weight.requires_grad_(records_gradient)
    for args in ((), (torch.ones(1, 1, 33, 40, dtype=dtype),)):
        output = partial_conv2d(input, weight, bias, *conv_args(layer), *args)
        output = output[0] if args else output
        assert output.dtype == dtype
        error = (output.detach().double() - expected).abs().max() / expected.abs().max()
        assert error < tolerance


def test_masked_outputs_of_low_precision_are_rounded_once():
    """The centre of 961 taps alone has a weight, so an output is the ratio, of exact counts."""
    weight, ones = torch.zeros(2, 1, 1, 31, 31, dtype=torch.float64)
    weight[..., 15, 15] = 1
    ones[:] = 1
    mask = torch.rand(1, 1, 33, 40) > 0.4
    taps = F.conv2d(mask.double(), ones, padding=15)
    input, weight = torch.ones(1, 1, 33, 40).bfloat16(), weight.bfloat16()
    output, _ = partial_conv2d(input, weight, padding=15, mask=mask)
    assert torch.equal(output, (mask * 961 / taps).bfloat16())


@pytest.mark.parametrize("trains", [False, True])
def test_autocast_takes_the_bias_along(trains, way):
    layer = PConv2d(1, 1, 3, padding=1)
    layer.load_state_dict({"weight": torch.ones(1, 1, 3, 3), "bias": torch.tensor([0.5])})
    with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(trains):
        output = layer(torch.ones(1, 1, 5, 6))
    assert torch.equal(output, torch.full((1, 1, 5, 6), 9.5, dtype=torch.bfloat16))
    if trains:
        output.sum().backward()
        assert torch.equal(layer.bias.grad, torch.tensor([30.0]))


def test_unbatched_and_empty_batch(way):
    input, weight, bias = draw(LAYERS[0])
    batched = partial_conv2d(input[:1], weight, bias, padding=1)
    torch.testing.assert_close(partial_conv2d(input[0], weight, bias, padding=1), batched[0])
    for mask in (torch.ones(6, 7)[None], torch.ones(1, 1, 6, 7)):
        output, updated = partial_conv2d(input[0], weight, bias, padding=1, mask=mask)
        torch.testing.assert_close(output, batched[0])
        assert updated.dim() == mask.dim()
    for requires_grad in (False, True):
        empty = input[:0].clone().requires_grad_(requires_grad)
        assert partial_conv2d(empty, weight, bias, padding=1).shape == (0, 3, 6, 7)
    output, updated = partial_conv2d(
        input[:0], weight, bias, padding=1, mask=torch.ones(1, 1, 6, 7)
    )
    assert output.shape == (0, 3, 6, 7)
    assert updated.shape == (1, 1, 6, 7)


@pytest.mark.parametrize("needs_gradient", [False, True])
def test_channels_last_is_kept(needs_gradient, way):
    layer = (8, 8, 3, 1, 1, 1, 1, 6, 7)
    input, weight, bias = draw(layer)
    expected, _ = expect(layer, input, weight, bias)
    input = input.to(memory_format=torch.channels_last)
    output = partial_conv2d(input, weight.requires_grad_(needs_gradient), bias, padding=1)
    assert output.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(output.detach(), expected)


def test_inputs_and_masks_are_not_written_to(way):
    input, weight, bias = draw(LAYERS[0])
    mask = (torch.arange(42).view(1, 1, 6, 7) % 3).float()
    copies = [tensor.clone() for tensor in (input, weight, bias, mask)]
    partial_conv2d(input, weight, bias, padding=1)
    partial_conv2d(input, weight, bias, padding=1, mask=mask)
    for tensor, copy in zip((input, weight, bias, mask), copies, strict=True):
        assert torch.equal(tensor, copy)


def test_no_state_survives_a_call():
    """Each result must equal that of a fresh layer, in whatever order calls come."""
    layer = PConv2d(3, 4, 3, padding=1)
    weights = layer.state_dict()
    mask = (torch.rand(2, 1, 8, 9) > 0.5).float()
    calls = [
        (torch.randn(2, 3, 8, 9), mask),
        (torch.randn(2, 3, 8, 9), None),
        (torch.randn(2, 3, 5, 5), None),
        (torch.randn(2, 3, 8, 9), 1 - mask),
        (torch.randn(2, 3, 8, 9).double(), None),
        (torch.randn(2, 3, 8, 9, device="meta"), None),
        (torch.randn(2, 3, 8, 9), None),
    ]
    for input, mask_in in calls:
        fresh = PConv2d(3, 4, 3, padding=1)
        fresh.load_state_dict(weights)
        outputs = [
            module.to(input.dtype)(input, mask_in)
            if input.device.type != "meta"
            else torch.func.functional_call(
                module, {name: value.to("meta") for name, value in weights.items()}, (input,)
            )
            for module in (layer, fresh)
        ]
        layer.float()
        if input.device.type == "meta":
            assert outputs[0].shape == (2, 4, 8, 9)
        else:
            assert torch.equal(*outputs)


def test_layer_is_an_nn_conv2d_with_the_same_state():
    layer, plain = PConv2d(3, 4, 3, padding=1), torch.nn.Conv2d(3, 4, 3, padding=1)
    assert isinstance(layer, torch.nn.Conv2d)
    assert list(layer.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(layer.state_dict(), strict=True)
    layer.load_state_dict(plain.state_dict(), strict=True)
    assert not list(layer.buffers())
    assert repr(layer) == "PConv2d(3, 4, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))"
    layer.multi_channel = layer.return_mask = True
    assert repr(layer).endswith(", padding=(1, 1), multi_channel=True, return_mask=True)")


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("multi_channel", [False, True])
def test_layer_takes_and_returns_masks_as_partialconv2d_does(multi_channel, in_channels):
    layer = PConv2d(in_channels, 4, 3, padding=1, multi_channel=multi_channel, return_mask=True)
    input = torch.randn(2, in_channels, 5, 6)
    mask = torch.ones(2, in_channels if multi_channel else 1, 5, 6)
    mask[0, :, :4, :4] = 0
    output, updated = layer(input, mask)
    assert updated.shape == (2, 4 if multi_channel else 1, 5, 6)
    assert (updated[0, :, :3, :3] == 0).all()
    assert (output[0, :, :3, :3] == 0).all()
    without, ones = layer(input)
    assert ones.shape == (1, 4 if multi_channel else 1, 5, 6)
    assert ones.all()
    assert torch.equal(layer(input[0])[1], ones[0])
    layer.return_mask = False
    torch.testing.assert_close(layer(input), without)
    torch.testing.assert_close(layer(input, mask), output)


@pytest.mark.parametrize("kernel_size", [1, 2, 5])
@pytest.mark.parametrize("padding", [3, "same"])
def test_one_dimension_is_a_map_of_height_one(kernel_size, padding):
    layer = PConv1d(4, 6, kernel_size, padding=padding, dilation=2, groups=2, return_mask=True)
    input, mask = torch.randn(2, 4, 7), torch.rand(2, 1, 7) > 0.4
    flat = PConv2d(
        4,
        6,
        (1, kernel_size),
        padding=padding if padding == "same" else (0, padding),
        dilation=(1, 2),
        groups=2,
        return_mask=True,
    )
    flat.load_state_dict(
        {k: v.view_as(flat.state_dict()[k]) for k, v in layer.state_dict().items()}
    )
    for given in (None, mask):
        expected = flat(input[:, :, None], None if given is None else given[:, :, None])
        for ours, theirs in zip(layer(input, given), expected, strict=True):
            torch.testing.assert_close(ours, theirs[:, :, 0])
    unbatched, updated = layer(input[0], mask[0])
    torch.testing.assert_close(unbatched, layer(input, mask)[0][0])
    assert updated.shape == (1, unbatched.shape[-1])


@pytest.mark.parametrize("records_gradient", [False, True])
def test_three_dimensions_follow_the_definition(records_gradient, way):
    layer = PConv3d(
        2, 4, (3, 2, 3), stride=(1, 2, 1), padding=(1, 1, 2), dilation=(1, 1, 2)
    ).double()
    input = torch.randn(2, 2, 4, 5, 6, dtype=torch.float64)
    args = (layer.stride, layer.padding, layer.dilation)
    taps = F.conv3d(torch.ones_like(input), torch.ones_like(layer.weight), None, *args)
    ratio = layer.weight[0].numel() / taps
    expected = F.conv3d(input, layer.weight, None, *args) * ratio
    expected = expected + layer.bias[:, None, None, None]
    with torch.set_grad_enabled(records_gradient):
        torch.testing.assert_close(layer(input), expected)
        torch.testing.assert_close(layer(input[0]), expected[0])
        torch.testing.assert_close(layer(input, torch.ones(1, 1, 4, 5, 6)), expected)


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match=r"padding_mode='reflect'.*missing data"):
        PConv2d(3, 4, 3, padding=1, padding_mode="reflect")
    layer = PConv2d(3, 4, 3, padding=1)
    input = torch.randn(2, 3, 5, 6)
    with pytest.raises(ValueError, match="multi_channel=False"):
        layer(input, torch.ones(2, 3, 5, 6))
    for shape in ((3, 1, 5, 6), (2, 2, 5, 6), (2, 1, 5, 5)):
        with pytest.raises(ValueError, match="does not fit input"):
            partial_conv2d(input, layer.weight, mask=torch.ones(shape))
    # A mask may lack the batch dimension if the input does, and no other.
    square = torch.randn(3, 3, 5, 6)
    for shape in ((3, 5, 6), (1, 5, 6), (5, 6), (5,), (1, 3, 3, 5, 6)):
        with pytest.raises(ValueError, match="which a mask may lack if the input does"):
            partial_conv2d(square, layer.weight, mask=torch.ones(shape))
    with pytest.raises(ValueError, match=r"mask_in of shape \(5, 6\) must have 1 channel"):
        layer(input, torch.ones(5, 6))
    for size in (1, 3):  # windows without any valid tap, and such that miss some
        integers = [torch.ones(1, 1, n, n, dtype=torch.int32) for n in (4, size)]
        with pytest.raises(TypeError, match=r"input of a floating dtype, not torch\.int32"):
            partial_conv2d(*integers, padding=1)
        assert torch.equal(partial_conv2d(*integers), F.conv2d(*integers))


@pytest.mark.parametrize("name", ["stride", "padding", "dilation"])
@pytest.mark.parametrize(
    "twice", [[2, 2], [2], (2,), np.int64(2), (np.int64(2), np.int64(2)), [np.int64(2)]], ids=repr
)
def test_options_are_given_as_to_pytorch(name, twice, fresh_plans):
    input, weight, bias = draw(LAYERS[0])
    options = dict(padding=1)
    ours = partial_conv2d(input, weight, bias, **options | {name: twice})
    assert ours.shape == F.conv2d(input, weight, bias, **options | {name: twice}).shape
    # What is kept serves calls with plain integers, too.
    assert {type(n) for axis in plan_for(options | {name: twice}).frame for n in axis} == {int}
    by_pairs = partial_conv2d(input, weight, bias, **options | {name: (2, 2)})
    assert torch.equal(ours, by_pairs)
    mask = torch.ones(1, 1, 6, 7)
    masked, _ = partial_conv2d(input, weight, bias, **options | {name: twice}, mask=mask)
    torch.testing.assert_close(masked, by_pairs)
    layer = PConv2d(2, 3, 3, padding=1).double()
    setattr(layer, name, twice)
    torch.testing.assert_close(layer._conv_forward(input, weight, bias), by_pairs)


def plan_for(options):
    hashable = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    options = dict(stride=1, dilation=1) | hashable
    return plan_of_size((6, 7), (3, 3), **options)


@pytest.mark.parametrize(
    "options",
    [
        dict(padding="same", stride=2),
        dict(padding="foo"),
        dict(padding=-1),
        dict(padding=1.5),
        dict(padding=(1, 1, 1)),
        dict(padding=()),
        dict(stride=0),
        dict(stride=(1, 0)),
        dict(dilation=0),
        dict(dilation=None),
    ],
    ids=str,
)
def test_options_that_pytorch_refuses_are_refused(options):
    input, weight, bias = draw(LAYERS[0])
    with pytest.raises((RuntimeError, TypeError, ValueError)):
        F.conv2d(input, weight, bias, **options)
    for mask in (None, torch.ones(1, 1, 6, 7)):
        with pytest.raises(ValueError, match=r"must be|needs stride 1") as error:
            partial_conv2d(input, weight, bias, **options, mask=mask)
        assert error.value.__context__ is None


@pytest.mark.parametrize("size", [(2, 2), (0, 4), (4, 1), (0, 0)], ids=str)
def test_sizes_without_any_window_are_refused_as_by_pytorch(size):
    input, weight = torch.zeros(1, 1, *size), torch.zeros(1, 1, 3, 5)
    with pytest.raises(RuntimeError) as expected:
        F.conv2d(input, weight, padding=1)
    with pytest.raises(RuntimeError) as found:
        partial_conv2d(input, weight, padding=1)
    assert str(found.value) == str(expected.value)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", [(6,), (6, 7), (1, 6, 7), (1, 1, 6, 7), (1, 1, 1, 6, 7)], ids=str)
@pytest.mark.parametrize("padding", [0, 1])
def test_inputs_are_batched_or_unbatched_as_in_pytorch(shape, masked, padding):
    layer, input = PConv2d(1, 4, 3, padding=padding), torch.zeros(shape)
    mask = torch.ones(1, 1, 6, 7) if masked else None
    if len(shape) in (3, 4):
        expected = F.conv2d(input, layer.weight, padding=padding)
        assert layer(input, mask).shape == expected.shape
        return
    with pytest.raises(ValueError, match="must have 4 dimensions, or 3"):
        layer(input, mask)


def test_kept_ratios_do_not_depend_on_who_came_first(way):
    """Inference, another dtype and fake tensors come first; training must not notice."""
    generator = torch.Generator().manual_seed(0)
    input, weight = torch.randn(2, 1, 2, 13, 11, generator=generator, dtype=torch.float64)
    weight = weight[..., :3, :3].contiguous()
    expected, _ = reference(input, weight, None, *((n, n) for n in (1, 1, 1, 1)), 1, None)
    with torch.inference_mode():
        partial_conv2d(input.clone(), weight.clone(), padding=1)
        partial_conv2d(input.float(), weight.float(), padding=1)
    with FakeTensorMode() as mode:
        fake = partial_conv2d(mode.from_tensor(input), mode.from_tensor(weight), padding=1)
    assert fake.shape == expected.shape
    output = partial_conv2d(input, weight.requires_grad_(), padding=1)
    torch.testing.assert_close(output.detach(), expected)
    output.sum().backward()
    assert weight.grad.isfinite().all()


class CountedMaps(TorchDispatchMode):
    """How many tensors of one size are made."""

    def __init__(self, size):
        super().__init__()
        self.size, self.found = size, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.found += isinstance(result, torch.Tensor) and result.shape == self.size
        return result


@pytest.mark.parametrize(("with_bias", "maps"), [(False, 1), (True, 2)])
def test_without_bias_one_map_is_made(with_bias, maps):
    """The first call waits for it."""
    plan = plan_of_size((7, 17), (3, 3), (1, 1), (1, 1), (1, 1))
    with CountedMaps((7, 17)) as counted:
        ratios.new_ratio_map(plan, torch.float32, with_bias, "cpu")
    assert counted.found == maps


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_strips_of_a_part_of_memory(memory_format, way):
    plan = plan_of_size((6, 9), (3, 3), (1, 1), (1, 1), (1, 1))
    values = torch.ones(3, 4, 6, 9).contiguous(memory_format=memory_format)
    scaling._scale_border_(values[1:2], None, False, plan, None)
    ratio = torch.ones(6, 9)
    ratio[[0, -1]] *= 1.5
    ratio[:, [0, -1]] *= 1.5
    assert torch.equal(
        values, torch.stack([ratio**i for i in (0, 1, 0)])[:, None].expand(3, 4, 6, 9)
    )


def test_the_gradient_of_a_bias_is_summed_in_float32():
    """In bfloat16 501 would be 500 or 502."""
    plan = plan_of_size((200, 300), (3, 3), (1, 1), (1, 1), (1, 1))
    output = torch.zeros(1, 1, 200, 300, dtype=torch.bfloat16)
    bias = torch.zeros(1, requires_grad=True)
    scaled = scaling._ScaleBorder.apply(output, bias, False, plan, None)
    scaled.backward(torch.ones_like(scaled))
    # The sum of 1 - ratio: that of the ratios comes to it through the convolution.
    assert bias.grad.item() == (2 * 198 + 2 * 298) * (1 - 1.5) + 4 * (1 - 2.25)


@pytest.mark.parametrize("with_bias", [False, True])
def test_gradients_equal_those_of_the_formula(with_bias, way):
    input, weight, bias = (tensor.requires_grad_() for tensor in draw((2, 3, 3, 1, 1, 1, 1, 8, 8)))
    ratio = 9 / F.conv2d(torch.ones_like(input[:1, :1]), torch.ones_like(weight[:1, :1]), padding=1)
    expected = F.conv2d(input, weight, padding=1) * ratio
    leaves = (input, weight, bias)[: 2 + with_bias]
    if with_bias:
        expected = expected + bias[:, None, None]
    seed = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).double()
    output = partial_conv2d(input, weight, bias if with_bias else None, padding=1)
    torch.testing.assert_close(output, expected)
    for ours, theirs in zip(
        torch.autograd.grad(output, leaves, seed),
        torch.autograd.grad(expected, leaves, seed),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    "size", [(1, 128, 64, 127), (1, 128, 64, 128), (1, 512, 48, 48), (1, 1, 2100, 500)]
)
def test_maps_of_real_size_choose_a_way_that_is_right(size):
    """Around the number of values and the share of strips at which the way changes."""
    input = torch.ones(size, requires_grad=True)
    weight = torch.ones(size[1], 1, 3, 3)
    output = partial_conv2d(input, weight, padding=1, groups=size[1])
    assert torch.equal(output, torch.full(size, 9.0))
    output.backward(torch.ones_like(output))
    # A pixel is in 9 windows, whose outputs have ratios of 1, on edges 1.5 and in corners 2.25.
    assert torch.equal(input.grad[0, 0, 2:-2, 2:-2].unique(), torch.tensor([9.0]))
    assert input.grad[0, 0, 0, 0] == 2.25 + 1.5 + 1.5 + 1
    assert input.grad.sum() == output.sum()


# What a gradient can be when it comes back: of another format, one value for many places, or the
# memory of what the convolution saved.
GRADIENTS = {
    "contiguous": lambda input: torch.randn_like(input),
    "channels_last": lambda input: torch.randn_like(input, memory_format=torch.channels_last),
    "expanded": lambda input: torch.ones(()).expand(input.shape).to(input.dtype),
    "expanded over maps": lambda input: torch.randn_like(input[:1, :1]).expand(input.shape),
    "transposed": lambda input: torch.randn_like(input).transpose(2, 3),
    "the saved input": lambda input: input.detach(),
}


@pytest.mark.parametrize("kind", GRADIENTS)
def test_the_gradient_is_found_as_it_was(kind, way):
    input, weight, bias = draw((4, 4, 3, 1, 2, 2, 1, 9, 9), torch.float32)
    leaves = [tensor.requires_grad_() for tensor in (input, weight, bias)]
    gradient = GRADIENTS[kind](input)
    before, version = gradient.clone(), gradient._version
    output = partial_conv2d(*leaves, padding=2, dilation=2)
    found = torch.autograd.grad(output, leaves, gradient)
    assert torch.equal(gradient, before)
    assert gradient._version == version
    doubles = [leaf.detach().double().requires_grad_() for leaf in leaves]
    output, _ = partial_conv2d(*doubles, padding=2, dilation=2, mask=torch.ones(1, 1, 9, 9))
    expected = torch.autograd.grad(output, doubles, before.double())
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, atol=1e-4, rtol=1e-5)


def test_a_branch_beside_the_convolution_gets_the_whole_gradient(way):
    """``input + conv(input)``: autograd hands one tensor to both."""
    input, weight, _ = draw((4, 4, 3, 1, 1, 1, 1, 7, 7))
    input.requires_grad_()
    gradient = torch.randn(input.shape, generator=torch.Generator().manual_seed(1)).double()
    (alone,) = torch.autograd.grad(partial_conv2d(input, weight, padding=1), input, gradient)
    both = input + partial_conv2d(input, weight, padding=1)
    (found,) = torch.autograd.grad(both * 1, input, gradient)
    torch.testing.assert_close(found, alone + gradient)


def test_gradients_of_several_outputs_at_once(way):
    input, weight, _ = draw((2, 2, 3, 1, 1, 1, 1, 6, 6), torch.float64)
    input.requires_grad_()
    output = partial_conv2d(input, weight, padding=1)
    seeds = torch.randn(3, *output.shape, generator=torch.Generator().manual_seed(1)).double()
    (together,) = torch.autograd.grad(output, input, seeds, True, is_grads_batched=True)
    for seed, found in zip(seeds, together, strict=True):
        (one,) = torch.autograd.grad(output, input, seed, True)
        torch.testing.assert_close(found, one)


# Who may hold the gradient of an output while it is being scaled on its way back.
def by_hook(output, keep):
    output.register_hook(keep)


def by_view_in_hook(output, keep):
    output.register_hook(lambda gradient: keep(gradient.view(-1)))


def by_hook_before_node(output, keep):
    output.grad_fn.register_prehook(lambda gradients: keep(gradients[0]))


def by_hook_after_node(output, keep):
    output.grad_fn.register_hook(lambda _, gradients: keep(gradients[0]))


class Keep(torch.autograd.Function):
    """Hands on what it gets, and keeps of the gradient no more than its memory."""

    @staticmethod
    def forward(ctx, input, keep):
        ctx.keep = keep
        return input.view_as(input)

    @staticmethod
    def backward(ctx, gradient):
        ctx.keep(gradient.untyped_storage())
        return gradient, None


def test_who_holds_the_memory_of_a_gradient_keeps_it_as_it_was(way):
    input, weight, bias = draw((4, 4, 3, 1, 1, 1, 1, 7, 7))
    output = partial_conv2d(input, weight.requires_grad_(), bias, padding=1)
    kept = []
    seed = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).double()
    torch.autograd.grad((Keep.apply(output, kept.append) * seed).sum(), weight)
    assert torch.equal(seed.new_empty(0).set_(kept[0]).view_as(seed), seed)


class FromArray(torch.autograd.Function):
    """Has an array of NumPy for its gradient."""

    @staticmethod
    def forward(ctx, input, array):
        ctx.array = array
        return input.sum()

    @staticmethod
    def backward(ctx, gradient):
        return torch.from_numpy(ctx.array), None


def test_an_array_that_is_a_gradient_stays_as_it_was(way):
    input, weight, _ = draw((4, 4, 3, 1, 1, 1, 1, 7, 7))
    array = np.random.default_rng(0).normal(size=(2, 4, 7, 7))
    before = array.copy()
    output = partial_conv2d(input, weight.requires_grad_(), padding=1)
    FromArray.apply(output, array).backward()
    assert np.array_equal(array, before)
    (expected,) = torch.autograd.grad(
        partial_conv2d(input, weight, padding=1), weight, torch.from_numpy(before)
    )
    torch.testing.assert_close(weight.grad, expected)


@pytest.mark.parametrize(
    "hold", [by_hook, by_view_in_hook, by_hook_before_node, by_hook_after_node]
)
def test_who_holds_a_gradient_keeps_it_as_it_was(hold, way):
    input, weight, bias = draw((4, 4, 3, 1, 1, 1, 1, 7, 7))
    output = partial_conv2d(input, weight.requires_grad_(), bias, padding=1)
    kept = []
    hold(output, lambda gradient: kept.append(gradient))
    seed = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).double()
    torch.autograd.grad((output * seed).sum(), weight)
    assert torch.equal(kept[0].view_as(seed), seed)


def test_hooks_of_the_layer_see_the_gradient_of_its_output(way):
    layer, kept = PConv2d(4, 4, 3, padding=1).double(), []
    layer.register_full_backward_hook(lambda layer, of_input, of_output: kept.append(of_output[0]))
    input, _, _ = draw((4, 4, 3, 1, 1, 1, 1, 7, 7))
    output = layer(input.requires_grad_())
    seed = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).double()
    (output * seed).sum().backward()
    assert torch.equal(kept[0], seed)


def test_gradients_that_are_asked_for_or_retained_are_not_scaled(way):
    input, weight, _ = draw((4, 4, 3, 1, 1, 1, 1, 7, 7))
    output = partial_conv2d(input, weight.requires_grad_(), padding=1)
    seed = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).double()
    loss = (output * seed).sum()
    found, _ = torch.autograd.grad(loss, (output, weight), retain_graph=True)
    assert torch.equal(found, seed)
    output.retain_grad()
    loss.backward()
    assert torch.equal(output.grad, seed)


class Pass(torch.autograd.Function):
    """Notes where the gradient lies that comes back, and makes a fresh one for what is before."""

    @staticmethod
    def forward(ctx, input, places):
        ctx.places = places
        return input.clone()

    @staticmethod
    def backward(ctx, gradient):
        ctx.places.append(gradient.data_ptr())
        gradient = gradient + 0
        ctx.places.append(gradient.data_ptr())
        return gradient, None


@pytest.mark.skipif(not hasattr(torch.Tensor, "_use_count"), reason="this torch does not count")
def test_a_gradient_that_nobody_holds_is_not_copied(way):
    """What comes out of the scaling lies where autograd had put what went in."""
    if way == "by map":
        pytest.skip("autograd multiplies the gradient into a new one")
    before, after = [], []
    plan = plan_of_size((5, 6), (3, 3), (1, 1), (1, 1), (1, 1))
    input = torch.ones(2, 3, 5, 6, requires_grad=True)
    output = scaling._ScaleBorder.apply(Pass.apply(input, before), None, False, plan, None)
    Pass.apply(output, after).sum().backward()
    assert before[0] == after[1]
    assert input.grad[0, 0, 0, 0] == 2.25
