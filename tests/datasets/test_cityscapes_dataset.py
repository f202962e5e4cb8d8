"""Splits over cities, on a tree of empty files with the published numbers per fine city."""

from pathlib import Path

import pytest
from mmseg.datasets import CityscapesDataset

from pconv_seg import CityscapesSplitDataset
from pconv_seg.datasets.cityscapes import dataset as cityscapes
from pconv_seg.datasets.cityscapes.cities import COARSE_CITIES, FINE_IMAGES, split_cities

VALIDATION = {
    0: ["val/frankfurt", "val/lindau", "val/munster"],
    1: ["train/darmstadt", "train/dusseldorf", "train/erfurt"],
    2: ["train/monchengladbach", "train/strasbourg", "train/stuttgart"],
}
# By the folders of the published data: 2975 in train, 500 in val.
COUNTS = {0: (2975, 500), 1: (3060, 415), 2: (2820, 655)}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cityscapes")
    counts = {f"{part}/{city}": n for part in FINE_IMAGES for city, n in FINE_IMAGES[part].items()}
    coarse = {f"train_extra/{city}": 2 for city in COARSE_CITIES}
    coarse["train_extra/troisdorf"] = 75  # the black one and one more
    for place, count in {**counts, **coarse}.items():
        folder = root / "leftImg8bit" / place
        folder.mkdir(parents=True)
        for index in range(count):
            (folder / f"{folder.name}_000000_{index:06d}_leftImg8bit.png").touch()
    return root


def dataset(root: Path, **arguments) -> CityscapesSplitDataset:
    return CityscapesSplitDataset(data_root=str(root), pipeline=[], **arguments)


def data_list(root: Path, **arguments) -> list[dict]:
    return dataset(root, lazy_init=True, **arguments).load_data_list()


@pytest.mark.parametrize("split", VALIDATION)
def test_cities_of_each_split(split):
    validation = ["/".join(city) for city in split_cities(split, "val")]
    training = ["/".join(city) for city in split_cities(split, "train")]
    assert validation == VALIDATION[split]
    everything = {f"{part}/{city}" for part in ("train", "val") for city in FINE_IMAGES[part]}
    assert len(training) == 18
    assert set(training) == everything - set(validation)


@pytest.mark.parametrize("split", VALIDATION)
def test_published_numbers_of_images(root, split):
    train, val = (data_list(root, split=split, part=part) for part in ("train", "val"))
    assert (len(train), len(val)) == COUNTS[split]
    assert {info["img_path"] for info in train}.isdisjoint(info["img_path"] for info in val)


def test_split_0_is_the_usual_one(root):
    for part in ("train", "val"):
        usual = CityscapesDataset(
            data_root=str(root),
            data_prefix=dict(img_path=f"leftImg8bit/{part}", seg_map_path=f"gtFine/{part}"),
            pipeline=[],
            lazy_init=True,
        )
        assert data_list(root, part=part) == usual.load_data_list()


def test_labels_of_another_split_lie_where_they_are_published(root):
    info = data_list(root, split=2, part="train")[-1]
    stem = "val/munster/munster_000000_000173"
    assert info["img_path"] == f"{root}/leftImg8bit/{stem}_leftImg8bit.png"
    assert info["seg_map_path"] == f"{root}/gtFine/{stem}_gtFine_labelTrainIds.png"


@pytest.mark.parametrize("split", VALIDATION)
def test_coarse_images_are_the_same_for_every_split_without_the_black_one(root, split):
    coarse = data_list(root, split=split, annotations="coarse")
    assert len(coarse) == 22 * 2 + 74
    assert not any("troisdorf_000000_000073" in info["img_path"] for info in coarse)
    info = coarse[0]
    stem = "train_extra/augsburg/augsburg_000000_000000"
    assert info["img_path"] == f"{root}/leftImg8bit/{stem}_leftImg8bit.png"
    assert info["seg_map_path"] == f"{root}/gtCoarse/{stem}_gtCoarse_labelTrainIds.png"


def test_folders_may_have_other_names(root):
    prefix = dict(img_path="leftImg8bit", seg_map_path="labels")
    info = data_list(root, split=2, data_prefix=prefix)[-1]
    stem = "val/munster/munster_000000_000173"
    assert info["seg_map_path"] == f"{root}/labels/{stem}_gtFine_labelTrainIds.png"
    assert "seg_map_path" not in data_list(root, part="test", data_prefix=prefix)[0]


def test_images_for_the_server_have_no_labels(root):
    test = data_list(root, part="test")
    assert len(test) == 1525
    assert not any("seg_map_path" in info for info in test)


def test_cities_that_are_not_there_are_named(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(cityscapes, "print_log", lambda message, **_: said.append(message))
    for place in ("train/erfurt", "train/elsewhere", "val/lindau"):
        folder = tmp_path / "leftImg8bit" / place
        folder.mkdir(parents=True)
        (folder / f"{folder.name}_000000_000000_leftImg8bit.png").touch()
    with pytest.raises(FileNotFoundError) as error:
        dataset(tmp_path, split=1, part="val")
    assert str(error.value) == (
        f"{tmp_path}/leftImg8bit has no image *_leftImg8bit.png of 2 of 3 cities: "
        "train/darmstadt, train/dusseldorf"
    )
    # Split 0 is what lies in the folders.
    assert len(dataset(tmp_path, part="val")) == 1
    assert said.pop().endswith(" of 2 of 3 cities: val/frankfurt, val/munster")
    assert len(dataset(tmp_path)) == 2
    with pytest.raises(FileNotFoundError, match="of 6 of 6 cities: test/berlin, "):
        dataset(tmp_path, part="test")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": 3}, "split 3 is not one of 0, 1, 2"),
        ({"part": "trainval"}, "part 'trainval' is not one of train, val, test"),
        ({"annotations": "gtFine"}, "annotations 'gtFine' is not one of fine, coarse"),
        ({"annotations": "coarse", "part": "val"}, "coarse annotations are for part 'train' only"),
    ],
)
def test_wrong_arguments(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        dataset(tmp_path, **arguments)
