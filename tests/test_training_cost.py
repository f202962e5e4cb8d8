"""The counts that the estimate of training costs rests on."""

import runpy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.utils import digit_version
from torch import nn

count_step = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks/training_cost.py"))[
    "count_step"
]


@pytest.fixture
def cfg() -> Config:
    norm_cfg = dict(type="SyncBN")
    return Config(
        dict(
            default_scope="mmseg",
            crop_size=(16, 24),
            model=dict(
                type="EncoderDecoder",
                backbone=dict(type="ResNet", depth=18, base_channels=4, norm_cfg=norm_cfg),
                decode_head=dict(
                    type="FCNHead", in_channels=32, channels=8, num_classes=3, norm_cfg=norm_cfg
                ),
            ),
        )
    )


def test_flops_and_parameters_by_formula(cfg: Config) -> None:
    init_default_scope("mmseg")
    cfg.model.backbone.norm_cfg = cfg.model.decode_head.norm_cfg = dict(type="BN")
    model = MODELS.build(cfg.model).eval()
    flops = []

    def count(conv: nn.Conv2d, inputs: tuple, output: torch.Tensor) -> None:
        # Forward, gradient of the weights, gradient of the input (not of the image).
        passes = 2 if inputs[0].shape[1] == 3 else 3
        flops.append(passes * 2 * conv.weight.numel() * output[0, 0].numel())

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    model.decode_head(model.extract_feat(torch.zeros(1, 3, 16, 24)))

    step = count_step(cfg)
    assert step.flops == sum(flops)
    assert step.parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.skipif(
    digit_version(torch.__version__) < digit_version("2.2"),
    reason="torch 2.1 does not recompute on tensors without data",
)
def test_recomputing_trades_activations_for_flops(cfg: Config) -> None:
    plain, recomputed = count_step(cfg), count_step(cfg, with_cp=True)
    assert recomputed.activations < plain.activations
    assert plain.flops < recomputed.flops < 4 / 3 * plain.flops
    assert recomputed.parameters == plain.parameters
