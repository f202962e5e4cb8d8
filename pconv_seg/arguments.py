"""Numbers on command lines, as argparse's ``type``: what does not fit is refused at the start."""

import math
import re
from argparse import Action, ArgumentError, ArgumentTypeError


def whole_number(text: str, least: int = 0, most: float = math.inf) -> int:
    """A whole number.

    Raises:
        ArgumentTypeError: If it is something else, below ``least``, or above ``most``.
    """
    if not (text.isdecimal() and least <= int(text) <= most):
        bounds = f"of at least {least}" if most == math.inf else f"from {least} to {most}"
        raise ArgumentTypeError(f"{text!r} is not a whole number {bounds}")
    return int(text)


def positive(text: str) -> int:
    """A whole number of at least 1; raises as :func:`whole_number`."""
    return whole_number(text, least=1)


def seed(text: str) -> int:
    """A seed for all random numbers (NumPy takes 32 bits); raises as :func:`whole_number`."""
    return whole_number(text, most=2**32 - 1)


def image_size(text: str, least: int = 1) -> tuple[int, int]:
    """``HEIGHTxWIDTH`` in pixels.

    Raises:
        ArgumentTypeError: If it is something else, or a side is below ``least``.
    """
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None or min(map(int, match.groups())) < least:
        raise ArgumentTypeError(
            f"{text!r} is not HEIGHTxWIDTH in pixels, at least {least}x{least}, such as 256x512"
        )
    return int(match[1]), int(match[2])


def overlap(text: str) -> int | str:
    """Overlap of tiles: a number of pixels, or a proportion, kept as text."""
    return int(text) if text.isdigit() else text


class TileAction(Action):
    """Tile size, one side or height and width, given with ``nargs="+"``; for ``action``.

    Raises:
        ArgumentError: If there are more numbers.
    """

    def __call__(self, parser, namespace, values, option_string=None):
        if len(values) > 2:
            raise ArgumentError(self, "one side, or height and width")
        setattr(namespace, self.dest, values[0] if len(values) == 1 else tuple(values))
