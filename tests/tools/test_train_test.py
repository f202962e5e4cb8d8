"""Train, resume, test and format with the tools' `main`, on noise in Cityscapes layout."""

import itertools
import json
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import runner
from PIL import Image
from yapf.yapflib import yapf_api

from pconv_seg.checkpoints import load_file
from pconv_seg.evaluation.runs import finished_run, latest_run

TOOLS = Path(__file__).parents[2] / "tools"
TRAIN_ID_TO_ID = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]

# Wide enough for batch norm, small enough for a second: what is tested is the way of the data.
CONFIG = """
default_scope = 'mmseg'
experiment_name = '{{$MICRO_RUN:micro}}'
norm_cfg = dict(type='SyncBN', requires_grad=True)
pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
            dict(type='PackSegInputs')]
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='TestTimeAug', transforms=[
        [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
        [dict(type='LoadAnnotations')],
        [dict(type='PackSegInputs')],
    ]),
]
tta_model = dict(type='SegTTAModel')
def loader(split, sampler):
    return dict(
        batch_size=2, num_workers=0, sampler=sampler,
        dataset=dict(
            type='CityscapesDataset', data_root='@ROOT@', pipeline=pipeline,
            data_prefix=dict(
                img_path='leftImg8bit/' + split, seg_map_path='gtFine/' + split)))
train_dataloader = loader('train', dict(type='InfiniteSampler'))
val_dataloader = loader('val', dict(type='DefaultSampler', shuffle=False))
test_dataloader = val_dataloader
del loader
val_evaluator = test_evaluator = dict(type='IoUMetric')
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', size=(32, 64)),
    backbone=dict(
        type='ResNet', depth=18, base_channels=4, norm_cfg=norm_cfg, conv_cfg=dict(type='PConv')),
    decode_head=dict(
        type='FCNHead', in_channels=32, channels=8, num_classes=19, num_convs=1,
        norm_cfg=norm_cfg, conv_cfg=dict(type='PConv'),
        loss_decode=dict(type='CrossEntropyLoss')),
    test_cfg=dict(mode='whole'))
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9))
param_scheduler = [dict(type='PolyLR', end=9, by_epoch=False)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=2, val_interval=2)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1),
    visualization=dict(type='SegVisualizationHook', interval=1))
visualizer = dict(type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')])
log_processor = dict(by_epoch=False)
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A config file whose data are noise, two images per split."""
    folder = tmp_path_factory.mktemp("micro")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("leftImg8bit", "gtFine"):
            (folder / "data" / kind / split / "town").mkdir(parents=True)
        for index in range(2):
            stem = f"{split}/town/town_{index:06}_000000"
            image = rng.integers(0, 256, (32, 64, 3), dtype=np.uint8)
            labels = rng.integers(0, 19, (32, 64), dtype=np.uint8)
            Image.fromarray(image).save(folder / f"data/leftImg8bit/{stem}_leftImg8bit.png")
            Image.fromarray(labels).save(folder / f"data/gtFine/{stem}_gtFine_labelTrainIds.png")
    path = folder / "micro_config.py"
    path.write_text(CONFIG.replace("@ROOT@", str(folder / "data")))
    return str(path)


@pytest.fixture(scope="module")
def main() -> dict[str, Callable]:
    """The tools' `main`; every call is an experiment of its own.

    mmengine keeps loggers and visualizers per experiment name, by default the time in seconds.
    """
    numbers = itertools.count()

    def named(tool: Callable) -> Callable:
        def run(argv: list[str]) -> dict[str, float] | None:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("MICRO_RUN", f"micro_{next(numbers)}")
                # Asking for compilers and laying out the dumped config take longer than the rest.
                patch.setattr(runner, "collect_env", dict)
                patch.setattr(yapf_api, "FormatCode", lambda text, **_: (text, False))
                return tool(argv)

        return run

    return {
        name: named(runpy.run_path(str(TOOLS / f"{name}.py"))["main"]) for name in ("train", "test")
    }


