"""Counting every leave-out of an image beside mmseg's and MONAI's IoU of the whole image.

All get the same label map and prediction, with 19 classes and a tenth of the pixels unlabelled.
pconv_seg counts all leave-outs in one pass, the others one whole image. The map of the regions of a
size is made once, outside of time and memory. MONAI's IoU takes one-hot maps; making them is part
of its time. Ratios are to pconv_seg. An empty cell is a call that would take longer than five
minutes or more memory than there is, judged by the size before.
"""

import argparse
from collections.abc import Iterator

import numpy as np
from growth import grow, plot  # noqa: F401  (the runner calls it)

TITLE = "Border metric"
OURS = "pconv_seg, all leave-outs"
CLASSES = 19


def maps(size: int) -> tuple[np.ndarray, np.ndarray]:
    """A label map of coarse blocks and a prediction that is right on most of it, ``int64``."""
    rng = np.random.default_rng(0)
    label = rng.integers(CLASSES, size=(size // 32,) * 2).repeat(32, axis=0).repeat(32, axis=1)
    wrong = rng.integers(CLASSES, size=label.shape)
    prediction = np.where(rng.random(label.shape) < 0.8, label, wrong)
    label[rng.random(label.shape) < 0.1] = 255
    return label, prediction


def ours(size):
    from pconv_seg.evaluation.confusion import class_areas, class_iou, confusion_matrices
    from pconv_seg.evaluation.evaluator import LEAVE_OUTS
    from pconv_seg.geometry import BorderRegions

    label, prediction = maps(size)
    regions = BorderRegions(LEAVE_OUTS)
    regions.map((size, size))  # cached, so not part of the measurement
    return (
        lambda: confusion_matrices(label, prediction, CLASSES, regions),
        lambda result: class_iou(class_areas(result[0])),
    )


def mmseg(size):
    import torch
    from mmseg.evaluation import IoUMetric

    label, prediction = map(torch.from_numpy, maps(size))
    return (
        lambda: IoUMetric.intersect_and_union(prediction, label, CLASSES, 255),
        lambda result: (result[0] / result[1]).numpy(),
    )


def monai(size):
    import torch
    from monai.metrics import compute_iou
    from monai.networks.utils import one_hot

    label, prediction = (torch.from_numpy(array)[None, None] for array in maps(size))

    def run():
        valid = label != 255
        hot = [one_hot(array * valid, CLASSES) * valid for array in (prediction, label)]
        return compute_iou(*hot)

    return run, lambda result: result[0].numpy()


CONTENDERS = {OURS: ours, "mmseg, intersect_and_union": mmseg, "MONAI, compute_iou": monai}


def check(name: str, sample: np.ndarray, reference: np.ndarray) -> None:
    # MONAI counts in float32.
    if not np.allclose(sample, reference, rtol=1e-4):
        raise SystemExit(f"{name}: {sample} differs from {reference} of {OURS}")


def run(options: argparse.Namespace) -> Iterator[dict]:
    return grow("border_counts", OURS, check, options)
