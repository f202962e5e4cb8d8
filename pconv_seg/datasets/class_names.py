"""Class names of data sets, which mmseg does not require."""

from collections.abc import Mapping

from mmengine.dataset import BaseDataset


def class_names(dataset: BaseDataset) -> tuple[str, ...]:
    """What a data set, or a wrapper of data sets, calls its classes.

    Raises:
        ValueError: If it has no names for them.
    """
    return classes_in(dataset.metainfo, type(dataset).__name__)


def classes_in(metainfo: Mapping | None, owner: str) -> tuple[str, ...]:
    """The class names in mmseg's ``metainfo``.

    Args:
        metainfo: Of a data set, or the ``dataset_meta`` of an object that works with one.
        owner: The data set's type, for the error message.

    Raises:
        ValueError: If there are none.
    """
    names = (metainfo or {}).get("classes")
    if not names:
        raise ValueError(f"{owner} has no class names: give it metainfo=dict(classes=...)")
    return tuple(names)
