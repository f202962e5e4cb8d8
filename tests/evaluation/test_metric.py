import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from cityscapesscripts.helpers.labels import trainId2label
from mmengine.dataset import DefaultSampler
from mmengine.registry import METRICS
from mmseg.datasets import CityscapesDataset
from mmseg.evaluation import IoUMetric
from PIL import Image
from two_processes import in_two_processes

from pconv_seg.evaluation import BorderIoUMetric
from pconv_seg.geometry import BorderRegions

SIZE = (24, 40)
CLASSES = CityscapesDataset.METAINFO["classes"]


def samples(count, size=SIZE):
    """Labels with all classes, and predictions that are wrong on a third of the pixels."""
    random = torch.Generator().manual_seed(0)
    result = []
    for i in range(count):
        label = torch.randint(0, 19, (1, *size), generator=random)
        wrong = torch.rand(label.shape, generator=random) < 1 / 3
        prediction = torch.where(wrong, torch.randint(0, 19, label.shape, generator=random), label)
        label[torch.rand(label.shape, generator=random) < 0.1] = 255
        result.append(
            {
                "pred_sem_seg": {"data": prediction},
                "gt_sem_seg": {"data": label},
                "img_path": f"images/city_000000_00000{i}_leftImg8bit.png",
                "seg_map_path": f"labels/{i}.png",
            }
        )
    return result


def evaluate(metric, data, size=None, classes=CLASSES):
    metric.dataset_meta = {"classes": classes}
    metric.process({}, data)
    # mmseg's scores are float32, rounded to two digits.
    scores = metric.evaluate(size or len(data))
    return {name: round(float(score), 2) for name, score in scores.items()}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"iou_metrics": ["mIoU", "mDice", "mFscore"], "beta": 2, "nan_to_num": 0},
        {"iou_metrics": ["mDice"], "prefix": "val"},
        {"ignore_index": 3},
    ],
)
def test_whole_image_scores_are_those_of_mmseg(options):
    data = samples(3)
    if "ignore_index" in options:
        for sample in data:
            sample["gt_sem_seg"]["data"].clamp_(max=18)
    ours = evaluate(BorderIoUMetric(leave_outs=[], **options), data)
    assert ours == evaluate(IoUMetric(**options), data)


@pytest.mark.parametrize(
    "options",
    [
        {"region": "image"},
        {"region": "image", "proportion": "area"},
        {"region": "tile", "tile": 20},
        {"region": "tile", "tile": 20, "overlap": "1/3"},
    ],
)
def test_border_scores_are_those_of_mmseg_with_the_centre_ignored(options):
    data = samples(3)
    leave_outs = ["1/3", 0.5, 0.875]
    ours = evaluate(BorderIoUMetric(leave_outs=leave_outs, **options), data)
    for leave_out, name in zip(leave_outs, ["0.3333", "0.5", "0.875"], strict=True):
        cells, members = BorderRegions([leave_out], **options).map(SIZE)
        for sample in data:
            label = sample["gt_sem_seg"]["data"].clone()
            label[0, torch.from_numpy(~members[0, cells])] = 255
            sample["border"] = {"data": label}
        border = [{**sample, "gt_sem_seg": sample["border"]} for sample in data]
        theirs = evaluate(IoUMetric(), border)
        assert {f"border_{key}_{name}": value for key, value in theirs.items()}.items() <= (
            ours.items()
        )


def test_found_in_the_registry():
    metric = METRICS.build({"type": "BorderIoUMetric", "leave_outs": ["2/3"]})
    assert [str(region) for region in metric.regions.regions] == ["0", "2/3"]


def test_submission_files_have_the_official_ids(tmp_path, monkeypatch):
    data = samples(2)
    metric = BorderIoUMetric(format_only=True, output_dir=str(tmp_path))
    for sample in data:
        sample.pop("gt_sem_seg")
    warned = []
    monkeypatch.setattr(
        "mmengine.evaluator.metric.print_log", lambda text, **_: warned.append(text)
    )
    assert evaluate(metric, data) == {}
    assert warned == []
    assert len(list(tmp_path.iterdir())) == 2
    for i, sample in enumerate(data):
        written = np.array(Image.open(tmp_path / f"city_000000_00000{i}_leftImg8bit.png"))
        train_ids = sample["pred_sem_seg"]["data"][0].numpy()
        assert np.array_equal(written, np.vectorize(lambda t: trainId2label[t].id)(train_ids))


