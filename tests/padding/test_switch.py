"""Switching the padding of built models."""

import copy
import io
import itertools
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmcv.cnn.bricks import Conv2dAdaptivePadding, wrappers
from mmcv.cnn.bricks.conv_ws import ConvWS2d
from mmengine.model import ExponentialMovingAverage
from mmengine.model.weight_init import KaimingInit
from torch import nn
from torch.nn.utils import parametrize

from pconv_seg import PConv2d, padding_report, set_padding
from pconv_seg.padding import SCHEMES, scheme_of, switch
from pconv_seg.padding.describe import layer_class

OTHERS = SCHEMES[1:]


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


class AdaptiveSubclass(Conv2dAdaptivePadding):
    pass


def network():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(4),
        ConvModule(4, 4, 3, padding=2, dilation=2, norm_cfg=dict(type="BN")),
        wrappers.Conv2d(4, 4, 3, padding="same", groups=4),
        Conv2dAdaptivePadding(4, 4, 3, stride=2),
        nn.Conv2d(4, 4, 1),
        parametrize.register_parametrization(nn.Conv2d(4, 4, 3, padding=1), "weight", Doubled()),
    )
    return net.eval()


NAMES = ["0", "2.conv", "3", "4", "6"]
images = torch.randn(2, 3, 33, 40, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("scheme", OTHERS)
def test_follows_the_scheme_and_goes_back(scheme):
    net = network()
    classes, before = [layer_class(module) for module in net.modules()], net(images)
    parameters, state = list(net.parameters()), copy.deepcopy(net.state_dict())
    inputs = {}
    for name in NAMES:
        net.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: inputs.update({name: (args[0], output)})
        )

    report = set_padding(net, scheme)
    assert [row.name for row in report.converted] == NAMES
    assert report.kept == ()
    assert {(row.before, row.after) for row in report.rows} == {("zeros", scheme)}
    net(images)
    for name in NAMES:
        assert isinstance(net.get_submodule(name), nn.Conv2d)
        input, output = inputs[name]
        zeros = network().get_submodule(name)
        interior = (..., slice(3, -3), slice(3, -3))
        assert output.shape == zeros(input).shape
        assert not torch.allclose(output, zeros(input))
        torch.testing.assert_close(output[interior], zeros(input)[interior])

    assert all(ours is theirs for ours, theirs in zip(net.parameters(), parameters, strict=True))
    assert list(net.state_dict()) == list(state)
    network().load_state_dict(net.state_dict(), strict=True)
    net.load_state_dict(state, strict=True)

    set_padding(net, "zeros")
    assert [layer_class(module) for module in net.modules()] == classes
    assert torch.equal(net(images), before)
    assert [vars(m).keys() for m in net.modules()] == [vars(m).keys() for m in network().modules()]


def test_every_scheme_reaches_every_other():
    net, image = network(), images[:1, :, :20, :20]
    expected = {scheme: set_padding(net, scheme) and net(image) for scheme in SCHEMES}
    for first, second in itertools.product(SCHEMES, SCHEMES):
        set_padding(net, first)
        set_padding(net, second)
        assert torch.equal(net(image), expected[second])


def test_partial_is_what_conv_cfg_builds():
    by_config = ConvModule(3, 4, 3, padding=1, conv_cfg=dict(type="PConv"))
    switched = ConvModule(3, 4, 3, padding=1)
    switched.load_state_dict(by_config.state_dict())
    set_padding(switched, "partial")
    assert type(switched.conv) is PConv2d
    assert torch.equal(switched(images), by_config(images))
    set_padding(by_config, "zeros")
    assert type(by_config.conv) is nn.Conv2d


def test_own_padding_modes_follow_too():
    conv = nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")
    reflected = conv(images)
    (row,) = set_padding(conv, "zeros").rows
    assert (row.before, row.after) == ("reflect", "zeros")
    assert torch.equal(conv(images), F.conv2d(images, conv.weight, conv.bias, padding=1))
    set_padding(conv, "reflect")
    assert torch.equal(conv(images), reflected)


