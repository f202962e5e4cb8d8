"""One small network per architecture family of mmsegmentation, and what is asked of each.

Shared by the tests here and by ``families_table.py``, so nothing in this file needs pytest.
"""

import copy
import inspect

import mmseg.models  # noqa: F401, registers what the configs name
import torch
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS
from torch import Tensor, nn

from pconv_seg.padding import extents_of, track_extents

INPUT_SIZE = (128, 128)
CLASSES = 3
BN = dict(type="BN")

# What the compiled mmcv ops or other packages would be needed for.
NOT_BUILT = {
    "psanet": "PSAHead needs the compiled mmcv.ops.PSAMask",
    "ccnet": "CCHead needs the compiled mmcv.ops.CrissCrossAttention",
    "pointrend": "PointHead needs the compiled mmcv.ops.point_sample",
    "san": "SideAdapterCLIPHead needs the compiled mmcv.ops.point_sample",
    "maskformer, mask2former": "the heads need mmdet",
    "poolformer": "the backbone needs mmpretrain",
    "vpd": "the backbone needs the ldm package",
}


class ConvNeXtBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.pointwise = nn.Sequential(
            nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.pointwise(self.norm(self.depthwise(x).permute(0, 2, 3, 1)))
        return x + y.permute(0, 3, 1, 2)


@MODELS.register_module()
class PlainConvNeXt(nn.ModuleList):
    """ConvNeXt's convolutions in plain torch: mmseg takes the real one from mmpretrain."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        strides = (4, *[2] * (len(channels) - 1))
        super().__init__(
            nn.Sequential(nn.Conv2d(before, after, stride, stride), ConvNeXtBlock(after))
            for before, after, stride in zip((3, *channels), channels, strides, strict=False)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = []
        for stage in self:
            x = stage(x)
            outputs.append(x)
        return outputs


def _segmentor(backbone: dict, decode_head: dict, neck: dict | None = None) -> dict:
    model = dict(type="EncoderDecoder", backbone=backbone, decode_head=decode_head)
    return model if neck is None else model | dict(neck=neck)


def _head(type: str, in_channels: int | list[int], **kwargs) -> dict:
    common = dict(type=type, in_channels=in_channels, channels=16, num_classes=CLASSES)
    if isinstance(in_channels, list):
        common["in_index"] = list(range(len(in_channels)))
    return common | dict(norm_cfg=BN, align_corners=False) | kwargs


def _resnet() -> dict:
    """ResNet-18 at output stride 8 with 8, 16, 32 and 64 channels."""
    return dict(
        type="ResNetV1c",
        depth=18,
        stem_channels=8,
        base_channels=8,
        strides=(1, 2, 1, 1),
        dilations=(1, 1, 2, 4),
        norm_cfg=BN,
    )


def _vit(**kwargs) -> dict:
    return dict(
        type="VisionTransformer",
        img_size=INPUT_SIZE,
        embed_dims=16,
        num_layers=4,
        num_heads=2,
        out_indices=(0, 1, 2, 3),
        **kwargs,
    )


_STAGES = [8, 16, 24, 32]

FAMILIES: dict[str, dict] = {
    "deeplabv3plus": _segmentor(
        _resnet(),
        _head(
            "DepthwiseSeparableASPPHead",
            64,
            in_index=3,
            # A quarter of the usual dilations: reflecting needs less padding than pixels.
            dilations=(1, 3, 6, 9),
            c1_in_channels=8,
            c1_channels=4,
        ),
    ),
    "pspnet": _segmentor(_resnet(), _head("PSPHead", 64, in_index=3)),
    "danet": _segmentor(_resnet(), _head("DAHead", 64, in_index=3, pam_channels=4)),
    "fastfcn (jpu)": _segmentor(
        _resnet() | dict(strides=(1, 2, 2, 2), dilations=(1, 1, 1, 1), out_indices=(1, 2, 3)),
        _head("PSPHead", 64, in_index=2),
        neck=dict(type="JPU", in_channels=(16, 32, 64), mid_channels=16, norm_cfg=BN),
    ),
    "knet": _segmentor(
        _resnet(),
        dict(
            type="IterativeDecodeHead",
            num_stages=1,
            kernel_update_head=[
                dict(
                    type="KernelUpdateHead",
                    num_classes=CLASSES,
                    num_ffn_fcs=2,
                    num_heads=2,
                    num_mask_fcs=1,
                    feedforward_channels=32,
                    in_channels=16,
                    out_channels=16,
                    feat_transform_cfg=dict(conv_cfg=dict(type="Conv2d"), act_cfg=None),
                    kernel_updator_cfg=dict(
                        type="KernelUpdator", in_channels=16, feat_channels=16, out_channels=16
                    ),
                )
            ],
            kernel_generate_head=_head("FCNHead", 64, in_index=3),
        ),
    ),
    "segformer": _segmentor(
        dict(
            type="MixVisionTransformer",
            embed_dims=8,
            num_layers=[1, 1, 1, 1],
            num_heads=[1, 2, 3, 4],
        ),
        _head("SegformerHead", _STAGES),
    ),
    "segnext": _segmentor(
        dict(
            type="MSCAN",
            embed_dims=_STAGES,
            mlp_ratios=[2, 2, 2, 2],
            depths=[1, 1, 1, 1],
            attention_kernel_sizes=[5, [1, 3], [1, 5], [1, 7]],
            attention_kernel_paddings=[2, [0, 1], [0, 2], [0, 3]],
            norm_cfg=BN,
        ),
        _head(
            "LightHamHead",
            _STAGES[1:],
            in_index=[1, 2, 3],
            ham_channels=16,
            ham_kwargs=dict(MD_R=4),
            norm_cfg=dict(type="GN", num_groups=4),
        ),
    ),
    "pidnet": _segmentor(
        dict(type="PIDNet", channels=8, ppm_channels=8, num_stem_blocks=1, num_branch_blocks=1),
        _head("PIDHead", 32),
    ),
    "ddrnet": _segmentor(dict(type="DDRNet", channels=8, ppm_channels=8), _head("DDRHead", 32)),
    "stdc": _segmentor(
        dict(
            type="STDCContextPathNet",
            backbone_cfg=dict(
                type="STDCNet",
                stdc_type="STDCNet1",
                in_channels=3,
                channels=(8, 8, 16, 32, 64),
                bottleneck_type="cat",
                num_convs=4,
                norm_cfg=BN,
                act_cfg=dict(type="ReLU"),
            ),
            last_in_channels=(64, 32),
            out_channels=16,
            ffm_cfg=dict(in_channels=32, out_channels=16, scale_factor=4),
        ),
        _head("FCNHead", 16, in_index=3),
    ),
    "bisenetv2": _segmentor(
        dict(
            type="BiSeNetV2",
            detail_channels=(8, 8, 16),
            semantic_channels=(8, 8, 16, 16),
            semantic_expansion_ratio=2,
            bga_channels=16,
        ),
        _head("FCNHead", 16, in_index=0, num_convs=1),
    ),
    "hrnet-ocr": dict(
        type="CascadeEncoderDecoder",
        num_stages=2,
        backbone=dict(
            type="HRNet",
            norm_cfg=BN,
            extra={
                f"stage{stage}": dict(
                    num_modules=1,
                    num_branches=stage,
                    block="BOTTLENECK" if stage == 1 else "BASIC",
                    num_blocks=(1,) * stage,
                    num_channels=tuple(_STAGES[:stage]),
                )
                for stage in (1, 2, 3, 4)
            },
        ),
        decode_head=[
            _head("FCNHead", _STAGES, input_transform="resize_concat", kernel_size=1, num_convs=1),
            _head("OCRHead", _STAGES, input_transform="resize_concat", ocr_channels=8),
        ],
    ),
    "fastscnn": _segmentor(
        dict(
            type="FastSCNN",
            downsample_dw_channels=(8, 8),
            global_in_channels=8,
            global_block_channels=(8, 8, 16),
            global_out_channels=16,
            higher_in_channels=8,
            lower_in_channels=16,
            fusion_out_channels=16,
            norm_cfg=BN,
        ),
        _head("DepthwiseSeparableFCNHead", 16),
    ),
    # LRASPPHead, its usual head, pads nothing, and pools windows larger than a small image gives.
    "mobilenetv3": _segmentor(
        dict(type="MobileNetV3", arch="small", norm_cfg=BN),
        _head("DepthwiseSeparableFCNHead", 576, in_index=2),
    ),
    "unet": _segmentor(
        dict(type="UNet", base_channels=8, norm_cfg=BN), _head("FCNHead", 8, in_index=4)
    ),
    "erfnet": _segmentor(
        dict(
            type="ERFNet",
            enc_downsample_channels=(4, 8, 16),
            enc_stage_non_bottlenecks=(1, 2),
            enc_non_bottleneck_dilations=(2, 4),
            enc_non_bottleneck_channels=(8, 16),
            dec_upsample_channels=(8, 4),
            dec_stages_non_bottleneck=(1, 1),
            dec_non_bottleneck_channels=(8, 4),
        ),
        _head("FCNHead", 4),
    ),
    "dpt": _segmentor(
        _vit(output_cls_token=True),
        _head(
            "DPTHead",
            [16, 16, 16, 16],
            embed_dims=16,
            post_process_channels=_STAGES,
            readout_type="project",
            input_transform="multiple_select",
        ),
    ),
    "setr-pup": _segmentor(
        _vit(), _head("SETRUPHead", 16, in_index=3, num_convs=2, up_scale=2, kernel_size=3)
    ),
    "setr-mla": _segmentor(
        _vit(with_cls_token=False),
        _head("SETRMLAHead", [16, 16, 16, 16], mla_channels=4),
        neck=dict(type="MLANeck", in_channels=[16] * 4, out_channels=16, norm_cfg=BN),
    ),
    "upernet-vit": _segmentor(
        _vit(),
        _head("UPerHead", [16, 16, 16, 16]),
        neck=dict(
            type="MultiLevelNeck",
            in_channels=[16] * 4,
            out_channels=16,
            scales=[4, 2, 1, 0.5],
            norm_cfg=BN,
        ),
    ),
    "upernet-swin": _segmentor(
        dict(
            type="SwinTransformer",
            embed_dims=8,
            window_size=4,
            depths=(1, 1, 1, 1),
            num_heads=(1, 2, 4, 8),
        ),
        _head("UPerHead", [8, 16, 32, 64]),
    ),
    "upernet-convnext": _segmentor(
        dict(type="PlainConvNeXt", channels=(8, 16, 24, 32)), _head("UPerHead", _STAGES)
    ),
    "twins (pcpvt, fpn)": _segmentor(
        dict(type="PCPVT", embed_dims=_STAGES, num_heads=[1, 2, 3, 4], depths=[1, 1, 1, 1]),
        _head("FPNHead", [16, 16, 16, 16], feature_strides=[4, 8, 16, 32]),
        neck=dict(type="FPN", in_channels=_STAGES, out_channels=16, num_outs=4),
    ),
}


def build(config: dict, seed: int = 0) -> nn.Module:
    """The network in eval mode, with random weights."""
    torch.manual_seed(seed)
    with DefaultScope.overwrite_default_scope("mmseg"):
        return MODELS.build(copy.deepcopy(config)).eval()


def forward(model: nn.Module) -> Tensor:
    """Logits for one image of random pixels."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, *INPUT_SIZE, generator=generator)
    # LightHamHead draws random numbers in evaluation too.
    torch.manual_seed(0)
    with torch.no_grad():
        output = model(image, mode="tensor")
    # DAHead returns its two branches as well.
    return output[0] if isinstance(output, tuple) else output


def with_conv_cfg(config: dict, conv_cfg: dict) -> dict:
    """``config`` with ``conv_cfg`` in every dict whose class takes one."""
    if isinstance(config, list | tuple):
        return type(config)(with_conv_cfg(item, conv_cfg) for item in config)
    if not isinstance(config, dict):
        return config
    config = {key: with_conv_cfg(value, conv_cfg) for key, value in config.items()}
    if "conv_cfg" in config or ("type" in config and _takes_conv_cfg(config["type"])):
        config["conv_cfg"] = dict(conv_cfg)
    return config


def _takes_conv_cfg(type: str) -> bool:
    if type == "IterativeDecodeHead":
        return False  # It skips the constructor of BaseDecodeHead, which would take it.
    cls = MODELS.get(type)
    for base in cls.__mro__ if inspect.isclass(cls) else ():
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters
        if "conv_cfg" in parameters:
            return True
        # Without **kwargs nothing gets on to the next base class.
        if all(parameter.kind != parameter.VAR_KEYWORD for parameter in parameters.values()):
            return False
    return False


def zero_padded(model: nn.Module) -> list[str]:
    """Names of the convolutions that see zeros beyond the border.

    Found by what they do, whatever they are: with all weights 1, a constant image gives a constant
    output under every padding but zeros.
    """
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.conv._ConvNd)
        and not isinstance(module, nn.modules.conv._ConvTransposeNd)
        and _sees_zeros(module)
    ]


