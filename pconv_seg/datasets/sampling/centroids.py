"""Where in a data set the classes are: one centroid per tile and class."""

import hashlib
import json
import logging
import os
import time
from argparse import ArgumentTypeError
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mmengine.dist import barrier, is_main_process
from mmengine.logging import print_log
from mmseg.datasets import BaseSegDataset
from scipy import ndimage

from pconv_seg.files import atomic_path
from pconv_seg.geometry import tile_stride
from pconv_seg.outputs import output_folder
from pconv_seg.parallel import map_in_processes

from .reading import SampleError, SampleReader

# A part of every fingerprint: raise it when a change of the code changes the centroids.
_VERSION = 1


class CentroidIndex(NamedTuple):
    """Centroids of a data set, in the order of images, tiles (row by row) and classes.

    Attributes:
        image: int32 ``[N]``, index of the image.
        category: int32 ``[N]``, class.
        center: int32 ``[N, 2]``, row and column in the whole image.
    """

    image: np.ndarray
    category: np.ndarray
    center: np.ndarray


def tile_centroids(label: np.ndarray, classes: int, tile: int) -> np.ndarray:
    """One centroid per tile and class present in it.

    It is the mean position of the class's pixels in the tile, rounded to the nearest pixel (halves
    to the even one). If the class lies around it, the pixel there may belong to another class.

    Args:
        label: Integers ``[H, W]``; values from ``classes`` on are left out.
        classes: Number of classes.
        tile: Side length; the last row and column of tiles may be smaller.

    Returns:
        np.ndarray: int32 ``[N, 3]``: class, row, column.
    """
    found = [np.empty((0, 3))]
    for top in range(0, label.shape[0], tile):
        for left in range(0, label.shape[1], tile):
            part = label[top : top + tile, left : left + tile]
            present = np.flatnonzero(np.bincount(part.ravel(), minlength=classes)[:classes])
            if len(present):
                centers = ndimage.center_of_mass(np.ones_like(part), part, present)
                found.append(np.column_stack([present, np.add(centers, (top, left))]))
    return np.rint(np.concatenate(found)).astype(np.int32)


def centroid_index(
    dataset: BaseSegDataset,
    tile: int = 1024,
    cache: str | Path | None = None,
    on_error: str = "raise",
) -> CentroidIndex:
    """The centroids of a data set, read from a file if that is up to date, else computed.

    All processors share the work. The file is kept beside the data and holds a fingerprint of the
    label files (names, sizes, times of change), of how they are read and of this code. If the
    fingerprint does not fit or the file is damaged, the index is computed again. In distributed
    training the first process does so while the others wait.

    Args:
        dataset: An mmseg data set of local files whose pipeline loads labels.
        tile: Side length of the tiles in pixels.
        cache: Folder of the file; None for ``data_root`` (or the folder of the labels).
        on_error: What to do about an unreadable label file: 'raise', or 'skip' to log it and go on
            without its centroids.

    Raises:
        SampleError: Labels cannot be read.
        PermissionError: The folder cannot be written, and holds no up-to-date file.
        ValueError: The data set has no labels, or ``tile`` is not a number of pixels above 0.
    """
    tile_stride(tile, 0)  # refuses a bad tile: a negative one would find nothing
    main = is_main_process()
    if main:
        index = _read_or_compute(dataset, tile, cache, on_error)
    barrier()
    # It may still be missing on another machine's disk.
    return index if main else _read_or_compute(dataset, tile, cache, on_error)


def _read_or_compute(
    dataset: BaseSegDataset, tile: int, cache: str | Path | None, on_error: str
) -> CentroidIndex:
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    without = next((info["img_path"] for info in infos if "seg_map_path" not in info), None)
    if without:
        raise ValueError(
            f"centroids need labels, but {without} has none (data_prefix.seg_map_path)"
        )
    reader = SampleReader(dataset)
    paths = [info["seg_map_path"] for info in infos]
    folder = Path(cache or dataset.data_root or os.path.dirname(paths[0]))
    # Another choice of images, such as another split, has a file of its own.
    name = hashlib.sha256(json.dumps([paths, tile]).encode()).hexdigest()[:12]
    file = folder / f"centroids_{name}.npz"
    fingerprint = hashlib.sha256(
        json.dumps([_VERSION, tile, reader.describe(infos[0]), [*map(_state, paths)]]).encode()
    ).hexdigest()
    index = _read(file, fingerprint)
    if index is None:
        _check_writable(folder)
        index = _compute(reader, infos, len(dataset.metainfo["classes"]), tile, on_error)
        with atomic_path(file) as path:
            np.savez_compressed(path, fingerprint=fingerprint, **index._asdict())
    return index


def _state(path: str) -> tuple[str, int, int]:
    try:
        stat = os.stat(path)
    except FileNotFoundError:
        return path, -1, -1
    return path, stat.st_size, stat.st_mtime_ns


def _read(file: Path, fingerprint: str) -> CentroidIndex | None:
    try:
        with np.load(file, allow_pickle=False) as content:
            if content["fingerprint"] == fingerprint:
                return CentroidIndex(*(content[field] for field in CentroidIndex._fields))
        reason = "the labels or how they are read changed since"
    except FileNotFoundError:
        return None
    # Zip, zlib and numpy each raise errors of their own, depending on which byte is wrong.
    except Exception as error:
        reason = f"damaged ({error})"
    print_log(f"centroids: {file} is replaced: {reason}", logger="current", level=logging.WARNING)
    return None


def _check_writable(folder: Path) -> None:
    try:
        output_folder(folder)
    except ArgumentTypeError as error:
        raise PermissionError(
            f"the centroids of the classes cannot be kept: {error}: "
            "--cfg-options train_dataloader.sampler.cache=DIR"
        ) from error


def _compute(
    reader: SampleReader, infos: list[dict], classes: int, tile: int, on_error: str
) -> CentroidIndex:
    began = time.perf_counter()
    read = partial(_centroids_of, reader, classes, tile)
    results = list(map_in_processes(read, infos, None, "centroids of classes", "image"))
    failures = [result for result in results if isinstance(result, str)]
    if failures:
        message = f"{len(failures)} of {len(infos)} label files cannot be read, first {failures[0]}"
        if on_error == "raise":
            raise SampleError(message)
        print_log(f"centroids: {message}; left out", logger="current", level=logging.WARNING)
    rows = [np.empty((0, 4), np.int32)]
    for image, result in enumerate(results):
        if not isinstance(result, str):
            rows.append(np.insert(result, 0, image, axis=1))
    table = np.concatenate(rows)
    print_log(
        f"centroids: {len(table)} in {len(infos)} images, {time.perf_counter() - began:.0f} s",
        logger="current",
    )
    return CentroidIndex(table[:, 0], table[:, 1], table[:, 2:])


def _centroids_of(reader: SampleReader, classes: int, tile: int, info: dict) -> np.ndarray | str:
    """Centroids of one image, or why there are none (raising would end the whole list)."""
    try:
        return tile_centroids(reader.label(info), classes, tile)
    except SampleError as error:
        return str(error)
