"""Where a model pads, and how much of its maps sees that: one traced forward."""

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from math import prod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import Conv2dAdaptivePadding
from prettytable import PrettyTable
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

from pconv_seg.geometry import border_runs, transposed_border
from pconv_seg.layers.adaptive_padding import adaptive_padding
from pconv_seg.layers.axes import Axis, axes_of, per_axis
from pconv_seg.wrappers import takes_grey

from .describe import (
    AVERAGE_POOLING,
    TRANSPOSED,
    is_padded_convolution,
    is_plain_convolution,
    padding_of,
    plain_class,
    why_not_convertible,
)


@dataclass(frozen=True)
class PaddedOperation:
    """One operation that pads, as it ran.

    Attributes:
        name: Module that it ran in.
        kind: What it is, by its name in ``torch.nn.functional``.
        kernel: Taps per axis; empty for explicit padding.
        dilation: Step between taps per axis; empty for explicit padding.
        padding: (before, after) per axis, in pixels; of a transposed convolution what it crops.
        scheme: What it pads with, see ``padding_of``.
        output_size: Size of the output per axis, in pixels.
        seeing: Positions of the output whose window reaches beyond the input.
        reason: Why it still pads with zeros; empty if it does not.
    """

    name: str
    kind: str
    kernel: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    scheme: str
    output_size: tuple[int, ...]
    seeing: int
    reason: str

    @property
    def share(self) -> float:
        """Share of the output that sees padding."""
        return self.seeing / prod(self.output_size)


@dataclass(frozen=True)
class PaddingTrace:
    """The padded operations of one forward, in the order they ran; ``str()`` of it is a table."""

    input_size: tuple[int, ...]
    operations: tuple[PaddedOperation, ...]

    @property
    def total_share(self) -> float:
        """Share of the positions of all outputs listed that see padding; 0 if none is listed."""
        positions = sum(prod(operation.output_size) for operation in self.operations)
        return sum(operation.seeing for operation in self.operations) / max(positions, 1)

    def as_dict(self) -> dict[str, Any]:
        """What a JSON file of it holds."""
        return {
            "input_size": self.input_size,
            "total_share": self.total_share,
            "operations": [
                {**asdict(operation), "share": operation.share} for operation in self.operations
            ],
        }

    def __str__(self) -> str:
        table = PrettyTable(
            ["name", "kind", "kernel", "dilation", "padding", "scheme", "output", "share", ""],
            align="l",
        )
        table.align["share"] = "r"
        for op in self.operations:
            table.add_row(
                [
                    op.name,
                    op.kind,
                    _times(op.kernel),
                    _times(op.dilation),
                    _times(b if b == a else f"({b}+{a})" for b, a in op.padding),
                    op.scheme,
                    _times(op.output_size),
                    f"{op.share:.1%}",
                    "█" * round(20 * op.share),
                ]
            )
        lines = [str(table), f"{self.total_share:.1%} of all these outputs see padding"]
        reasons = Counter(op.reason for op in self.operations if op.scheme == "zeros")
        lines += [f"zeros in {count}: {reason}" for reason, count in reasons.items()]
        return "\n".join(lines)


def _times(lengths: Iterable[int | str]) -> str:
    return "x".join(str(length) for length in lengths)


def padding_report(model: nn.Module, input_size: Sequence[int]) -> PaddingTrace:
    """List every operation of ``model`` that pads, with the share of its output that sees padding.

    One forward in evaluation mode is traced on a copy of ``model`` without data (device
    ``meta``), so it costs next to no time and memory. Convolutions, average and max pooling,
    transposed convolutions, ``F.unfold`` and ``F.pad`` are seen wherever they are called.

    A window sees padding if one of its taps lies outside the input of its own operation; what
    earlier operations padded counts as input, and so does explicit padding (``F.pad``), which has
    a row of its own: there, the share is that of the padded positions. (``F.pad`` of channels is
    taken for padding of a channels-last map.)

    Args:
        model: Called with one ``Tensor[N, C, *size]``; for a segmentor of mmseg that is backbone,
            neck and decode head.
        input_size: (height, width) of one image with 3 channels (1 if the first convolution has
            one), or the whole shape (N, C, *size).

    Returns:
        The operations in the order they ran, as often as they ran.

    Raises:
        ValueError: if a part of ``model`` is a TorchScript module, which shows no operations.
        RuntimeError: if ``model`` needs values of maps, or tensors that it does not hold itself.
    """
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(
                f"{name or 'the model'} is a TorchScript module, in which no operations can be "
                "seen: report on the model that it was made from"
            )
    channels = 1 if takes_grey(model) else 3
    shape = (1, channels, *input_size) if len(input_size) == 2 else tuple(input_size)
    # What torch.compile made does not run under a mode; it holds the module.
    model = getattr(model, "_orig_mod", model)
    # A copy because layers may keep tensors of the forward.
    with torch.no_grad(), _WithoutData():
        traced = copy.deepcopy(model).eval()
    dtypes = (p.dtype for p in model.parameters() if p.is_floating_point())
    image = torch.empty(shape, device="meta", dtype=next(dtypes, None))
    tracer = _Tracer(traced)
    try:
        with torch.no_grad(), tracer:
            traced(image)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]  # torch 2.1 lists all that there is below it
        if "meta" not in reason.lower():
            raise
        module = tracer.running or "the model itself"
        raise RuntimeError(
            f"padding_report runs the model on shapes alone (device meta), but {module} reads "
            "values of a map, or uses a tensor that no module holds: report on a copy in which it "
            f"does not ({reason})"
        ) from error
    return PaddingTrace(tuple(input_size), tuple(tracer.operations))


