"""Published checkpoints: how to tell them apart, and what their keys are called here."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from mmseg.models.backbones import ResNet
from torch import Tensor

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Format:
    """One way in which keys are named, without the prefix ``module.``.

    Attributes:
        name: What ``--format`` calls it.
        title: What messages call it.
        marks: Expressions; for each of them, every file has a key that matches.
        names: Expression of a whole key, and the key in a segmentor of mmseg (``backbone.*``,
            ``decode_head.*``); the first that matches counts.
        dropped: Expression of a whole key that is left out, and why.
        network: Config of the network that a state dict is for; None where only a config can tell.
    """

    name: str
    title: str
    marks: tuple[str, ...]
    names: tuple[tuple[str, str], ...]
    dropped: tuple[tuple[str, str], ...] = ()
    network: Callable[[State], dict] | None = None

    def matches(self, keys: Collection[str]) -> bool:
        """Whether a file with these keys has this format."""
        return all(any(re.fullmatch(mark, key) for key in keys) for mark in self.marks)

    def translate(self, key: str) -> str | None:
        """The key in a segmentor, or None for one that this format does not know."""
        for expression, name in self.names:
            if match := re.fullmatch(expression, key):
                return match.expand(name)
        return None

    def why_dropped(self, key: str) -> str | None:
        """The reason to leave a key out, or None."""
        return next((why for pattern, why in self.dropped if re.fullmatch(pattern, key)), None)


def _deepwv3plus(state: State) -> dict:
    fine, classes = state["bot_fine.weight"], state["final.6.weight"]
    return dict(
        type="EncoderDecoder",
        backbone=dict(type="WideResNet38"),
        decode_head=dict(
            type="DeepLabV3PlusHead",
            in_index=1,
            in_channels=state["aspp.features.0.0.weight"].shape[1],
            channels=state["bot_aspp.weight"].shape[0],
            c1_in_channels=fine.shape[1],
            c1_channels=fine.shape[0],
            num_classes=classes.shape[0],
            norm_cfg=dict(type="BN"),
            align_corners=True,
        ),
    )


def _resnet(state: State) -> dict:
    state = {key.removeprefix("backbone."): value for key, value in state.items()}
    blocks = tuple(
        len({key.split(".")[1] for key in state if key.startswith(f"layer{stage}.")})
        for stage in (1, 2, 3, 4)
    )
    expansion = 4 if "layer1.0.conv3.weight" in state else 1
    for depth, (block, counts) in ResNet.arch_settings.items():
        if (block.expansion, counts) == (expansion, blocks):
            deep = "stem.0.weight" in state
            stem = state["stem.6.weight" if deep else "conv1.weight"]
            return dict(
                type="ResNetV1c" if deep else "ResNet",
                depth=depth,
                stem_channels=stem.shape[0],
                base_channels=state["layer1.0.conv1.weight"].shape[0],
            )
    raise ValueError(f"no ResNet of mmseg has {blocks} blocks per stage of expansion {expansion}")


_CLASSIFIER = "classifier of ImageNet"
FORMATS = (
    Format(
        "deepwv3plus",
        "a Cityscapes DeepWV3Plus",
        marks=(r"mod1\.conv1\.weight", r"bot_fine\.weight"),
        names=(
            (r"mod\d\..+", r"backbone.\g<0>"),
            (r"aspp\.features\.(\d)\.0\.(.+)", r"decode_head.aspp_modules.\1.conv.\2"),
            (r"aspp\.features\.(\d)\.1\.(.+)", r"decode_head.aspp_modules.\1.bn.\2"),
            (r"aspp\.img_conv\.0\.(.+)", r"decode_head.image_pool.1.conv.\1"),
            (r"aspp\.img_conv\.1\.(.+)", r"decode_head.image_pool.1.bn.\1"),
            (r"bot_(fine|aspp)\.(.+)", r"decode_head.\g<0>"),
            (r"final\.0\.(.+)", r"decode_head.decoder.0.conv.\1"),
            (r"final\.1\.(.+)", r"decode_head.decoder.0.bn.\1"),
            (r"final\.3\.(.+)", r"decode_head.decoder.1.conv.\1"),
            (r"final\.4\.(.+)", r"decode_head.decoder.1.bn.\1"),
            (r"final\.6\.(.+)", r"decode_head.conv_seg.\1"),
        ),
        network=_deepwv3plus,
    ),
    Format(
        "wider_resnet38",
        "an ImageNet WideResNet38",
        marks=(r"mod1\.conv1\.weight", r"mod7\.block1\.convs\.conv1\.weight"),
        names=((r"mod\d\..+", r"backbone.\g<0>"),),
        dropped=((r"(bn_out|classifier)\..+", _CLASSIFIER),),
        network=lambda _: dict(type="WideResNet38"),
    ),
    Format(
        "mmseg",
        "an mmseg network",
        marks=(r"backbone\..+", r"decode_head\..+"),
        names=((r"(backbone|neck|decode_head|auxiliary_head)\..+", r"\g<0>"),),
    ),
    Format(
        "resnet",
        "a ResNet of torchvision, NVIDIA/partialconv or mmpretrain",
        marks=(
            r"(backbone\.)?(conv1|stem\.0)\.weight",
            r"(backbone\.)?layer1\.0\.conv1\.weight",
            r"(backbone\.)?layer4\.0\.conv1\.weight",
        ),
        names=((r"(?:backbone\.)?((?:conv1|bn1|stem|layer[1-4])\..+)", r"backbone.\1"),),
        dropped=(
            (r"(fc|head)\..+", _CLASSIFIER),
            (r"(aux_)?classifier\..+", "segmentation head of torchvision"),
        ),
        network=_resnet,
    ),
)
"""All formats, in the order in which they are tried."""

# What people have that none of the formats above covers.
_FOREIGN = (
    ("a VGG or AlexNet of torchvision", r"features\.0\.weight"),
    ("a vision transformer", r"(.*\.)?(blocks|layers)\.0\.(attn|blocks\.0\.attn|ln1)\..+"),
    ("an object detector", r"(.*\.)?(rpn|rpn_head|roi_heads?|bbox_head)\..+"),
    ("a network of segmentation_models.pytorch", r"encoder\.layer1\..+"),
    ("a DenseNet or EfficientNet", r"(.*\.)?(denseblock1|_blocks)\..+"),
)


def recognize(state: State, name: str, source: str) -> Format:
    """The format of a state dict.

    Args:
        state: Without the prefix ``module.``.
        name: Of a format, or ``'auto'``.
        source: What errors call the file.

    Raises:
        ValueError: It has another format than ``name``, or none of `FORMATS`; the message says what
            it looks like.
    """
    names = [known.name for known in FORMATS]
    if name not in ("auto", *names):
        raise ValueError(f"format must be auto, {', '.join(names)}, got {name!r}")
    found = next((known for known in FORMATS if known.matches(state)), None)
    if found and name in ("auto", found.name):
        return found
    looks = (
        found.title
        if found
        else next(
            (title for title, mark in _FOREIGN if any(re.fullmatch(mark, key) for key in state)),
            f"nothing known; its keys are {', '.join([*state][:3])}, ...",
        )
    )
    expected = "one of these formats" if name == "auto" else f"the format {name}"
    known = "; ".join(f"{known.name}: {known.title}" for known in FORMATS)
    raise ValueError(f"{source} is not {expected}: it looks like {looks}. Formats: {known}")
