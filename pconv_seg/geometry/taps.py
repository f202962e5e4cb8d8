"""How many taps of a convolution window lie on the input, along one axis.

Validity is separable: a window of ``kh x kw`` taps has ``rows(i) * cols(j)`` taps on the image, so
everything about zero padding follows from one axis at a time (arXiv 1811.11718, Eq. 2).
"""

from functools import lru_cache
from itertools import groupby


def tap_count(
    index: int, size: int, kernel_size: int, stride: int, padding: int, dilation: int
) -> int:
    """Taps of the window of output ``index`` that lie in ``[0, size)``.

    Args:
        index: Output position along the axis.
        size: Input length along the axis, in pixels.
        kernel_size: Taps along the axis.
        stride: Step between windows.
        padding: Padding before the first pixel (the padding after the last one shows only in how
            many outputs there are).
        dilation: Step between taps.

    Returns:
        An integer in ``[0, kernel_size]``.
    """
    start = index * stride - padding
    first = max(0, -(start // dilation))  # ceil(-start / dilation)
    last = min(kernel_size - 1, (size - 1 - start) // dilation)
    return max(0, last - first + 1)


# Pure in its integers: the cache holds no state that a call could see.
@lru_cache(maxsize=4096)
def border_runs(
    size: int, output_size: int, kernel_size: int, stride: int, padding: int, dilation: int
) -> tuple[tuple[int, int, int], ...]:
    """Runs of neighbouring outputs that miss the same number of taps.

    Args:
        size: Input length along the axis, in pixels.
        output_size: Number of outputs along the axis.
        kernel_size: Taps along the axis.
        stride: Step between windows.
        padding: Padding before the first pixel.
        dilation: Step between taps.

    Returns:
        ``(start, stop, count)`` triples in ascending order, only where ``count < kernel_size``;
        all other outputs see every tap. A 3-tap window with padding 1 gives one run of one output
        at either end, dilation 12 with padding 12 gives runs of 12.
    """
    interior_start = -(-padding // stride)
    interior_stop = (size - 1 - (kernel_size - 1) * dilation + padding) // stride + 1
    border = (
        *range(min(interior_start, output_size)),
        *range(max(interior_start, interior_stop), output_size),
    )
    runs = []
    for (count, _), group in groupby(
        ((tap_count(i, size, kernel_size, stride, padding, dilation), i) for i in border),
        # Neighbours with one count form a run; the interior, where there is one, splits runs.
        key=lambda item: (item[0], item[1] >= interior_start),
    ):
        indices = [i for _, i in group]
        runs.append((indices[0], indices[-1] + 1, count))
    return tuple(runs)


def transposed_border(
    size: int, output_size: int, kernel_size: int, stride: int, padding: int, dilation: int
) -> tuple[int, int]:
    """How many outputs of a transposed convolution have all their terms, and how many have any.

    Tap t adds input ``(i + padding - t * dilation) / stride`` to output i where that divides; a
    term is missing where this lies outside ``[0, size)``.

    Args:
        size: Input length along the axis, in pixels.
        output_size: Number of outputs along the axis.
        kernel_size: Taps along the axis.
        stride: Step between the places that input pixels are spread around.
        padding: Outputs cropped before the first one.
        dilation: Step between taps.

    Returns:
        ``(complete, reached)``: outputs with terms of which none is missing, and outputs that
        would have a term in a map that goes on at both ends.
    """
    complete = reached = 0
    for i in range(output_size):
        offsets = (i + padding - tap * dilation for tap in range(kernel_size))
        terms = [0 <= offset < size * stride for offset in offsets if offset % stride == 0]
        reached += bool(terms)
        complete += bool(terms) and all(terms)
    return complete, reached