@pytest.fixture(scope="module")
def trained(config: str, main: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work_dir = tmp_path_factory.mktemp("trained")
    main["train"]([config, "--work-dir", str(work_dir), "--seed", "7"])
    return work_dir


def _state(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=False)["state_dict"]


def _same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_train_writes_checkpoints_config_and_scores(trained: Path) -> None:
    assert (trained / "last_checkpoint").read_text() == str(trained / "iter_2.pth")
    assert Config.fromfile(trained / "micro_config.py").randomness.seed == 7
    (log,) = trained.glob("*/vis_data/scalars.json")
    assert "mIoU" in json.loads(log.read_text().splitlines()[-1])


def test_all_of_a_checkpoint_is_read_without_running_code(trained: Path) -> None:
    trusted = torch.load(trained / "iter_2.pth", weights_only=False)
    loaded = load_file(trained / "iter_2.pth")
    assert loaded.keys() == trusted.keys() > {"optimizer", "param_schedulers", "message_hub"}
    histories = loaded["message_hub"].pop("log_scalars")
    for name, history in trusted["message_hub"].pop("log_scalars").items():
        np.testing.assert_array_equal(histories[name].data, history.data)
    for name in ("state_dict", "optimizer"):
        torch.testing.assert_close(loaded.pop(name), trusted.pop(name), rtol=0, atol=0)
    assert loaded == trusted


def test_seed_decides_the_weights(config: str, main: dict, trained: Path, tmp_path: Path) -> None:
    weights = {}
    for seed in ("7", "8"):
        main["train"]([config, "--work-dir", str(tmp_path / seed), "--seed", seed])
        weights[seed] = _state(tmp_path / seed / "iter_2.pth")
    assert _same(weights["7"], _state(trained / "iter_2.pth"))
    assert not _same(weights["8"], weights["7"])


def test_resume_goes_on_where_training_ended(
    config: str, main: dict, tmp_path: Path, trained: Path
) -> None:
    arguments = [config, "--work-dir", str(tmp_path), "--resume", "--cfg-options"]
    (tmp_path / "last_checkpoint").write_text(str(trained / "iter_2.pth"))

    main["train"]([*arguments, "train_cfg.max_iters=3"])

    assert sorted(path.name for path in tmp_path.glob("*.pth")) == ["iter_3.pth"]
    assert torch.load(tmp_path / "iter_3.pth", weights_only=False)["meta"]["iter"] == 3


def test_resume_runs_no_code_from_the_checkpoint(
    config: str, main: dict, tmp_path: Path, trained: Path
) -> None:
    """mmengine looks for the number of GPUs in a text of mmcv 1.x."""
    content = torch.load(trained / "iter_2.pth", weights_only=False)
    content["meta"]["config"] = f"__import__('os').mkdir({str(tmp_path / 'trap')!r})"
    torch.save(content, tmp_path / "iter_2.pth")
    arguments = [config, "--work-dir", str(tmp_path), "--resume"]

    with pytest.raises(SystemExit) as error:
        main["train"]([*arguments, "--cfg-options", f"load_from={tmp_path / 'iter_2.pth'}"])

    assert not (tmp_path / "trap").exists()
    assert error.value.code.startswith("train.py: the checkpoint: line 1 of its stored config is")


def test_test_repeats_the_validation_score(
    config: str, main: dict, tmp_path: Path, trained: Path
) -> None:
    arguments = [config, str(trained / "iter_2.pth"), "--work-dir", str(tmp_path)]
    (log,) = trained.glob("*/vis_data/scalars.json")
    validated = json.loads(log.read_text().splitlines()[-1])

    scores = main["test"]([*arguments, "--out", str(tmp_path / "out")])

    assert scores == {name: validated[name] for name in ("aAcc", "mIoU", "mAcc")}
    assert len(list((tmp_path / "out").glob("*.png"))) == 2


def test_tests_in_the_work_dir_of_a_training_leave_its_config_alone(
    config: str, main: dict, tmp_path: Path
) -> None:
    work_dir = tmp_path / "work"
    place = [config, "--work-dir", str(work_dir)]
    main["train"]([*place, "--cfg-options", "train_cfg.max_iters=1"])
    run, trained_with = latest_run(tmp_path), (work_dir / "micro_config.py").read_text()
    assert run == (work_dir / "micro_config.py", work_dir / "iter_1.pth")

    for flags in (
        [],  # of whose config max_iters is not reached
        ["--cfg-options", "test_dataloader.dataset.indices=1"],
        ["--tta"],
        ["--format-only", "--out", str(tmp_path / "ids")],
    ):
        main["test"]([*place, str(run.checkpoint), *flags])
        assert latest_run(tmp_path) == finished_run(work_dir) == run, flags
        assert run.config.read_text() == trained_with, flags


@pytest.mark.parametrize("name", ["train", "test"])
def test_a_runner_that_nobody_registered_is_named(
    config: str, main: dict, tmp_path: Path, trained: Path, name: str
) -> None:
    given = [str(trained / "iter_2.pth")] if name == "test" else []
    options = ["--work-dir", str(tmp_path), "--cfg-options", "runner_type=Sprinter"]
    with pytest.raises(SystemExit, match="runner_type: there is no runner 'Sprinter'"):
        main[name]([config, *given, *options])


@pytest.mark.parametrize("name", ["train", "test"])
def test_a_type_that_nobody_registered_is_named_by_its_key(
    config: str, main: dict, tmp_path: Path, trained: Path, name: str
) -> None:
    given = [str(trained / "iter_2.pth")] if name == "test" else []
    options = ["--work-dir", str(tmp_path), "--cfg-options", "test_evaluator.type=BorderMetric"]
    options += ["model.backbone.conv_cfg.type=Pconv"]
    with pytest.raises(SystemExit) as error:
        main[name]([config, *given, *options])
    assert f"{name}.py: config {config}: nobody registered " in error.value.code
    assert "model.backbone.conv_cfg.type='Pconv'" in error.value.code
    assert "test_evaluator.type='BorderMetric'" in error.value.code


@pytest.mark.parametrize("flags", [[], ["--tta"]], ids=["plain", "tta"])
def test_a_checkpoint_that_fits_in_part_is_not_tested(
    config: str, main: dict, tmp_path: Path, trained: Path, flags: list[str]
) -> None:
    arguments = [config, str(trained / "iter_2.pth"), "--work-dir", str(tmp_path), *flags]
    with pytest.raises(SystemExit) as error:
        main["test"]([*arguments, "--cfg-options", "model.decode_head.channels=6"])
    assert error.value.code.startswith(f"test.py: {trained / 'iter_2.pth'} does not fit the config")
    assert "decode_head.conv_seg.weight" in error.value.code


def test_a_test_needs_no_auxiliary_head_and_resuming_does(
    config: str, main: dict, tmp_path: Path, trained: Path
) -> None:
    values = dict(type="FCNHead", in_channels=16, in_index=2, channels=4, num_classes=19)
    head = [f"model.auxiliary_head.{key}={value}" for key, value in values.items()]
    options = ["--work-dir", str(tmp_path), "--cfg-options"]
    main["train"]([config, *options, *head])
    expected = main["test"]([config, str(tmp_path / "iter_2.pth"), *options, *head])
    assert main["test"]([config, str(tmp_path / "iter_2.pth"), *options[:2]]) == expected
    without = main["test"]([config, str(trained / "iter_2.pth"), *options[:2]])
    assert main["test"]([config, str(trained / "iter_2.pth"), *options, *head]) == without

    log = "".join(path.read_text() for path in tmp_path.glob("*/*.log"))
    for side in (
        f"{tmp_path / 'iter_2.pth'}: only it",
        f"{trained / 'iter_2.pth'}: only the config",
    ):
        assert log.count(f"{side} has an auxiliary head, which is for training and not used") == 1

    resume = [config, "--resume", *options, "train_cfg.max_iters=3"]
    with pytest.raises(SystemExit, match=r'(?s)Unexpected key.* "auxiliary_head.'):
        main["train"](resume)
    (tmp_path / "last_checkpoint").write_text(str(trained / "iter_2.pth"))
    (tmp_path / "iter_2.pth").unlink()
    with pytest.raises(SystemExit, match=r'(?s)Missing key.* "auxiliary_head.'):
        main["train"]([*resume, *head])


def test_training_goes_on_from_all_of_a_checkpoint_and_starts_from_a_part(
    config: str, main: dict, tmp_path: Path, trained: Path
) -> None:
    (tmp_path / "last_checkpoint").write_text(str(trained / "iter_2.pth"))
    other = ["--work-dir", str(tmp_path), "--cfg-options", "model.decode_head.channels=6"]
    with pytest.raises(SystemExit, match="does not fit the config"):
        main["train"]([config, "--resume", *other])
    assert not list(tmp_path.glob("*.pth"))
    main["train"]([config, *other, f"load_from={trained / 'iter_2.pth'}"])
    assert (tmp_path / "iter_2.pth").is_file()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"state_dict": {"conv1.weight": torch.ones(1)}, "meta": {}}, "conv1.weight, ..."),
        (
            {"state_dict": {"decode_head.conv_seg.bias": torch.ones(18)}},
            "decode_head.conv_seg.bias,",
        ),
        # Which mmengine does not look into.
        ({"model": {"decode_head.conv_seg.bias": torch.ones(19)}, "epoch": 3}, "model, epoch, ..."),
    ],
    ids=["backbone", "shape", "torchvision"],
)
def test_training_does_not_start_from_weights_of_which_none_fits(
    config: str, main: dict, tmp_path: Path, content: dict, found: str
) -> None:
    torch.save(content, tmp_path / "strange.pth")
    options = ["--work-dir", str(tmp_path), "--cfg-options", f"load_from={tmp_path}/strange.pth"]
    with pytest.raises(SystemExit) as error:
        main["train"]([config, *options])
    message = f"train.py: {tmp_path}/strange.pth: nothing in it has the name and the shape of a"
    assert error.value.code.startswith(message)
    assert f"(it has {found}" in error.value.code
    assert "the network backbone.conv1.weight, backbone.bn1.weight, ...)" in error.value.code


