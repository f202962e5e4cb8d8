"""Evaluation of segmentors on whole images and in tiles, reading each image once.

Data flow: image -> logits in every mode -> label map -> confusion matrices per region. Counts
stay apart by image, so that they can be resampled, saved and gathered from several processes.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import torch
from mmseg.models import BaseSegmentor
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from pconv_seg.datasets.class_names import class_names
from pconv_seg.files import naming_files
from pconv_seg.geometry import BorderRegions, Overlap, TileGrid
from pconv_seg.inference import tile_predictor, tiled_inference
from pconv_seg.padding.batch import added_padding

from .samples import (
    count_sample,
    ground_truth,
    ignored_label,
    read_batches,
    read_sample,
    refuse_resizing,
)

MODES = ("regular", "tile", "tile_overlap")
# Our reading of the five proportions of the paper's Table 7, after "nothing left out".
LEAVE_OUTS = ("0", "1/3", "1/2", "2/3", "3/4", "7/8")


@dataclass(frozen=True)
class EvaluationPlan:
    """What to evaluate. The defaults are our reading of the paper's Tables 6 and 7.

    Args:
        modes: Any of ``'regular'`` (the whole image at once), ``'tile'`` (tiles side by side) and
            ``'tile_overlap'`` (logits of overlapping tiles are averaged); repeats are dropped.
        tile: Tile side or (height, width) in pixels of the network's input. ``None``: the shorter
            side of the data set's first image, as in the paper (1024 for images of 1024 x 2048).
        overlap: Of the tiles of ``'tile_overlap'``: a proportion in [0, 1), or pixels.
        leave_outs: Proportions of the centre that is ignored; 0 is always included.
        proportion: See :class:`pconv_seg.geometry.BorderRegions`, also for the next two.
        region: What has a centre. Where regions follow tiles, those of ``'regular'`` are the ones
            of ``'tile'``.
        bands: Distances that separate bands, in pixels.
        ignore_index: Label of the pixels that are not counted. ``None``: the data set's; before
            that, tools and ``PaddingEvalHook`` take the one that the config's metric names.
        batch_size: Tiles per forward pass.

    Raises:
        ValueError: If an option is out of range.
    """

    modes: Sequence[str] = MODES
    tile: int | tuple[int, int] | None = None
    overlap: Overlap = "1/3"
    leave_outs: Sequence[str | float | Fraction] = LEAVE_OUTS
    proportion: str = "side"
    region: str = "image"
    bands: Sequence[int] = ()
    ignore_index: int | None = None
    batch_size: int = 1

    def __post_init__(self):
        for name, value in vars(self).items():
            object.__setattr__(self, name, _plain(value))
        for name in ("modes", "leave_outs", "bands"):
            if not isinstance(value := getattr(self, name), tuple):
                raise ValueError(f"{name} must be a list, got {value!r}")
        if not self.modes or not set(self.modes) <= set(MODES):
            raise ValueError(f"modes must be some of {', '.join(MODES)}, got {self.modes}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        object.__setattr__(self, "modes", tuple(dict.fromkeys(self.modes)))
        if isinstance(self.overlap, tuple):
            raise ValueError(f"overlap must be one value for both axes, got {self.overlap}")
        # With a large size in place of an open one, all other mistakes are found right away.
        settled = replace(self, tile=2**30) if self.tile is None else self
        settled.regions("tile_overlap")  # refuses bad ones

    @property
    def follows_tiles(self) -> bool:
        """Whether some of its regions depend on where tiles lie."""
        return bool(self.bands) or self.region == "tile"

    @property
    def tile_text(self) -> str:
        """The settled tile size in pixels: ``180``, or ``128x256`` for height and width."""
        return str(self.tile) if isinstance(self.tile, int) else "x".join(map(str, self.tile))

    def mode_overlap(self, mode: str) -> Overlap:
        """Overlap of the tiles of a mode."""
        return self.overlap if mode == "tile_overlap" else 0

    def regions(self, mode: str) -> BorderRegions:
        """The regions to count in a mode; those that follow tiles need a settled tile size."""
        return BorderRegions(
            (0, *self.leave_outs),
            self.proportion,
            self.region,
            self.bands,
            self.tile,
            self.mode_overlap(mode),
        )


def _plain(value: Any) -> Any:
    """A value from a config, JSON or numpy as plain Python, with tuples in place of lists."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


def predict_modes(
    model: BaseSegmentor, inputs: Tensor, samples: list[SegDataSample], plan: EvaluationPlan
) -> dict[str, list[Tensor]]:
    """Label maps of a batch in every mode of the plan.

    Args:
        model: In evaluation mode.
        inputs: ``Tensor[N, 3, H, W]``, as the model's data preprocessor returns them.
        samples: The N data samples, from there too.
        plan: With a settled tile size.

    Returns:
        For each mode N label maps ``Tensor[1, H, W]`` of the images' original sizes.
    """
    predict = tile_predictor(model, samples[0].metainfo)
    label_maps = {}
    for mode in plan.modes:
        if mode == "regular":
            logits = predict(inputs)
        else:
            logits = tiled_inference(
                predict, inputs, plan.tile, plan.mode_overlap(mode), batch_size=plan.batch_size
            )
        # Undoes padding and flips, and resizes to the original image, as after any inference.
        model.postprocess_result(logits, samples)
        label_maps[mode] = [sample.pred_sem_seg.data for sample in samples]
    return label_maps


