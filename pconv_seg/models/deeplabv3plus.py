"""DeepLabV3+ heads in which every padded convolution follows ``conv_cfg``."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule, DepthwiseSeparableConvModule, build_conv_layer
from mmengine.registry import MODELS
from mmseg.models.decode_heads import DepthwiseSeparableASPPHead
from mmseg.models.decode_heads.aspp_head import ASPPModule
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn


@MODELS.register_module()
class DeepLabV3PlusHead(BaseDecodeHead):
    """The DeepLabV3+ head of Liu et al. (arXiv 1811.11718), with plain convolutions.

    ASPP of Chen et al. (arXiv 1802.02611) without separable convolutions, its output and the
    low-level features each reduced by a bare 1x1 convolution, and a decoder of two 3x3
    convolutions before the classifier, which has no bias.

    Args:
        c1_in_channels: Channels of the low-level features, ``inputs[0]``.
        c1_channels: Channels they are reduced to.
        dilations: Rates of the ASPP branches; rate 1 is a 1x1 convolution. The default suits
            output stride 8.
        dropout_ratio: Dropout before the classifier; the paper's network has none.
        **kwargs: Arguments of mmseg's ``BaseDecodeHead``: ``in_channels`` and ``channels`` of the
            ASPP, ``num_classes``, ``conv_cfg``, ``norm_cfg``, ``act_cfg``, ``align_corners``,
            ``loss_decode``, ...
    """

    def __init__(
        self,
        c1_in_channels: int,
        c1_channels: int = 48,
        dilations: Sequence[int] = (1, 12, 24, 36),
        dropout_ratio: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(dropout_ratio=dropout_ratio, **kwargs)
        shared = {
            "conv_cfg": self.conv_cfg,
            "norm_cfg": self.norm_cfg,
            "act_cfg": self.act_cfg,
        }

        def bare_1x1(inputs: int, outputs: int) -> nn.Module:
            return build_conv_layer(self.conv_cfg, inputs, outputs, 1, bias=False)

        self.image_pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), ConvModule(self.in_channels, self.channels, 1, **shared)
        )
        self.aspp_modules = ASPPModule(dilations, self.in_channels, self.channels, **shared)
        self.bot_aspp = bare_1x1((1 + len(dilations)) * self.channels, self.channels)
        self.bot_fine = bare_1x1(c1_in_channels, c1_channels)
        self.decoder = nn.Sequential(
            ConvModule(c1_channels + self.channels, self.channels, 3, padding=1, **shared),
            ConvModule(self.channels, self.channels, 3, padding=1, **shared),
        )
        self.conv_seg = bare_1x1(self.channels, self.out_channels)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Predict at the resolution of the low-level features.

        Args:
            inputs: Feature maps of the backbone; ``inputs[0]`` is the low-level one,
                ``inputs[in_index]`` feeds ASPP.

        Returns:
            Logits, ``Tensor[N, out_channels, H, W]`` with the size of ``inputs[0]``.
        """
        low, high = inputs[0], self._transform_inputs(inputs)
        pooled = self._resize(self.image_pool(high), high)
        aspp = self.bot_aspp(torch.cat([pooled, *self.aspp_modules(high)], dim=1))
        fused = torch.cat([self.bot_fine(low), self._resize(aspp, low)], dim=1)
        return self.cls_seg(self.decoder(fused))

    def _resize(self, x: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=self.align_corners)


@MODELS.register_module()
class PaddingAwareDepthwiseSeparableASPPHead(DepthwiseSeparableASPPHead):
    """mmseg's ``DepthwiseSeparableASPPHead`` with ``conv_cfg`` in the separable convolutions too.

    mmseg builds the dilated depthwise convolutions of ASPP and both convolutions of
    ``sep_bottleneck`` without ``conv_cfg``, so they would keep their zero padding: rates 12, 24
    and 36, exactly where padding is largest. Arguments and state-dict keys are mmseg's.
    """

    def __init__(self, c1_in_channels: int, c1_channels: int, **kwargs: Any) -> None:
        super().__init__(c1_in_channels=c1_in_channels, c1_channels=c1_channels, **kwargs)
        for separable in self.modules():
            if isinstance(separable, DepthwiseSeparableConvModule):
                for module in (separable.depthwise_conv, separable.pointwise_conv):
                    self._rebuild_conv(module)

    def _rebuild_conv(self, module: ConvModule) -> None:
        plain = module.conv
        module.conv_cfg = self.conv_cfg
        module.conv = build_conv_layer(
            self.conv_cfg,
            plain.in_channels,
            plain.out_channels,
            plain.kernel_size,
            stride=plain.stride,
            padding=plain.padding,
            dilation=plain.dilation,
            groups=plain.groups,
            bias=plain.bias is not None,
        )
        module.init_weights()