@pytest.mark.parametrize("flags", [[], ["--tta"]], ids=["plain", "tta"])
def test_format_only_writes_label_ids_without_reading_labels(
    config: str, main: dict, tmp_path: Path, trained: Path, flags: list[str]
) -> None:
    arguments = [config, str(trained / "iter_2.pth"), *flags]
    main["test"]([*arguments, "--work-dir", str(tmp_path / "w1"), "--out", str(tmp_path / "ids")])
    submission = ["--out", str(tmp_path / "label_ids"), "--work-dir", str(tmp_path / "w2")]
    no_labels = "test_dataloader.dataset.data_prefix.seg_map_path=nowhere"

    main["test"]([*arguments, "--format-only", *submission, "--cfg-options", no_labels])

    train_ids = sorted((tmp_path / "ids").iterdir())
    assert len(train_ids) == 2
    for path in train_ids:
        written = np.array(Image.open(tmp_path / "label_ids" / path.name))
        np.testing.assert_array_equal(written, np.take(TRAIN_ID_TO_ID, np.array(Image.open(path))))


def test_show_dir_gets_a_picture_of_every_image(
    config: str, main: dict, tmp_path: Path, trained: Path
) -> None:
    pictures = tmp_path / "pictures"
    arguments = [config, str(trained / "iter_2.pth"), "--work-dir", str(tmp_path / "work")]
    main["test"]([*arguments, "--show-dir", str(pictures)])
    assert len(list(pictures.rglob("*.png"))) == 2


