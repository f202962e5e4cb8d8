"""The same pixels near a tile's border and in its interior: what padding costs, content aside.

Every image is predicted on the two grids of :class:`pconv_seg.geometry.ShiftedGrids`. The pixels
that are border in one and interior in the other are counted, by their distance to the seam in the
former. Whether both predictions agree needs no labels.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.models import BaseSegmentor
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from pconv_seg.datasets.class_names import class_names
from pconv_seg.engine import scope_of
from pconv_seg.files import naming_files
from pconv_seg.geometry import ShiftedGrids, ShiftRegions, pair
from pconv_seg.inference import (
    image_preprocessor,
    predicted_labels,
    read_input,
    tile_predictor,
)

from .compare import load_tested
from .confusion import class_areas
from .record import Tested
from .samples import (
    count_sample,
    counted_ignore_index,
    ground_truth,
    read_batches,
    refuse_resizing,
)
from .shift_record import ShiftRecord

_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


class ShiftImage(NamedTuple):
    """An image to predict.

    Attributes:
        name: Its path.
        pixels: ``uint8 Tensor[3, H, W]``, BGR.
        label: ``Tensor[1, H, W]`` of classes; None without ground truth.
        label_name: Its path, if it has one.
    """

    name: str
    pixels: Tensor
    label: Tensor | None = None
    label_name: str | None = None


def shift_checkpoints(
    config: Config,
    checkpoints: Sequence[str],
    tile: int | tuple[int, int] | None = None,
    *,
    bin_width: int | None = None,
    images: str | Path | None = None,
    paddings: Sequence[str | None] = (None,),
    batch_size: int = 1,
    progress: bool = True,
) -> list[ShiftRecord]:
    """Run the shift test on checkpoints, reading each image once for all of them.

    Args:
        config: Its ``test_dataloader`` is the data.
        checkpoints: Files or URLs, loaded by :func:`load_segmentor`.
        tile: As in :func:`shift_test`.
        bin_width: As in :func:`shift_test`.
        images: Take the images in this folder and below instead; they have no labels and are
            predicted at their own size.
        paddings: Test each checkpoint under each of these schemes, see ``set_padding``; None
            keeps the one that it was trained with.
        batch_size: As in :func:`shift_test`.
        progress: Show a progress bar over images.

    Returns:
        The counts of each checkpoint under each padding.

    Raises:
        ValueError: If networks, data and tiles do not fit together, naming the file.
        FileNotFoundError: If there is no such checkpoint, or no image in the folder.
    """
    init_default_scope(scope_of(config))
    if images is None:
        dataloader = Runner.build_dataloader(config.test_dataloader)
        dataset = dataloader.dataset
        classes = class_names(dataset)
        ignore_index = counted_ignore_index(config, dataset, "test")
        source, total = dataset_images(dataloader), len(dataset)
    else:
        paths = image_files(images)
        classes, ignore_index = None, 255
        source, total = (_read(path) for path in paths), len(paths)
    models, tested = load_tested(config, checkpoints, classes, paddings)
    with tqdm(source, total=total, unit="image", disable=not progress) as bar:
        return shift_test(
            models,
            tested,
            bar,
            tile,
            bin_width=bin_width,
            ignore_index=ignore_index,
            batch_size=batch_size,
        )


def dataset_images(dataloader: DataLoader) -> Iterator[ShiftImage]:
    """The images and labels of a data loader of mmseg.

    Raises:
        ValueError: If a file cannot be read, or an image has no label or is resized.
    """
    for batch in read_batches(dataloader):
        for pixels, sample in zip(batch["inputs"], batch["data_samples"], strict=True):
            name = sample.img_path
            label = ground_truth(sample)
            refuse_resizing(name, sample.ori_shape, sample.img_shape, "the shift test needs")
            yield ShiftImage(name, pixels, label, sample.get("seg_map_path"))


def image_files(folder: str | Path) -> list[Path]:
    """The image files in a folder and below, sorted.

    Raises:
        FileNotFoundError: If there is none.
    """
    # Unlike rglob, follow links, as data sets of mmseg do, but visit each folder once.
    files, seen = [], set()
    for top, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        if (place := os.path.realpath(top)) in seen:
            folders.clear()
        else:
            seen.add(place)
            files += [Path(top, name) for name in names]
    paths = sorted(p for p in files if p.suffix.lower() in _SUFFIXES and p.is_file())
    if not paths:
        raise FileNotFoundError(f"no image ({', '.join(_SUFFIXES)}) in {Path(folder).absolute()}")
    return paths


def _read(path: Path) -> ShiftImage:
    return ShiftImage(str(path), torch.from_numpy(read_input(path)).permute(2, 0, 1))


@torch.no_grad()
def shift_test(
    models: Sequence[BaseSegmentor],
    tested: Sequence[Tested],
    images: Iterable[ShiftImage],
    tile: int | tuple[int, int] | None = None,
    *,
    bin_width: int | None = None,
    ignore_index: int = 255,
    batch_size: int = 1,
) -> list[ShiftRecord]:
    """Count the same pixels as border and as interior, reading each image once.

    Args:
        models: In evaluation mode, all for the same classes.
        tested: What they are called.
        images: All with labels, or all without.
        tile: Side or (height, width) of the tiles in pixels. Default: the shorter side of the first
            image.
        bin_width: Pixels of distance per bin. Default: 1/64 of the tile's shorter side, which gives
            some 16 bins.
        ignore_index: Label of the pixels whose accuracy is not counted; their agreement is.
        batch_size: Tiles per forward pass.

    Returns:
        One record per model.

    Raises:
        ValueError: If an option is out of range, no pixel is border in one grid and interior in the
            other, or (naming the file) a network refuses its tiles or a label does not fit its
            image.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    names, pixels, counts, regions = [], [], [], None
    for image in images:
        size = tuple(image.pixels.shape[-2:])
        if regions is None:
            regions = shift_regions(min(size) if tile is None else tile, bin_width)
        names.append(image.name)
        pixels.append(_bincount(regions.map(size).cells, len(regions.edges) - 1))
        grids, counts_of_image = ShiftedGrids(size, regions.tile), []
        for model in models:
            if pixels[-1].any():
                with naming_files(image.name):
                    predictions = predict_grids(model, image.pixels, grids, batch_size)
            else:  # No pixel is compared, so it does not matter what is predicted.
                predictions = torch.zeros((2, *size), dtype=torch.uint8)
            counts_of_image.append(
                _count(predictions, image, regions, model.num_classes, ignore_index)
            )
        counts.append(counts_of_image)
    if regions is None:
        raise ValueError("the shift test needs at least one image")
    if not np.any(pixels):
        raise ValueError(
            f"tiles of {' x '.join(map(str, regions.tile))} pixels leave no pixel border in one "
            f"grid and interior in the other; images: {len(names)}, the last of "
            f"{' x '.join(map(str, size))}. Give smaller tiles."
        )
    return [
        ShiftRecord(
            network,
            regions,
            tuple(names),
            np.stack(pixels),
            np.stack([agreeing for agreeing, _ in column]),
            None if column[0][1] is None else np.stack([areas for _, areas in column], axis=1),
        )
        for network, column in zip(tested, zip(*counts, strict=True), strict=True)
    ]