class Evaluation(NamedTuple):
    """What :func:`evaluate` returns.

    Attributes:
        plan: With its tile size and ``ignore_index`` settled.
        images: One name (path) per image.
        counts: One array ``[models, modes, regions, ...]`` per image.
    """

    plan: EvaluationPlan
    images: list[str]
    counts: list[np.ndarray]


@torch.no_grad()
def evaluate(
    models: Sequence[BaseSegmentor],
    dataloader: DataLoader,
    plan: EvaluationPlan,
    keep: Callable[[np.ndarray], np.ndarray] = np.asarray,
    visit: Callable[[SegDataSample, list[dict[str, Tensor]], EvaluationPlan], None] | None = None,
    progress: bool = True,
) -> Evaluation:
    """Evaluate segmentors in all modes of a plan, reading each image once.

    Afterwards the models' training flags and torch's CPU random numbers are what they were before.
    A warning says if the plan has modes with tiles, but no image was cut into any.

    Args:
        models: Segmentors with as many classes as the dataset, each with its data preprocessor.
        dataloader: Yields what mmseg's test pipelines yield, with ground truth.
        plan: What to evaluate.
        keep: Reduces the matrices ``int64[regions, C, C]`` of one image, model and mode before
            they are kept, such as :func:`class_areas` where there are many classes.
        visit: Called for each image with its sample, each model's label maps by mode, and the
            plan with its tile size and ``ignore_index`` settled.
        progress: Show a progress bar over images.

    Raises:
        ValueError: Naming the file, if it cannot be read, a label does not fit its image or the
            classes, images of a batch differ in size, a network refuses the image, or regions
            follow tiles and the image that tiles are cut from is resized or padded.
    """
    dataset = dataloader.dataset
    num_classes = len(class_names(dataset))
    if plan.ignore_index is None:
        plan = replace(plan, ignore_index=ignored_label(dataset))
    images, counts = [], []
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        for model in models:
            stack.enter_context(_evaluation_mode(model))
        if plan.tile is None:
            # Not from the first batch, which differs between processes.
            first = dataloader.collate_fn([read_sample(dataset, 0)])
            inputs = models[0].data_preprocessor(first, training=False)["inputs"]
            plan = replace(plan, tile=min(inputs[0].shape[-2:]))
        batches = read_batches(dataloader)
        uncut = any(mode != "regular" for mode in plan.modes)
        for batch in tqdm(batches, total=len(dataloader), unit="batch", disable=not progress):
            _refuse_sizes(batch)
            outputs = []
            for model in models:
                data = model.data_preprocessor(batch, training=False)
                inputs, samples = data["inputs"], data["data_samples"]
                if plan.follows_tiles:
                    _refuse_padding(samples)
                with naming_files(*(sample.img_path for sample in samples)):
                    outputs.append(predict_modes(model, inputs, samples, plan))
                uncut = uncut and len(TileGrid(inputs.shape[-2:], plan.tile)) == 1
            for i, sample in enumerate(samples):
                label_maps = [{mode: maps[i] for mode, maps in out.items()} for out in outputs]
                images.append(sample.img_path)
                counts.append(_count(sample, label_maps, num_classes, plan, keep))
                if visit is not None:
                    visit(sample, label_maps, plan)
    if uncut:
        warnings.warn(
            f"no image is larger than a tile ({plan.tile_text} pixels), so the modes with tiles "
            "repeat the regular one; give a smaller tile",
            stacklevel=2,
        )
    return Evaluation(plan, images, counts)


def _refuse_sizes(batch: dict) -> None:
    # mmseg's preprocessors assert this and name no file.
    sizes = {
        sample.img_path: " x ".join(map(str, pixels.shape[-2:]))
        for pixels, sample in zip(batch["inputs"], batch["data_samples"], strict=True)
    }
    if len(set(sizes.values())) > 1:
        files = ", ".join(f"{file} ({size})" for file, size in sizes.items())
        raise ValueError(
            f"{files}: images of one batch must have one size; set test_dataloader.batch_size=1"
        )


def _refuse_padding(samples: list[SegDataSample]) -> None:
    # Tiles are cut from the padded image, regions from the image.
    for sample in samples:
        _, right, _, bottom = padding = added_padding(sample)
        if any(padding):
            raise ValueError(
                f"{sample.img_path}: regions that follow tiles need images that are not padded, "
                f"but the network's data preprocessor pads this one ({right} pixels on the right, "
                f"{bottom} at the bottom); leave size and size_divisor out of "
                "data_preprocessor.test_cfg (a checkpoint keeps the config that it was trained "
                "with), or choose regions that do not follow tiles: region 'image', no bands"
            )


def _count(
    sample: SegDataSample,
    label_maps: list[dict[str, Tensor]],
    num_classes: int,
    plan: EvaluationPlan,
    keep: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    file = sample.get("seg_map_path") or sample.img_path
    label = ground_truth(sample)
    if plan.follows_tiles:
        refuse_resizing(sample.img_path, sample.ori_shape, sample.img_shape)
    return np.array(
        [
            [
                keep(
                    count_sample(
                        label, maps[mode], num_classes, plan.regions(mode), plan.ignore_index, file
                    )
                )
                for mode in plan.modes
            ]
            for maps in label_maps
        ]
    )


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, flag in training.items():
            module.training = flag
