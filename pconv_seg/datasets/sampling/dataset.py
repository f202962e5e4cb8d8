"""A data set whose samples are decided by draws."""

import logging

import numpy as np
import torch
from mmengine.logging import print_log
from mmengine.registry import DATASETS
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS as MMSEG_DATASETS
from torch.utils.data import Dataset

from pconv_seg.datasets.class_names import class_names

from .cache import DecodedCache
from .draw import Draw, seeded
from .reading import SampleError, SampleReader

# This many unreadable samples in a row are no accident.
_ATTEMPTS = 10


@DATASETS.register_module()
class DrawnDataset(Dataset):
    """Any mmseg data set, with samples that depend on the draw alone.

    All random numbers of a sample follow from the seed of the run and the number of the draw. So
    they depend neither on the number of workers and processes nor on what was loaded before, and
    a resumed run continues with the samples that an uninterrupted one would see. The draws come
    from :class:`ResumableSampler` or :class:`ClassUniformSampler`::

        train_dataloader = dict(
            sampler=dict(type="ResumableSampler"),
            dataset=dict(type="DrawnDataset", dataset=dict(type="CityscapesDataset", ...)))

    The loading steps of the pipeline (``LoadImageFromFile``, ``LoadAnnotations``) are checked: a
    file that cannot be read, and label values that are neither classes nor ``ignore_index``, are
    named. A truncated JPEG is noticed with ``imdecode_backend='pillow'`` only.

    Args:
        dataset: Config of the data set: a :class:`mmseg.datasets.BaseSegDataset`.
        coarse: Config of a second data set of the same classes, from which
            :class:`ClassUniformSampler` takes rare classes. Keys left out are as in ``dataset``.
        on_error: What to do about a sample that cannot be read: 'raise' ends the run, 'skip' logs
            and counts it and draws another image of ``dataset``, the same one in every run.
        decoded_cache: Arguments of :class:`DecodedCache`; None to decode files each time.

    Raises:
        ValueError: ``on_error`` is something else, a data set has no class names, or the coarse one
            has other classes.
        TypeError: A data set is not one of mmseg's.
    """

    def __init__(
        self,
        dataset: dict | BaseSegDataset,
        coarse: dict | BaseSegDataset | None = None,
        on_error: str = "raise",
        decoded_cache: dict | None = None,
    ) -> None:
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error is 'raise' or 'skip', not {on_error!r}")
        self.on_error = on_error
        parts = [dataset]
        if coarse is not None:
            inherit = isinstance(dataset, dict) and isinstance(coarse, dict)
            parts.append({**dataset, **coarse} if inherit else coarse)
        self.datasets = [
            MMSEG_DATASETS.build(part) if isinstance(part, dict) else part for part in parts
        ]
        for part in self.datasets:
            if not isinstance(part, BaseSegDataset):
                raise TypeError(
                    f"DrawnDataset wraps data sets of mmseg, not {type(part).__name__}; leave "
                    "other wrappers out"
                )
            classes = class_names(part)
            if classes != tuple(self.metainfo["classes"]):
                raise ValueError(
                    f"the coarse data set has the classes {classes}, but the fine one "
                    f"{self.metainfo['classes']}"
                )
        cache = DecodedCache(**decoded_cache) if decoded_cache else None
        self.readers = [SampleReader(part, cache) for part in self.datasets]
        # Shared with the workers of a loader.
        self._replaced = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def metainfo(self) -> dict:
        """Classes, palette and more, as the wrapped data set has them."""
        return self.datasets[0].metainfo

    @property
    def replaced(self) -> int:
        """How many draws have been replaced so far because a sample could not be read."""
        return int(self._replaced)

    def __len__(self) -> int:
        """Number of images; the coarse ones come after the others."""
        return sum(map(len, self.datasets))

    def get_data_info(self, index: int) -> dict:
        """Paths and label map of an image."""
        part, index = self._locate(index)
        return self.datasets[part].get_data_info(index)

    def __getitem__(self, draw: Draw) -> dict:
        """The sample of a draw, as the wrapped data set's pipeline gives it.

        Raises:
            TypeError: ``draw`` is a plain index.
            SampleError: A file cannot be read, or holds values that stand for no class.
        """
        if not isinstance(draw, Draw):
            raise TypeError(
                f"DrawnDataset takes draws, not {draw!r}: its sampler is ResumableSampler or "
                "ClassUniformSampler; dataset.datasets[0] is the wrapped data set"
            )
        for attempt in range(_ATTEMPTS):
            try:
                return self._sample(draw)
            except SampleError as error:
                if self.on_error == "raise":
                    raise
                failure = error
                self._report(error)
            rng = np.random.default_rng([draw.seed, draw.number, attempt])
            draw = draw._replace(index=int(rng.integers(len(self.datasets[0]))), center=None)
        raise SampleError(f"{_ATTEMPTS} samples in a row cannot be read, last {failure}")

    def _locate(self, index: int) -> tuple[int, int]:
        fine = len(self.datasets[0])
        return (0, index) if index < fine else (1, index - fine)

    def _sample(self, draw: Draw) -> dict:
        part, _ = self._locate(draw.index)
        reader = self.readers[part]
        info = self.get_data_info(draw.index)
        if draw.center is not None:
            info["crop_center"] = draw.center
        with seeded(draw.seed, draw.number):
            results = reader(info)
            for transform in reader.rest:
                results = transform(results)
                if results is None:
                    raise SampleError(f"{info['img_path']}: dropped by {transform}")
        return results

    def _report(self, error: SampleError) -> None:
        self._replaced += 1
        print_log(
            f"{error}; another image takes its place ({self.replaced} so far)",
            logger="current",
            level=logging.WARNING,
        )
