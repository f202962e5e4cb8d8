"""WideResNet38, dilated to output stride 8 (variant "A2")."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from mmcv.cnn import build_conv_layer, build_norm_layer
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

# module: number of blocks, channels of each convolution, stride of the first block, dilation,
# dropout before the last convolution (Wu et al., arXiv 1611.10080, with the strides of modules 5
# and 6 turned into dilation).
_MODULES = {
    "mod2": (3, (128, 128), 1, 1, 0.0),
    "mod3": (3, (256, 256), 1, 1, 0.0),
    "mod4": (6, (512, 512), 2, 1, 0.0),
    "mod5": (3, (512, 1024), 1, 2, 0.0),
    "mod6": (1, (512, 1024, 2048), 1, 4, 0.3),
    "mod7": (1, (1024, 2048, 4096), 1, 4, 0.5),
}
_POOLED = ("mod2", "mod3")


def _norm_relu(norm_cfg: dict, channels: int) -> nn.Sequential:
    return nn.Sequential(build_norm_layer(norm_cfg, channels)[1], nn.ReLU(inplace=True))


@contextmanager
def _keep_running_statistics(block: nn.Module) -> Iterator[None]:
    """Recomputed activations must not enter the running statistics and their count twice."""
    norms = [
        norm
        for norm in block.modules()
        if isinstance(norm, _BatchNorm) and norm.track_running_stats
    ]
    states = [(norm, norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count in states:
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)


class _PreActivationBlock(nn.Module):
    """Residual block of two 3x3 convolutions, or of 1x1, 3x3, 1x1, each after BN and ReLU.

    The projection shortcut takes the first BN+ReLU output, the identity shortcut the raw input.
    """

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int],
        stride: int,
        dilation: int,
        dropout: float,
        conv_cfg: dict | None,
        norm_cfg: dict,
    ) -> None:
        super().__init__()

        def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Module:
            spacing = {"dilation": dilation, "padding": dilation} if kernel == 3 else {}
            return build_conv_layer(
                conv_cfg, inputs, outputs, kernel, stride=stride, bias=False, **spacing
            )

        kernels = (3, 3) if len(channels) == 2 else (1, 3, 1)
        layers = OrderedDict(conv1=conv(in_channels, channels[0], kernels[0], stride))
        for i in range(1, len(channels)):
            layers[f"bn{i + 1}"] = _norm_relu(norm_cfg, channels[i - 1])
            if dropout and i == len(channels) - 1:
                layers["dropout"] = nn.Dropout2d(dropout)
            layers[f"conv{i + 1}"] = conv(channels[i - 1], channels[i], kernels[i])

        self.bn1 = _norm_relu(norm_cfg, in_channels)
        self.convs = nn.Sequential(layers)
        self.proj_conv = None
        if stride != 1 or in_channels != channels[-1]:
            self.proj_conv = conv(in_channels, channels[-1], 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.bn1(x)
        shortcut = x if self.proj_conv is None else self.proj_conv(activated)
        return self.convs(activated) + shortcut


@MODELS.register_module()
class WideResNet38(BaseModule):
    """WideResNet38 with output stride 8, the larger trunk of Liu et al. (arXiv 1811.11718).

    Parameters are named as in the published ``wider_resnet38.pth.tar`` and DeepWV3Plus
    checkpoints, up to a prefix.

    Args:
        in_channels: Channels of the image.
        out_modules: Which of the modules 1 to 7 to return, in this order. The default is the
            low-level tap of DeepLabV3+ (module 2: 128 channels, output stride 2) and the raw
            output of the last module (4096 channels, output stride 8).
        conv_cfg: Config of every convolution; ``None`` means ``nn.Conv2d``.
        norm_cfg: Config of every normalization.
        norm_eval: Keep the running statistics of batch normalization fixed in training.
        with_cp: Keep only the inputs of the residual blocks in training and recompute the rest
            in the backward pass. Gradients and running statistics stay the same.
        init_cfg: ``dict(type='PublishedWeights', checkpoint=FILE)`` for published weights. The
            default trains from scratch.

    Raises:
        ValueError: ``out_modules`` is empty or names another module.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_modules: Sequence[int] = (2, 7),
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        if init_cfg is None:
            init_cfg = [
                {"type": "Kaiming", "layer": "Conv2d"},
                {"type": "Constant", "val": 1, "layer": ["_BatchNorm", "GroupNorm"]},
            ]
        super().__init__(init_cfg)
        if not out_modules or not set(out_modules) <= set(range(1, 8)):
            raise ValueError(f"out_modules must name some of the modules 1 to 7, got {out_modules}")
        norm_cfg = norm_cfg or {"type": "BN"}
        self.out_modules = tuple(out_modules)
        self.norm_eval = norm_eval
        self.with_cp = with_cp

        stem = build_conv_layer(conv_cfg, in_channels, 64, 3, padding=1, bias=False)
        self.mod1 = nn.Sequential(OrderedDict(conv1=stem))
        channels = 64
        for name, (count, widths, stride, dilation, dropout) in _MODULES.items():
            blocks = OrderedDict()
            for i in range(count):
                blocks[f"block{i + 1}"] = _PreActivationBlock(
                    channels, widths, stride if i == 0 else 1, dilation, dropout, conv_cfg, norm_cfg
                )
                channels = widths[-1]
            self.add_module(name, nn.Sequential(blocks))
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Run the trunk.

        Args:
            x: ``Tensor[N, in_channels, H, W]``, floating point.

        Returns:
            One ``Tensor[N, C, H', W']`` per entry of ``out_modules``. The output strides are 1
            (module 1), 2 (module 2), 4 (module 3) and 8, with sizes rounded up.
        """
        x = self.mod1(x)
        outputs = {1: x}
        for number, name in enumerate(_MODULES, start=2):
            if name in _POOLED:
                x = self.pool(x)
            for block in getattr(self, name):
                x = self._recomputed(block, x) if self.with_cp and self.training else block(x)
            outputs[number] = x
        return tuple(outputs[number] for number in self.out_modules)

    # Compilers fail at the contexts. Without contexts, statistics would count twice in blocks that
    # a compiler leaves partly to Python.
    @staticmethod
    @torch._disable_dynamo
    def _recomputed(block: nn.Module, x: Tensor) -> Tensor:
        def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
            return nullcontext(), _keep_running_statistics(block)

        return checkpoint(block, x, use_reentrant=False, context_fn=contexts)

    def train(self, mode: bool = True) -> "WideResNet38":
        """Set the training mode; ``norm_eval`` leaves batch normalization in evaluation mode."""
        super().train(mode)
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self
