"""What partial padding has to scale, planned once per geometry."""

from functools import lru_cache

from pconv_seg.geometry import border_runs

from .axes import Axis, axes_of, padding_around


class Plan:
    """What partial padding does to a map of one size.

    Attributes:
        around: What :func:`padding_around` returns.
        column: The shape that a bias takes beside an output.
        size: Output length per axis.
        runs: Outputs to scale, ``(dim, start, length, ratio)``.
        holes: Outputs without any valid tap, ``(dim, start, length)``.
        frame: Both for :func:`.border_kernel.scale_border_`, one entry per axis.
        ends: By axis how many outputs miss taps, at the end where more of them do.
    """

    __slots__ = ("around", "column", "ends", "frame", "holes", "runs", "size")

    def __init__(self, size: tuple[int, ...], axes: list[Axis]) -> None:
        self.around, self.size, self.frame, self.ends = padding_around(axes), [], [], []
        self.runs, self.holes = [], []
        self.column = -1, *(1,) * len(axes)
        for axis in axes:
            length = size[axis.dim]
            outputs = axis.outputs(length)
            self.size.append(outputs)
            taps = axis.kernel_size, axis.stride, axis.before, axis.dilation
            ends = [0, 0]
            for start, stop, count in border_runs(length, outputs, *taps):
                outside = axis.dim, start, stop - start
                if count:
                    self.runs.append((*outside, axis.kernel_size / count))
                else:
                    self.holes.append(outside)
                ends[start > ends[0]] += stop - start
            self.frame.append((length, *taps, outputs, *ends))
            self.ends.append(max(ends))


# Pure in their arguments. Plans are kept because Python takes longer for them than a CPU for a
# small map, and by whole shapes because slicing these takes longer than looking them up.
@lru_cache(maxsize=4096)
def plan_of(shape: tuple[int, ...], weight_shape: tuple[int, ...], *options) -> Plan:
    """The plan for a batch of ``shape`` and weights of ``weight_shape``; cached.

    ``options`` are stride, padding and dilation, as a convolution takes them.
    """
    return plan_of_size(shape[2:], weight_shape[2:], *options)


@lru_cache(maxsize=4096)
def plan_of_size(
    size: tuple[int, ...], kernel_size: tuple[int, ...], stride, padding, dilation
) -> Plan:
    """The plan for maps of ``size``; cached, and shared by batches and channels of any number."""
    return Plan(size, axes_of(kernel_size, stride, padding, dilation))
