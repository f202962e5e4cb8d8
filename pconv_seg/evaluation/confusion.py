"""Counts first: integer confusion matrices per region, and pure scores on them."""

import numpy as np

from pconv_seg.geometry import BorderRegions, ShiftRegions


def confusion_matrices(
    label: np.ndarray,
    prediction: np.ndarray,
    num_classes: int,
    regions: BorderRegions | ShiftRegions,
    ignore_index: int = 255,
) -> np.ndarray:
    """Confusion matrices of one image in every region, from one joint histogram.

    Args:
        label: ``int[H, W]`` of any integer type, classes ``0 .. num_classes - 1`` or
            ``ignore_index``.
        prediction: ``int[H, W]`` of any integer type, classes.
        num_classes: C.
        regions: What to count.
        ignore_index: Label of the pixels that are not counted.

    Returns:
        ``int64[regions, C, C]``; rows are labels, columns predictions.

    Raises:
        ValueError: If sizes differ or a value is neither a class nor ``ignore_index``.
    """
    if label.shape != prediction.shape:
        sizes = (" x ".join(map(str, values.shape)) for values in (label, prediction))
        raise ValueError("the label has {} pixels, but its image {}".format(*sizes))
    if not 0 <= prediction.min() <= prediction.max() < num_classes:
        bad = _outside(prediction, num_classes)
        raise ValueError(f"predicted classes {bad} lie outside 0 .. {num_classes - 1}")
    # Seen as unsigned, a negative label is a large one: whatever is no class goes to row C.
    rows = np.minimum(label.view(f"u{label.itemsize}"), np.uint16(num_classes)).astype(np.uint16)
    is_class = 0 <= ignore_index < num_classes
    ignored = 0 if is_class else np.count_nonzero(label == ignore_index)

    cells, members = regions.map(label.shape)
    index = np.multiply(cells, num_classes + 1, dtype=np.int64)
    index += rows
    index *= num_classes
    np.add(index, prediction, out=index, dtype=np.int64)  # uint64 and int64 would give floats
    shape = (members.shape[1], num_classes + 1, num_classes)
    joint = np.bincount(index.ravel(), minlength=np.prod(shape)).reshape(shape)

    if joint[:, num_classes].sum() != ignored:
        bad = _outside(label[label != ignore_index], num_classes)
        raise ValueError(
            f"label values {bad} are neither classes (0 .. {num_classes - 1}) nor "
            f"ignore_index ({ignore_index})"
        )
    joint = joint[:, :num_classes]
    if is_class:
        joint[:, ignore_index] = 0
    return np.tensordot(members, joint, axes=1)


def class_areas(confusion: np.ndarray) -> np.ndarray:
    """Pixels per class in the intersection, the label and the prediction.

    Args:
        confusion: ``int[..., C, C]``.

    Returns:
        ``int64[..., 3, C]``, all that the scores below need.
    """
    diagonal = np.diagonal(confusion, axis1=-2, axis2=-1)
    return np.stack([diagonal, confusion.sum(-1), confusion.sum(-2)], axis=-2, dtype=np.int64)


def class_iou(areas: np.ndarray) -> np.ndarray:
    """Intersection over union, ``int[..., 3, C] -> float64[..., C]``; NaN for absent classes.

    A class is absent where neither a label nor a prediction has it.
    """
    intersection, label, prediction = np.moveaxis(areas, -2, 0)
    return divided(intersection, label + prediction - intersection)


def class_accuracy(areas: np.ndarray) -> np.ndarray:
    """Share of the labelled pixels that is found, ``int[..., 3, C] -> float64[..., C]``."""
    intersection, label, _ = np.moveaxis(areas, -2, 0)
    return divided(intersection, label)


def pixel_accuracy(areas: np.ndarray) -> np.ndarray:
    """Share of all pixels that is right (aAcc), ``int[..., 3, C] -> float64[...]``."""
    intersection, label, _ = np.moveaxis(areas.sum(-1), -1, 0)
    return divided(intersection, label)


def mean_present(scores: np.ndarray) -> np.ndarray:
    """Mean over the last axis, skipping NaN (mIoU, mAcc); NaN where all are NaN."""
    present = ~np.isnan(scores)
    return divided(np.where(present, scores, 0).sum(-1), present.sum(-1))


def mean_iou(areas: np.ndarray) -> np.ndarray:
    """mIoU over the classes that are present, ``int[..., 3, C] -> float64[...]``."""
    return mean_present(class_iou(areas))


def divided(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """The quotients as ``float64``; NaN where the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    missing = np.full(numerator.shape, np.nan)
    return np.divide(numerator, denominator, out=missing, where=denominator != 0)


def _outside(values: np.ndarray, num_classes: int) -> list[int]:
    return np.unique(values[(values < 0) | (values >= num_classes)])[:5].tolist()
