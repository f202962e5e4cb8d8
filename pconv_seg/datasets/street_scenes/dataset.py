"""A folder of drawn scenes in the layout of Cityscapes."""

import os
from pathlib import Path

import cv2
import numpy as np

from pconv_seg.datasets.cityscapes.cities import FINE_IMAGES
from pconv_seg.files import atomic_path, parse_json, remove_leftovers, write_json
from pconv_seg.parallel import map_in_processes

from .canvas import TRAIN_IDS
from .street import check_size, render_street_scene

# Part of the manifest: raise it with every change of what a seed draws.
_VERSION = 2
_SPLITS = ("train", "val")
_MANIFEST = "scenes.json"


def _scene_seed(seed: int, split: str, index: int) -> int:
    """A seed of its own for every image: even ones for training, odd ones for validation."""
    state = np.random.SeedSequence(seed, spawn_key=(index,)).generate_state(1, np.uint64)
    return 2 * int(state[0]) + _SPLITS.index(split)


def _scene_paths(root: Path, split: str, index: int, count: int) -> tuple[Path, Path, Path]:
    # Names of the real cities, because Cityscapes is split by cities; sorted like the indices.
    cities = sorted(FINE_IMAGES[split])
    city = cities[index * len(cities) // count]
    name = f"{city}_{index:06d}_000019"
    fine = root / "gtFine" / split / city
    return (
        root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png",
        fine / f"{name}_gtFine_labelIds.png",
        fine / f"{name}_gtFine_labelTrainIds.png",
    )


def _write_scene(job: tuple[tuple[int, int], int, tuple[Path, Path, Path]]) -> None:
    size, seed, paths = job
    image, ids = render_street_scene(size, seed)
    for path, pixels in zip(paths, (image[..., ::-1], ids, TRAIN_IDS[ids]), strict=True):
        _, png = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        with atomic_path(path) as temporary:
            temporary.write_bytes(png)


def _claim(root: Path, settings: dict) -> None:
    """Write the manifest, or make sure that the folder was begun with the same settings.

    It is written before the images: an interrupted run must not be completed with other settings.
    """
    path = root / _MANIFEST
    way_out = "choose another --out or delete that folder"
    if not path.exists():
        if (root / "leftImg8bit").exists() or (root / "gtFine").exists():
            raise FileExistsError(f"{root} holds images that were not drawn here: {way_out}")
        write_json(settings, path)
    elif (found := parse_json(path.read_bytes(), path, settings, way_out)) != settings:
        raise FileExistsError(f"{path} was drawn with {found}, not {settings}: {way_out}")


def write_street_scenes(
    root: str | os.PathLike,
    size: tuple[int, int],
    num_train: int,
    num_val: int,
    seed: int,
    num_workers: int | None = None,
) -> None:
    """Draw a data set in Cityscapes layout.

    Writes ``leftImg8bit/{train,val}/CITY/CITY_NNNNNN_000019_leftImg8bit.png`` and beside it in
    ``gtFine`` the ``_gtFine_labelIds.png`` and ``_gtFine_labelTrainIds.png`` of each image, and the
    settings in ``scenes.json``. CITY are the cities of Cityscapes, all of them from 18 training and
    3 validation images on. Files are the same for any number of workers. Called again with the same
    settings it draws what is missing, keeps the rest, and removes what a killed call left half
    written.

    Args:
        root: Output folder.
        size: Height and width of the images in pixels, at least 16 each.
        num_train: Number of training images.
        num_val: Number of validation images; none is drawn from a training image's seed.
        seed: Non-negative seed of the whole set.
        num_workers: Processes that draw; as many as processors by default.

    Raises:
        FileExistsError: ``root`` holds a data set of other settings, or another one altogether.
        ValueError: ``size`` or ``seed`` is out of range, or ``scenes.json`` is damaged.
    """
    root, size = Path(root), tuple(size)
    check_size(size)
    jobs = [
        (size, _scene_seed(seed, split, index), _scene_paths(root, split, index, count))
        for split, count in (("train", num_train), ("val", num_val))
        for index in range(count)
    ]
    settings = {"size": list(size), "train": num_train, "val": num_val, "seed": seed}
    _claim(root, {**settings, "generator": _VERSION})
    # What a killed run left half written would count as images in a listing.
    for folder in {path.parent for job in jobs for path in job[2]}:
        remove_leftovers(folder, "*.png")
    jobs = [job for job in jobs if not all(path.exists() for path in job[2])]
    for _ in map_in_processes(_write_scene, jobs, num_workers, "Drawing street scenes", "scene"):
        pass
