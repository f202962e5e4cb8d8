import json
import re

import numpy as np
import pytest
from cityscapesscripts.helpers.labels import id2label
from mmseg.datasets import CityscapesDataset
from PIL import Image

from pconv_seg import CityscapesSplitDataset
from pconv_seg.datasets import render_street_scene, write_street_scenes
from pconv_seg.datasets.street_scenes import TRAIN_IDS
from pconv_seg.datasets.street_scenes.dataset import _scene_seed

SIZE = (64, 128)
NUM_TRAIN, NUM_VAL, SEED = 3, 2, 5


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    write_street_scenes(root, SIZE, NUM_TRAIN, NUM_VAL, SEED, num_workers=1)
    return root


@pytest.fixture(scope="module")
def label_maps():
    return [render_street_scene(SIZE, seed)[1] for seed in range(40)]


def names():
    return [id2label[label_id].name for label_id in range(34)]


def contents(root):
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def test_train_ids_are_the_official_ones():
    official = [id2label[label_id].trainId for label_id in range(34)]
    np.testing.assert_array_equal(TRAIN_IDS, official)


@pytest.mark.parametrize("size", [(64, 64), (256, 48), (16, 400), (97, 131)])
def test_any_size(size):
    image, label_ids = render_street_scene(size, 1)
    assert (image.shape, image.dtype) == ((*size, 3), np.uint8)
    assert (label_ids.shape, label_ids.dtype) == (size, np.uint8)


def test_too_small_a_size_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least 16x16 pixels, got 8x512"):
        render_street_scene((8, 512), 0)
    with pytest.raises(ValueError, match="at least 16x16 pixels, got 8x512"):
        write_street_scenes(tmp_path, (8, 512), 1, 1, 0)
    assert not contents(tmp_path)


def test_a_seed_always_draws_the_same_and_another_something_else():
    image, label_ids = render_street_scene(SIZE, 3)
    again = render_street_scene(SIZE, 3)
    other = render_street_scene(SIZE, 4)
    np.testing.assert_array_equal(image, again[0])
    np.testing.assert_array_equal(label_ids, again[1])
    assert (image != other[0]).mean() > 0.5
    assert (label_ids != other[1]).any()


def test_labels_are_valid_and_all_classes_occur(label_maps):
    pixels = np.bincount(np.concatenate(label_maps, axis=None), minlength=256)
    assert pixels[34:].sum() == 0
    classes = {name for name, pixel in zip(names(), pixels, strict=False) if pixel}
    assert classes >= set(CityscapesDataset.METAINFO["classes"])
    assert {"ego vehicle", "static", "parking", "rail track"} <= classes


@pytest.mark.parametrize(
    ("side", "expected"),
    [
        (np.s_[0], {"truck", "bus", "pole", "traffic light", "traffic sign", "building"}),
        (np.s_[-1], {"person", "rider", "car", "motorcycle", "bicycle", "pole"}),
        (np.s_[:, 0], {"person", "car", "truck", "bus", "wall", "fence", "vegetation"}),
        (np.s_[:, -1], {"person", "rider", "car", "bus", "motorcycle", "bicycle"}),
    ],
    ids=["top", "bottom", "left", "right"],
)
def test_the_frame_cuts_things(label_maps, side, expected):
    # At least three pixels on the very edge of some scene.
    counts = [np.bincount(label_map[side], minlength=34) for label_map in label_maps]
    cut = np.max(counts, axis=0) >= 3
    assert expected <= {name for name, is_cut in zip(names(), cut, strict=True) if is_cut}


def test_mmseg_reads_the_layout(root):
    for split, count in (("train", NUM_TRAIN), ("val", NUM_VAL)):
        dataset = CityscapesDataset(
            data_root=str(root),
            data_prefix={"img_path": f"leftImg8bit/{split}", "seg_map_path": f"gtFine/{split}"},
            pipeline=[{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}],
        )
        assert len(dataset) == count
        for index in range(count):
            sample = dataset[index]
            image, label_ids = render_street_scene(SIZE, _scene_seed(SEED, split, index))
            np.testing.assert_array_equal(sample["img"], image[..., ::-1])
            np.testing.assert_array_equal(sample["gt_seg_map"], TRAIN_IDS[label_ids])
            path = sample["seg_map_path"].replace("labelTrainIds", "labelIds")
            np.testing.assert_array_equal(Image.open(path), label_ids)
            name = rf"(\w+)/\1_{index:06d}_000019_leftImg8bit\.png$"
            assert re.search(name, sample["img_path"])


def test_train_and_val_share_no_seed():
    seeds = {split: {_scene_seed(0, split, i) for i in range(500)} for split in ("train", "val")}
    assert len(seeds["train"]) == len(seeds["val"]) == 500
    assert {seed % 2 for seed in seeds["train"]} == {0}
    assert {seed % 2 for seed in seeds["val"]} == {1}


def test_bytes_do_not_depend_on_the_number_of_workers(root, tmp_path):
    write_street_scenes(tmp_path, SIZE, NUM_TRAIN, NUM_VAL, SEED, num_workers=3)
    expected = contents(root)
    assert len(expected) == 3 * (NUM_TRAIN + NUM_VAL) + 1
    assert contents(tmp_path) == expected


def test_resumes_what_was_interrupted(root, tmp_path):
    write_street_scenes(tmp_path, SIZE, NUM_TRAIN, NUM_VAL, SEED)
    images = sorted(tmp_path.rglob("*_leftImg8bit.png"))
    labels = sorted(tmp_path.rglob("*_labelTrainIds.png"))
    untouched = images[2].stat().st_mtime_ns
    # Killed in the middle of writing the first one.
    leftover = images[0].with_name(f".{images[0].name}.abcd_123")
    leftover.mkdir()
    images[0].rename(leftover / images[0].name)
    labels[1].unlink()
    write_street_scenes(tmp_path, SIZE, NUM_TRAIN, NUM_VAL, SEED)
    assert contents(tmp_path) == contents(root)
    assert not leftover.exists()
    assert images[2].stat().st_mtime_ns == untouched


def test_other_settings_in_the_same_folder_are_refused(root):
    before = contents(root)
    with pytest.raises(FileExistsError, match=r"scenes\.json .*choose another --out or"):
        write_street_scenes(root, SIZE, NUM_TRAIN, NUM_VAL, SEED + 1)
    assert contents(root) == before
    assert json.loads(before["scenes.json"])["seed"] == SEED


def test_a_damaged_manifest_is_named(tmp_path):
    (tmp_path / "scenes.json").write_text('{"size": [32')
    with pytest.raises(ValueError, match=r"scenes\.json is damaged .*choose another --out or"):
        write_street_scenes(tmp_path, SIZE, 1, 1, 0)


def test_images_of_other_origin_are_left_alone(tmp_path):
    (tmp_path / "leftImg8bit").mkdir()
    with pytest.raises(FileExistsError, match="were not drawn here"):
        write_street_scenes(tmp_path, SIZE, 1, 1, 0)


def test_scenes_are_split_by_cities_as_cityscapes_is(tmp_path):
    write_street_scenes(tmp_path, (16, 16), 18, 4, SEED, num_workers=1)
    counts = [
        [
            len(CityscapesSplitDataset(split, part, data_root=str(tmp_path), pipeline=[]))
            for part in ("train", "val")
        ]
        for split in (0, 1, 2)
    ]
    assert counts == [[18, 4], [19, 3], [19, 3]]
