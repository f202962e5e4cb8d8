"""The same pixels near a tile's border and in its interior: what padding costs, content aside.

Every image is predicted on the two grids of :class:`pconv_seg.geometry.ShiftedGrids`. Counted are
the pixels that are border in one and interior in the other, by their distance to the seam in the
first. Whether both predictions agree needs no labels.

With tiles that overlap by 2 d pixels, every pixel of an image lies d pixels or more from the seams
of the tile in which it lies deepest. So the share of pixels that change, counted over all
distances from d on, says what that overlap leaves.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise, product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.models import BaseSegmentor
from prettytable import PrettyTable
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from pconv_seg.datasets.class_names import class_names
from pconv_seg.engine import scope_of
from pconv_seg.files import short_names
from pconv_seg.geometry import ShiftedGrids, ShiftRegions, pair
from pconv_seg.inference import (
    image_preprocessor,
    predicted_labels,
    read_input,
    tile_predictor,
)

from .bootstrap import CONFIDENCE, NO_INTERVAL, RESAMPLES, score_difference
from .compare import load_tested
from .confusion import class_areas, divided, mean_iou, pixel_accuracy
from .record import Tested
from .report import json_number
from .samples import (
    count_sample,
    ground_truth,
    ignored_label,
    naming_files,
    read_batches,
    refuse_resizing,
)

TOLERANCES = (0.005, 0.001)
_SCORES = {"aAcc": pixel_accuracy, "mIoU": mean_iou}
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


@dataclass(frozen=True)
class ShiftRecord:
    """Counts of one network.

    Attributes:
        tested: The network.
        regions: Tiles and bins.
        images: One name per image.
        pixels: Compared pixels, ``int64[images, bins]``.
        agreeing: Those on which the two predictions agree, ``int64[images, bins]``.
        areas: ``int64[2, images, bins, 3, C]`` (:func:`class_areas`) of the labelled ones, first as
            border, then as interior; None without labels.
    """

    tested: Tested
    regions: ShiftRegions
    images: tuple[str, ...]
    pixels: np.ndarray
    agreeing: np.ndarray
    areas: np.ndarray | None

    def changed(self) -> np.ndarray:
        """Share of the pixels from a bin on that change, ``float64[bins]``; NaN without any."""
        pixels, changed = (
            np.cumsum(counts.sum(0)[::-1])[::-1]
            for counts in (self.pixels, self.pixels - self.agreeing)
        )
        return divided(changed, pixels)

    def overlap(self, tolerance: float) -> int | None:
        """The smallest overlap in pixels that keeps what changes within a tolerance.

        Twice the smallest distance at which a bin begins and from which on :meth:`changed` never
        exceeds the tolerance. None if the interior begins before: take larger tiles.

        Args:
            tolerance: Share of pixels in [0, 1).
        """
        changed = self.changed()
        counted = ~np.isnan(changed)
        # A later bin with more disagreement would make the promise of an earlier one a chance.
        worst = np.maximum.accumulate(changed[counted][::-1])[::-1]
        starts = np.array(self.regions.edges[:-1])[counted][worst <= tolerance]
        return 2 * int(starts[0]) if len(starts) else None

    def as_dict(self, tolerances: Sequence[float] = TOLERANCES, seed: int = 0) -> dict:
        """Everything, ready for JSON: scores in percent, null where there is none.

        ``bins`` has one entry per distance, ``total`` is over all of them. ``cost`` is the score as
        interior minus that as border, with its interval. ``changed`` is the share of pixels in
        percent that an ``overlap`` of that many pixels leaves. ``recommended`` has one entry per
        tolerance.

        Args:
            tolerances: For :meth:`overlap`.
            seed: Of the bootstrap.
        """
        edges = self.regions.edges
        changed = 100 * self.changed()
        bins = [
            {
                "from_pixel": start,
                "to_pixel": stop,
                **self._scores(np.s_[number : number + 1], seed),
                "overlap": 2 * start,
                "changed": json_number(changed[number]),
            }
            for number, (start, stop) in enumerate(pairwise(edges))
        ]
        changed_with = {row["overlap"]: row["changed"] for row in bins}
        overlaps = {tolerance: self.overlap(tolerance) for tolerance in tolerances}
        return {
            **self.tested._asdict(),
            "tile": self.regions.tile,
            "interior": edges[-1],
            "images": len(self.images),
            "total": self._scores(np.s_[:], seed),
            "bins": bins,
            "recommended": [
                {"tolerance": tolerance, "overlap": least, "changed": changed_with.get(least)}
                for tolerance, least in overlaps.items()
            ],
            "confidence": CONFIDENCE,
            "resamples": RESAMPLES,
            "seed": seed,
        }

    def _scores(self, bins: slice, seed: int) -> dict:
        pixels, agreeing = (int(n[:, bins].sum()) for n in (self.pixels, self.agreeing))
        result = {
            "pixels": pixels,
            "agreement": 100 * agreeing / pixels if pixels else None,
        }
        if self.areas is None:
            return result
        areas = self.areas[:, :, bins].sum(2).swapaxes(0, 1)  # [images, roles, 3, C]
        border, interior = areas.sum(0)
        for name, score in _SCORES.items():
            cost = score_difference(areas, score, seed=seed)
            result[name] = {
                "border": json_number(100 * score(border)),
                "interior": json_number(100 * score(interior)),
                "cost": json_number(100 * cost.value),
                "interval": [json_number(100 * bound) for bound in (cost.low, cost.high)],
            }
        return result


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
        images: Take the images of this folder and those below instead; they have no labels and
            are predicted at their own size.
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
        classes = class_names(dataset.metainfo, type(dataset).__name__)
        ignore_index = ignored_label(dataset)
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
    paths = sorted(
        path
        for path in Path(folder).rglob("*")
        if path.suffix.lower() in _SUFFIXES and path.is_file()
    )
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
        ignore_index: Label of the pixels whose accuracy is not counted. Agreement is.
        batch_size: Tiles per forward.

    Returns:
        One record per model.

    Raises:
        ValueError: If an option is out of range, no pixel is border in one grid and interior in the
            other, or, naming the file, a network refuses its tiles or a label does not fit its
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
    """Tiles and bins of :func:`shift_test`, with its arguments.

    Raises:
        ValueError: If a bin has no pixel, a side fewer than 4, or a tile more than two sides.
    """
    tile = pair(tile, "tile")
    return ShiftRegions(tile, max(1, min(tile) // 64) if bin_width is None else bin_width)


def predict_grids(
    model: BaseSegmentor, pixels: Tensor, grids: ShiftedGrids, batch_size: int = 1
) -> Tensor:
    """Label maps of an image on both grids; tiles that the grids share are predicted once.

    Args:
        model: In evaluation mode.
        pixels: ``uint8 Tensor[3, H, W]``, BGR.
        grids: Of this image.
        batch_size: Tiles per forward.

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


