"""Evaluation of checkpoints on the test data of a config."""

import copy
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.models import BaseSegmentor
from mmseg.structures import SegDataSample
from torch import Tensor

from pconv_seg.datasets.class_names import class_names
from pconv_seg.engine import scope_of
from pconv_seg.files import short_names
from pconv_seg.geometry import TileGrid
from pconv_seg.inference import read_pixels
from pconv_seg.padding import scheme_of, set_padding
from pconv_seg.padding.batch import added_padding
from pconv_seg.visualization import draw_comparison, save_figure

from .confusion import class_areas
from .evaluator import EvaluationPlan, evaluate
from .record import Record, Tested
from .runs import load_segmentor
from .samples import counted_ignore_index


def load_tested(
    config: Config,
    checkpoints: Sequence[str],
    classes: tuple[str, ...] | None,
    paddings: Sequence[str | None],
) -> tuple[list[BaseSegmentor], list[Tested]]:
    """Load each checkpoint once, and switch a copy of it to each padding.

    Args:
        config, checkpoints, paddings: As in :func:`evaluate_checkpoints`.
        classes: As in :func:`load_segmentor`.

    Raises:
        ValueError: As :func:`load_segmentor`.
        FileNotFoundError: If there is no such file.
    """
    models, tested = [], []
    for path in checkpoints:
        loaded = load_segmentor(path, config, classes, get_device())
        for padding in dict.fromkeys(paddings):
            model = copy.deepcopy(loaded)
            if padding is not None:
                set_padding(model, padding)
            models.append(model)
            tested.append(Tested(path, scheme_of(model), scheme_of(loaded)))
    return models, tested


def evaluate_checkpoints(
    config: Config,
    checkpoints: list[str],
    plan: EvaluationPlan,
    show_dir: str | Path | None = None,
    progress: bool = True,
    paddings: Sequence[str | None] = (None,),
    matrices: bool = False,
) -> Record:
    """Evaluate checkpoints side by side, reading each image once for all of them.

    Args:
        config: Its ``test_dataloader`` is the data.
        checkpoints: Files or URLs, loaded by :func:`load_segmentor`.
        plan: What to evaluate.
        show_dir: Where to write one figure per image and mode, in folders like those of the images.
        progress: Show a progress bar.
        paddings: Test each checkpoint once under each of these schemes, see ``set_padding``; None
            keeps the one that it was trained with.
        matrices: Keep confusion matrices, not only areas, which is all that scores need. 150
            classes, 2000 images and two networks in the default plan make 6 GiB of matrices, or
            0.24 GiB of areas.

    Returns:
        The counts of all images.

    Raises:
        ValueError: If networks, data and plan do not fit together, naming the file.
        FileNotFoundError: If there is no such checkpoint.
    """
    init_default_scope(scope_of(config))
    dataloader = Runner.build_dataloader(config.test_dataloader)
    dataset = dataloader.dataset
    classes = class_names(dataset)
    if plan.ignore_index is None:
        plan = replace(plan, ignore_index=counted_ignore_index(config, dataset, "test"))
    models, tested = load_tested(config, checkpoints, classes, paddings)

    if show_dir:
        # Images in different folders may have the same name.
        images = {
            os.path.abspath(dataset.get_data_info(i)["img_path"]) for i in range(len(dataset))
        }
        common = os.path.commonpath([os.path.dirname(path) for path in images])
        names = Counter(os.path.splitext(path)[0] for path in images)
        if twice := [name for name, count in names.items() if count > 1]:
            raise ValueError(f"several images would have the figure of {twice[0]}: rename them")

    def draw(
        sample: SegDataSample, label_maps: list[dict[str, Tensor]], plan: EvaluationPlan
    ) -> None:
        figure = Path(show_dir, os.path.relpath(sample.img_path, common))
        _draw(figure, sample, label_maps, tested, plan, dataset.metainfo["palette"])

    evaluation = evaluate(
        models,
        dataloader,
        plan,
        keep=(lambda counts: counts.astype(np.int32)) if matrices else class_areas,
        visit=draw if show_dir else None,
        progress=progress,
    )
    return Record(
        config=str(config.filename),
        classes=classes,
        tested=tuple(tested),
        plan=evaluation.plan,
        images=tuple(evaluation.images),
        counts=np.stack(evaluation.counts),
        reduced=not matrices,
    )


def _draw(
    figure_path: Path,
    sample: SegDataSample,
    label_maps: list[dict[str, Tensor]],
    tested: Sequence[Tested],
    plan: EvaluationPlan,
    palette: list,
) -> None:
    label = sample.gt_sem_seg.data[0].cpu().numpy()
    image = read_pixels(sample.img_path)[..., ::-1]
    # The size of the network's input, from which tiles are cut.
    left, right, top, bottom = added_padding(sample)
    height, width = sample.img_shape[:2]
    size = (top + height + bottom, left + width + right)
    names = [network.padding for network in tested]
    if len(set(names)) < len(names):
        short = short_names(network.checkpoint for network in tested)
        names = [f"{short[network.checkpoint]} ({network.padding})" for network in tested]
    for mode in plan.modes:
        predictions = {
            name: maps[mode][0].cpu().numpy() for name, maps in zip(names, label_maps, strict=True)
        }
        # Seams are known in the network's input, which fits the image only if it was not resized.
        seams = mode != "regular" and (height, width) == label.shape
        grid = TileGrid(size, plan.tile, plan.mode_overlap(mode)) if seams else None
        figure = draw_comparison(image, label, predictions, palette, plan.ignore_index, grid)
        save_figure(figure, figure_path.with_name(f"{figure_path.stem}_{mode}.png"))
