"""Counting one mmseg data sample."""

import numpy as np
import torch

from pconv_seg.geometry import BorderRegions, ShiftRegions

from .confusion import confusion_matrices


def count_sample(
    label: torch.Tensor,
    prediction: torch.Tensor,
    num_classes: int,
    regions: BorderRegions | ShiftRegions,
    ignore_index: int,
    file: str | None,
) -> np.ndarray:
    """Confusion matrices of one image in every region, ``int64[regions, C, C]``.

    Args:
        label: ``Tensor[1, H, W]`` or ``Tensor[H, W]``, as in ``gt_sem_seg.data``.
        prediction: The same, as in ``pred_sem_seg.data``.
        num_classes: C.
        regions: What to count.
        ignore_index: Label of the pixels that are not counted.
        file: The label's file, for the error message.

    Raises:
        ValueError: Naming the file, if its size or a value in it does not fit.
    """
    label, prediction = (
        values.reshape(values.shape[-2:]).cpu().numpy() for values in (label, prediction.long())
    )
    if label.shape != prediction.shape:
        height, width = label.shape
        raise ValueError(
            f"{file}: the label has {height} x {width} pixels, but its image "
            f"{' x '.join(map(str, prediction.shape))}"
        )
    try:
        return confusion_matrices(
            label, prediction, num_classes, regions.map(label.shape), ignore_index
        )
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
