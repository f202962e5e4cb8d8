import math

import numpy as np
import pytest
import torch
from torch import nn

from pconv_seg import set_padding
from pconv_seg.evaluation.activations import (
    Activations,
    Profile,
    border_profiles,
    border_responses,
    last_response,
    untrained,
)

SIZE = (24, 40)


@pytest.fixture
def segmentor(make_config, make_segmentor):
    """A function that puts layers in place of the backbone, whose outputs are theirs."""

    def make(*layers):
        model = make_segmentor(make_config(images=0)).eval()
        model.backbone = Stages(*layers)
        model.decode_head.in_index = -1
        return model

    return make


class Stages(nn.Sequential):
    def forward(self, x):
        outputs = []
        for layer in self:
            x = layer(x)
            outputs.append(x)
        return outputs


def averaging(kernel, dilation=1):
    """A convolution whose output on a constant image is that constant, but for its padding."""
    padding = dilation * (kernel - 1) // 2
    conv = nn.Conv2d(3, 3, kernel, padding=padding, dilation=dilation, bias=False)
    nn.init.constant_(conv.weight, 1 / conv.weight[0].numel())
    return conv


def constant(value=100, size=SIZE):
    return torch.full((3, *size), value, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("kernel", "dilation", "border"),
    [(3, 1, [2 / 3]), (3, 4, [2 / 3] * 4), (5, 1, [3 / 5, 4 / 5]), (7, 1, [4 / 7, 5 / 7, 6 / 7])],
)
def test_averages_of_a_constant(segmentor, kernel, dilation, border):
    model = segmentor(averaging(kernel, dilation))
    expected = [*border, *[1] * (12 - len(border))]
    [profile] = border_profiles(model, {"a.png": constant()})
    assert profile.layer == "backbone.0"
    assert profile.response == pytest.approx(100 * np.array(expected), rel=1e-5)
    assert profile.interior == pytest.approx(100, rel=1e-5)
    assert profile.relative == pytest.approx(expected, rel=1e-5)
    set_padding(model, "partial")
    [profile] = border_profiles(model, {"a.png": constant()})
    assert profile.relative == pytest.approx([1] * 12, rel=1e-5)


def test_second_layer_sees_the_dip_of_the_first(segmentor):
    model = segmentor(averaging(3), averaging(3))
    first, second = border_profiles(model, {"a.png": constant()})
    assert [first.layer, second.layer] == ["backbone.0", "backbone.1"]
    # (0 + 2/3 + 1) / 3 and (2/3 + 1 + 1) / 3
    assert second.relative == pytest.approx([5 / 9, 8 / 9, *[1] * 10])
    [chosen] = border_profiles(model, {"a.png": constant()}, layers=["*.1", "head.*"])
    assert chosen.layer == "backbone.1"


def test_random_weights_dip_with_zeros_and_peak_with_partial_padding(segmentor):
    # A sum of n random weights has a standard deviation of sqrt(n).
    channels = 4096
    conv = nn.Conv2d(3, channels, 3, padding=1, bias=False)
    nn.init.normal_(conv.weight)
    model = segmentor(conv, nn.Conv2d(channels, 3, 1))
    [profile] = border_profiles(model, {"a.png": constant()})
    error = 4 * math.sqrt((math.pi / 2 - 1) / channels)  # of 4 standard errors
    assert profile.relative[0] == pytest.approx(math.sqrt(6 / 9), rel=error)
    zeros = profile.relative[0]
    set_padding(model, "partial")
    [profile] = border_profiles(model, {"a.png": constant()})
    assert profile.relative[0] == pytest.approx(1.5 * zeros)


