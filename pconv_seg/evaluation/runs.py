"""Finding trained networks and loading them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import CheckpointLoader
from mmseg.models import BaseSegmentor

from pconv_seg.padding import apply_padding


class Run(NamedTuple):
    """A training run: its dumped config and its last checkpoint."""

    config: Path
    checkpoint: Path


def latest_run(work_dirs: str | Path = "work_dirs") -> Run:
    """The finished training run below ``work_dirs`` whose last checkpoint is the newest.

    A run is a folder in which mmengine left a config and a file ``last_checkpoint``. It is finished
    if that checkpoint is the one of its last iteration or epoch.

    Raises:
        FileNotFoundError: If there is none; the message lists the runs that are not finished.
    """
    runs = list(_runs(Path(work_dirs)))
    finished = [run for run in runs if _is_finished(run)]
    if finished:
        return max(finished, key=lambda run: run.checkpoint.stat().st_mtime)
    unfinished = ", ".join(str(run.checkpoint) for run in runs)
    hint = f"; runs that have not finished: {unfinished}" if runs else ""
    raise FileNotFoundError(
        f"no finished training run below {Path(work_dirs).absolute()}{hint}. "
        "Train first, or name a config and its checkpoints."
    )


def _runs(work_dirs: Path) -> Iterator[Run]:
    for pointer in sorted(work_dirs.rglob("last_checkpoint")):
        # The file holds the path at the time of training; the folder may have moved since.
        checkpoint = pointer.parent / Path(pointer.read_text().strip()).name
        configs = sorted(pointer.parent.glob("*.py"), key=lambda path: path.stat().st_mtime)
        if configs and checkpoint.is_file():
            yield Run(configs[-1], checkpoint)


def _is_finished(run: Run) -> bool:
    loop = Config.fromfile(run.config).get("train_cfg") or {}
    match = re.fullmatch(r"(iter|epoch)_(\d+)", run.checkpoint.stem)
    return bool(match) and int(match[2]) >= loop.get(f"max_{match[1]}s", 0)


def load_segmentor(
    checkpoint: str,
    config: Config,
    classes: tuple[str, ...],
    device: str | torch.device,
) -> BaseSegmentor:
    """Build the network of a checkpoint, padded as in training, and load its weights.

    The model is the one of the config that mmengine stored in the checkpoint, so that networks with
    different padding can be compared under one data config; without a stored one, ``config``'s.

    Args:
        checkpoint: File or URL.
        config: With a ``model``.
        classes: Of the data.
        device: Where the network goes.

    Returns:
        The network in evaluation mode.

    Raises:
        ValueError: If its classes are others than the data's, or weights do not fit.
        FileNotFoundError: If there is no such file.
    """
    content = CheckpointLoader.load_checkpoint(checkpoint, map_location="cpu", logger="silent")
    meta = content.get("meta") or {}
    trained_on = (meta.get("dataset_meta") or {}).get("classes")
    if trained_on and tuple(trained_on) != tuple(classes):
        raise ValueError(
            f"{checkpoint} was trained for the classes {', '.join(trained_on)}, "
            f"but the data have {', '.join(classes)}"
        )
    if isinstance(meta.get("cfg"), str):
        config = Config.fromstring(meta["cfg"], ".py")
    model = MODELS.build(config.model)
    if not hasattr(model, "encode_decode"):
        raise ValueError(f"{checkpoint}: {type(model).__name__} is no mmseg EncoderDecoder")
    if model.num_classes != len(classes):
        raise ValueError(
            f"{checkpoint} has {model.num_classes} classes, but the data {len(classes)}"
        )
    weights = content.get("state_dict", content)
    try:
        model.load_state_dict({name.removeprefix("module."): w for name, w in weights.items()})
    except RuntimeError as error:
        raise ValueError(f"{checkpoint} does not fit its config: {error}") from error
    apply_padding(model, config)
    return model.to(device).eval()
