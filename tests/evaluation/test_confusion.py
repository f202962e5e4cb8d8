import argparse
import warnings

import numpy as np
import pytest
import torch
from cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling import evaluateImgLists
from cityscapesscripts.helpers.labels import trainId2label
from mmseg.evaluation import IoUMetric
from PIL import Image

from pconv_seg.evaluation.confusion import (
    class_accuracy,
    class_areas,
    class_iou,
    confusion_matrices,
    mean_present,
    pixel_accuracy,
)
from pconv_seg.geometry import BorderRegions

SIZE = (20, 31)
WHOLE = BorderRegions([0])


def random_pair(seed, num_classes=19, ignore_index=255, absent=()):
    rng = np.random.default_rng(seed)
    classes = np.setdiff1d(np.arange(num_classes), absent)
    label = rng.choice([*classes, ignore_index], SIZE)
    return label, np.where(rng.random(SIZE) < 0.5, rng.choice(classes, SIZE), label % num_classes)


def test_every_region_against_a_loop_over_pixels():
    label, prediction = random_pair(0, num_classes=4)
    regions = BorderRegions(["0", "1/3", "3/4"], bands=(3, 6), tile=8)
    cells, members = regions.map(SIZE)
    expected = np.zeros((len(regions.regions), 4, 4), int)
    for y, x in np.ndindex(SIZE):
        if label[y, x] != 255:
            for region in np.flatnonzero(members[:, cells[y, x]]):
                expected[region, label[y, x], prediction[y, x]] += 1
    counts = confusion_matrices(label, prediction, 4, regions)
    assert np.array_equal(counts, expected)
    bands, seams = counts[3:6], counts[6:9]
    assert np.array_equal(bands.sum(0), counts[0])
    assert np.array_equal(seams.sum(0), counts[0])


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.uint64])
@pytest.mark.parametrize("ignore_index", [255, 0, 7, 200, 19])
def test_nothing_left_out_equals_mmseg(dtype, ignore_index):
    label, prediction = random_pair(1, ignore_index=ignore_index)
    counts = confusion_matrices(
        label.astype(dtype), prediction.astype(dtype), 19, WHOLE, ignore_index
    )
    intersect, union, pred_area, label_area = IoUMetric.intersect_and_union(
        torch.from_numpy(prediction), torch.from_numpy(label), 19, ignore_index
    )
    areas = class_areas(counts)[0]
    assert areas.tolist() == [intersect.tolist(), label_area.tolist(), pred_area.tolist()]
    theirs = IoUMetric.total_area_to_metrics(
        *(area.double() for area in (intersect, union, pred_area, label_area))
    )
    assert np.array_equal(class_iou(areas), theirs["IoU"], equal_nan=True)
    assert np.array_equal(class_accuracy(areas), theirs["Acc"], equal_nan=True)
    assert pixel_accuracy(areas) == theirs["aAcc"]


def test_nothing_left_out_equals_the_official_cityscapes_evaluation(tmp_path):
    ids = np.zeros(256, np.uint8)  # label 255 becomes id 0, which is not evaluated
    for train_id in range(19):
        ids[train_id] = trainId2label[train_id].id
    counts, pairs = np.zeros((1, 19, 19), int), []
    for seed in range(3):
        label, prediction = random_pair(seed, absent=[5, 16])
        counts += confusion_matrices(label, prediction, 19, WHOLE)
        pairs.append([])
        for kind, values in (("pred", prediction), ("gt", label)):
            pairs[-1].append(str(tmp_path / f"{kind}{seed}.png"))
            Image.fromarray(ids[values]).save(pairs[-1][-1])
    args = argparse.Namespace(
        evalInstLevelScore=False, evalPixelAccuracy=False, JSONOutput=False, quiet=True
    )
    result = evaluateImgLists(*zip(*pairs, strict=True), args)
    table = np.array(result["confMatrix"])[np.ix_(ids[:19], ids[:19])]
    assert np.array_equal(counts[0], table)
    iou = class_iou(class_areas(counts))[0]
    for train_id in range(19):
        theirs = result["classScores"][trainId2label[train_id].name]
        assert iou[train_id] == theirs or np.isnan([iou[train_id], theirs]).all()
    assert mean_present(iou) == pytest.approx(result["averageScoreClasses"], abs=1e-15)


def test_absent_classes_are_nan_and_left_out_of_means():
    areas = np.array([[2, 0, 0], [4, 0, 0], [2, 0, 2]])  # class 1 absent, class 2 only predicted
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(class_iou(areas), [0.5, np.nan, 0.0], equal_nan=True)
        assert np.array_equal(class_accuracy(areas), [0.5, np.nan, np.nan], equal_nan=True)
        assert mean_present(class_iou(areas)) == 0.25
        assert np.isnan(mean_present(np.full(3, np.nan)))
        assert np.isnan(pixel_accuracy(np.zeros((3, 2))))


def test_predictions_that_are_no_integers_are_refused():
    label, prediction = random_pair(2)
    with pytest.raises(TypeError, match="Cannot cast"):
        confusion_matrices(label, prediction / 2, 19, WHOLE)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_labels_out_of_range_are_named(dtype):
    label, prediction = (array.astype(dtype) for array in random_pair(2))
    label[3, 4] = 33
    with pytest.raises(ValueError, match=r"label values \[33\] are neither classes \(0 .. 18\)"):
        confusion_matrices(label, prediction, 19, WHOLE)


def test_negative_labels():
    label, prediction = random_pair(2, ignore_index=-1)
    counts = confusion_matrices(label, prediction, 19, WHOLE, ignore_index=-1)
    assert counts.sum() == (label >= 0).sum()
    with pytest.raises(ValueError, match=r"label values \[-1\]"):
        confusion_matrices(label, prediction, 19, WHOLE)


def test_predictions_out_of_range_and_sizes_are_named():
    label, prediction = random_pair(2)
    for outside in (19, -1):
        prediction[0, 0] = outside
        with pytest.raises(ValueError, match=rf"predicted classes \[{outside}\] lie outside 0"):
            confusion_matrices(label, prediction, 19, WHOLE)
    with pytest.raises(ValueError, match="the label has 20 x 30 pixels, but its image 20 x 31"):
        confusion_matrices(label[:, 1:], prediction, 19, WHOLE)
