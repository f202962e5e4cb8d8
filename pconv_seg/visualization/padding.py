"""Where a network pads."""

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from pconv_seg.padding import PaddingTrace

from .styles import bar_style


def plot_padding(trace: PaddingTrace) -> Figure:
    """Plot the share of the output that sees padding, one bar per operation in running order.

    Args:
        trace: What ``padding_report`` returns.
    """
    operations = trace.operations
    figure = Figure(figsize=(8, 1.5 + 0.17 * len(operations)), layout="constrained")
    axes = figure.subplots()
    for number, scheme in enumerate(dict.fromkeys(op.scheme for op in operations)):
        depths = [depth for depth, op in enumerate(operations) if op.scheme == scheme]
        axes.barh(
            depths,
            [operations[depth].share for depth in depths],
            label=scheme,
            **bar_style(number),
        )
    axes.set_yticks(range(len(operations)), [op.name for op in operations], fontsize="x-small")
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    size = "x".join(map(str, trace.input_size))
    axes.set_xlabel(f"share of the output that sees padding, input {size}")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(title="padding", fontsize="small")
    return figure
