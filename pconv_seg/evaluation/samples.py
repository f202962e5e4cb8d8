"""Reading and counting mmseg's data samples."""

import traceback
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmseg.structures import SegDataSample
from torch.utils.data import DataLoader, Dataset

from pconv_seg.engine.config_parts import iou_metrics
from pconv_seg.files import naming_files
from pconv_seg.geometry import BorderRegions, ShiftRegions
from pconv_seg.inference import read_pixels

from .confusion import confusion_matrices


def read_batches(dataloader: DataLoader) -> Iterator[Any]:
    """The batches of a data loader.

    Raises:
        ValueError: Naming the file that cannot be read, as :func:`read_sample`.
    """
    try:
        yield from dataloader
    except Exception as error:
        # Torch's frames would keep the workers until garbage collection, which would then wait
        # seconds for each of them.
        traceback.clear_frames(error.__traceback__)
        # The error names no file, and comes from a worker as a mere traceback: read once more.
        for index in range(len(dataloader.dataset)):
            read_sample(dataloader.dataset, index)
        raise


def read_sample(dataset: Dataset, index: int) -> Any:
    """What an mmseg data set holds at this place.

    Raises:
        ValueError: Naming the image, or else its label, if it cannot be read.
    """
    try:
        return dataset[index]
    except Exception as error:  # decoders raise whatever they like
        about = dataset.get_data_info(index)
        read_pixels(about["img_path"])
        file = about.get("seg_map_path") or about["img_path"]
        raise ValueError(f"{file}: {type(error).__name__}: {error}") from error


def ignored_label(dataset: Dataset) -> int:
    """``ignore_index`` of an mmseg data set, also of those inside wrappers like ConcatDataset.

    Raises:
        ValueError: If those inside differ.
    """
    if hasattr(dataset, "ignore_index"):
        return dataset.ignore_index
    parts = getattr(dataset, "datasets", None) or [getattr(dataset, "dataset", None)]
    labels = {ignored_label(part) for part in parts if part is not None} or {255}
    if len(labels) > 1:
        raise ValueError(f"parts of a data set must have one ignore_index, got {sorted(labels)}")
    return labels.pop()


def counted_ignore_index(config: Config, dataset: Dataset, split: str) -> int:
    """The label that is left out: the one that the config's metric names, by which mmseg counts.

    If it names none, that of the data set, where mmseg's metric would take 255.

    Args:
        config: Its evaluator has the metric.
        dataset: What is counted.
        split: Of the evaluator, ``"val"`` or ``"test"``.

    Raises:
        ValueError: If metrics, or parts of the data set, leave out different labels.
    """
    evaluator = f"{split}_evaluator"
    labels = {m["ignore_index"] for m in iou_metrics(config, evaluator) if "ignore_index" in m}
    if len(labels) > 1:
        raise ValueError(f"metrics of {evaluator} must have one ignore_index, got {sorted(labels)}")
    return labels.pop() if labels else ignored_label(dataset)


def ground_truth(sample: SegDataSample) -> torch.Tensor:
    """The label of a sample, ``Tensor[1, H, W]``.

    Raises:
        ValueError: Naming the image, if no label was loaded with it.
    """
    if "gt_sem_seg" not in sample:
        raise ValueError(f"{sample.img_path} has no ground truth: no label was loaded with it")
    return sample.gt_sem_seg.data


def refuse_resizing(
    file: str,
    ori_shape: tuple[int, ...],
    img_shape: tuple[int, ...],
    what: str = "regions that follow tiles need",
) -> None:
    """Refuse an image that is tested at another size than its label's.

    Tiles are cut from the network's input, labels are counted at their own size.

    Args:
        file: The image's file, for the error message.
        ori_shape: (height, width, ...) of the file.
        img_shape: The same of the network's input.
        what: What needs its own size, for the error message.

    Raises:
        ValueError: Naming the file.
    """
    if img_shape[:2] != ori_shape[:2]:
        raise ValueError(
            f"{file}: {what} images that are tested at their own size, but the pipeline makes "
            f"{img_shape} of {ori_shape}; take Resize or Pad out of it, or, to evaluate at another "
            "size, use ResizeOriginal after LoadAnnotations"
        )


def count_sample(
    label: torch.Tensor,
    prediction: torch.Tensor,
    num_classes: int,
    regions: BorderRegions | ShiftRegions,
    ignore_index: int,
    file: str,
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
        ValueError: Naming the file, if its size or a value in it does not fit, or it has several
            values per pixel.
    """
    if label.shape.numel() != label.shape[-2:].numel():
        raise ValueError(
            f"{file}: a label is one class per pixel, but this one has the shape "
            f"{' x '.join(map(str, label.shape))}: perhaps it holds colours"
        )
    label, prediction = (
        values.reshape(values.shape[-2:]).cpu().numpy() for values in (label, prediction.long())
    )
    with naming_files(file):
        return confusion_matrices(label, prediction, num_classes, regions, ignore_index)
