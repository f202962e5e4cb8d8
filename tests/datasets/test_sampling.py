"""Draws, samplers and the data set that takes them."""

import itertools
import pickle
import random
import re
from collections import Counter

import numpy as np
import pytest
import torch
from mmcv.transforms import LoadAnnotations
from mmengine.registry import DATA_SAMPLERS, DATASETS
from PIL import Image
from torch.utils.data import DataLoader
from two_processes import in_two_processes

from pconv_seg.datasets.sampling import (
    ClassFrequency,
    Draw,
    DrawnDataset,
    SampleError,
    frequency_table,
)
from pconv_seg.datasets.sampling.draw import seeded

# Pixel values of labels; BaseSegDataset takes classes from metainfo.
CLASSES = ("ground", "wall", "truck", "never")
PIPELINE = [
    {"type": "LoadImageFromFile"},
    {"type": "LoadAnnotations"},
    {"type": "RandomScaleCrop", "crop_size": (16, 16)},
    {"type": "RandomFlip", "prob": 0.5},
    {"type": "ColorJitter", "brightness": 0.25, "hue": 0.25},
    {"type": "PackSegInputs"},
]


def write(folder, number, seed=0, shape=(24, 32)):
    """Images of noise; labels of ground, with a wall in every second and a truck in every fifth."""
    rng = np.random.default_rng(seed)
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for i in range(number):
        label = np.zeros(shape, np.uint8)
        if i % 2 == 0:
            label[2:5, 3:10] = 1
        if i % 5 == 0:
            label[10:13, 20:27] = 2
        label[:, -1] = 255
        image = rng.integers(256, size=(*shape, 3), dtype=np.uint8)
        Image.fromarray(image).save(folder / f"images/{i:03d}.png")
        Image.fromarray(label).save(folder / f"labels/{i:03d}.png")


@pytest.fixture
def data(tmp_path):
    write(tmp_path / "fine", 11)
    return tmp_path


def part(root, **kwargs):
    return {
        "type": "BaseSegDataset",
        "data_root": str(root),
        "img_suffix": ".png",
        "data_prefix": {"img_path": "images", "seg_map_path": "labels"},
        "metainfo": {"classes": CLASSES},
        "pipeline": PIPELINE,
        **kwargs,
    }


def drawn(data, **kwargs):
    return DATASETS.build({"type": "DrawnDataset", "dataset": part(data / "fine"), **kwargs})


def resumable(dataset, seed=3, **kwargs):
    config = {"type": "ResumableSampler", **kwargs}
    return DATA_SAMPLERS.build(config, default_args={"dataset": dataset, "seed": seed})


def uniform(dataset, seed=3, **kwargs):
    return resumable(dataset, seed, type="ClassUniformSampler", **kwargs)


def take(sampler, number):
    return list(itertools.islice(sampler, number))


def pixels(sample):
    return sample["inputs"].numpy(), sample["data_samples"].gt_sem_seg.data.numpy()


def assert_same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        for a, b in zip(pixels(one), pixels(other), strict=True):
            np.testing.assert_array_equal(a, b)


def test_seeded_leaves_the_generators_as_they_were():
    def numbers():
        return random.random(), np.random.random(), torch.rand(()).item()

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = [numbers(), numbers()]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = numbers()
    with seeded(5, 7):
        inside = numbers()
    with pytest.raises(KeyError), seeded(5, 7):
        raise KeyError
    assert [before, numbers()] == expected
    with seeded(5, 7):
        assert numbers() == inside
    with seeded(5, 8):
        assert not set(numbers()) & set(inside)


@pytest.mark.parametrize("sampler_of", [resumable, uniform])
def test_resuming_continues_the_sequence(data, sampler_of):
    dataset = drawn(data)
    whole = take(sampler_of(dataset), 60)
    for start in (0, 1, 10, 11, 12, 45):
        sampler = sampler_of(dataset)
        sampler.start_at(start)
        assert take(sampler, 60 - start) == whole[start:]
    assert [draw.number for draw in whole] == list(range(60))
    with pytest.raises(ValueError, match="starts at sample 0 or later, not -1"):
        sampler.start_at(-1)
    # The mmengine loop of the maintained packages counts in samples of one process.
    sampler = sampler_of(dataset)
    sampler.world_size = 2
    sampler.skip(6)
    assert take(sampler, 3) == whole[12:18:2]