def test_labels_that_no_crop_can_be_drawn_from_end_training_with_a_message(
    config: str, main: dict, tmp_path: Path
) -> None:
    cfg = Config.fromfile(config)
    data = cfg.train_dataloader
    shutil.copytree(data.dataset.data_root, tmp_path / "data")
    data.dataset.data_root = str(tmp_path / "data")
    label = tmp_path / "data/gtFine/train/town/town_000001_000000_gtFine_labelTrainIds.png"
    saved = label.read_bytes()
    Image.fromarray(np.full((32, 64), 19, np.uint8)).save(label)
    crop = dict(type="RandomScaleCrop", crop_size=(32, 64), scale=(1, 1))
    data.dataset.pipeline.insert(2, crop)
    data.dataset = dict(type="DrawnDataset", dataset=data.dataset)
    data.sampler = dict(type="ClassUniformSampler")
    cfg.custom_imports = dict(imports=["pconv_seg"])
    cfg.dump(tmp_path / "drawn.py")
    with pytest.raises(
        SystemExit, match=rf"^train\.py: .*, first {label}: label value.* 19; there"
    ):
        main["train"]([str(tmp_path / "drawn.py"), "--work-dir", str(tmp_path / "work")])
    label.write_bytes(saved)
    for image in (tmp_path / "data/leftImg8bit/train/town").iterdir():
        image.write_bytes(b"no image")
    worker = ["--cfg-options", "train_dataloader.num_workers=1"]
    with pytest.raises(SystemExit, match=r"^train\.py: .*_leftImg8bit\.png: .*[^\n]$") as stopped:
        main["train"]([str(tmp_path / "drawn.py"), "--work-dir", str(tmp_path / "work"), *worker])
    assert "\n" not in str(stopped.value)


