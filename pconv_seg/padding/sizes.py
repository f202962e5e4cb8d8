"""Numbers from the shape of a padded map that know what they are for each sample alone."""

import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any

PADDED_NUMBER = "a number is computed from the padded size"


class Number:
    """What :class:`Length` and :class:`Real` have in common."""

    plain: int | float
    of_samples: tuple[int | float, ...]
    error: Callable[[str, str], Exception] | None
    is_of_images = False  # a height or a width of the images themselves

    @property
    def varies(self) -> bool:
        return set(self.of_samples) != {self.plain}


class Length(Number, int):
    pass


class Real(Number, float):
    pass


def number(value: int | float, of_samples: Iterable[Any], error: Callable | None = None) -> Number:
    """The number that is ``value`` for the padded batch, as it is for every sample alone.

    What it must not decide or become raises ``error(operation, reason)``.
    """
    found = (Real if isinstance(value, float) else Length)(value)
    found.plain, found.of_samples, found.error = value, tuple(of_samples), error
    return found


def _for_all(own: Number, others: tuple, of_images: bool = False) -> list[tuple] | None:
    """Operands of an operation on ``own``, for each sample; None if not all are numbers."""

    def of_samples(other: int | float) -> Iterable[int | float]:
        if isinstance(other, Number):
            return other.of_samples
        # Of a tensor that is not followed, such as labels.
        if of_images and own.is_of_images and other == own.plain:
            return own.of_samples
        return [other] * len(own.of_samples)

    if not all(isinstance(other, (int, float)) for other in others):
        return None
    return list(zip(own.of_samples, *map(of_samples, others), strict=True))


def _followed(operator: Callable[[Any, Any], Any]) -> Callable[[Number, Any], Any]:
    def compute(own: Number, other: Any) -> Any:
        operands = _for_all(own, (other,))
        if operands is None:
            return NotImplemented
        value = operator(own.plain, for_sample(other, None))
        return number(value, (operator(*pair) for pair in operands), own.error)

    return compute


def _decided(name: str, operator: Callable[..., bool]) -> Callable[..., bool]:
    def decide(own: Number, *others: Any) -> bool:
        operands = _for_all(own, others, of_images=name in ("__eq__", "__ne__"))
        if operands is None:
            return NotImplemented
        answers = {operator(*operand) for operand in operands}
        if len(answers) > 1:
            raise own.error(name, "for some of the images alone it would be decided otherwise")
        return answers.pop()

    return decide


def _refused(name: str) -> Callable[..., Any]:
    def refuse(own: Number, *others: Any) -> Any:
        if own.varies:
            raise own.error(name, PADDED_NUMBER)
        return getattr(own.plain, name)(*for_sample(others, None))

    return refuse


for _name in ("add", "floordiv", "mod", "mul", "sub"):
    _operator = getattr(operator, _name)
    setattr(Number, f"__{_name}__", _followed(_operator))
    setattr(Number, f"__r{_name}__", _followed(lambda a, b, _operator=_operator: _operator(b, a)))
for _name in ("eq", "ge", "gt", "le", "lt", "ne"):
    setattr(Number, f"__{_name}__", _decided(f"__{_name}__", getattr(operator, _name)))
Number.__bool__ = _decided("__bool__", bool)
Number.__neg__ = lambda own: own * -1
# Not __int__: mmseg's resize compares sizes with it, and its Upsample computes sizes.
_UNFOLLOWED = """
    abs and ceil divmod float floor invert lshift or pos pow rand rdivmod rlshift ror round rpow
    rrshift rshift rtruediv rxor truediv trunc xor"""
for _name in _UNFOLLOWED.split():
    setattr(Number, f"__{_name}__", _refused(f"__{_name}__"))


def for_sample(value: Any, i: int | None) -> Any:
    """``value`` with the numbers in it as they are for sample ``i`` alone, or the padded batch."""
    if isinstance(value, Number):
        return value.plain if i is None else value.of_samples[i]
    if isinstance(value, slice):
        return slice(*for_sample((value.start, value.stop, value.step), i))
    if isinstance(value, (list, tuple)):
        return tuple(for_sample(item, i) for item in value)
    if isinstance(value, dict):
        return {key: for_sample(item, i) for key, item in value.items()}
    return value


def leaves(value: Any) -> Iterator[Any]:
    """What ``value`` holds, at any depth of lists, tuples, dicts and slices."""
    if isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from leaves(item)
    elif isinstance(value, slice):
        yield from (value.start, value.stop, value.step)
    else:
        yield value