def _sees_zeros(conv: nn.modules.conv._ConvNd) -> bool:
    probe = copy.deepcopy(conv)
    for parameter in probe.parameters():
        nn.init.ones_(parameter)
    # Large enough to have an interior and to reflect.
    size = 2 * max(d * k for d, k in zip(conv.dilation, conv.kernel_size, strict=True)) + 2
    with torch.no_grad():
        output = probe(torch.ones(1, conv.in_channels, *[size] * len(conv.kernel_size)))
    return not torch.allclose(output.amin(), output.amax(), rtol=1e-5, atol=0)


def followed_sizes(model: nn.Module) -> str:
    """Which images a padded batch may have: of ``any`` size, of ``multiples of 32``, or ``none``.

    Raises:
        AssertionError: if an image in a batch that is followed does not give what it gives alone.
    """
    model = copy.deepcopy(model).double()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, *INPUT_SIZE, generator=generator, dtype=torch.float64)
    for sizes, size in (("any", (97, 71)), ("multiples of 32", (96, 64))):
        extents = (INPUT_SIZE, size)
        try:
            with torch.no_grad(), track_extents(model, images, extents):
                output = model(images, mode="tensor")
        except NotImplementedError:
            continue
        for image, found, (height, width), (rows, columns) in zip(
            images, output, extents, extents_of(output), strict=True
        ):
            with torch.no_grad():
                (alone,) = model(image[None, :, :height, :width], mode="tensor")
            torch.testing.assert_close(found[:, :rows, :columns], alone, rtol=1e-9, atol=1e-9)
        return sizes
    return "none"