@pytest.mark.parametrize("reduced", [False, True])
@pytest.mark.parametrize(("classes", "dtype"), [(19, np.uint8), (255, np.uint8), (256, np.uint16)])
def test_other_classes_are_written_as_in_the_files_of_labels(tmp_path, classes, dtype, reduced):
    data = samples(1)
    data[0]["reduce_zero_label"] = reduced
    data[0]["pred_sem_seg"]["data"][0, 0] = classes - 1
    names = [str(i) for i in range(classes)]
    evaluate(BorderIoUMetric(output_dir=str(tmp_path)), data, classes=names)
    written = np.array(Image.open(tmp_path / "city_000000_000000_leftImg8bit.png"))
    assert written.dtype == dtype
    assert np.array_equal(written, data[0]["pred_sem_seg"]["data"][0] + reduced)


def test_label_maps_of_one_name_are_refused(tmp_path):
    data = samples(2)
    metric = BorderIoUMetric(output_dir=str(tmp_path))
    evaluate(metric, data)
    evaluate(metric, data)  # at the next validation
    data[1]["img_path"] = "other/" + Path(data[0]["img_path"]).with_suffix(".jpg").name
    with pytest.raises(ValueError, match=r"and other/.*jpg would both be written to .*png: give"):
        evaluate(BorderIoUMetric(output_dir=str(tmp_path)), data)


def test_bad_labels_name_their_file():
    data = samples(2)
    data[1]["gt_sem_seg"]["data"][0, 3, 4] = 19
    with pytest.raises(ValueError, match=r"labels/1\.png: label values \[19\]"):
        evaluate(BorderIoUMetric(), data)
    nameless = [{key: value for key, value in data[1].items() if not key.endswith("_path")}]
    with pytest.raises(ValueError, match=r"^a sample without img_path: label values \[19\]"):
        evaluate(BorderIoUMetric(), nameless)
    data[1]["gt_sem_seg"]["data"] = torch.zeros(1, 24, 41)
    with pytest.raises(ValueError, match=r"labels/1\.png: the label has 24 x 41 pixels"):
        evaluate(BorderIoUMetric(), data)


def test_tiles_of_resized_images_are_refused():
    data = [{**sample, "ori_shape": SIZE, "img_shape": (12, 20)} for sample in samples(1)]
    metric = BorderIoUMetric(region="tile", tile=8)
    with pytest.raises(
        ValueError, match=r"leftImg8bit\.png: regions that follow .* \(12, 20\) of \(24, 40\)"
    ):
        evaluate(metric, data)
    evaluate(BorderIoUMetric(tile=8), data)
    evaluate(metric, [{**data[0], "img_shape": (*SIZE, 3)}])


def test_leave_outs_of_one_name_are_refused():
    message = "33333/100000 and 1/3 would both be called border_mIoU_0.3333: give one"
    with pytest.raises(ValueError, match=message):
        BorderIoUMetric(leave_outs=["0.33333", "1/3"])
    BorderIoUMetric(leave_outs=["0.3333", "0.3334", 0.3333])  # the same twice is one


def test_unknown_options_are_refused():
    with pytest.raises(ValueError, match=r"BorderIoUMetric has no option leave_out, tiles$"):
        BorderIoUMetric(tiles=8, leave_out=["1/3"], ignore_index=11)


def test_format_only_needs_a_place():
    with pytest.raises(ValueError, match="needs output_dir"):
        BorderIoUMetric(format_only=True)


def _evaluate_share(rank, folder, size):
    # Where mmengine collects results of several processes: a folder below the current one.
    os.chdir(folder)
    data = samples(size)
    share = DefaultSampler(data, shuffle=False, round_up=True)
    result = evaluate(BorderIoUMetric(), [data[i] for i in share], size)
    (folder / f"{rank}.json").write_text(json.dumps({"images": len(share), **result}))


def test_images_repeated_to_fill_up_a_process_are_not_counted(tmp_path):
    size = 3
    in_two_processes(_evaluate_share, tmp_path, size, method="fork")
    expected = {"images": 2, **evaluate(BorderIoUMetric(), samples(size))}
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == expected
