"""Checks that end a run before it starts, with one message instead of a worker's stack trace."""

import os
import os.path as osp
from argparse import ArgumentTypeError
from collections.abc import Iterator, Sequence

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.runner import EpochBasedTrainLoop
from mmseg.models import EncoderDecoder
from mmseg.registry import DATA_SAMPLERS, LOOPS, MODELS

from pconv_seg.config_tree import entries
from pconv_seg.outputs import output_folder

from .config_parts import registered, scope_of, type_name
from .data_problems import data_problems
from .problems import PreflightError, Problem, report
from .weight_problems import unavailable, weight_problems

# What the processes of a launcher find in their environment, and how to start them.
_LAUNCHER_VARIABLES = {
    "pytorch": ("RANK",),
    "mpi": ("OMPI_COMM_WORLD_RANK", "MASTER_ADDR"),
    "slurm": ("SLURM_PROCID",),
}
_LAUNCHER_COMMANDS = {
    "pytorch": "Start with tools/dist_train.sh CONFIG GPUS, or with torchrun "
    "--nproc_per_node=GPUS tools/train.py CONFIG --launcher pytorch",
    "mpi": "Start with Open MPI: mpirun -np GPUS -x MASTER_ADDR=HOST_OF_RANK_0 "
    "python tools/train.py CONFIG --launcher mpi",
    "slurm": "Start with tools/slurm_train.sh PARTITION JOB_NAME CONFIG",
}

# mmengine takes all parts of a stage, or none.
_STAGES = {
    "training": ("train_dataloader", "train_cfg", "optim_wrapper"),
    "validation": ("val_dataloader", "val_cfg", "val_evaluator"),
    "testing": ("test_dataloader", "test_cfg", "test_evaluator"),
}


def check_training(cfg: Config) -> None:
    """Check, before any worker or network download starts, everything that training needs.

    That is the device, the data of `train_dataloader` and `val_dataloader`, the number of their
    classes, the pretrained weights that the model, its `init_cfg`s and `load_from` name, the
    model's test mode and `conv_cfg`s, the train loop, and `auto_scale_lr`. What to resume from is
    looked for later, by one of the processes. Data sets that are not `BaseSegDataset` or that read
    through a remote backend are not checked.

    Raises:
        PreflightError: Something is missing.
    """
    report(
        [
            *_missing_parts(cfg, ("model", *_STAGES["training"])),
            *_stage_problems(cfg, "validation", "testing"),
            *_mode_problems(cfg),
            *_conv_problems(cfg),
            *_device_problems(cfg),
            *_loop_problems(cfg),
            *data_problems(cfg, ("train_dataloader", "val_dataloader")),
            *weight_problems({"model": cfg.get("model"), "load_from": cfg.get("load_from")}),
            *_scaling_problems(cfg),
        ]
    )


def check_testing(cfg: Config, checkpoints: Sequence[str] | None = None, data: bool = True) -> None:
    """Check everything that a test needs: device, test mode, data, checkpoints.

    Weights named by `init_cfg` are not checked: a test never loads them.

    Args:
        cfg: Of the test.
        checkpoints: Files or URLs; None means `load_from` alone, in a run by mmengine, which needs
            more parts of a config.
        data: With checkpoints, whether `test_dataloader` is needed.

    Raises:
        PreflightError: Something is missing.
    """
    loaders = ("test_dataloader",) if data else ()
    parts, stages = loaders, ()
    if checkpoints is None:
        parts, stages = ("model", *_STAGES["testing"]), ("training", "validation")
    problems = [
        *_missing_parts(cfg, parts),
        *_stage_problems(cfg, *stages),
        *_mode_problems(cfg),
        *_device_problems(cfg),
        *data_problems(cfg, loaders, network=checkpoints is None),
    ]
    for location in [cfg.load_from] if checkpoints is None else checkpoints:
        if missing := unavailable(location):
            remedy = (
                "Training writes checkpoints into its work dir (here "
                f"{osp.abspath(cfg.work_dir)}); the file last_checkpoint there names the newest."
            )
            problems.append(Problem(f"checkpoint: {missing.what}", (remedy,)))
    report(problems)


def check_work_dir(cfg: Config) -> None:
    """Check that a run can write into its folder.

    Args:
        cfg: With a ``work_dir``.

    Raises:
        PreflightError: It cannot.
    """
    try:
        output_folder(cfg.work_dir)
    except ArgumentTypeError as error:
        raise PreflightError(f"--work-dir: {error}") from error


def check_parts(cfg: Config, keys: Sequence[str]) -> None:
    """Check that a config has a value for each of these keys.

    Raises:
        PreflightError: Something is missing.
    """
    report(list(_missing_parts(cfg, keys)))


