"""What tests of several packages share."""

import gc
import os
import runpy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pconv_seg.models import wide_resnet

if not torch.cuda.is_available():
    # Read when Triton is imported, which compilers may do before the kernel's own tests.
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session", autouse=True)
def _imports_are_no_garbage():
    """mmengine collects garbage with each data set: most of it looked through what is imported."""
    gc.freeze()


@pytest.fixture
def unformatted(monkeypatch):
    """Writes configs without formatting them, which takes longer than many a whole test."""
    monkeypatch.setattr("yapf.yapflib.yapf_api.FormatCode", lambda text, **_: (text, True))


@pytest.fixture(scope="module")
def main(request):
    """The ``main`` of the tool that a module's tests are about, its constant TOOL."""
    tools = Path(__file__).parents[1] / "tools"
    return runpy.run_path(str(tools / f"{request.module.TOOL}.py"))["main"]


@pytest.fixture(autouse=True)
def _seeded():
    """What a test draws must not depend on the tests before it."""
    torch.manual_seed(0)


@pytest.fixture
def randomized():
    """Gives every parameter and statistic of a model a random value, so that all of them count."""

    def randomize(model: nn.Module) -> nn.Module:
        generator = torch.Generator().manual_seed(0)
        for name, value in model.state_dict().items():
            if name.endswith(("running_var", "bias")):
                value.uniform_(0.5, 1.5, generator=generator)
            elif value.is_floating_point():
                fan_in = value[0].numel() if value.dim() == 4 else 1
                value.normal_(std=fan_in**-0.5, generator=generator)
        return model

    return randomize


@pytest.fixture
def narrow(monkeypatch):
    """WideResNet38 with a sixteenth of the channels behind the stem, and one block less each."""
    modules = {
        name: (max(1, count - 1), tuple(c // 16 for c in channels), *rest)
        for name, (count, channels, *rest) in wide_resnet._MODULES.items()
    }
    monkeypatch.setattr(wide_resnet, "_MODULES", modules)


@pytest.fixture
def reference_trunk():
    """WideResNet38 from published parameter names, strides and dilations alone."""

    def trunk(state: dict, x: torch.Tensor) -> list[torch.Tensor]:
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

    return trunk
