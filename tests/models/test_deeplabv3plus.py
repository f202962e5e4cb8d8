import pytest
import torch
import torch.nn.functional as F
from mmseg.models.decode_heads import DepthwiseSeparableASPPHead
from torch import nn

from pconv_seg import DeepLabV3PlusHead, PaddingAwareDepthwiseSeparableASPPHead, PConv2d

BN = {"type": "BN"}
SMALL = {
    "in_channels": 24,
    "in_index": 1,
    "channels": 8,
    "c1_in_channels": 10,
    "c1_channels": 6,
    "num_classes": 5,
    "norm_cfg": BN,
}


def features() -> list[torch.Tensor]:
    return [torch.randn(2, 10, 23, 31), torch.randn(2, 24, 6, 8)]


@torch.no_grad()
@pytest.mark.parametrize("align_corners", [False, True])
def test_agrees_with_a_functional_head(randomized, align_corners):
    head = randomized(DeepLabV3PlusHead(**SMALL, align_corners=align_corners)).eval()
    state = head.state_dict()

    def conv_norm_relu(x, key, rate=1):
        padding = rate * (state[f"{key}.conv.weight"].shape[-1] // 2)
        x = F.conv2d(x, state[f"{key}.conv.weight"], None, 1, padding, rate)
        bn = [state[f"{key}.bn.{n}"] for n in ("running_mean", "running_var", "weight", "bias")]
        return F.relu(F.batch_norm(x, *bn))

    low, high = features()
    mean = high.mean((2, 3), keepdim=True)
    branches = [conv_norm_relu(mean, "image_pool.1").expand(-1, -1, 6, 8)]
    branches += [
        conv_norm_relu(high, f"aspp_modules.{i}", rate) for i, rate in enumerate((1, 12, 24, 36))
    ]
    aspp = F.conv2d(torch.cat(branches, 1), state["bot_aspp.weight"])
    aspp = F.interpolate(aspp, (23, 31), mode="bilinear", align_corners=align_corners)
    fused = torch.cat([F.conv2d(low, state["bot_fine.weight"]), aspp], 1)
    fused = conv_norm_relu(conv_norm_relu(fused, "decoder.0"), "decoder.1")
    expected = F.conv2d(fused, state["conv_seg.weight"])
    inputs = [low, high, torch.empty(0)]  # in_index is not that of the last one
    torch.testing.assert_close(head(inputs), expected, rtol=1e-5, atol=1e-5)
    assert "conv_seg.bias" not in state
    assert not any(isinstance(m, nn.modules.dropout._DropoutNd) for m in head.modules())


def test_every_convolution_of_the_plain_head_follows_conv_cfg():
    head = DeepLabV3PlusHead(**SMALL, conv_cfg={"type": "PConv"})
    convs = [m for m in head.modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) == 10
    assert all(isinstance(conv, PConv2d) for conv in convs)


def test_one_output_for_two_classes_and_other_rates():
    args = SMALL | {"num_classes": 2, "out_channels": 1, "threshold": 0.5, "dilations": (1, 6)}
    assert DeepLabV3PlusHead(**args)(features()).shape == (2, 1, 23, 31)


class TestDepthwiseSeparable:
    """The subclass of mmseg's head against mmseg's head."""

    ARGS = SMALL | {"dilations": (1, 12, 24, 36)}

    @pytest.mark.parametrize("norm_cfg", [BN, None])
    def test_state_dicts_pass_both_ways(self, randomized, norm_cfg):
        args = self.ARGS | {"norm_cfg": norm_cfg}
        ours = PaddingAwareDepthwiseSeparableASPPHead(**args, conv_cfg={"type": "PConv"})
        theirs = randomized(DepthwiseSeparableASPPHead(**args))
        assert list(ours.state_dict()) == list(theirs.state_dict())
        ours.load_state_dict(theirs.state_dict())
        theirs.load_state_dict(ours.state_dict())

    @torch.no_grad()
    def test_same_output_with_plain_convolutions(self, randomized):
        ours = randomized(PaddingAwareDepthwiseSeparableASPPHead(**self.ARGS)).eval()
        theirs = randomized(DepthwiseSeparableASPPHead(**self.ARGS)).eval()
        inputs = features()
        assert torch.equal(ours(inputs), theirs(inputs))

    @pytest.mark.parametrize("c1", [{}, {"c1_in_channels": 0, "c1_channels": 0}])
    def test_every_convolution_but_the_classifier_follows_conv_cfg(self, c1):
        head = PaddingAwareDepthwiseSeparableASPPHead(**self.ARGS | c1, conv_cfg={"type": "PConv"})
        convs = {name: m for name, m in head.named_modules() if isinstance(m, nn.Conv2d)}
        assert [name for name, m in convs.items() if not isinstance(m, PConv2d)] == ["conv_seg"]
        # Three rates, mmseg's bottleneck, two separable convolutions.
        assert sum(m.padding != (0, 0) for m in convs.values()) == 6
        depthwise = head.aspp_modules[3].depthwise_conv.conv
        assert depthwise.dilation == (36, 36)
        assert depthwise.groups == depthwise.in_channels == 24
        assert head(features()).shape == ((2, 5, 23, 31) if not c1 else (2, 5, 6, 8))

    @pytest.mark.parametrize("conv_cfg", [None, {"type": "PConv"}])
    def test_all_convolutions_start_as_mmcv_lets_them(self, conv_cfg):
        """He et al.'s normal distribution by the outputs of a layer; the classifier has 0.01."""
        torch.manual_seed(0)
        wide = self.ARGS | {"in_channels": 128, "channels": 96, "c1_channels": 48}
        head = PaddingAwareDepthwiseSeparableASPPHead(**wide, conv_cfg=conv_cfg)
        head.init_weights()
        for name, conv in head.named_modules():
            if isinstance(conv, nn.Conv2d) and name != "conv_seg":
                outputs = conv.out_channels * conv.kernel_size[0] * conv.kernel_size[1]
                expected = (2 / outputs) ** 0.5
                assert conv.weight.std().item() == pytest.approx(expected, rel=0.1), name