@pytest.mark.parametrize("scheme", OTHERS)
def test_one_and_three_dimensions(scheme):
    for conv, input in (
        (nn.Conv1d(2, 3, 5, padding=2), torch.randn(2, 2, 9)),
        (nn.Conv3d(2, 3, 3, padding=1), torch.randn(2, 2, 4, 5, 6)),
        (wrappers.Conv3d(2, 3, 3, padding=1), torch.randn(2, 2, 4, 5, 6)),
    ):
        zeros, cls = conv(input), type(conv)
        set_padding(conv, scheme)
        inside = (..., *[slice(2, -2)] * (input.dim() - 2))
        torch.testing.assert_close(conv(input)[inside], zeros[inside])
        assert not torch.allclose(conv(input), zeros)
        set_padding(conv, "zeros")
        assert type(conv) is cls
        assert torch.equal(conv(input), zeros)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_subclasses_pad_as_much_as_the_nearest_class_that_is_known(scheme):
    conv = Conv2dAdaptivePadding(3, 4, 3, stride=2)
    subclass = AdaptiveSubclass(3, 4, 3, stride=2)
    subclass.load_state_dict(conv.state_dict())
    set_padding(conv, scheme)
    set_padding(subclass, scheme)
    assert subclass(images).shape == (2, 4, 17, 20)
    assert torch.equal(subclass(images), conv(images))


def test_windows_without_any_real_tap():
    """As in mmseg's psanet: the border ring of a 1x1 convolution with padding 1 sees no pixel."""
    conv = nn.Conv2d(3, 2, 1, padding=1)
    nn.init.ones_(conv.bias)
    zeros = conv(images)
    assert torch.equal(zeros[..., 0, :], torch.ones(2, 2, 42))
    set_padding(conv, "partial")
    partial = conv(images)
    torch.testing.assert_close(partial, F.pad(zeros[..., 1:-1, 1:-1], (1, 1, 1, 1)))
    assert not partial[..., 0, :].any()
    set_padding(conv, "zeros")
    assert torch.equal(conv(images), zeros)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("four", [(4, 4), [4, 4], (4,), 4], ids=repr)
def test_padding_changed_after_construction_counts(four, scheme):
    conv, expected = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 3, padding=4, dilation=4)
    expected.load_state_dict(conv.state_dict())
    conv.padding, conv.dilation = four, (4, 4)
    set_padding(conv, scheme)
    set_padding(expected, scheme)
    assert torch.equal(conv(images), expected(images))
    assert padding_report(nn.Sequential(conv), (10, 16)).operations[0].padding == ((4, 4), (4, 4))


def test_what_refers_to_the_model_stays_valid():
    net = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.Conv2d(2, 1, 3, padding=1))
    alone = copy.deepcopy(net)
    set_padding(alone, "partial")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    average, called = ExponentialMovingAverage(net, momentum=0.5), []
    net[0].register_forward_hook(lambda *args: called.append(True))
    set_padding(net, "partial")
    for model, optim in ((net, optimizer), (alone, torch.optim.SGD(alone.parameters(), lr=0.1))):
        model(images).square().mean().backward()
        optim.step()
    assert called
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), alone.parameters(), strict=True))
    average.update_parameters(net)
    set_padding(average.module, "partial")
    assert average.module(images).shape == net(images).shape


@pytest.mark.parametrize("scheme", OTHERS)
def test_copies_and_pickles(scheme):
    net, other = network(), network()
    for model in (net, other):
        set_padding(model, scheme)
    clone = copy.deepcopy(net)
    assert torch.equal(clone(images), net(images))
    set_padding(clone, "zeros")  # must not reach the original's classes
    assert torch.equal(net(images), other(images))
    del net[6]  # parametrizations do not pickle
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    pickled = [pickle.dumps(net, protocol) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)]
    switch._forms.cache_clear()  # as in another process
    for clone in (torch.load(file, weights_only=False), *map(pickle.loads, pickled)):
        assert torch.equal(clone(images), net(images))
        assert scheme_of(clone) == scheme
        set_padding(clone, "zeros")
        assert type(clone[3]) is wrappers.Conv2d