def test_corrupt_image_ends_training_instead_of_hanging(
    config: str, main: dict, tmp_path: Path
) -> None:
    for kind, suffix in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelTrainIds")):
        (tmp_path / kind / "train").mkdir(parents=True)
        (tmp_path / kind / f"train/x_{suffix}.png").write_bytes(b"not a picture")
    options = [f"train_dataloader.dataset.data_root={tmp_path}", "train_dataloader.num_workers=1"]
    with pytest.raises(AssertionError, match=r"worker process 0(.|\n)*x_leftImg8bit.png"):
        main["train"]([config, "--work-dir", str(tmp_path / "work"), "--cfg-options", *options])


@pytest.mark.parametrize("name", ["train", "test"])
@pytest.mark.parametrize("kind", ["damaged", "foreign"])
def test_checkpoints_that_cannot_be_read_end_the_tool_with_a_message(
    config: str, main: dict, tmp_path: Path, trained: Path, name: str, kind: str
) -> None:
    path = tmp_path / "net.pth"
    if kind == "damaged":
        path.write_bytes((trained / "iter_2.pth").read_bytes()[:-1000])
        message = f"{name}.py: {path} is damaged, perhaps not completely copied"
    else:
        torch.save(torch.nn.ReLU(), path)
        message = f"{name}.py: {path}: refused, nothing was run. It needs torch.nn"
    given = {"train": ["--cfg-options", f"load_from={path}"], "test": [str(path)]}
    with pytest.raises(SystemExit) as error:
        main[name]([config, "--work-dir", str(tmp_path / "work"), *given[name]])
    assert error.value.code.startswith(message)


@pytest.mark.parametrize("name", ["train", "test"])
@pytest.mark.parametrize("below", ["", "/a"])
def test_a_work_dir_that_cannot_be_ends_the_tool_with_a_message(
    config: str, main: dict, tmp_path: Path, trained: Path, name: str, below: str
) -> None:
    (tmp_path / "file").touch()
    work_dir = f"{tmp_path / 'file'}{below}"
    checkpoint = [str(trained / "iter_2.pth")] if name == "test" else []
    with pytest.raises(SystemExit) as error:
        main[name]([config, *checkpoint, "--work-dir", work_dir])
    assert error.value.code == (
        f"{name}.py: --work-dir: nothing can be written in the folder {work_dir} "
        f"({tmp_path / 'file'}: Not a directory); name another place"
    )


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("train", ["no/such/config.py"]), ("test", ["no/such/config.py", "no/such/checkpoint.pth"])],
)
def test_what_is_missing_ends_the_tool_with_a_message(
    main: dict, name: str, arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        main[name](arguments)
    # A string as exit code is printed by Python without a trace, and the status is 1.
    assert error.value.code.startswith(f"{name}.py: config {Path.cwd()}/no/such/config.py")