def shift_tables(results: list[dict]) -> str:
    """Text tables of several :meth:`ShiftRecord.as_dict`: distances, then recommended overlaps."""
    names = short_names(result["checkpoint"] for result in results)
    parts = [_distance_table(result, names[result["checkpoint"]]) for result in results]
    tolerances = [row["tolerance"] for row in results[0]["recommended"]]
    table = PrettyTable(["checkpoint", "padding", *map(tolerance_text, tolerances)])
    table.title = "smallest overlap (px), and share of pixels that change"
    table.align["checkpoint"] = "l"
    for result in results:
        cells = [
            "none" if row["overlap"] is None else f"{row['overlap']}: {row['changed']:.2f}%"
            for row in result["recommended"]
        ]
        table.add_row([names[result["checkpoint"]], result["padding"], *cells])
    parts.append(table.get_string())
    if any(row["overlap"] is None for result in results for row in result["recommended"]):
        parts.append(
            f"none: {results[0]['interior']} px from the seam, where the interior begins, more "
            "pixels than that still change. Larger tiles reach farther."
        )
    if "aAcc" in results[0]["total"]:
        parts.append(
            f"cost: as interior minus as border, with its {CONFIDENCE:.0%} interval (paired "
            f"bootstrap over images, {RESAMPLES} resamples, seed {results[0]['seed']})."
        )
        rows = (row for result in results for row in (result["total"], *result["bins"]))
        if any(None in row[score]["interval"] for row in rows for score in _SCORES):
            parts[-1] += f"\n{NO_INTERVAL}"
    return "\n\n".join(parts)


def _distance_table(result: dict, name: str) -> str:
    scores = [name for name in _SCORES if name in result["total"]]
    columns = [f"{name} {role}" for name in scores for role in ("border", "interior", "cost")]
    table = PrettyTable(["px to seam", "pixels", "agree", *columns, "overlap", "changed"])
    table.align = "r"
    table.title = (
        f"{name} ({result['padding']}), in %: {result['images']} "
        f"images, tiles of {' x '.join(map(str, result['tile']))}"
    )
    rows = [(f"{row['from_pixel']}-{row['to_pixel'] - 1}", row) for row in result["bins"]]
    for bin_name, row in (*rows, ("all", {**result["total"], "overlap": "", "changed": None})):
        cells = [bin_name, row["pixels"], _text(row["agreement"])]
        for score in scores:
            values = row[score]
            cells += [_text(values["border"]), _text(values["interior"]), _cost(values)]
        table.add_row([*cells, row["overlap"], _text(row["changed"])])
    return table.get_string()


def tolerance_text(tolerance: float) -> str:
    """A share as the title of a column: ``<= 0.5%``."""
    # All digits, so that no two columns have one title.
    return f"<= {(100 * Decimal(str(tolerance))).normalize():f}%"


def _cost(values: dict) -> str:
    low, high = values["interval"]
    interval = "none" if low is None else f"[{low:+.2f}, {high:+.2f}]"
    return f"{_text(values['cost'], '+.2f')} {interval}"


def _text(value: float | None, form: str = ".2f") -> str:
    return "" if value is None else format(value, form)
