"""Proportions in [0, 1) as exact fractions."""

from fractions import Fraction
from numbers import Rational


def parse_fraction(value: str | float | Rational, name: str = "fraction") -> Fraction:
    """Read a proportion in [0, 1) exactly.

    A float stands for the simplest fraction near it (denominator up to 10^6), so that the float
    ``1 / 3`` is one third and sizes derived from it do not depend on its rounding error.

    Args:
        value: ``"1/3"``, ``"0.25"``, ``0.25`` or a ``Fraction``.
        name: What the proportion is, for the error message.

    Raises:
        ValueError: If the value is not a number or lies outside [0, 1).
    """
    try:
        # float() first: numpy's and torch's scalars are no numbers to Fraction.
        number = value if isinstance(value, str | Rational) else float(value)
        fraction = Fraction(number).limit_denominator(10**6)
    except (ValueError, TypeError, OverflowError, ZeroDivisionError) as error:
        raise ValueError(
            f"{name} must be a decimal or a fraction such as 1/3, got {value!r}"
        ) from error
    if not 0 <= fraction < 1:
        raise ValueError(f"{name} must lie in [0, 1), got {value!r}")
    return fraction
