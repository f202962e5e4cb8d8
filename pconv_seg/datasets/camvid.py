"""CamVid in the 11-class form that was published with SegNet."""

from collections.abc import Sequence
from typing import Any

import mmcv
import numpy as np
from mmengine import fileio
from mmengine.registry import DATASETS
from mmseg.datasets import BaseSegDataset

# The label files' own "unlabelled", and the value that losses and metrics of mmseg leave out.
_UNLABELLED = 11
_IGNORED = 255


@DATASETS.register_module()
class CamVidDataset(BaseSegDataset):
    """CamVid, 11 classes, 360×480 (Brostow, Fauqueur, Cipolla, 2009; split of SegNet, 2015).

    ``data_root`` holds the folders ``train``, ``trainannot``, ``val``, ``valannot`` (and ``test``,
    ``testannot``) with PNG files of equal names; choose one pair with ``data_prefix=dict(
    img_path='train', seg_map_path='trainannot')``. Label files hold 0-10 for the classes and 11
    for unlabelled pixels.

    The label 11 becomes 255 through ``label_map``, which mmseg's own ``LoadAnnotations`` applies.
    So it counts neither in training nor in evaluation, with any mmseg pipeline, as long as loss and
    metric keep their default ``ignore_index=255``.

    Args:
        img_suffix: Ending of the image files.
        seg_map_suffix: Ending of the label files.
        **kwargs: Those of :class:`mmseg.datasets.BaseSegDataset`.

    Raises:
        FileNotFoundError: An image has no label file.
        ValueError: A label file cannot be read, or is not a single-channel image of values 0-11.
            All label files are read when the annotations are loaded (about a second), because mmseg
            would pass other values on to the loss, where they end in a device-side assertion.
    """

    METAINFO = {
        "classes": (
            "Sky",
            "Building",
            "Pole",
            "Road",
            "Pavement",
            "Tree",
            "SignSymbol",
            "Fence",
            "Car",
            "Pedestrian",
            "Bicyclist",
        ),
        "palette": [
            [128, 128, 128],
            [128, 0, 0],
            [192, 192, 128],
            [128, 64, 128],
            [0, 0, 192],
            [128, 128, 0],
            [192, 128, 128],
            [64, 64, 128],
            [64, 0, 128],
            [64, 64, 0],
            [0, 128, 192],
        ],
    }

    def __init__(
        self, img_suffix: str = ".png", seg_map_suffix: str = ".png", **kwargs: Any
    ) -> None:
        super().__init__(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, **kwargs)

    @classmethod
    def get_label_map(cls, new_classes: Sequence[str] | None = None) -> dict[int, int]:
        """mmseg's map for a choice of classes, with unlabelled pixels ignored in any case."""
        return {**(super().get_label_map(new_classes) or {}), _UNLABELLED: _IGNORED}

    def load_data_list(self) -> list[dict]:
        """List image and label files, and check the values of the latter."""
        data_list = super().load_data_list()
        for info in data_list:
            if "seg_map_path" in info:
                self._check_labels(info["seg_map_path"])
        return data_list

    def _check_labels(self, path: str) -> None:
        content = fileio.get(path, backend_args=self.backend_args)
        try:
            labels = mmcv.imfrombytes(content, flag="unchanged", backend="pillow")
        except OSError as error:
            raise ValueError(f"{path} is no image that can be read: {error}") from error
        if labels.ndim != 2:
            raise ValueError(
                f"{path} has {labels.shape[2]} channels; a CamVid label file has one that holds "
                "the values 0-10 and 11 (unlabelled), not colours"
            )
        if labels.max() > _UNLABELLED:
            bad = np.unique(labels[labels > _UNLABELLED])
            raise ValueError(
                f"{path} holds the label value(s) {', '.join(map(str, bad))}; a CamVid label file "
                "holds 0-10 for the classes and 11 for unlabelled pixels"
            )
