"""The entries of nested configs."""

from collections.abc import Iterator, Mapping
from typing import Any


def entries(node: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """All entries of a config or a part of one, each before those that it holds.

    Args:
        node: Dicts, lists and tuples are looked into.
        key: Of this part in the whole config.

    Yields:
        The dotted key, the last key or index in it, and the value.
    """
    items: Any = ()
    if isinstance(node, Mapping):
        items = node.items()
    elif isinstance(node, (list, tuple)):
        items = enumerate(node)
    for name, value in items:
        path = f"{key}.{name}" if key else f"{name}"
        yield path, name, value
        yield from entries(value, path)
