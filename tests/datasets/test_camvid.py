import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS
from mmengine.structures import PixelData
from mmseg.evaluation import IoUMetric
from mmseg.structures import SegDataSample
from PIL import Image

from pconv_seg.datasets import CamVidDataset

PIPELINE = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}, {"type": "PackSegInputs"}]
# Every value a label file may hold, 11 twice.
LABELS = np.array([[0, 1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 11, 0]], np.uint8)


@pytest.fixture
def data_root(tmp_path):
    for split in ("train", "val"):
        for folder, pixels in ((split, np.zeros((2, 7, 3), np.uint8)), (f"{split}annot", LABELS)):
            (tmp_path / folder).mkdir()
            for name in ("b", "a"):
                Image.fromarray(pixels).save(tmp_path / folder / f"{name}.png")
    return tmp_path


def build(data_root, split="train", **kwargs):
    return DATASETS.build(
        {
            "type": "CamVidDataset",
            "data_root": str(data_root),
            "data_prefix": {"img_path": split, "seg_map_path": f"{split}annot"},
            "pipeline": PIPELINE,
            **kwargs,
        }
    )


def label_of(sample):
    return sample["data_samples"].gt_sem_seg.data[0].numpy()


@pytest.mark.parametrize("split", ["train", "val"])
def test_reads_the_published_layout(data_root, split):
    dataset = build(data_root, split)
    assert isinstance(dataset, CamVidDataset)
    assert len(dataset) == 2
    assert dataset.get_data_info(0)["img_path"] == str(data_root / split / "a.png")
    assert dataset.get_data_info(0)["seg_map_path"] == str(data_root / f"{split}annot" / "a.png")
    images = build(data_root, data_prefix={"img_path": split})
    assert "seg_map_path" not in images.get_data_info(0)


def test_unlabelled_becomes_255_and_classes_stay(data_root):
    expected = np.array([[0, 1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 255, 255, 0]])
    np.testing.assert_array_equal(label_of(build(data_root)[0]), expected)


def test_unlabelled_is_ignored_with_a_choice_of_classes(data_root):
    dataset = build(data_root, metainfo={"classes": ("Car", "Sky")})
    expected = np.full((2, 7), 255)
    expected[0, 0] = expected[1, 6] = 1
    expected[1, 1] = 0
    np.testing.assert_array_equal(label_of(dataset[0]), expected)
    assert dataset.metainfo["palette"] == [[64, 0, 128], [128, 128, 128]]


def test_unlabelled_never_counts_in_iou_metric(data_root):
    dataset = build(data_root)
    truth = dataset[0]["data_samples"].gt_sem_seg.data
    # Right everywhere except at the unlabelled pixels, where any answer is fine.
    prediction = torch.where(truth == 255, 0, truth)
    sample = SegDataSample(
        gt_sem_seg=PixelData(data=truth), pred_sem_seg=PixelData(data=prediction)
    )
    metric = IoUMetric()
    metric.dataset_meta = dataset.metainfo
    metric.process({}, [sample.to_dict()])
    assert metric.evaluate(1) == {"aAcc": 100.0, "mIoU": 100.0, "mAcc": 100.0}


def test_labels_and_colours_are_the_published_ones():
    """By SegNet's numbers; colours are CamVid's own."""
    metainfo = CamVidDataset.METAINFO
    table = zip(metainfo["classes"], metainfo["palette"], strict=True)
    assert {n: (name, tuple(c)) for n, (name, c) in enumerate(table)} == {
        10: ("Bicyclist", (0, 128, 192)),
        1: ("Building", (128, 0, 0)),
        8: ("Car", (64, 0, 128)),
        7: ("Fence", (64, 64, 128)),
        4: ("Pavement", (0, 0, 192)),
        9: ("Pedestrian", (64, 64, 0)),
        2: ("Pole", (192, 192, 128)),
        3: ("Road", (128, 64, 128)),
        6: ("SignSymbol", (192, 128, 128)),
        0: ("Sky", (128, 128, 128)),
        5: ("Tree", (128, 128, 0)),
    }


@pytest.mark.parametrize("value", [12, 255])
def test_other_label_values_are_refused(data_root, value):
    path = data_root / "trainannot" / "b.png"
    Image.fromarray(np.where(LABELS == 3, value, LABELS).astype(np.uint8)).save(path)
    with pytest.raises(ValueError, match=rf"trainannot/b\.png holds the label value\(s\) {value};"):
        build(data_root)


def test_colour_coded_labels_are_refused(data_root):
    Image.fromarray(np.zeros((2, 7, 3), np.uint8)).save(data_root / "trainannot" / "a.png")
    with pytest.raises(ValueError, match=r"trainannot/a\.png has 3 channels"):
        build(data_root)


def test_a_damaged_label_file_is_named(data_root):
    path = data_root / "trainannot" / "a.png"
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ValueError, match=r"trainannot/a\.png is no image that can be read"):
        build(data_root)


def test_missing_label_file_is_named(data_root):
    (data_root / "trainannot" / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"trainannot/a\.png"):
        build(data_root)