@pytest.mark.parametrize("sampler_of", [resumable, uniform])
@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("start", [0, 7])
def test_processes_share_the_sequence(data, monkeypatch, sampler_of, world_size, start):
    dataset = drawn(data)
    whole = take(sampler_of(dataset), start + 30)[start:]
    shares = []
    for rank in range(world_size):
        monkeypatch.setattr(
            "pconv_seg.datasets.sampling.samplers.get_dist_info", lambda r=rank: (r, world_size)
        )
        sampler = sampler_of(dataset)
        sampler.start_at(start)
        shares.append(take(sampler, 30 // world_size))
    assert [draw for step in zip(*shares, strict=True) for draw in step] == whole


def test_every_epoch_holds_every_image_once_in_another_order(data):
    draws = take(resumable(drawn(data)), 44)
    epochs = [[draw.index for draw in draws[i : i + 11]] for i in range(0, 44, 11)]
    assert all(sorted(epoch) == list(range(11)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 4
    assert take(resumable(drawn(data), seed=4), 44) != draws
    assert {draw.center for draw in draws} == {None}


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_samples_do_not_depend_on_workers_nor_on_what_was_loaded_before(data, on_error):
    if on_error == "skip":
        (data / "fine/images/004.png").write_bytes(b"nothing")
    dataset = drawn(data, on_error=on_error)
    draws = take(uniform(dataset), 24)
    base = [dataset[draw] for draw in draws]
    np.random.seed(0)
    assert_same([dataset[draw] for draw in reversed(draws)][::-1], base)
    for workers in (1, 2):
        loader = DataLoader(dataset, batch_size=None, sampler=draws, num_workers=workers)
        assert_same(loader, base)
    # Two draws of one image differ, and so do two seeds.
    assert not np.array_equal(
        dataset[Draw(0, 0, None, 3)]["inputs"], dataset[Draw(0, 1, None, 3)]["inputs"]
    )
    assert not np.array_equal(
        dataset[Draw(0, 0, None, 3)]["inputs"], dataset[Draw(0, 0, None, 4)]["inputs"]
    )


def test_half_of_an_epoch_is_uniform_over_the_classes(data):
    """Of 11 samples 5 are uniform; three classes have centroids: 1 each, and 2 by chance."""
    dataset = drawn(data)
    sampler = uniform(dataset, tile=16)
    centers = {(3, 6): 1, (11, 23): 2}
    extra = Counter()
    draws = [[draw.index, *(draw.center or (-1, -1))] for draw in take(sampler, 11)]
    assert draws == sampler.plan(0).tolist()
    for epoch in range(60):
        plan = sampler.plan(epoch)
        assert len(plan) == len(sampler) == 11
        placed = plan[plan[:, 1] >= 0]
        assert len(placed) == 5
        shares = Counter(centers.get((y, x), 0) for _, y, x in placed.tolist())
        assert sorted(shares.values()) == [1, 2, 2]
        extra.update(c for c in shares if shares[c] == 2)
        anywhere = plan[plan[:, 1] < 0, 0]
        assert len(set(anywhere)) == 6
        assert set(anywhere) <= set(range(11))
        for image, y, x in placed.tolist():
            label = np.array(Image.open(dataset.get_data_info(image)["seg_map_path"]))
            if (y, x) in centers:
                assert label[y, x] == centers[y, x]
    assert all(25 <= extra[c] <= 55 for c in range(3))


def test_coarse_images_add_rare_classes_until_the_last_part(data):
    write(data / "coarse", 6, seed=1)
    coarse = {"data_root": str(data / "coarse")}
    dataset = drawn(data, coarse=coarse)
    assert len(dataset) == 17
    assert dataset.get_data_info(11)["img_path"] == str(data / "coarse/images/000.png")
    always, sampler = (
        uniform(dataset, coarse_classes=["truck"], fine_only_after=n) for n in (None, 30)
    )
    plans = [sampler.plan(epoch) for epoch in range(60)]
    assert {len(plan) for plan in plans} == {11}
    same = [np.array_equal(plans[epoch], always.plan(epoch)) for epoch in range(31)]
    assert same == [True] * 30 + [False]
    early, late = np.concatenate(plans[:30]), np.concatenate(plans[30:])
    assert late[:, 0].max() < 11
    # Trucks are in the coarse images 0 and 5; nothing else of the coarse images comes up.
    taken = early[early[:, 0] >= 11]
    assert set(map(tuple, taken.tolist())) == {(11, 11, 23), (16, 11, 23)}
    one = uniform(dataset, coarse_classes="truck")  # as a command line gives it
    assert np.array_equal(one.plan(0), always.plan(0))
    with pytest.raises(ValueError, match="no class bus"):
        uniform(dataset, coarse_classes=["truck", "bus"])
    with pytest.raises(ValueError, match="has the classes"):
        drawn(data, coarse={**coarse, "metainfo": {"classes": ("a", "b", "c", "d")}})


def test_a_class_uses_all_its_centroids_before_one_comes_again(data):
    write(data / "fine", 80)
    sampler = uniform(drawn(data))
    for epoch in range(3):
        trucks = [tuple(row) for row in sampler.plan(epoch).tolist() if row[1:] == [11, 23]]
        assert len(trucks) in (13, 14)
        assert len(set(trucks)) == len(trucks)  # of 16


@pytest.mark.parametrize(("value", "random"), [(0, 6), (255, 11)])
def test_with_one_class_or_none_an_epoch_is_as_long(data, value, random):
    for file in (data / "fine/labels").iterdir():
        Image.fromarray(np.full((24, 32), value, np.uint8)).save(file)
    plan = uniform(drawn(data)).plan(0)
    assert len(plan) == 11
    assert len(set(plan[plan[:, 1] < 0, 0])) == random


def test_the_crop_holds_the_centre_of_the_draw(data):
    dataset = drawn(data)
    for number in range(40):
        label = pixels(dataset[Draw(0, number, (11, 23), 3)])[1]
        assert (label == 2).any()


CROP = next(step for step in PIPELINE if step["type"] == "RandomScaleCrop")


@pytest.mark.parametrize("before", [[], [{"type": "RandomFlip", "prob": 1.0}, CROP]])
def test_crops_that_cannot_be_placed_are_refused(data, before):
    steps = PIPELINE.copy()
    place = steps.index(CROP)
    steps[place : place + 1] = before
    dataset = DATASETS.build(
        {"type": "DrawnDataset", "dataset": part(data / "fine", pipeline=steps)}
    )
    with pytest.raises(ValueError, match="has no RandomScaleCrop"):
        uniform(dataset)


def draw_in_process(rank, data):
    draws = take(uniform(drawn(data), seed=None), 20)
    (data / f"{rank}.pickle").write_bytes(pickle.dumps(draws))


def test_two_processes_share_one_seed_and_one_index(data):
    in_two_processes(draw_in_process, data, method="fork")
    shares = [pickle.loads((data / f"{rank}.pickle").read_bytes()) for rank in range(2)]
    (file,) = (data / "fine").glob("centroids_*.npz")
    written = file.stat().st_mtime_ns
    whole = take(uniform(drawn(data), shares[0][0].seed), 40)
    assert [draw for step in zip(*shares, strict=True) for draw in step] == whole
    assert file.stat().st_mtime_ns == written


def test_a_draw_is_asked_for(data):
    dataset = drawn(data)
    with pytest.raises(TypeError, match="takes draws, not 0: its sampler is ResumableSampler"):
        dataset[0]
    with pytest.raises(TypeError, match="put DrawnDataset around"):
        resumable(dataset.datasets[0])
    with pytest.raises(TypeError, match="wraps data sets of mmseg, not DrawnDataset"):
        DATASETS.build({"type": "DrawnDataset", "dataset": dataset})
    with pytest.raises(ValueError, match="'raise' or 'skip', not 'ignore'"):
        drawn(data, on_error="ignore")


def damage(root, kind):
    image, label = root / "fine/images/004.png", root / "fine/labels/004.png"
    if kind == "truncated image":
        image.write_bytes(image.read_bytes()[:-100])
    elif kind == "missing image":
        image.unlink()
    elif kind == "truncated label":
        label.write_bytes(label.read_bytes()[:50])
    elif kind == "missing label":
        label.unlink()
    elif kind == "value":
        Image.fromarray(np.full((24, 32), 9, np.uint8)).save(label)
    elif kind == "value of 16 bits":
        Image.fromarray(np.full((24, 32), 257, np.uint16)).save(label)
    elif kind == "colours":
        Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(label)
    elif kind == "size":
        Image.fromarray(np.zeros((24, 30), np.uint8)).save(label)


DAMAGES = {
    "truncated image": "images/004.png",
    "missing image": "images/004.png",
    "truncated label": "labels/004.png",
    "missing label": "labels/004.png",
    "value": r"labels/004.png: label value\(s\) 9; there are classes 0-3, and 255 is ignored",
    "value of 16 bits": r"labels/004.png: label value\(s\) 257; there are classes 0-3, and 255 is",
    "colours": "labels/004.png: 3 channels",
    "size": r"images/004.png has 24x32 pixels, but .*labels/004.png has 24x30",
}


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("cached", [False, True])
def test_a_damaged_sample_ends_the_run_or_is_replaced(data, kind, cached, monkeypatch):
    cache = {"decoded_cache": {"folder": str(data / "cache"), "max_gb": 1}} if cached else {}
    dataset, skipping, other = (
        drawn(data, on_error=on_error, **cache) for on_error in ("raise", "skip", "skip")
    )
    damage(data, kind)
    assert dataset[Draw(3, 0, None, 1)]["inputs"].shape[0] == 3
    with pytest.raises(SampleError, match=DAMAGES[kind]):
        dataset[Draw(4, 0, None, 1)]

    draws = [Draw(4, number, (3, 6), 1) for number in range(30)]
    log = []
    monkeypatch.setattr(f"{DrawnDataset.__module__}.print_log", lambda line, **_: log.append(line))
    samples = [skipping[draw] for draw in draws]
    assert re.search(DAMAGES[kind] + r".*another image takes its place \(1 so far\)", log[0])
    assert len(log) == skipping.replaced >= 30
    # Other images take its place, without the centre that was meant for this one.
    others = [int(sample["data_samples"].img_path[-7:-4]) for sample in samples]
    assert 4 not in others
    assert len(set(others)) > 5
    assert_same([dataset[Draw(i, n, None, 1)] for n, i in enumerate(others[:5])], samples[:5])
    assert_same([other[draw] for draw in draws], samples)


def test_cached_samples_are_those_without_a_cache(data):
    folder = data / "cache"
    draws = [Draw(i, i, None, 1) for i in range(11)]
    dataset = drawn(data)
    base = [dataset[draw] for draw in draws]
    for _ in range(2):
        dataset = drawn(data, decoded_cache={"folder": str(folder), "max_gb": 1})
        for _ in range(2):
            assert_same([dataset[draw] for draw in draws], base)
            # One entry for each image and label file, whoever read it first.
            assert len(list(folder.iterdir())) == 22


def drop(results):
    return None


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([{"type": "LoadImageFromFile", "ignore_empty": True}], "images/004.png: nothing was read"),
        ([{"type": "LoadAnnotations"}, drop], "images/004.png: dropped by <function drop"),
    ],
)
def test_what_a_pipeline_leaves_out_is_named(data, steps, message):
    dataset = drawn(data, dataset=part(data / "fine", pipeline=steps))
    damage(data, "missing image")
    with pytest.raises(SampleError, match=message):
        dataset[Draw(4, 0)]


class LoadArray(LoadAnnotations):
    def transform(self, results):
        label = np.load(results["seg_map_path"])
        return {**results, "gt_seg_map": label, "seg_fields": ["gt_seg_map"]}


def test_labels_that_are_no_images_are_left_to_the_step_that_reads_them(data):
    label = np.random.default_rng(0).integers(4, size=(24, 32), dtype=np.uint8)
    np.save(data / "fine/labels/004.npy", label)
    steps = [PIPELINE[0], LoadArray()]
    dataset = drawn(data, dataset=part(data / "fine", seg_map_suffix=".npy", pipeline=steps))
    np.testing.assert_array_equal(dataset[Draw(4, 0)]["gt_seg_map"], label)


def test_class_names_are_asked_for(data):
    with pytest.raises(ValueError, match="BaseSegDataset has no class names"):
        DATASETS.build(
            {"type": "DrawnDataset", "dataset": part(data / "fine", metainfo={"palette": []})}
        )


def test_workers_count_together(data):
    dataset = drawn(data, on_error="skip")
    damage(data, "missing image")
    draws = [Draw(i % 11, i, None, 1) for i in range(22)]
    list(DataLoader(dataset, batch_size=None, sampler=draws, num_workers=2))
    assert dataset.replaced == 2


def test_nothing_but_damage_is_fatal(data):
    dataset = drawn(data, on_error="skip")
    for i in range(11):
        (data / f"fine/images/{i:03d}.png").write_bytes(b"")
    with pytest.raises(SampleError, match=r"10 samples in a row cannot be read, last .*images"):
        dataset[Draw(0, 0)]


def test_draws_of_classes_and_of_images_are_mixed_and_all_images_come_up(data):
    sampler = uniform(drawn(data), tile=16)
    plans = np.stack([sampler.plan(epoch) for epoch in range(60)])
    # 5 of 11 at any place in an epoch.
    np.testing.assert_allclose((plans[..., 1] >= 0).mean(0), 5 / 11, atol=0.3)
    anywhere = plans[plans[..., 1] < 0][:, 0]
    assert np.bincount(anywhere, minlength=11).min() > 0.5 * len(anywhere) / 11


def test_table_of_frequencies():
    found = {
        "random": ClassFrequency(np.array([30, 10]), np.array([8, 3]), 8),
        "uniform": ClassFrequency(np.array([15, 25]), np.array([7, 6]), 8),
    }
    table = frequency_table(("road", "car"), found)
    measures = ("% of pixels", "% of samples")
    assert table.field_names == ["class", *(f"{m}, {name}" for m in measures for name in found)]
    assert table.rows == [
        ["road", "75.00", "37.50", "100.00", "87.50"],
        ["car", "25.00", "62.50", "37.50", "75.00"],
    ]
