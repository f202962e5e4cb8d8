"""Reading one image and its labels, with errors that name the file."""

from collections.abc import Callable
from io import BytesIO

import numpy as np
from mmcv.transforms import LoadAnnotations, LoadImageFromFile
from mmengine import fileio
from mmseg.datasets import BaseSegDataset
from PIL import Image, UnidentifiedImageError

from .cache import DecodedCache


class SampleError(RuntimeError):
    """An image or a label file is missing or corrupt, or holds values that stand for no class."""

    def __init__(self, message: str) -> None:
        # In place of the message a loader hands on its worker's traceback, which ends in it.
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].rstrip())


class SampleReader:
    """The loading steps at the head of a data set's pipeline.

    Args:
        dataset: The data set.
        cache: Where decoded files are kept; None to decode each time.

    Attributes:
        rest: The transforms of the pipeline after its last loading step.
    """

    def __init__(self, dataset: BaseSegDataset, cache: DecodedCache | None = None) -> None:
        transforms = dataset.pipeline.transforms
        loading = [isinstance(t, (LoadImageFromFile, LoadAnnotations)) for t in transforms]
        count = len(loading) - loading[::-1].index(True) if any(loading) else 0
        self._steps = transforms[:count]
        self.rest = transforms[count:]
        self._cache = cache
        self._classes = len(dataset.metainfo["classes"])
        self._ignore_index = dataset.ignore_index

    def __call__(self, info: dict) -> dict:
        """Run the loading steps.

        Args:
            info: What ``dataset.get_data_info`` gives.

        Returns:
            The results, with ``img`` and ``gt_seg_map`` as the pipeline loads them.

        Raises:
            SampleError: A file cannot be read, label values are neither classes nor
                ``ignore_index``, or image and labels differ in size.
        """
        results = info
        for step in self._steps:
            results = self._read(step, results)
        image, label = results.get("img"), results.get("gt_seg_map")
        if image is not None and label is not None and image.shape[:2] != label.shape[:2]:
            raise SampleError(
                f"{info['img_path']} has {image.shape[0]}x{image.shape[1]} pixels, but "
                f"{info['seg_map_path']} has {label.shape[0]}x{label.shape[1]}"
            )
        return results

    def label(self, info: dict) -> np.ndarray:
        """The labels alone, as the pipeline loads them.

        Returns:
            np.ndarray: uint8 ``[H, W]``.

        Raises:
            SampleError: As for a call.
            ValueError: The pipeline does not load labels.
        """
        for step in self._steps:
            if isinstance(step, LoadAnnotations):
                return self._read(step, info)["gt_seg_map"]
        raise ValueError("the pipeline of the training data has no LoadAnnotations")

    def describe(self, info: dict) -> str:
        """Everything besides the file that decides the labels."""
        steps = [
            # mmseg's step sets this one to the value in `info` when it first reads.
            {name: value for name, value in vars(step).items() if name != "reduce_zero_label"}
            for step in self._steps
            if isinstance(step, LoadAnnotations)
        ]
        mapping = info.get("label_map"), info.get("reduce_zero_label")
        return repr((steps, mapping, self._classes, self._ignore_index))

    def _read(self, step: Callable[[dict], dict], results: dict) -> dict:
        if not isinstance(step, (LoadImageFromFile, LoadAnnotations)):
            return step(results)
        labels = isinstance(step, LoadAnnotations)
        path = results["seg_map_path" if labels else "img_path"]
        key = "gt_seg_map" if labels else "img"

        def decode() -> dict:
            read = step({**results, "seg_fields": [*results.get("seg_fields", [])]})
            if read is None:
                raise ValueError("nothing was read")
            if labels:
                self._check_depth(step, path)
                self._check(read[key])
            return read

        # Decoders raise whatever they like, SyntaxError and AssertionError among them.
        try:
            if self._cache is None:
                return decode()
            reader = self.describe(results) if labels else repr(step)
            array = self._cache.load(path, reader, lambda: decode()[key])
        except Exception as error:
            raise SampleError(f"{path}: {error or type(error).__name__}") from error
        results = {**results, key: array}
        if labels:
            results["seg_fields"] = [*results.get("seg_fields", []), key]
        else:
            results["img_shape"] = results["ori_shape"] = array.shape[:2]
        return results

    def _check(self, label: np.ndarray) -> None:
        if label.ndim != 2:
            raise ValueError(f"{label.shape[2]} channels; a label file has one")
        self._refuse(label[(label >= self._classes) & (label != self._ignore_index)])

    def _check_depth(self, step: LoadAnnotations, path: str) -> None:
        """Look at what the step cuts off: of each value it keeps the lowest 8 bits."""
        content = fileio.get(path, backend_args=step.backend_args)
        try:
            file = Image.open(BytesIO(content))
        except UnidentifiedImageError:  # only a LoadAnnotations of the user's own reads it
            return
        if file.mode[0] in "IF":  # all modes of more than 8 bits
            values = np.asarray(file)
            self._refuse(values[values != values.astype(np.uint8)])

    def _refuse(self, values: np.ndarray) -> None:
        if values.size:
            raise ValueError(
                f"label value(s) {', '.join(map(str, np.unique(values)))}; there are classes "
                f"0-{self._classes - 1}, and {self._ignore_index} is ignored"
            )
