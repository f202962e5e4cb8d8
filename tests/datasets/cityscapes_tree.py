"""A small tree in the format of Cityscapes: tiny images, and polygons as published."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from pconv_seg.datasets.cityscapes.preparation import Part

HEIGHT, WIDTH = 24, 40
SMALL_PARTS = (
    Part("train", "gtFine", {"aachen": 3, "bochum": 2}, 5, ("images.zip", "fine.zip"), True),
    Part("val", "gtFine", {"lindau": 2}, 2, ("images.zip", "fine.zip"), True),
    Part("test", None, {"bonn": 1}, 1, ("images.zip", "fine.zip"), False),
    Part(
        "train_extra",
        "gtCoarse",
        {"augsburg": None, "troisdorf": None},
        3,
        ("extra.zip", "coarse.zip"),
        False,
    ),
)


def _rectangle(label: str, top: int, bottom: int, left: int, right: int) -> dict:
    corners = [[left, top], [right, top], [right, bottom], [left, bottom]]
    return {"label": label, "polygon": corners}


def polygons(index: int = 0) -> dict:
    """Content of a polygon file; `index` moves a car."""
    return {
        "imgHeight": HEIGHT,
        "imgWidth": WIDTH,
        "objects": [
            _rectangle("sky", 0, 9, 0, WIDTH - 1),
            _rectangle("road", 12, HEIGHT - 1, 0, WIDTH - 1),
            _rectangle("parking", 12, 15, 30, WIDTH - 1),
            _rectangle("cargroup", 14, 17, index, index + 5),
            _rectangle("license plate", 16, 17, index + 1, index + 3),
            {**_rectangle("bus", 2, 20, 20, 29), "deleted": 1},
        ],
    }


def label_map(index: int) -> np.ndarray:
    """What the polygons above mean as training ids."""
    labels = np.full((HEIGHT, WIDTH), 255, np.uint8)
    labels[:10] = 10
    labels[12:] = 0
    labels[12:16, 30:] = 255
    labels[14:18, index : index + 6] = 13
    return labels


def write_frame(root: Path, part: str, labels: str | None, city: str, index: int) -> None:
    stem = f"{part}/{city}/{city}_000000_{index:06d}"
    image = root / "leftImg8bit" / f"{stem}_leftImg8bit.png"
    image.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(index).integers(256, size=(HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(noise).save(image)
    if labels:
        path = root / labels / f"{stem}_{labels}_polygons.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(polygons(index)))
        ids = Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8))
        ids.save(root / labels / f"{stem}_{labels}_labelIds.png")


def write_small_tree(root: Path) -> None:
    """The images of SMALL_PARTS, numbered from 0 in each city."""
    for part in SMALL_PARTS:
        for city, count in part.images.items():
            for index in range(count or {"augsburg": 2, "troisdorf": 1}[city]):
                write_frame(root, part.name, part.labels, city, index)