def shift_regions(tile: int | Sequence[int], bin_width: int | None = None) -> ShiftRegions:
    """Tiles and bins of :func:`shift_test`, from its arguments.

    Raises:
        ValueError: If a bin has no pixel, a side fewer than 4, or a tile more than two sides.
    """
    tile = pair(tile, "tile")
    return ShiftRegions(tile, max(1, min(tile) // 64) if bin_width is None else bin_width)


def predict_grids(
    model: BaseSegmentor, pixels: Tensor, grids: ShiftedGrids, batch_size: int
) -> Tensor:
    """Label maps of an image on both grids; tiles that the grids share are predicted once.

    Args:
        model: In evaluation mode.
        pixels: ``uint8 Tensor[3, H, W]``, BGR.
        grids: Of this image.
        batch_size: Tiles per forward pass.

    Returns:
        ``uint8`` or ``int32 Tensor[2, H, W]`` on the CPU.
    """
    inputs = image_preprocessor(model)(pixels)
    predict = tile_predictor(model)
    cells = {}
    for grid, axes in enumerate(grids.cells):
        for row, col in product(*axes):
            cells.setdefault((row[2:], col[2:]), []).append((grid, row, col))
    tiles = list(cells)
    maps = None
    for first in range(0, len(tiles), batch_size):
        batch = tiles[first : first + batch_size]
        stack = torch.stack([inputs[:, y0:y1, x0:x1] for (y0, y1), (x0, x1) in batch])
        labels = predicted_labels(predict(stack), model).cpu()
        if maps is None:
            maps = labels.new_empty((2, *grids.size))
        for tile, label in zip(batch, labels, strict=True):
            for grid, row, col in cells[tile]:
                maps[grid, row.start : row.stop, col.start : col.stop] = label[
                    row.start - row.tile_start : row.stop - row.tile_start,
                    col.start - col.tile_start : col.stop - col.tile_start,
                ]
    return maps


def _count(
    maps: Tensor, image: ShiftImage, regions: ShiftRegions, num_classes: int, ignore_index: int
) -> tuple[np.ndarray, np.ndarray | None]:
    size = tuple(maps.shape[1:])
    bins = len(regions.edges) - 1
    agree = (maps[0] == maps[1]).numpy()
    agreeing = _bincount(regions.map(size).cells[agree], bins)
    if image.label is None:
        return agreeing, None
    in_second = torch.from_numpy(regions.border_in_second(size))
    roles = torch.where(in_second, maps[1], maps[0]), torch.where(in_second, maps[0], maps[1])
    file = image.label_name or image.name
    areas = [
        class_areas(count_sample(image.label, role, num_classes, regions, ignore_index, file))
        for role in roles
    ]
    return agreeing, np.stack(areas)


def _bincount(cells: np.ndarray, bins: int) -> np.ndarray:
    return np.bincount(cells.ravel(), minlength=bins + 1)[:bins]
