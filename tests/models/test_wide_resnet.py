import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pconv_seg import PConv2d, WideResNet38
from pconv_seg.models import wide_resnet


@pytest.fixture
def narrow(monkeypatch):
    """WideResNet38 with a sixteenth of the channels behind the stem, and one block less each."""
    modules = {
        name: (max(1, count - 1), tuple(c // 16 for c in channels), *rest)
        for name, (count, channels, *rest) in wide_resnet._MODULES.items()
    }
    monkeypatch.setattr(wide_resnet, "_MODULES", modules)


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


def reference_trunk(state: dict, x: torch.Tensor) -> list[torch.Tensor]:
    """The trunk from published parameter names, strides and dilations alone."""

    def norm_relu(x, key):
        names = ("running_mean", "running_var", "weight", "bias")
        return F.relu(F.batch_norm(x, *(state[f"{key}.0.{name}"] for name in names)))

    def conv(x, key, stride, dilation):
        weight = state[f"{key}.weight"]
        padding = dilation * (weight.shape[-1] // 2)
        return F.conv2d(x, weight, None, stride, padding, dilation)

    outputs = [conv(x, "mod1.conv1", 1, 1)]
    strides = {"mod4": 2}
    dilations = {"mod5": 2, "mod6": 4, "mod7": 4}
    for mod in ("mod2", "mod3", "mod4", "mod5", "mod6", "mod7"):
        x = outputs[-1]
        if mod in ("mod2", "mod3"):
            x = F.max_pool2d(x, 3, 2, 1)
        blocks = 1
        while f"{mod}.block{blocks + 1}.bn1.0.weight" in state:
            blocks += 1
        for i in range(1, blocks + 1):
            block, dilation = f"{mod}.block{i}", dilations.get(mod, 1)
            stride = strides.get(mod, 1) if i == 1 else 1
            out = norm_relu(x, f"{block}.bn1")
            if f"{block}.proj_conv.weight" in state:
                x = conv(out, f"{block}.proj_conv", stride, 1)
            out = conv(out, f"{block}.convs.conv1", stride, dilation)
            for j in (2, 3):
                if f"{block}.convs.conv{j}.weight" in state:
                    out = norm_relu(out, f"{block}.convs.bn{j}")
                    out = conv(out, f"{block}.convs.conv{j}", 1, dilation)
            x = x + out
        outputs.append(x)
    return outputs


@torch.no_grad()
def test_agrees_with_a_network_built_from_published_names(randomized):
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


def test_dropout_only_in_training_and_only_in_the_last_two_modules(narrow):
    trunk = WideResNet38()
    dropouts = {name: m.p for name, m in trunk.named_modules() if isinstance(m, nn.Dropout2d)}
    assert dropouts == {"mod6.block1.convs.dropout": 0.3, "mod7.block1.convs.dropout": 0.5}
    names = [name for name, _ in trunk.mod6.block1.convs.named_children()]
    assert names == ["conv1", "bn2", "conv2", "bn3", "dropout", "conv3"]


@pytest.mark.parametrize("conv_cfg", [None, {"type": "PConv"}])
def test_gradient_checkpointing_changes_nothing(narrow, randomized, conv_cfg):
    x = torch.randn(2, 3, 33, 41)
    results = []
    for with_cp in (False, True):
        trunk = randomized(WideResNet38(with_cp=with_cp, conv_cfg=conv_cfg)).train()
        torch.manual_seed(0)  # dropout
        loss = sum(output.square().mean() for output in trunk(x))
        loss.backward()
        statistics = {k: v for k, v in trunk.named_buffers() if "num_batches" not in k}
        results.append((loss, {k: p.grad for k, p in trunk.named_parameters()}, statistics))
        assert all(m.momentum == 0.1 for m in trunk.modules() if isinstance(m, nn.BatchNorm2d))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)


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


def test_unknown_module_number_is_refused():
    with pytest.raises(ValueError, match="modules 1 to 7"):
        WideResNet38(out_modules=(1, 8))


class TestPretrained:
    """Files shaped like the published wider_resnet38.pth.tar."""

    @pytest.fixture
    def state(self, narrow, randomized):
        state = randomized(WideResNet38()).state_dict()
        # Published before torch 0.4.1, which introduced this counter.
        state = {f"module.{k}": v for k, v in state.items() if "num_batches_tracked" not in k}
        for name in ("weight", "bias", "running_mean", "running_var"):
            state[f"module.bn_out.0.{name}"] = torch.ones(256)
        state["module.classifier.fc.weight"] = torch.ones(1000, 256)
        state["module.classifier.fc.bias"] = torch.ones(1000)
        return state

    @staticmethod
    def load(path):
        trunk = WideResNet38(init_cfg={"type": "Pretrained", "checkpoint": str(path)})
        trunk.init_weights()
        return trunk

    def test_every_parameter_and_statistic_is_loaded(self, state, tmp_path):
        path = tmp_path / "wider_resnet38.pth.tar"
        torch.save({"epoch": 90, "state_dict": state}, path, _use_new_zipfile_serialization=False)
        loaded = self.load(path).state_dict()
        checked = [k for k in loaded if "num_batches_tracked" not in k]
        assert len(checked) == len(state) - 6
        for key in checked:
            assert torch.equal(loaded[key], state[f"module.{key}"]), key

    @pytest.mark.parametrize("change", ["missing", "shape", "unknown"])
    def test_what_does_not_fit_is_named(self, state, tmp_path, change):
        key = "mod5.block1.convs.conv2.weight"
        value = state.pop(f"module.{key}")
        if change == "shape":
            state[f"module.{key}"] = value[:1]
        elif change == "unknown":
            state.update({f"module.{key}": value, "module.mod8.weight": value})
            key = "mod8.weight"
        torch.save({"state_dict": state}, tmp_path / "file.pth")
        with pytest.raises(ValueError, match=rf"file\.pth(.|\n)*{key}"):
            self.load(tmp_path / "file.pth")

    def test_code_in_a_pickle_is_not_run(self, narrow, tmp_path):
        torch.save({"state_dict": {}, "hook": print}, tmp_path / "file.pth")
        with pytest.raises(ValueError, match=r"file\.pth"):
            self.load(tmp_path / "file.pth")

    def test_missing_file(self, narrow, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"file\.pth"):
            self.load(tmp_path / "file.pth")
