"""Finding trained networks and loading them."""

import math
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmseg.models import BaseSegmentor

from pconv_seg.checkpoints import (
    build_network,
    load_checkpoint,
    load_weights,
    stored_classes,
    stored_config,
)
from pconv_seg.engine import read_config
from pconv_seg.padding import apply_padding, scheme_of, set_padding, trained_padding
from pconv_seg.work_dir import checkpoints, damage, progress


class Run(NamedTuple):
    """A training run: its dumped config and its last checkpoint."""

    config: Path
    checkpoint: Path


def latest_run(work_dirs: str | Path) -> Run:
    """The finished training run below ``work_dirs`` whose last checkpoint is the newest.

    A run is a folder in which mmengine left a config and a file ``last_checkpoint``. It is finished
    if that checkpoint is the one of its last iteration or epoch.

    Raises:
        FileNotFoundError: If there is none; the message lists the runs that are not finished.
        ValueError: If the checkpoint is damaged.
        PreflightError: If a run's config cannot be read.
    """
    pointers = sorted(Path(work_dirs).rglob("last_checkpoint"))
    runs = [run for pointer in pointers if (run := _run(pointer.parent))]
    finished = [run for run in runs if _is_finished(run)]
    if finished:
        newest = max(finished, key=lambda run: run.checkpoint.stat().st_mtime)
        if reason := damage(newest.checkpoint):
            raise ValueError(f"{newest.checkpoint}: {reason}. Name a config and its checkpoints.")
        return newest
    unfinished = ", ".join(str(run.checkpoint) for run in runs)
    hint = f"; runs that have not finished: {unfinished}" if runs else ""
    raise FileNotFoundError(
        f"no finished training run below {Path(work_dirs).absolute()}{hint}. "
        "Train first, or name a config and its checkpoints."
    )


def finished_run(work_dir: str | Path) -> Run | None:
    """The run in this folder, if it has finished and its last checkpoint is whole.

    Raises:
        PreflightError: If its config cannot be read.
    """
    run = _run(Path(work_dir))
    return run if run and _is_finished(run) and not damage(run.checkpoint) else None


def _run(work_dir: Path) -> Run | None:
    configs = sorted(work_dir.glob("*.py"), key=lambda path: path.stat().st_mtime)
    found = [path for path in checkpoints(work_dir) if path.is_file()]
    is_run = configs and found and (work_dir / "last_checkpoint").exists()
    return Run(configs[-1], found[0]) if is_run else None


def _is_finished(run: Run) -> bool:
    loop = read_config(str(run.config)).get("train_cfg") or {}
    unit, reached = progress(run.checkpoint)
    return reached >= loop.get(f"max_{unit}s", math.inf)


def load_segmentor(
    checkpoint: str,
    config: Config,
    classes: tuple[str, ...] | None,
    device: str | torch.device,
) -> BaseSegmentor:
    """Build the network of a checkpoint, padded as in training, and load its weights.

    The model is the one of the config that mmengine stored in the checkpoint, so that networks with
    different padding can be compared under one data config; without a stored one, ``config``'s. A
    padding that the checkpoint names takes precedence.

    Args:
        checkpoint: File or URL.
        config: Its ``model`` is for checkpoints without a stored config.
        classes: Of the data; None for data without labels.
        device: Where the network goes.

    Returns:
        The network in evaluation mode.

    Raises:
        ValueError: If it is no checkpoint, there is no model for it, its classes differ from
            the data's, weights do not fit, or reading the file or its config would run code from
            it.
        FileNotFoundError: If there is no such file.
    """
    content = load_checkpoint(checkpoint)
    meta = content.get("meta") or {}
    trained_on = stored_classes(meta).get("classes")
    if classes and trained_on and tuple(trained_on) != tuple(classes):
        raise ValueError(
            f"{checkpoint} was trained for the classes {', '.join(trained_on)}, "
            f"but the data have {', '.join(classes)}"
        )
    stored = stored_config(meta, checkpoint)
    config = stored or config
    if not config.get("model"):
        whose = "its stored config" if stored else f"config {config.filename}"
        raise ValueError(f"{checkpoint}: {whose} has no model that could take the weights")
    model = build_network(config.model, checkpoint)
    if not hasattr(model, "encode_decode"):
        raise ValueError(f"{checkpoint}: {type(model).__name__} is no mmseg EncoderDecoder")
    if classes and model.num_classes != len(classes):
        raise ValueError(
            f"{checkpoint} has {model.num_classes} classes, but the data {len(classes)}"
        )
    load_weights(model, content, checkpoint)
    apply_padding(model, config)
    if (trained := trained_padding(content)) not in (None, scheme_of(model)):
        set_padding(model, trained)
    return model.to(device).eval()