def test_parametrizations_and_norms_of_weights():
    for conv in (
        parametrize.register_parametrization(nn.Conv2d(3, 4, 3, padding=1), "weight", Doubled()),
        nn.utils.spectral_norm(nn.Conv2d(3, 4, 3, padding=1)),
    ):
        conv.eval()
        conv(images)
        by_hand = PConv2d(3, 4, 3, padding=1)
        with torch.no_grad():
            by_hand.weight.copy_(conv.weight)
            by_hand.bias.copy_(conv.bias)
        set_padding(conv, "partial")
        torch.testing.assert_close(conv(images), by_hand(images))
    parametrized = parametrize.register_parametrization(
        nn.Conv2d(3, 4, 3, padding=1), "weight", Doubled()
    )
    set_padding(parametrized, "partial")
    doubled = parametrized(images)
    parametrize.remove_parametrizations(parametrized, "weight")
    assert type(parametrized) is PConv2d
    torch.testing.assert_close(parametrized(images), doubled)


def test_weight_initialisation_still_finds_the_layers():
    for scheme in SCHEMES:
        net = network()[:5]
        set_padding(net, scheme)
        before = copy.deepcopy(net.state_dict())
        KaimingInit(layer="Conv2d")(net)
        for name in ("0", "2.conv", "3", "4"):
            weight = f"{name}.weight"
            assert not torch.equal(net.state_dict()[weight], before[weight]), (scheme, name)


class OwnForward(nn.Conv2d):
    def forward(self, input):
        return super().forward(input) + 1


class OnlyAttributes(nn.Conv2d):
    def extra(self):
        return "kept"


class Padding(nn.Module):
    def __init__(self, padding):
        super().__init__()
        self.padding = padding


def test_padding_may_be_an_array():
    layers = nn.ModuleList(nn.Module() for _ in range(2))
    layers[0].padding, layers[1].padding = np.array([0, 1]), torch.zeros(2)
    assert [layer.name for layer in set_padding(layers, "partial").kept] == ["0"]


