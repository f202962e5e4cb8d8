"""The class names of data sets, which mmseg lets them lack."""

from collections.abc import Mapping


def class_names(metainfo: Mapping | None, owner: str) -> tuple[str, ...]:
    """What mmseg's ``metainfo`` has for classes.

    Args:
        metainfo: That of a data set, or ``dataset_meta`` of what works with it.
        owner: The data set's type, for the error message.

    Raises:
        ValueError: If there are none.
    """
    names = (metainfo or {}).get("classes")
    if not names:
        raise ValueError(f"{owner} has no class names: give it metainfo=dict(classes=...)")
    return tuple(names)
