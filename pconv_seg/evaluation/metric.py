"""mIoU of the image border as an mmseg metric."""

from collections.abc import Sequence
from fractions import Fraction
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from mmengine.registry import METRICS
from mmseg.evaluation import IoUMetric
from PIL import Image

from pconv_seg.datasets.cityscapes.labels import CITYSCAPES_LABEL_IDS
from pconv_seg.datasets.class_names import classes_in
from pconv_seg.files import atomic_path
from pconv_seg.geometry import BorderRegions, Overlap

from .confusion import class_areas
from .samples import count_sample, refuse_resizing


def refuse_one_name(leave_outs: Sequence[Fraction]) -> None:
    """Refuse leave-outs whose scores would have one name, so that all but one would be lost.

    Raises:
        ValueError: If there are any.
    """
    named = {}
    for leave_out in leave_outs:
        key = border_key("mIoU", leave_out)
        if key in named:
            raise ValueError(
                f"leave-outs {named[key]} and {leave_out} would both be called {key}: give one"
            )
        named[key] = leave_out


def border_key(score: str, leave_out: Fraction) -> str:
    """Name of a scalar: ``mIoU`` with nothing left out, else such as ``border_mIoU_0.5``."""
    return f"border_{score}_{float(leave_out):.4g}" if leave_out else score


@METRICS.register_module()
class BorderIoUMetric(IoUMetric):
    """IoU of the whole image and of its border, for several leave-out proportions in one pass.

    The centre of the image is ignored, as in `Partial Convolution based Padding
    <https://arxiv.org/abs/1811.11718>`_, Table 7. Scores of the whole image are mmseg's (``mIoU``,
    ``mAcc``, ``aAcc``, ...); those of a leave-out of 1/2 are ``border_mIoU_0.5`` and so on. Counts
    are 64-bit integers. Under distributed evaluation there is one result per image, so that the
    images a sampler repeats to fill up the last batch are dropped and not counted.

    With ``output_dir``, label maps are written as ``<image name>.png``. Where the classes are
    those of Cityscapes they are submission files (labelIds), else class indices, from 1 on under
    ``reduce_zero_label`` (uint8; uint16 for more than 255 classes).

    Args:
        leave_outs: Proportions in [0, 1); 0 is always included.
        proportion: See :class:`pconv_seg.geometry.BorderRegions`, also for the next three.
        region: What has a centre.
        tile: Size of the tiles that ``region='tile'`` is about.
        overlap: Of these tiles.
        **kwargs: Options of mmseg's ``IoUMetric``: ``ignore_index``, ``iou_metrics``,
            ``nan_to_num``, ``beta``, ``collect_device``, ``output_dir``, ``format_only``,
            ``prefix``.

    Raises:
        ValueError: If an option is unknown or out of range, ``output_dir`` is missing with
            ``format_only``, or two leave-outs would have scores of one name; or (naming the file)
            if a label is neither a class nor ``ignore_index`` or has another size than its image,
            ``region='tile'`` and the image is resized, or two label maps would be written to one
            file.
    """

    def __init__(
        self,
        leave_outs: Sequence[str | float] = (0.5,),
        proportion: str = "side",
        region: str = "image",
        tile: int | tuple[int, int] | None = None,
        overlap: Overlap | tuple[Overlap, Overlap] = 0,
        **kwargs: Any,
    ):
        # mmseg's class would take any option silently.
        unknown = kwargs.keys() - signature(IoUMetric).parameters.keys()
        if unknown:
            raise ValueError(f"BorderIoUMetric has no option {', '.join(sorted(unknown))}")
        super().__init__(**kwargs)
        self.regions = BorderRegions(
            (0, *leave_outs), proportion=proportion, region=region, tile=tile, overlap=overlap
        )
        refuse_one_name(self.regions.leave_outs)
        if self.format_only and not self.output_dir:
            raise ValueError("format_only=True writes files and needs output_dir")
        self._written: dict[Path, str] = {}

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Count each sample and write its label map if asked to.

        Args:
            data_batch: Not used.
            data_samples: Outputs of the model as dictionaries, with ``pred_sem_seg`` and, unless
                ``format_only``, ``gt_sem_seg``.
        """
        for sample in data_samples:
            prediction = sample["pred_sem_seg"]["data"]
            if self.format_only:
                self.results.append(None)  # mmengine warns where nothing was processed
            else:
                image = sample.get("img_path", "a sample without img_path")
                if self.regions.region == "tile":
                    ori_shape = sample.get("ori_shape", prediction.shape[-2:])
                    refuse_resizing(image, ori_shape, sample.get("img_shape", ori_shape))
                counts = count_sample(
                    sample["gt_sem_seg"]["data"],
                    prediction,
                    len(classes_in(self.dataset_meta, "the data set")),
                    self.regions,
                    self.ignore_index,
                    sample.get("seg_map_path") or image,
                )
                self.results.append(class_areas(counts))
            if self.output_dir:
                self._write(prediction, sample)

    def _write(self, prediction: torch.Tensor, sample: dict) -> None:
        values = prediction.reshape(prediction.shape[-2:]).cpu().numpy()
        classes = self.dataset_meta["classes"]
        if tuple(classes) == tuple(CITYSCAPES_LABEL_IDS):
            values = np.array(list(CITYSCAPES_LABEL_IDS.values()))[values]
        elif sample.get("reduce_zero_label"):
            values = values + 1
        image = sample["img_path"]
        target = Path(self.output_dir) / Path(image).with_suffix(".png").name
        first = self._written.setdefault(target, image)
        if first != image:
            raise ValueError(
                f"{first} and {image} would both be written to {target}: give them other names, or "
                "test their folders one by one"
            )
        with atomic_path(target) as path:
            dtype = np.uint8 if len(classes) <= 255 else np.uint16
            Image.fromarray(values.astype(dtype)).save(path)

    def compute_metrics(self, results: list[np.ndarray]) -> dict[str, float]:
        """Scores in percent from the areas ``int64[regions, 3, C]`` of all images."""
        if self.format_only:
            print_log(f"Label maps are in {self.output_dir}", logger="current")
            return {}
        metrics = {}
        for region, areas in zip(self.regions.regions, sum(results), strict=True):
            print_log(f"Leave-out {region}:", logger="current")
            # Doubles hold all counts exactly, and avoid mmseg's float32 division.
            intersection, label, prediction = torch.from_numpy(areas).double()
            union = label + prediction - intersection
            scores = super().compute_metrics([(intersection, union, prediction, label)])
            metrics |= {border_key(k, region.start): float(v) for k, v in scores.items()}
        return metrics