def test_what_cannot_follow_is_listed_and_left_alone():
    net = nn.ModuleDict(
        {
            "standardised": ConvWS2d(3, 4, 3, padding=1),
            "own": OwnForward(3, 4, 3, padding=1),
            "masks": PConv2d(3, 4, 3, padding=1, return_mask=True),
            "lazy": nn.LazyConv2d(4, 3, padding=1),
            "explicit": ConvModule(3, 4, 3, padding=1, padding_mode="reflect"),
            "transposed": nn.ConvTranspose2d(3, 4, 4, stride=2, padding=1),
            "average": nn.AvgPool2d(3, padding=1),
            "partial_average": nn.AvgPool2d(3, padding=1, count_include_pad=False),
            "maximum": nn.MaxPool2d(3, padding=1),
            "unfold": nn.Unfold(3, padding=1),
            "constant_zero": nn.ConstantPad2d(1, 0.0),
            "zero": nn.ZeroPad2d(1),
            "ones": nn.ConstantPad2d(1, 1.0),
            "replaced": nn.Conv2d(3, 4, 3, padding=1),
            "replaced_inside": nn.Conv2d(3, 4, 3, padding=1),
            "once_overlapping": nn.ConvTranspose2d(3, 4, 3, stride=2),
            # These do not pad.
            "side_by_side": nn.ConvTranspose2d(3, 4, 2, stride=2),
            "pointwise": nn.Conv2d(3, 4, 1),
            "valid": nn.Conv2d(3, 4, 3, padding="valid"),
            "pool": nn.AvgPool2d(2),
            "fold": nn.Fold((4, 5), 3, padding=1),
            "unpool": nn.MaxUnpool2d(3, stride=2, padding=1),
            "named": Padding("valid"),
            "nested": Padding(((0, 0), (0, 0))),
            "follows": OnlyAttributes(3, 4, 3, padding=1),
        }
    )
    net["replaced"].forward = net["valid"].forward
    net["replaced_inside"]._conv_forward = net["valid"]._conv_forward
    report = set_padding(net, "partial")
    assert {row.name: (row.after, row.reason) for row in report.rows} == {
        "standardised": ("zeros", "ConvWS2d has a forward of its own"),
        "own": ("zeros", "OwnForward has a forward of its own"),
        "masks": ("partial", "returns masks"),
        "lazy": ("zeros", "not initialised yet: run the model once before"),
        "explicit.padding_layer": (
            "reflect",
            "explicit padding: later layers cannot tell it from data",
        ),
        "transposed": ("zeros", "transposed: there are no padded values to choose"),
        "average": ("zeros", "average pooling; count_include_pad=False leaves padding out"),
        "partial_average": (
            "partial",
            "average pooling; count_include_pad=False leaves padding out",
        ),
        "maximum": ("-inf", "max pooling never picks its padding"),
        "unfold": ("zeros", "Unfold is not a convolution of PyTorch's"),
        "zero": ("zeros", "explicit padding: later layers cannot tell it from data"),
        "constant_zero": ("zeros", "explicit padding: later layers cannot tell it from data"),
        "ones": ("constant", "explicit padding: later layers cannot tell it from data"),
        "replaced": ("zeros", "its forward has been replaced"),
        "replaced_inside": ("zeros", "its forward has been replaced"),
        "once_overlapping": ("zeros", "transposed: there are no padded values to choose"),
        "follows": ("partial", ""),
    }
    assert type(net["own"]) is OwnForward
    assert net["follows"].extra() == "kept"
    table = str(report)
    assert "ConvWS2d has a forward of its own" in table
    assert "1 of 17 padded layers follow the scheme" in table
    assert set_padding(net["pool"], "partial").rows == ()


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("2*", ["2.conv"]),
        (["0", "[34]"], ["0", "3", "4"]),
        (lambda name, module: module.kernel_size == (7, 7), ["0"]),
    ],
)
def test_where_selects(where, expected):
    report = set_padding(network(), "partial", where=where)
    assert [row.name for row in report.converted] == expected
    assert {row.reason for row in report.kept} == {"not selected by `where`"}
    assert {row.after for row in report.kept} == {"zeros"}


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match="unknown padding scheme 'mirror': choose one of zeros"):
        set_padding(network(), "mirror")
    with pytest.raises(
        ValueError, match=r"where='head\*' selects no padded.* 0, 2\.conv, 3, 4, 6\. "
    ):
        set_padding(network(), "partial", where="head*")
    net = nn.Sequential(OwnForward(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1))
    for where in ("0", lambda name, module: False):
        with pytest.raises(ValueError, match=r"that can follow; those that can are 1\. "):
            set_padding(net, "partial", where=where)
    with pytest.raises(ValueError, match="those that can are none"):
        set_padding(net[:1], "partial", where="0")
    net = nn.Sequential(nn.MaxPool2d(8), nn.Conv2d(3, 4, 3, padding=6, dilation=6))
    set_padding(net, "reflect")
    with pytest.raises(ValueError, match=r"1: a map of 4x5 is too small for reflect padding of 6"):
        net(images)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 1)], "zeros"),
        ([PConv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 1), nn.MaxPool2d(3, 1, 1)], "partial"),
        ([PConv2d(1, 1, 3, padding="same"), nn.Conv2d(1, 1, 3, padding="same")], "partial+zeros"),
        ([nn.Conv2d(1, 1, 3, padding=(0, 1), padding_mode="reflect")], "reflect"),
        (
            [
                nn.Conv2d(1, 1, 3, padding=1, padding_mode=mode)
                for mode in ("zeros", "replicate", "reflect", "circular")
            ],
            "circular+reflect+replicate+zeros",
        ),
        ([nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 1, padding="same")], "none"),
        ([Conv2dAdaptivePadding(1, 1, 3)], "zeros"),
        ([Conv2dAdaptivePadding(1, 1, (1, 3))], "zeros"),
        ([Conv2dAdaptivePadding(1, 1, 1)], "none"),
    ],
)
def test_scheme_of_a_network(layers, expected):
    assert scheme_of(nn.Sequential(*layers)) == expected
