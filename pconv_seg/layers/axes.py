"""The axes of a convolution, one by one."""

import operator
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Axis:
    """What one axis of a convolution looks like: plain integers, padding resolved."""

    __slots__ = (
        "after",
        "before",
        "dilation",
        "dim",
        "kernel_size",
        "never_empty",
        "span",
        "stride",
    )

    def __init__(
        self,
        dim: int,
        kernel_size: int,
        stride: int,
        padding: int | str | tuple[int, int],
        dilation: int,
    ) -> None:
        self.dim, self.kernel_size, self.stride, self.dilation = dim, kernel_size, stride, dilation
        # Pixels from the first to the last tap. The compiler of torch 2.1 follows no properties.
        self.span = dilation * (kernel_size - 1) + 1
        if isinstance(padding, tuple):
            self.before, self.after = padding
        elif padding == "same":
            # As in PyTorch: an odd total puts the extra pixel behind.
            total = self.span - 1
            self.before, self.after = total // 2, total - total // 2
        else:
            self.before = self.after = 0 if padding == "valid" else padding
        # True only if every window has a valid tap on a map of any length: one and the same tap
        # lies past the padding in front, even in the first window, and short of the padding behind,
        # even in the last. While torch.jit.trace follows sizes, nothing is known of them.
        tap = -(-self.before // dilation)
        known = type(kernel_size) is type(self.before) is type(self.after) is int
        self.never_empty = known and self.after <= (kernel_size - 1 - tap) * dilation

    def options(self) -> tuple:
        """All that the constructor takes besides ``dim``."""
        return self.kernel_size, self.stride, (self.before, self.after), self.dilation

    def outputs(self, length: int) -> int:
        """Number of windows on ``length`` pixels."""
        return (length + self.before + self.after - self.span) // self.stride + 1

    def counts(self, length: int, output: Tensor) -> Tensor:
        """Taps of every window that lie on ``length`` pixels, along this axis.

        Integers in float32, exact up to 2**24 pixels, since compilers vectorize no int64. Sums of
        ones over the taps of a 7x7 layer would take as long as its convolution.
        """
        first = torch.arange(output.shape[self.dim], dtype=torch.float32, device=output.device)
        first = first * self.stride - self.before
        missed, reached = -first, length - first
        if self.dilation > 1:
            # One by one, since the compiler of torch 2.1 unpacks no generator.
            missed, reached = (
                torch.ceil(missed / self.dilation),
                torch.ceil(reached / self.dilation),
            )
        counts = reached.clamp(0, self.kernel_size) - missed.clamp(0, self.kernel_size)
        return counts.view(-1, *(1,) * (-1 - self.dim))

    def window_sum(self, valid: Tensor) -> Tensor:
        """Sums of ``valid`` along this axis over the taps of every window, 0 outside.

        Integers or truth values in, so exact integers out.
        """
        padding = (0, 0) * (-1 - self.dim) + (self.before, self.after)
        windows = F.pad(valid, padding).unfold(self.dim, self.span, self.stride)
        return windows[..., :: self.dilation].sum(-1)


def per_axis(name: str, option, n: int, least: int) -> list[int | tuple[int, int]]:
    """An option for each of ``n`` axes: like PyTorch's, one value for all or ``n``, also numpy's.

    Raises:
        ValueError: if it is something else, or an integer below ``least``.
    """
    values = list(option) if isinstance(option, (list, tuple)) else [option]
    values = values * n if len(values) == 1 else values
    fits = len(values) == n
    for value in values:
        if not isinstance(value, tuple):
            # Floats have no index.
            fits = fits and (isinstance(value, int) or hasattr(value, "__index__"))
            fits = fits and value >= least
    if not fits:
        raise ValueError(
            f"{name}={option!r} must be one integer, or one for each of {n} axes, of at least "
            f"{least}"
        )
    return [v if isinstance(v, (int, tuple)) else operator.index(v) for v in values]


def axes_of(kernel_size: Sequence[int], stride, padding, dilation) -> list[Axis]:
    """One per spatial dimension; ``padding`` may also be a sequence of (before, after).

    Raises:
        ValueError: if a convolution of PyTorch's would not take these options.
    """
    n = len(kernel_size)
    stride, dilation = per_axis("stride", stride, n, 1), per_axis("dilation", dilation, n, 1)
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise ValueError(f"padding={padding!r} must be 'same', 'valid' or a number of pixels")
        if padding == "same" and stride != [1] * n:
            raise ValueError(f"padding='same' needs stride 1, not {stride}: give it in pixels")
        padding = [padding] * n
    else:
        padding = per_axis("padding", padding, n, 0)
    return [Axis(i - n, kernel_size[i], stride[i], padding[i], dilation[i]) for i in range(n)]


def axes_of_layer(conv: nn.modules.conv._ConvNd) -> list[Axis]:
    """The axes that a layer's attributes say, as they are now."""
    return axes_of(conv.kernel_size, conv.stride, conv.padding, conv.dilation)


def flat_padding(axes: list[Axis]) -> list[int]:
    """Padding in pixels as ``F.pad`` takes it: from the last axis on, before and after each."""
    return [p for axis in reversed(axes) for p in (axis.before, axis.after)]


def padding_around(axes: list[Axis]) -> tuple[int | tuple[int, ...], list[int] | None]:
    """The padding that a convolution takes itself, and what else is to be padded with zeros."""
    # Of lists, since the compiler of torch 2.1 follows no generator here.
    before = tuple([axis.before for axis in axes])
    after = tuple([axis.after for axis in axes])
    # Compared, symbols would make what a compiler makes hold for some sizes alone.
    if any(type(pixels) is not int for pixels in before + after) or before != after:
        return 0, flat_padding(axes)
    return before, None


# By the number of dimensions of the weight.
CONVOLUTIONS = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}


def convolve(
    input: Tensor, weight: Tensor, bias: Tensor | None, stride, around, dilation, groups
) -> Tensor:
    """Convolve with zeros around (:func:`padding_around`), perhaps more behind than before."""
    padding, pads = around
    if pads:
        input = F.pad(input, pads)
    return CONVOLUTIONS[weight.dim()](input, weight, bias, stride, padding, dilation, groups)
