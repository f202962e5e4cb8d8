import families_table
import pytest
import torch
from families import FAMILIES, build, followed_sizes, forward, with_conv_cfg, zero_padded
from mmcv.cnn.bricks import Conv2dAdaptivePadding
from torch import nn

import pconv_seg
from pconv_seg.padding import SCHEMES

# Each has something the others lack: what conv_cfg misses, 1-d kernels, a backbone with hardly any
# wrapper of mmcv, adaptive padding, plain 3x3 convolutions.
FAST = {"deeplabv3plus", "segnext", "pidnet", "mobilenetv3", "unet"}


@pytest.mark.parametrize("scheme", SCHEMES[1:])
@pytest.mark.parametrize(
    "family",
    [
        family if family in FAST else pytest.param(family, marks=pytest.mark.slow)
        for family in FAMILIES
    ],
)
def test_set_padding_reaches_every_convolution_and_goes_back(family, scheme):
    model = build(FAMILIES[family])
    padded, keys, zeros = zero_padded(model), list(model.state_dict()), forward(model)
    assert padded

    report = pconv_seg.set_padding(model, scheme)
    assert [layer.name for layer in report.converted] == padded
    assert zero_padded(model) == []
    output = forward(model)
    assert output.isfinite().all()
    assert not torch.equal(output, zeros)
    assert list(model.state_dict()) == keys

    pconv_seg.set_padding(model, "zeros")
    assert zero_padded(model) == padded
    assert list(model.state_dict()) == keys
    assert torch.equal(forward(model), zeros)


@pytest.mark.parametrize("family", ["pspnet", "unet"])
def test_set_padding_equals_conv_cfg_where_that_reaches_everything(family):
    by_conv_cfg = build(with_conv_cfg(FAMILIES[family], dict(type="PConv")), seed=1)
    assert zero_padded(by_conv_cfg) == []
    model = build(FAMILIES[family], seed=2)
    pconv_seg.set_padding(model, "partial")
    by_conv_cfg.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(forward(model), forward(by_conv_cfg))


@pytest.mark.parametrize(
    ("family", "sizes"),
    [("pspnet", "any"), ("unet", "multiples of 32"), ("mobilenetv3", "multiples of 32")],
)
def test_padded_batches_give_what_images_give_alone(family, sizes):
    model = build(FAMILIES[family])
    pconv_seg.set_padding(model, "partial")
    assert followed_sizes(model) == sizes


def test_conv_cfg_misses_the_separable_convolutions_of_deeplabv3plus():
    model = build(with_conv_cfg(FAMILIES["deeplabv3plus"], dict(type="PConv")))
    assert zero_padded(model) == [
        *(f"decode_head.aspp_modules.{branch}.depthwise_conv.conv" for branch in (1, 2, 3)),
        *(f"decode_head.sep_bottleneck.{layer}.depthwise_conv.conv" for layer in (0, 1)),
    ]


@pytest.mark.parametrize(
    ("conv", "expected"),
    [
        (nn.Conv2d(2, 3, 3, padding=1), True),
        (nn.Conv2d(2, 4, (1, 5), stride=2, padding=(0, 2), groups=2), True),
        (nn.Conv2d(2, 3, 3, dilation=6, padding="same"), True),
        (nn.Conv1d(2, 3, 3, padding=1), True),
        (Conv2dAdaptivePadding(2, 3, 3, stride=2, padding=1), True),
        (nn.Conv2d(2, 3, 3), False),
        (nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), False),
        (pconv_seg.PConv2d(2, 3, 7, stride=2, padding=3, dilation=2), False),
        (nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1), False),
    ],
    ids=repr,
)
def test_zero_padded_asks_what_a_convolution_does(conv, expected):
    assert zero_padded(nn.Sequential(conv)) == (["0"] if expected else [])


@pytest.mark.slow
def test_the_document_is_up_to_date():
    assert families_table.PATH.read_text() == families_table.document()