class _WithoutData(TorchFunctionMode):
    """Context in which copies of tensors lie on device ``meta``, whatever holds them."""

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func is Tensor.__deepcopy__:
            # Of results, too, such as the weight that a norm of weights leaves in its layer.
            return args[0].detach().to("meta").requires_grad_(args[0].requires_grad)
        # Parameters copy themselves by this.
        return args[0].to("meta") if func is Tensor.clone else func(*args, **(kwargs or {}))


class _Tracer(TorchFunctionMode):
    """Collects padded operations: convolution layers by hooks, everything else by function."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.operations: list[PaddedOperation] = []
        self._running: list[tuple[str, nn.Module]] = []
        for name, module in model.named_modules():
            module.register_forward_pre_hook(partial(self._enter, name))
            module.register_forward_hook(self._leave, with_kwargs=True)

    @property
    def running(self) -> str:
        """The name of the innermost module that is running; empty for the model itself."""
        return self._running[-1][0] if self._running else ""

    def _enter(self, name: str, module: nn.Module, args: tuple) -> None:
        self._running.append((name, module))

    def _leave(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        if _is_layer(module):
            n = len(module.kernel_size)
            input = args[0] if args else kwargs["input"]
            adapts = isinstance(module, Conv2dAdaptivePadding)
            pads = adaptive_padding(module, input) if adapts else module.padding
            axes = axes_of(module.kernel_size, module.stride, pads, module.dilation)
            windows = _Windows(axes, padding_of(module), "set_padding reaches them")
            self._add_windows(f"conv{n}d", windows, input.shape[-n:], _first(output).shape[-n:])
        self._running.pop()

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if not self._running or _is_layer(self._running[-1][1]):
            return output
        # Exported programs call overloads, such as conv2d.default.
        kind = getattr(func, "__name__", "").split(".")[0].removesuffix("_with_indices")
        if kind == "pad":
            self._add_explicit(*args, **kwargs)
        elif kind in _READERS and (kind != "unfold" or func is F.unfold):  # not Tensor.unfold
            windows = _READERS[kind](*args, **kwargs)
            input = args[0] if args else kwargs["input"]
            n = len(windows.axes)
            sizes, outputs = input.shape[-n:], _first(output).shape[-n:]
            if kind == "unfold":
                outputs = list(map(Axis.outputs, windows.axes, sizes))
            self._add_windows(kind, windows, sizes, outputs)
        return output

    def _add_windows(
        self, kind: str, windows: "_Windows", sizes: Sequence[int], outputs: Sequence[int]
    ) -> None:
        along = [
            _along(axis, size, output, "transpose" in kind)
            for axis, size, output in zip(windows.axes, sizes, outputs, strict=True)
        ]
        seeing = prod(reached for _, reached in along) - prod(complete for complete, _ in along)
        if not seeing:
            return
        name, module = self._running[-1]
        scheme, reason = windows.scheme, windows.reason
        if isinstance(module, _ConvNd) and "conv" in kind:
            # A layer with a forward of its own.
            scheme, reason = padding_of(module) or scheme, why_not_convertible(module) or reason
        self.operations.append(
            PaddedOperation(
                name,
                kind,
                tuple(axis.kernel_size for axis in windows.axes),
                tuple(axis.dilation for axis in windows.axes),
                tuple((axis.before, axis.after) for axis in windows.axes),
                scheme,
                tuple(outputs),
                seeing,
                reason if scheme == "zeros" else "",
            )
        )

    def _add_explicit(
        self, input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None
    ) -> None:
        pads = [(pad[i], pad[i + 1]) for i in range(0, len(pad), 2)]
        sizes = input.shape[-1 : -1 - len(pads) : -1]
        # The padding of attention windows is written for Tensor[N, H, W, C]: leave out C. In a
        # Tensor[N, C, D, H, W] three axes are those of the map.
        while len(pads) > max(2, input.dim() - 2) and pads[0] == (0, 0):
            pads, sizes = pads[1:], sizes[1:]
        pads, sizes = pads[::-1], sizes[::-1]
        # Negative padding crops.
        real = [size + min(b, 0) + min(a, 0) for size, (b, a) in zip(sizes, pads, strict=True)]
        outputs = [size + max(b, 0) + max(a, 0) for size, (b, a) in zip(real, pads, strict=True)]
        if outputs != real:
            scheme = "zeros" if mode == "constant" and not value else mode
            seeing = prod(outputs) - prod(real)
            reason = "explicit padding" if scheme == "zeros" else ""
            self.operations.append(
                PaddedOperation(
                    self.running, "pad", (), (), tuple(pads), scheme, tuple(outputs), seeing, reason
                )
            )


def _first(output: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    """The output without a mask or indices."""
    return output[0] if isinstance(output, tuple) else output


def _is_layer(module: nn.Module) -> bool:
    """Whether its attributes say all about what a convolution pads."""
    return is_padded_convolution(module) and is_plain_convolution(plain_class(module))


class _Windows(NamedTuple):
    """The windows of an operation."""

    axes: list[Axis]
    scheme: str
    reason: str


def _along(axis: Axis, size: int, output: int, transposed: bool) -> tuple[int, int]:
    """Outputs along an axis whose window lies inside the input, and outputs with a window."""
    window = size, output, axis.kernel_size, axis.stride, axis.before, axis.dilation
    if transposed:
        return transposed_border(*window)
    return output - sum(stop - start for start, stop, _ in border_runs(*window)), output


# Readers of the arguments of functions, in the order in which torch.nn.functional has these.


def _windows(n: int, kernel, stride, padding, dilation, scheme: str, reason: str) -> _Windows:
    stride = kernel if stride in (None, []) else stride
    axes = axes_of(per_axis("kernel_size", kernel, n, 1), stride, padding, dilation)
    return _Windows(axes, scheme, reason)


def _convolution(
    scheme: str, input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, mask=None
) -> _Windows:
    reason = "functional call: no layer to switch"
    n = weight.dim() - 2
    return _windows(n, weight.shape[2:], stride, padding, dilation, scheme, reason)


def _transposed(
    input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1
) -> _Windows:
    n = weight.dim() - 2
    return _windows(n, weight.shape[2:], stride, padding, dilation, "zeros", TRANSPOSED)


def _max_pooling(n: int, input, kernel_size, stride=None, padding=0, dilation=1, *_, **__):
    return _windows(n, kernel_size, stride, padding, dilation, "-inf", "")


def _average_pooling(
    n: int,
    input,
    kernel_size,
    stride=None,
    padding=0,
    ceil_mode=False,
    count_include_pad=True,
    divisor_override=None,
) -> _Windows:
    windows = _windows(n, kernel_size, stride, padding, 1, "zeros", AVERAGE_POOLING)
    # What only `ceil_mode` lets hang over is never counted; a given divisor counts everything.
    padded = count_include_pad and any(axis.before or axis.after for axis in windows.axes)
    if not padded and divisor_override is None:
        windows = windows._replace(scheme="partial")
    return windows


def _unfold(input, kernel_size, dilation=1, padding=0, stride=1) -> _Windows:
    reason = "F.unfold: windows with zeros in them are handed on"
    return _windows(2, kernel_size, stride, padding, dilation, "zeros", reason)


_READERS: dict[str, Callable[..., _Windows]] = {
    **{f"conv{n}d": partial(_convolution, "zeros") for n in (1, 2, 3)},
    "partial_conv2d": partial(_convolution, "partial"),
    **{f"conv_transpose{n}d": _transposed for n in (1, 2, 3)},
    **{f"max_pool{n}d": partial(_max_pooling, n) for n in (1, 2, 3)},
    **{f"avg_pool{n}d": partial(_average_pooling, n) for n in (1, 2, 3)},
    "unfold": _unfold,
}
