import copy

import pytest
import torch
from torch import nn

from pconv_seg import PConv2d, WideResNet38
from pconv_seg.models import wide_resnet


def test_number_of_parameters():
    with torch.device("meta"):
        trunk = WideResNet38()
    assert sum(p.numel() for p in trunk.parameters()) == 105_062_720


@pytest.mark.parametrize("conv_cfg", [None, {"type": "PConv"}])
def test_channels_and_output_strides_at_odd_sizes(conv_cfg):
    with torch.device("meta"):
        trunk = WideResNet38(out_modules=range(1, 8), conv_cfg=conv_cfg)
        outputs = trunk(torch.empty(1, 3, 65, 98))
    assert [tuple(output.shape[1:]) for output in outputs] == [
        (64, 65, 98),
        (128, 33, 49),
        (256, 17, 25),
        (512, 9, 13),
        (1024, 9, 13),
        (2048, 9, 13),
        (4096, 9, 13),
    ]
    with torch.device("meta"):
        taps = WideResNet38(conv_cfg=conv_cfg)(torch.empty(1, 3, 65, 98))
    assert [tuple(tap.shape) for tap in taps] == [(1, 128, 33, 49), (1, 4096, 9, 13)]


def test_images_of_any_channels_and_outputs_in_any_order(narrow):
    trunk = WideResNet38(in_channels=1, out_modules=(7, 2))
    outputs = trunk(torch.randn(1, 1, 16, 16))
    assert [tuple(output.shape) for output in outputs] == [(1, 256, 2, 2), (1, 8, 8, 8)]


@torch.no_grad()
def test_agrees_with_a_network_built_from_published_names(randomized, reference_trunk):
    with torch.device("meta"):
        trunk = WideResNet38(out_modules=range(1, 8))
    trunk = randomized(trunk.to_empty(device="cpu")).eval()
    x = torch.randn(1, 3, 21, 14)
    for actual, expected in zip(trunk(x), reference_trunk(trunk.state_dict(), x), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_conv_cfg_and_norm_cfg_reach_every_layer(narrow):
    trunk = WideResNet38(conv_cfg={"type": "PConv"}, norm_cfg={"type": "GN", "num_groups": 2})
    convs = [m for m in trunk.modules() if isinstance(m, nn.Conv2d)]
    assert convs
    assert all(isinstance(conv, PConv2d) for conv in convs)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in trunk.modules())


@pytest.mark.parametrize("conv_cfg", [None, {"type": "PConv"}])
def test_training_from_scratch_starts_from_he_et_al(narrow, conv_cfg):
    torch.manual_seed(0)
    trunk = WideResNet38(conv_cfg=conv_cfg)
    trunk.init_weights()
    for name, module in trunk.named_modules():
        if isinstance(module, nn.Conv2d):
            outputs = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            expected = (2 / outputs) ** 0.5
            assert module.weight.std().item() == pytest.approx(expected, rel=0.15), name
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()


def test_dropout_only_in_training_and_only_in_the_last_two_modules(narrow):
    trunk = WideResNet38()
    dropouts = {name: m.p for name, m in trunk.named_modules() if isinstance(m, nn.Dropout2d)}
    assert dropouts == {"mod6.block1.convs.dropout": 0.3, "mod7.block1.convs.dropout": 0.5}
    names = [name for name, _ in trunk.mod6.block1.convs.named_children()]
    assert names == ["conv1", "bn2", "conv2", "bn3", "dropout", "conv3"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"conv_cfg": {"type": "PConv"}},
        {"norm_cfg": {"type": "BN", "track_running_stats": False}},
    ],
)
def test_gradient_checkpointing_changes_nothing(narrow, randomized, options):
    x = torch.randn(2, 3, 33, 41)
    results = []
    for with_cp in (False, True):
        trunk = randomized(WideResNet38(with_cp=with_cp, **options)).train()
        torch.manual_seed(0)  # dropout
        loss = sum(output.square().mean() for output in trunk(x))
        loss.backward()
        statistics = dict(trunk.named_buffers())
        results.append((loss, {k: p.grad for k, p in trunk.named_parameters()}, statistics))
        assert all(m.momentum == 0.1 for m in trunk.modules() if isinstance(m, nn.BatchNorm2d))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)


def test_gradient_checkpointing_beside_a_compiler(narrow, randomized):
    torch._dynamo.reset()
    plain = randomized(WideResNet38(conv_cfg={"type": "PConv"})).train()
    trunk = copy.deepcopy(plain)
    trunk.with_cp = True
    x = torch.randn(2, 3, 33, 41)
    results = []
    for model, call in ((plain, plain), (trunk, torch.compile(trunk, backend="aot_eager"))):
        torch.manual_seed(0)  # dropout
        sum(output.square().mean() for output in call(x)).backward()
        results.append(({k: p.grad for k, p in model.named_parameters()}, model.state_dict()))
    torch.testing.assert_close(results[1], results[0])


def test_gradient_checkpointing_recomputes_every_block_once(narrow):
    trunk = WideResNet38(with_cp=True)
    calls = []
    for name, block in trunk.named_modules():
        if isinstance(block, wide_resnet._PreActivationBlock):
            block.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
    forward = sum(output.sum() for output in trunk(torch.randn(2, 3, 16, 16)))
    once = list(calls)
    forward.backward()
    assert calls == once + once[::-1]
    calls.clear()
    trunk.eval()(torch.randn(1, 3, 16, 16))[0].sum().backward()
    assert calls == once


def test_norm_eval_freezes_statistics(narrow):
    trunk = WideResNet38(norm_eval=True).train()
    before = {name: buffer.clone() for name, buffer in trunk.named_buffers()}
    trunk(torch.randn(2, 3, 16, 16))
    torch.testing.assert_close(dict(trunk.named_buffers()), before, rtol=0, atol=0)
    assert trunk.mod6.block1.convs.dropout.training


@pytest.mark.parametrize("out_modules", [(1, 8), (0, 7), ()])
def test_unknown_module_number_is_refused(out_modules):
    with pytest.raises(ValueError, match="modules 1 to 7"):
        WideResNet38(out_modules=out_modules)
