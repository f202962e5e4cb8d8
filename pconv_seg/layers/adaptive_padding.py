"""``Conv2dAdaptivePadding`` of mmcv (TensorFlow's 'same' padding) under the other schemes.

How much it pads depends on the size of the input, and may be one pixel more behind than before.
"""

from mmcv.cnn.bricks import Conv2dAdaptivePadding
from torch import Tensor, nn

from .padded_conv import PaddedConv2d
from .partial_conv import PConv2d, partial_conv2d


def adaptive_padding(conv: nn.Conv2d, input: Tensor) -> list[tuple[int, int]]:
    """(before, after) per spatial axis that ``conv`` adds to ``Tensor[..., H, W]``, in pixels."""
    padding = []
    for axis in (0, 1):
        size, stride = input.shape[axis - 2], conv.stride[axis]
        span = (conv.kernel_size[axis] - 1) * conv.dilation[axis] + 1
        # Of nothing negative, whose division ONNX would round up.
        total = max((size - 1) // stride * stride + span - size, 0)
        padding.append((total // 2, total - total // 2))
    return padding


# nn.Conv2d stands among the direct bases because mmengine's weight initialisation asks for these.
class AdaptivePConv2d(PConv2d, Conv2dAdaptivePadding, nn.Conv2d):
    """``Conv2dAdaptivePadding`` with partial convolution based padding."""

    def _conv_forward(
        self, input: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        padding = tuple(adaptive_padding(self, input))
        return partial_conv2d(
            input, weight, bias, self.stride, padding, self.dilation, self.groups, mask
        )


class AdaptivePaddedConv2d(PaddedConv2d, Conv2dAdaptivePadding, nn.Conv2d):
    """``Conv2dAdaptivePadding`` with padding made from the input."""

    def _pads(self, input: Tensor) -> list[int]:
        rows, cols = adaptive_padding(self, input)
        return [*cols, *rows]
