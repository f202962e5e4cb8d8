"""One training sample beside mmseg's default pipeline.

All read the same image and labels, PNG files that are drawn here, on one thread. "decoding" is the
loading of both files alone. Ratios are to mmseg's pipeline.
"""

import argparse
import tempfile
from collections.abc import Iterator
from itertools import count

import cv2
import torch
from measure import take_turns, time_records
from mmengine.registry import init_default_scope
from mmseg.datasets import BaseSegDataset

from pconv_seg.datasets import Draw, DrawnDataset
from pconv_seg.datasets.street_scenes import render_street_scene

TITLE = "Training pipeline"
MMSEG = "mmseg's default pipeline"
RECIPE, CACHED = "the paper's recipe", "the paper's recipe, decoded cache"
LOADING = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations")]
PACKING = dict(type="PackSegInputs")


def recipe(crop):
    return [
        *LOADING,
        dict(type="RandomScaleCrop", crop_size=crop, scale=(0.5, 2.0)),
        dict(type="RandomFlip", prob=0.5),
        dict(type="ColorJitter", brightness=0.25, contrast=0.25, saturation=0.25, hue=0.25),
        dict(type="GaussianBlur"),
        PACKING,
    ]


def mmseg_default(size, crop):
    """As in mmseg's configs/_base_/datasets/cityscapes.py."""
    return [
        *LOADING,
        dict(type="RandomResize", scale=size[::-1], ratio_range=(0.5, 2.0), keep_ratio=True),
        dict(type="RandomCrop", crop_size=crop, cat_max_ratio=0.75),
        dict(type="RandomFlip", prob=0.5),
        dict(type="PhotoMetricDistortion"),
        PACKING,
    ]


def data(folder, pipeline):
    return BaseSegDataset(
        data_root=str(folder),
        img_suffix="_image.png",
        seg_map_suffix="_label.png",
        metainfo=dict(classes=[str(i) for i in range(34)]),
        pipeline=pipeline,
    )


def run(options: argparse.Namespace) -> Iterator[dict]:
    size, crop = ((512, 1024), (448, 448)) if options.quick else ((1024, 2048), (896, 896))
    threads = torch.get_num_threads()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    init_default_scope("mmseg")
    with tempfile.TemporaryDirectory() as folder:
        image, label = render_street_scene(size, seed=0)
        cv2.imwrite(f"{folder}/0_image.png", image)
        cv2.imwrite(f"{folder}/0_label.png", label)

        steps = recipe(crop)
        cache = dict(folder=f"{folder}/cache", max_gb=1)
        ours = DrawnDataset(data(folder, steps))
        cached = DrawnDataset(data(folder, steps), decoded_cache=cache)
        default = data(folder, mmseg_default(size, crop))
        decoding = data(folder, LOADING)
        draws = (Draw(0, i) for i in count())
        calls = {
            MMSEG: lambda: default[0],
            "decoding": lambda: decoding[0],
            RECIPE: lambda: ours[next(draws)],
            CACHED: lambda: cached[next(draws)],
        }
        # Not mmseg's, whose crop is smaller where it has made the image smaller than the crop.
        for name in (RECIPE, CACHED):
            found = tuple(calls[name]()["inputs"].shape)
            if found != (3, *crop):
                raise SystemExit(f"{name}: a sample of {found}, not {(3, *crop)}")
        rounds = take_turns(calls, "cpu", options.seconds)
    torch.set_num_threads(threads)
    case = {"image": "{}x{}".format(*size), "crop": "{}x{}".format(*crop)}
    yield from time_records(case, rounds, MMSEG)
