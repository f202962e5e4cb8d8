"""Errors of mmengine's builders, and the keys that they leave out."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, DefaultScope
from mmseg.registry import MODELS
from torch import nn

from pconv_seg.engine import PreflightError, naming_types

_BACKBONE = dict(type="ResNet", depth=18, conv_cfg=dict(type="pconv_seg.PConv"))


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        (
            {"model": dict(_BACKBONE, conv_cfg=dict(type="Pconv"))},
            "model.conv_cfg.type='Pconv'",
        ),
        (
            {"model": dict(_BACKBONE, conv_cfg=dict(type="pconvseg.PConv"))},
            "model.conv_cfg.type='pconvseg.PConv'",
        ),
        ({"model": dict(_BACKBONE, type="mmseg.Resnet")}, "model.type='mmseg.Resnet'"),
        (
            {
                "model": _BACKBONE,
                "custom_hooks": [dict(type="EMAHook"), dict(type="EvalHook")],
                "default_hooks": dict(timer=dict(type="Timer")),
            },
            "custom_hooks.1.type='EvalHook', default_hooks.timer.type='Timer'",
        ),
        (
            {"model": _BACKBONE, "optim_wrapper": dict(optimizer=dict(type="Sgd", lr=0.1))},
            "optim_wrapper.optimizer.type='Sgd'",
        ),
    ],
)
def test_types_that_nobody_registered_come_with_their_keys(
    tmp_path: Path, parts: dict, named: str
) -> None:
    path = tmp_path / "own.py"
    Config(parts).dump(path)
    with pytest.raises(PreflightError) as error:
        _build(Config.fromfile(path))
    assert str(error.value) == (
        f"config {path}: nobody registered {named}. Correct the name, or import the package that "
        "registers it in custom_imports."
    )


def _build(cfg: Config) -> None:
    with DefaultScope.overwrite_default_scope("mmseg"), naming_types(cfg):
        MODELS.build(cfg.model)
        for hook in cfg.get("custom_hooks", ()):
            HOOKS.build(hook)
        build_optim_wrapper(nn.Linear(1, 1), cfg.optim_wrapper)


def test_a_conv_cfg_where_none_is_taken_comes_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    model = dict(type="MixVisionTransformer", conv_cfg=dict(type="PConv"))
    Config(dict(model=model)).dump(path)
    with pytest.raises(PreflightError) as error:
        _build(Config.fromfile(path))
    message = str(error.value)
    assert message.startswith(f"config {path}: ")
    assert (
        "MixVisionTransformer.__init__() got an unexpected keyword argument 'conv_cfg'" in message
    )
    assert message.endswith("; --padding partial switches convolutions that no conv_cfg reaches.")


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("SGD", KeyError("Sgd is not in the mmengine::optimizer registry")),
        ("torch.nn.Linear", KeyError("Sgd is not in the mmengine::optimizer registry")),
        (nn.Linear, KeyError("Sgd is not in the mmengine::optimizer registry")),
        ("OptionOfMine", KeyError("a key of mine")),
        ("OptionOfMine", TypeError("__init__() got an unexpected keyword argument 'depth'")),
    ],
)
def test_other_errors_stay_what_they_are(kind: object, error: Exception) -> None:
    with pytest.raises(type(error)) as found, naming_types(Config(dict(part=dict(type=kind)))):
        raise error
    assert found.value is error