def slow_profile(maps, distance):
    """Mean over the places at this distance from one border, in the middle half of its length."""
    values = []
    for response in maps:
        for turned in (response, response[::-1], response.T, response.T[::-1]):
            if 2 * distance < min(response.shape):
                length = turned.shape[1]
                values += turned[distance, length // 4 : length - length // 4].tolist()
    return np.mean(values)


def test_profile_over_images_of_different_sizes(segmentor):
    model = segmentor(nn.Conv2d(3, 3, 3, padding=1))
    conv = model.backbone[0]
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in ((9, 14), (16, 12))]
    with torch.no_grad():
        maps = [conv(image[None].float())[0].abs().mean(0).numpy() for image in images]
    [profile] = border_profiles(model, {"a.png": images[0], "b.png": images[1]})
    expected = [slow_profile(maps, distance) for distance in range(6)]
    assert profile.response == pytest.approx(expected)
    inner = [maps[0][2:7, 3:11], maps[1][4:12, 3:9]]
    assert profile.interior == pytest.approx(np.mean(np.concatenate([m.ravel() for m in inner])))
    assert not conv._forward_hooks


def test_response_of_the_last_stage(segmentor):
    model = segmentor(averaging(3), nn.Conv2d(3, 3, 1, stride=2))
    pixels = torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8)
    with torch.no_grad():
        last = model.backbone(pixels[None].float())[-1]
    response = last_response(model, pixels)
    assert response.shape == (12, 20)
    assert response == pytest.approx(last[0].abs().mean(0).numpy())


def test_what_is_no_number_is_null_in_json():
    profile = Profile("conv", np.array([1, np.inf, np.nan]), np.nan)
    about = Activations("net", np.ones((1, 1)), np.ones((1, 1)), 0.5, [profile]).as_dict()
    assert about["layers"] == [
        {"layer": "conv", "response": [1, None, None], "interior": None, "relative": [None] * 3}
    ]
    assert np.isnan(Profile("conv", np.array([0, 1.0]), 0.0).relative).all()


def test_border_responses_are_those_above_the_rest():
    response = np.zeros((16, 24))
    response[5, 5:13] = 1  # 8 of the 240 inside: below the quantile of 5 %
    response[0, :7] = 0.5
    response[15, 3] = 2
    marked, share = border_responses(response)
    assert sorted(map(tuple, np.argwhere(marked))) == [*((0, x) for x in range(7)), (15, 3)]
    assert share == 8 / (16 * 24 - 12 * 20)
    response[[0, 1, -2, -1]] = response[:, [0, 1, -2, -1]] = 3
    marked, share = border_responses(response)
    assert not marked[2:-2, 2:-2].any()
    assert share == 1
    response = np.zeros((3, 4))
    response[0, 2] = 1
    marked, share = border_responses(response)  # the border of a small map is one pixel wide
    assert np.argwhere(marked).tolist() == [[0, 2]]
    assert share == 1 / 10
    with pytest.raises(ValueError, match="is all border"):
        border_responses(np.zeros((2, 9)))


def test_untrained_networks_share_their_weights(segmentor):
    zeros = segmentor(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3))
    nn.init.constant_(zeros.backbone[0].weight, 7)
    zeros.backbone[1].running_mean += 5
    partial = untrained(zeros, seed=1)
    set_padding(partial, "partial")
    first, again, other = untrained(zeros, 1), untrained(partial, 1), untrained(zeros, 2)
    assert first.backbone[1].running_mean.tolist() == [0, 0, 0]
    for (name, weight), second in zip(
        first.state_dict().items(), again.state_dict().values(), strict=True
    ):
        assert torch.equal(weight, second), name
    assert not torch.equal(first.backbone[0].weight, other.backbone[0].weight)
    assert torch.all(zeros.backbone[0].weight == 7)


def test_an_image_that_the_network_refuses_is_named(segmentor):
    model = segmentor(nn.Conv2d(3, 3, 5, padding=2))
    set_padding(model, "reflect")
    images = {"a.png": constant(), "small.png": constant()[:, :2]}
    with pytest.raises(ValueError, match=r"^small\.png: backbone\.0: a map of 2x\d+ is too small"):
        border_profiles(model, images)


def test_names_that_fit_no_layer_are_refused(segmentor):
    with pytest.raises(
        ValueError, match=r"no padded convolution of the network is called head\.\*"
    ):
        border_profiles(segmentor(averaging(3)), {"a.png": constant()}, layers=["head.*"])
