import os

import numpy as np
import pytest
from mmengine.registry import DATASETS
from PIL import Image

from pconv_seg.datasets.sampling import SampleError, centroid_index, centroids
from pconv_seg.datasets.sampling.centroids import tile_centroids


def slow_centroids(label, classes, tile):
    rows = []
    for top in range(0, label.shape[0], tile):
        for left in range(0, label.shape[1], tile):
            for category in range(classes):
                found = [
                    (y, x)
                    for y in range(top, min(top + tile, label.shape[0]))
                    for x in range(left, min(left + tile, label.shape[1]))
                    if label[y, x] == category
                ]
                if found:
                    mean = [sum(axis) / len(found) for axis in zip(*found, strict=True)]
                    rows.append((category, *map(round, mean)))
    return rows


@pytest.mark.parametrize("shape", [(16, 32), (20, 37), (7, 9)])
def test_equals_a_slow_reference(shape):
    rng = np.random.default_rng(0)
    for density in (0.02, 1.0):
        label = np.where(rng.random(shape) < density, rng.integers(7, size=shape), 255)
        label = label.astype(np.uint8)
        found = tile_centroids(label, 5, 16)
        assert list(map(tuple, found.tolist())) == slow_centroids(label, 5, 16)


def test_no_class_no_centroid():
    assert tile_centroids(np.full((9, 9), 255, np.uint8), 5, 4).shape == (0, 3)


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    for i in range(5):
        Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / f"images/{i}.png")
        label = rng.integers(4, size=(20, 30), dtype=np.uint8)
        Image.fromarray(label).save(tmp_path / f"labels/{i}.png")
    return tmp_path


def build(root, **kwargs):
    return DATASETS.build(
        {
            "type": "BaseSegDataset",
            "data_root": str(root),
            "img_suffix": ".png",
            "data_prefix": {"img_path": "images", "seg_map_path": "labels"},
            "metainfo": {"classes": ("a", "b", "c", "d")},
            "pipeline": [{"type": "LoadAnnotations"}],
            **kwargs,
        }
    )


def expected(root, labels=range(4), shift=0):
    rows = []
    for i in range(5):
        label = np.array(Image.open(root / f"labels/{i}.png")).astype(int) - shift
        rows += [(i, *row) for row in slow_centroids(label, len(labels), 16)]
    return rows


def rows(index):
    return list(map(tuple, np.column_stack(index).tolist()))


@pytest.fixture
def computed(monkeypatch):
    calls = []
    compute = centroids._compute
    monkeypatch.setattr(centroids, "_compute", lambda *a: calls.append(1) or compute(*a))
    return calls


def test_the_index_of_a_data_set(data, computed):
    index = centroid_index(build(data), 16)
    assert rows(index) == expected(data)
    assert index.image.dtype == index.category.dtype == index.center.dtype == np.int32
    used = build(data)
    used.pipeline(used.get_data_info(0))
    assert rows(centroid_index(used, 16)) == rows(index)
    assert len(computed) == 1
    assert len(list(data.glob("centroids_*.npz"))) == 1


def test_labels_are_those_that_training_sees(data, computed):
    centroid_index(build(data), 16)
    index = centroid_index(
        build(data, reduce_zero_label=True, metainfo={"classes": ("b", "c", "d")}), 16
    )
    assert rows(index) == expected(data, labels="bcd", shift=1)
    assert len(computed) == 2


def test_a_stale_index_is_replaced(data, computed):
    first = rows(centroid_index(build(data), 16))
    label = data / "labels/2.png"
    os.utime(label, ns=(0, 0))
    centroid_index(build(data), 16)
    assert len(computed) == 2
    Image.fromarray(np.full((20, 30), 3, np.uint8)).save(label)
    index = rows(centroid_index(build(data), 16))
    assert len(computed) == 3
    assert index == expected(data) != first
    assert len(list(data.glob("centroids_*.npz"))) == 1
    # Another tile size and another choice of images do not drive each other out.
    for _ in range(2):
        centroid_index(build(data), 8)
        centroid_index(build(data, indices=3), 16)
        centroid_index(build(data), 16)
    assert len(computed) == 5


@pytest.mark.parametrize("damage", ["cut", "empty", "other"])
def test_a_damaged_index_is_replaced(data, computed, damage):
    index = rows(centroid_index(build(data), 16))
    (file,) = data.glob("centroids_*.npz")
    content = bytearray(file.read_bytes())
    if damage == "cut":
        del content[len(content) // 2 :]
    if damage == "empty":
        content.clear()
    file.write_bytes(content)
    if damage == "other":
        np.savez(file, something=np.zeros(3))
    assert rows(centroid_index(build(data), 16)) == index
    assert len(computed) == 2
    assert rows(centroid_index(build(data), 16)) == index
    assert len(computed) == 2


def test_no_flipped_byte_is_trusted(data):
    index = rows(centroid_index(build(data), 16))
    (file,) = data.glob("centroids_*.npz")
    fingerprint = np.load(file)["fingerprint"].item()
    content = bytearray(file.read_bytes())
    refused = 0
    for i in range(len(content)):
        content[i] ^= 255
        file.write_bytes(content)
        content[i] ^= 255
        read = centroids._read(file, fingerprint)
        refused += read is None
        assert read is None or rows(read) == index
    # The others are dates and the like.
    assert refused > len(content) // 2


def test_another_folder(data, tmp_path_factory, computed):
    cache = tmp_path_factory.mktemp("cache") / "new"
    index = rows(centroid_index(build(data), 16, cache))
    assert rows(centroid_index(build(data), 16, str(cache))) == index
    assert len(computed) == 1
    assert not list(data.glob("centroids_*.npz"))


def test_a_folder_that_cannot_be_written_is_named_before_any_work(data, computed):
    # Root may write in any folder, but in no file.
    cache = data / "labels" / "1.png" / "cache"
    message = r"folder .*cache \(.*1\.png: .*\); name another place: .*sampler\.cache=DIR"
    with pytest.raises(PermissionError, match=message):
        centroid_index(build(data), 16, cache)
    assert not computed


def test_unreadable_labels(data, computed):
    good = expected(data)
    (data / "labels/1.png").write_bytes(b"no")
    (data / "labels/3.png").unlink()
    dataset = build(data)
    with pytest.raises(SampleError, match=r"2 of 5 label files cannot be read, first .*1\.png: "):
        centroid_index(dataset, 16)
    assert not list(data.glob("centroids_*.npz"))
    index = centroid_index(dataset, 16, on_error="skip")
    assert rows(index) == [row for row in good if row[0] not in (1, 3)]


def test_tiles_without_a_pixel_are_refused(data):
    with pytest.raises(ValueError, match="tile must be a positive number of pixels, got -16"):
        centroid_index(build(data), -16)


def test_a_data_set_without_labels(data):
    with pytest.raises(ValueError, match="has none"):
        centroid_index(build(data, data_prefix={"img_path": "images"}), 16)
    with pytest.raises(ValueError, match="no LoadAnnotations"):
        centroid_index(build(data, pipeline=[]), 16)