def _device_problems(cfg: Config) -> Iterator[Problem]:
    device = get_device()
    launcher = cfg.get("launcher", "none")
    if launcher == "slurm" and device == "cpu":
        yield Problem(
            "--launcher slurm: mmengine starts processes under SLURM on GPUs only, and torch sees "
            "none here",
            ("On CPUs let srun start torchrun, with --launcher pytorch.",),
        )
    elif launcher != "none" and device == "mps":
        yield Problem(
            f"--launcher {launcher}: torch cannot train in several processes on device mps",
            ("Leave --launcher out: one process trains on this device.",),
        )
    missing = [name for name in _LAUNCHER_VARIABLES.get(launcher, ()) if name not in os.environ]
    if missing:
        yield Problem(
            f"--launcher {launcher}: {', '.join(missing)} not set in the environment",
            (_LAUNCHER_COMMANDS[launcher],),
        )
    wrapper = cfg.get("optim_wrapper") or {}
    if type_name(wrapper) == "AmpOptimWrapper" and device in ("cpu", "mps"):
        yield Problem(
            "--amp (AmpOptimWrapper): mixed precision training needs a GPU, and torch sees none "
            f"here (device {device})",
            ("Leave --amp out, or set --cfg-options optim_wrapper.type=OptimWrapper.",),
        )


def _missing_parts(cfg: Config, keys: Sequence[str]) -> Iterator[Problem]:
    for key in keys:
        if cfg.get(key) is None:
            yield Problem(
                f"{key}: config {cfg.filename} has none", (f"Give a config that has {key}.",)
            )


def _stage_problems(cfg: Config, *stages: str) -> Iterator[Problem]:
    """Stages that the run does not need, but that have only some of their parts."""
    for stage in stages:
        keys = _STAGES[stage]
        # A scheduler needs an optimizer.
        left_out = (*keys, "param_scheduler") if stage == "training" else keys
        missing = [key for key in keys if cfg.get(key) is None]
        if missing and any(cfg.get(key) is not None for key in left_out):
            yield Problem(
                f"{', '.join(missing)}: config {cfg.filename} has none, and mmengine takes "
                f"{', '.join(keys)} together",
                (f"Without {stage}: --cfg-options " + " ".join(f"{key}=None" for key in left_out),),
            )


def _mode_problems(cfg: Config) -> Iterator[Problem]:
    model = cfg.get("model") or {}
    test_cfg = model.get("test_cfg") or {}
    mode = test_cfg.get("mode", "whole")
    cls = registered(MODELS, model, scope_of(cfg))
    # mmseg's would fail at the first image: in training, not before the first validation.
    if getattr(cls, "inference", None) is not EncoderDecoder.inference:
        return
    whole = "Give --cfg-options model.test_cfg.mode=whole."
    if mode == "tile":
        remedy = "Give --cfg-options model.type=TiledEncoderDecoder, too."
        yield Problem(
            f"model.test_cfg.mode=tile: a model of type {model['type']} does not predict in tiles",
            (remedy if cls is EncoderDecoder else whole,),
        )
    elif mode == "slide":
        for key in ("crop_size", "stride"):
            if not isinstance(test_cfg.get(key), (tuple, list)):
                yield Problem(
                    f"model.test_cfg.mode=slide: {key} has to be (height, width), but is "
                    f"{test_cfg.get(key)}",
                    (f"Give --cfg-options model.test_cfg.{key}=HEIGHT,WIDTH", whole),
                )
    elif mode != "whole":
        yield Problem(
            f"model.test_cfg.mode={mode}: a model of type {model['type']} knows whole and slide",
            (whole,),
        )


def _conv_problems(cfg: Config) -> Iterator[Problem]:
    """A ``conv_cfg`` that is a name alone, of which mmcv says only that it must be a dict."""
    for key, name, value in entries(cfg.get("model"), "model"):
        if name == "conv_cfg" and isinstance(value, str):
            yield Problem(
                f"{key}={value!r}: it has to be a dict", (f"Write conv_cfg=dict(type={value!r}).",)
            )


def _scaling_problems(cfg: Config) -> Iterator[Problem]:
    scaling = cfg.get("auto_scale_lr") or {}
    if scaling.get("enable") and not scaling.get("base_batch_size"):
        yield Problem(
            "auto_scale_lr.enable=True: nothing says for how many images per iteration the "
            "learning rate of the config is",
            ("Give --cfg-options auto_scale_lr.base_batch_size=IMAGES, too.",),
        )


def _loop_problems(cfg: Config) -> Iterator[Problem]:
    loop, scope = cfg.get("train_cfg") or {}, scope_of(cfg)
    loop_class = registered(LOOPS, loop, scope)
    by_epoch = isinstance(loop_class, type) and issubclass(loop_class, EpochBasedTrainLoop)
    sampler = (cfg.get("train_dataloader") or {}).get("sampler") or {}
    # Samplers that can jump to a sample have no end.
    if (by_epoch or loop.get("by_epoch")) and hasattr(
        registered(DATA_SAMPLERS, sampler, scope), "start_at"
    ):
        yield Problem(
            f"train_cfg: it counts epochs, and {sampler['type']} has no end, so that the first "
            "epoch would never end",
            ("Train by iterations: train_cfg=dict(type='ResumableTrainLoop', max_iters=N, ...)",),
        )
