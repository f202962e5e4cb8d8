"""Configs from flags."""

import os
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import DictAction
from mmseg.datasets.transforms import PackSegInputs

from pconv_seg.engine import (
    PreflightError,
    add_config_options,
    build_test_config,
    build_training_config,
)

CONFIG = """
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01))
randomness = dict(seed=1, deterministic=True)
model = dict(type='EncoderDecoder', backbone=dict(type='ResNet', init_cfg=dict(type='Pretrained')))
test_dataloader = dict(dataset=dict(type='ADE20KDataset', data_prefix=dict(), pipeline=[]))
test_evaluator = [dict(type='IoUMetric'), dict(type='CityscapesMetric', output_dir='a')]
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    (tmp_path / "some_name.py").write_text(CONFIG)
    return str(tmp_path / "some_name.py")


def test_work_dir_from_flag_then_config_then_file_name(config: str) -> None:
    in_config = {"work_dir": "from_config"}
    assert build_training_config(config, work_dir="a", cfg_options=in_config).work_dir == "a"
    assert build_training_config(config, cfg_options=in_config).work_dir == "from_config"
    assert build_training_config(config).work_dir == "work_dirs/some_name"
    assert build_test_config(config, "x.pth").work_dir == "work_dirs/some_name"
    named = Path(config).rename(Path(config).with_name("r50_lr0.1.py"))
    assert build_training_config(str(named)).work_dir == "work_dirs/r50_lr0.1"


def test_a_test_is_of_the_checkpoint_that_is_named(config: str) -> None:
    for start in ("imagenet.pth", None):
        cfg = build_test_config(config, "x.pth", cfg_options={"load_from": start})
        assert cfg.load_from == "x.pth"


def test_seed_keeps_the_other_settings_of_randomness(config: str) -> None:
    assert build_training_config(config).randomness == dict(seed=1, deterministic=True)
    assert build_training_config(config, seed=0).randomness == dict(seed=0, deterministic=True)


def test_resume_flag_does_not_undo_the_config(config: str) -> None:
    assert build_training_config(config, cfg_options={"resume": True}).resume
    assert build_training_config(config, resume=True).resume
    assert not build_test_config(config, "x.pth", cfg_options={"resume": True}).resume


def test_amp_switches_the_plain_wrapper_and_refuses_others(config: str) -> None:
    wrapper = build_training_config(config, amp=True).optim_wrapper
    assert (wrapper.type, wrapper.loss_scale) == ("AmpOptimWrapper", "dynamic")
    own = {"optim_wrapper.type": "AmpOptimWrapper", "optim_wrapper.loss_scale": 512}
    wrapper = build_training_config(config, amp=True, cfg_options=own).optim_wrapper
    assert (wrapper.type, wrapper.loss_scale) == ("AmpOptimWrapper", 512)
    with pytest.raises(PreflightError, match="ApexOptimWrapper"):
        build_training_config(
            config, amp=True, cfg_options={"optim_wrapper.type": "ApexOptimWrapper"}
        )


def test_amp_knows_what_the_runner_takes_without_a_type(tmp_path: Path) -> None:
    config = tmp_path / "a.py"
    config.write_text("optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01))")
    wrapper = build_training_config(str(config), amp=True).optim_wrapper
    assert (wrapper.type, wrapper.loss_scale) == ("AmpOptimWrapper", "dynamic")
    config.write_text("")
    with pytest.raises(PreflightError, match="--amp: the config has no optim_wrapper"):
        build_training_config(str(config), amp=True)


def test_types_are_also_classes_and_names_with_a_scope(tmp_path: Path) -> None:
    config = tmp_path / "python_style.py"
    config.write_text(
        "from mmengine.optim import OptimWrapper\n"
        "from mmseg.datasets import CityscapesDataset\n"
        "from mmseg.datasets.transforms import LoadAnnotations, PackSegInputs\n"
        "from mmseg.evaluation import CityscapesMetric\n"
        "optim_wrapper = dict(type=OptimWrapper)\n"
        "test_dataloader = dict(dataset=dict(type=CityscapesDataset, pipeline=[\n"
        "    dict(type=LoadAnnotations), dict(type='mmseg.LoadAnnotations'),\n"
        "    dict(type=PackSegInputs)]))\n"
        "test_evaluator = [dict(type=CityscapesMetric), dict(type='mmseg.CityscapesMetric')]\n"
    )
    config = str(config)
    assert build_training_config(config, amp=True).optim_wrapper.type == "AmpOptimWrapper"
    evaluators = build_test_config(config, "x.pth", out="maps").test_evaluator
    assert [evaluator.keep_results for evaluator in evaluators] == [True, True]
    cfg = build_test_config(config, "x.pth", out="maps", format_only=True)
    assert [step.type for step in cfg.test_dataloader.dataset.pipeline] == [PackSegInputs]


def test_out_reaches_every_evaluator(config: str) -> None:
    nested = build_test_config(
        config,
        "x.pth",
        out="maps",
        cfg_options={"test_evaluator": dict(metrics=dict(type="IoUMetric"), _delete_=True)},
    )
    assert nested.test_evaluator.metrics == dict(type="IoUMetric", output_dir="maps")
    assert build_test_config(config, "x.pth", out="maps").test_evaluator == [
        dict(type="IoUMetric", output_dir="maps"),
        dict(type="CityscapesMetric", output_dir="maps", keep_results=True),
    ]


def test_pictures_are_for_the_hook_and_the_visualizer(config: str) -> None:
    hook = {"default_hooks.visualization.type": "SegVisualizationHook", "visualizer.name": "a"}
    cfg = build_test_config(
        config, "x.pth", show=True, show_dir=Path("b"), wait_time=0.5, cfg_options=hook
    )
    assert cfg.default_hooks.visualization == dict(
        type="SegVisualizationHook", draw=True, show=True, wait_time=0.5
    )
    assert cfg.visualizer == dict(name="a", save_dir="b")


def test_pictures_in_files_need_no_window(config: str) -> None:
    hook = {"default_hooks.visualization.type": "SegVisualizationHook", "visualizer.name": "a"}
    cfg = build_test_config(config, "x.pth", show_dir="b", cfg_options=hook)
    assert cfg.default_hooks.visualization == dict(
        type="SegVisualizationHook", draw=True, show=False, wait_time=2.0
    )


def test_files_for_the_server_are_of_every_data_set_of_cityscapes(config: str) -> None:
    options = {"test_dataloader.dataset.type": "CityscapesSplitDataset"}
    cfg = build_test_config(config, "x.pth", out="maps", format_only=True, cfg_options=options)
    assert cfg.test_evaluator == dict(type="BorderIoUMetric", format_only=True, output_dir="maps")


def test_only_hooks_that_mmengine_does_not_know_as_none_are_taken_out(config: str) -> None:
    stock = ["runtime_info", "timer", "sampler_seed", "logger", "param_scheduler", "checkpoint"]
    options = {f"default_hooks.{name}": None for name in (*stock, "stop")}
    left = build_training_config(config, cfg_options=options).default_hooks
    assert left == dict.fromkeys(stock)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(format_only=True), "--format-only: also give --out DIR"),
        (dict(format_only=True, out="maps"), "test_dataloader.dataset is ADE20KDataset"),
        (
            dict(
                format_only=True,
                out="maps",
                cfg_options={"test_dataloader.dataset.type": "Nobody's"},
            ),
            "test_dataloader.dataset is Nobody's",
        ),
        (dict(tta=True), "--tta: the config has no tta_pipeline"),
        (dict(tta=True, cfg_options={"tta_pipeline": [1]}), "--tta: the config has no tta_model"),
        (
            dict(
                tta=True,
                cfg_options={"tta_pipeline": [1], "tta_model.type": "a", "test_dataloader": None},
            ),
            "--tta: the config has no test_dataloader",
        ),
        (dict(out="maps", cfg_options={"test_evaluator": None}), "--out: .* no test_evaluator"),
        (
            dict(format_only=True, out="maps", cfg_options={"test_dataloader": None}),
            "--format-only: the config has no test_dataloader",
        ),
        (
            dict(show_dir="a", cfg_options={"default_hooks.visualization.type": "a"}),
            "--show-dir: the config has no visualizer",
        ),
        (dict(show=True), "--show and --show-dir: the config has no default_hooks.visualization"),
    ],
)
def test_options_that_the_config_cannot_take(config: str, options: dict, message: str) -> None:
    with pytest.raises(PreflightError, match=message):
        build_test_config(config, "x.pth", **options)


def test_config_or_base_that_is_not_there(tmp_path: Path) -> None:
    child = tmp_path / "child.py"
    child.write_text("_base_ = 'absent.py'")
    for path in (child, tmp_path / "absent.py"):
        with pytest.raises(PreflightError, match=rf"config {path}: .*absent\.py"):
            build_training_config(str(path))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a = (", "SyntaxError: .* was never closed"),
        ("a = b", "NameError: name 'b' is not defined"),
        (
            "custom_imports = dict(imports=['absent_package'])",
            "ImportError: Failed to import absent_package$",
        ),
    ],
)
def test_config_that_cannot_be_run(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "bad.py").write_text(text)
    with pytest.raises(PreflightError, match=rf"^config {tmp_path}/bad\.py: {reason}"):
        build_test_config(str(tmp_path / "bad.py"), "x.pth")


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("test_evaluator.2.type", "Index 2 exceeds"),
        ("optim_wrapper.type.name", "subscriptable|str"),
        ("test_evaluator.0", "no item of a list can be replaced: set its keys"),
    ],
)
def test_overrides_that_the_config_has_no_place_for(config: str, key: str, reason: str) -> None:
    with pytest.raises(PreflightError, match=f"--cfg-options {key}=1: .*({reason})"):
        build_training_config(config, cfg_options={key: 1})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/tmp/x/demo 2", "/tmp/x/demo 2"),
        ("'/tmp/demo (copy 2)' ", "/tmp/demo (copy 2)"),
        ("2024 01", "2024 01"),
        (" 0.5", 0.5),
        ("a = b", "a = b"),
        ("1, 2", [1, 2]),
        ("[(1, 2), (3, x)]", [(1, 2), (3, "x")]),
        ("( )", ()),
        ("None", None),
        ("", ""),
    ],
)
def test_options_keep_the_spaces_of_names_and_are_mmengines_else(value: str, expected: Any) -> None:
    parser = ArgumentParser()
    add_config_options(parser, "")
    args = parser.parse_args(["--cfg-options", f"a.b={value}", "c=1"])
    assert args.cfg_options == {"a.b": expected, "c": 1}
    if " " not in value:
        assert DictAction._parse_iterable(value) == expected


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("foo", "--cfg-options foo: expected KEY=VALUE"),
        ("=3", "--cfg-options =3: expected KEY=VALUE"),
        ("a=[1,2", "--cfg-options: Imbalanced brackets exist in [1,2"),
        ("a=dict(b=1,c=2)", "--cfg-options a=dict(b=1,c=2): write nested lists as key=[(a,b),(c"),
        ("a=(1,2),(3,4)", "set the keys of a dict one by one, as key.name=value"),
    ],
)
def test_options_that_are_none(capsys: pytest.CaptureFixture, option: str, message: str) -> None:
    parser = ArgumentParser()
    add_config_options(parser, "")
    with pytest.raises(SystemExit):
        parser.parse_args(["--cfg-options", option])
    assert message in capsys.readouterr().err


def test_padding_becomes_a_hook_that_runs_anywhere(config: str) -> None:
    for cfg in (
        build_training_config(config, padding="partial"),
        build_test_config(config, "x.pth", padding="partial"),
    ):
        assert cfg.custom_hooks == [dict(type="pconv_seg.PaddingHook", scheme="partial")]
    # Without the flag the padding stays, and is recorded.
    assert build_training_config(config).custom_hooks == [
        dict(type="pconv_seg.PaddingHook", scheme=None)
    ]


@pytest.mark.parametrize(("launcher", "expected"), [("pytorch", "2"), ("mpi", "1")])
def test_the_local_rank_is_that_of_the_launcher(
    config: str, monkeypatch: pytest.MonkeyPatch, launcher: str, expected: str
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_RANK", "1")
    assert build_training_config(config, launcher=launcher).launcher == launcher
    assert os.environ["LOCAL_RANK"] == expected
