"""Files in the layout of the published ones, with few channels."""

import hashlib
import re
import resource
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine import registry
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from safetensors import safe_open
from torch import nn

from pconv_seg.checkpoints import import_weights, load_file, load_weights, network_of, save_weights
from pconv_seg.checkpoints.loading import checked
from pconv_seg.models import WideResNet38

ROOT = Path(__file__).parents[2]
TOOL = "import_checkpoint"
BN = dict(type="BN")
RESNET = dict(type="ResNet", depth=18, stem_channels=4, base_channels=4)


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope("mmseg")


def build(**config):
    return MODELS.build(config)


def segmentor(backbone, head, **rest):
    return build(type="EncoderDecoder", backbone=backbone, decode_head=head, **rest)


def tensors(shapes, seed=0):
    """Random weights; statistics and scales are positive."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in shapes.items():
        if len(shape) == 1:
            state[key] = torch.rand(shape, generator=generator) + 0.5
        else:
            fan_in = shape[1] * shape[2] * shape[3] if len(shape) == 4 else shape[-1]
            state[key] = torch.randn(shape, generator=generator) / fan_in**0.5
    return state


def norm(key, channels):
    return {
        f"{key}.{name}": (channels,) for name in ("weight", "bias", "running_mean", "running_var")
    }


# --- The published layouts, written down by hand. ---


def wide_resnet38(width=16):
    """Shapes of the trunk with every channel number but the stem's divided by ``width``."""
    shapes = {"mod1.conv1.weight": (64, 3, 3, 3)}
    inputs = 64
    layout = {
        "mod2": (2, (128, 128)),
        "mod3": (2, (256, 256)),
        "mod4": (5, (512, 512)),
        "mod5": (2, (512, 1024)),
        "mod6": (1, (512, 1024, 2048)),
        "mod7": (1, (1024, 2048, 4096)),
    }
    for mod, (blocks, widths) in layout.items():
        widths = [channels // width for channels in widths]
        kernels = (3, 3) if len(widths) == 2 else (1, 3, 1)
        for block in (f"{mod}.block{i + 1}" for i in range(blocks)):
            shapes |= norm(f"{block}.bn1.0", inputs)
            if inputs != widths[-1] or block == "mod4.block1":
                shapes[f"{block}.proj_conv.weight"] = (widths[-1], inputs, 1, 1)
            previous = inputs
            for i, (channels, kernel) in enumerate(zip(widths, kernels, strict=True), start=1):
                if i > 1:
                    shapes |= norm(f"{block}.convs.bn{i}.0", previous)
                shapes[f"{block}.convs.conv{i}.weight"] = (channels, previous, kernel, kernel)
                previous = channels
            inputs = widths[-1]
    return shapes


def imagenet_wide_resnet38():
    classifier = {"classifier.fc.weight": (1000, 256), "classifier.fc.bias": (1000,)}
    return wide_resnet38() | norm("bn_out.0", 256) | classifier


def deepwv3plus(classes=19, channels=12, fine=6):
    shapes = wide_resnet38()
    for i in range(4):
        kernel = 1 if i == 0 else 3
        shapes[f"aspp.features.{i}.0.weight"] = (channels, 256, kernel, kernel)
        shapes |= norm(f"aspp.features.{i}.1", channels)
    shapes["aspp.img_conv.0.weight"] = (channels, 256, 1, 1)
    shapes |= norm("aspp.img_conv.1", channels)
    shapes["bot_fine.weight"] = (fine, 8, 1, 1)
    shapes["bot_aspp.weight"] = (channels, 5 * channels, 1, 1)
    shapes["final.0.weight"] = (channels, channels + fine, 3, 3)
    shapes |= norm("final.1", channels)
    shapes["final.3.weight"] = (channels, channels, 3, 3)
    shapes |= norm("final.4", channels)
    shapes["final.6.weight"] = (classes, channels, 1, 1)
    return shapes


def resnet18(base=4, classes=7):
    shapes = {"conv1.weight": (base, 3, 7, 7)} | norm("bn1", base)
    inputs = base
    for stage in range(4):
        outputs = base * 2**stage
        for i in range(2):
            block = f"layer{stage + 1}.{i}"
            shapes[f"{block}.conv1.weight"] = (outputs, inputs, 3, 3)
            shapes |= norm(f"{block}.bn1", outputs)
            shapes[f"{block}.conv2.weight"] = (outputs, outputs, 3, 3)
            shapes |= norm(f"{block}.bn2", outputs)
            if inputs != outputs:
                shapes[f"{block}.downsample.0.weight"] = (outputs, inputs, 1, 1)
                shapes |= norm(f"{block}.downsample.1", outputs)
            inputs = outputs
    return shapes | {"fc.weight": (classes, inputs), "fc.bias": (classes,)}


def deep_stem(shapes, base=4):
    """ResNetV1c of mmpretrain: three convolutions instead of conv1, everything below backbone."""
    shapes = {k: s for k, s in shapes.items() if k.split(".")[0] not in ("conv1", "bn1", "fc")}
    half = base // 2
    for i, (inputs, outputs) in zip(
        (0, 3, 6), ((3, half), (half, half), (half, base)), strict=True
    ):
        shapes[f"stem.{i}.weight"] = (outputs, inputs, 3, 3)
        shapes |= norm(f"stem.{i + 1}", outputs)
    shapes = {f"backbone.{key}": shape for key, shape in shapes.items()}
    return shapes | {"head.fc.weight": (7, 8 * base), "head.fc.bias": (7,)}


def file_of(shapes, prefix="module."):
    """As training scripts of that time saved them."""
    state = {prefix + key: value for key, value in tensors(shapes).items()}
    return {"epoch": 90, "arch": "x", "state_dict": state, "best_prec1": torch.tensor(1.0)}


LAYOUTS = {
    "wider_resnet38": lambda: file_of(imagenet_wide_resnet38()),
    "deepwv3plus": lambda: file_of(deepwv3plus()),
    "torchvision": lambda: tensors(resnet18()),
    "training of torchvision": lambda: {"model": tensors(resnet18()), "epoch": 3},
    "partialconv": lambda: file_of(resnet18()),
    "mmpretrain": lambda: {"state_dict": tensors(deep_stem(resnet18())), "meta": {}},
}


# --- Independent references. ---


def reference_deepwv3plus(trunk, state, x):
    """DeepWV3Plus from published parameter names; every resize keeps corners aligned."""

    def norm_relu(x, key):
        names = ("running_mean", "running_var", "weight", "bias")
        mean, variance, weight, bias = (state[f"{key}.{n}"].view(1, -1, 1, 1) for n in names)
        return (weight * (x - mean) / (variance + 1e-5).sqrt() + bias).clamp(min=0)

    def resize(x, like):
        return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=True)

    outputs = trunk(state, x)
    low, high = outputs[1], outputs[6]
    pooled = F.conv2d(high.mean((2, 3), keepdim=True), state["aspp.img_conv.0.weight"])
    branches = [norm_relu(pooled, "aspp.img_conv.1").expand(-1, -1, *high.shape[2:])]
    for i, rate in enumerate((0, 12, 24, 36)):
        weight = state[f"aspp.features.{i}.0.weight"]
        branch = F.conv2d(high, weight, padding=rate, dilation=max(rate, 1))
        branches.append(norm_relu(branch, f"aspp.features.{i}.1"))
    aspp = F.conv2d(torch.cat(branches, 1), state["bot_aspp.weight"])
    fine = F.conv2d(low, state["bot_fine.weight"])
    x0 = torch.cat([fine, resize(aspp, fine)], 1)
    x1 = norm_relu(F.conv2d(x0, state["final.0.weight"], padding=1), "final.1")
    x2 = norm_relu(F.conv2d(x1, state["final.3.weight"], padding=1), "final.4")
    return resize(F.conv2d(x2, state["final.6.weight"]), x)


def reference_resnet18(state, x):
    """The maps behind the four stages, from torchvision's names."""

    def conv_norm(x, conv, bn, stride=1):
        weight = state[f"{conv}.weight"]
        x = F.conv2d(x, weight, None, stride, weight.shape[-1] // 2)
        names = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{bn}.{name}"] for name in names))

    x = F.max_pool2d(conv_norm(x, "conv1", "bn1", 2).relu(), 3, 2, 1)
    outputs = []
    for stage in (1, 2, 3, 4):
        for i in range(2):
            block = f"layer{stage}.{i}"
            stride = 2 if stage > 1 and i == 0 else 1
            out = conv_norm(x, f"{block}.conv1", f"{block}.bn1", stride).relu()
            out = conv_norm(out, f"{block}.conv2", f"{block}.bn2")
            if f"{block}.downsample.0.weight" in state:
                x = conv_norm(x, f"{block}.downsample.0", f"{block}.downsample.1", stride)
            x = (x + out).relu()
        outputs.append(x)
    return outputs


def loaded(content, model):
    state, report = import_weights(content, model)
    keys = model.load_state_dict(state, strict=False)
    assert not keys.unexpected_keys
    assert set(keys.missing_keys) <= set(report.missing)
    model.eval()
    return model, report


@pytest.mark.usefixtures("narrow")
@torch.no_grad()
def test_deepwv3plus_gives_the_logits_of_that_network(reference_trunk):
    content = file_of(deepwv3plus())
    network = segmentor(
        dict(type="WideResNet38", norm_cfg=dict(type="SyncBN")),
        dict(
            type="DeepLabV3PlusHead",
            in_index=1,
            in_channels=256,
            channels=12,
            c1_in_channels=8,
            c1_channels=6,
            num_classes=19,
            norm_cfg=dict(type="SyncBN"),
            align_corners=True,
        ),
    )
    state = tensors(deepwv3plus())
    networks = []
    for built in (network, network_of(content).to_empty(device="cpu")):
        built, report = loaded(content, built)
        assert report.mapped.keys() == state.keys()
        assert not report.dropped
        networks.append(built)
    for size in ((65, 98), (64, 48)):
        x = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
        expected = reference_deepwv3plus(reference_trunk, state, x)
        assert expected.std() > 0.1
        for built in networks:
            actual = built.encode_decode(x, [dict(img_shape=size)])
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("layout", ["torchvision", "partialconv"])
def test_resnet_gives_the_maps_of_that_network(layout):
    content = LAYOUTS[layout]()
    network = build(**RESNET)
    network, report = loaded(content, network)
    assert report.dropped == dict.fromkeys(("fc.weight", "fc.bias"), "classifier of ImageNet")
    x = torch.randn(1, 3, 65, 98, generator=torch.Generator().manual_seed(1))
    expected = reference_resnet18(tensors(resnet18()), x)
    torch.testing.assert_close(network(x), tuple(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_key_is_accounted_for(layout):
    content = LAYOUTS[layout]()
    state = content.get("state_dict") or content.get("model") or content
    state = {k.removeprefix("module."): v for k, v in state.items()}
    network = network_of(content)

    weights, report = import_weights(content, network, source="x.pth")

    assert {*report.mapped, *report.dropped} == state.keys()
    assert len(report.mapped) + len(report.dropped) == len(state)
    assert {*report.mapped.values(), *report.missing} == network.state_dict().keys()
    assert all(key.endswith("num_batches_tracked") for key in report.missing)
    for theirs, ours in report.mapped.items():
        assert torch.equal(weights[ours], state[theirs])
    assert f"{len(report.mapped)} tensors mapped, {len(report.dropped)} dropped" in str(report)
    numbers = [int(row.split("|")[-2]) for row in str(report).splitlines()[4:-1]]
    assert sum(numbers) == len(state) + len(report.missing)


def deeplabv3plus(head="DepthwiseSeparableASPPHead", stem="ResNetV1c", auxiliary=True):
    convs = dict(in_index=3, in_channels=32, channels=8, c1_in_channels=4, c1_channels=6)
    auxiliary_head = dict(
        type="FCNHead", in_index=2, in_channels=16, channels=4, num_classes=5, norm_cfg=BN
    )
    head = dict(type=head, dilations=(1, 2, 3, 4), num_classes=5, norm_cfg=BN, **convs)
    model = dict(
        type="EncoderDecoder",
        backbone=dict(type=stem, depth=18, stem_channels=4, base_channels=4, norm_cfg=BN),
        decode_head=head,
    )
    if auxiliary:
        model["auxiliary_head"] = auxiliary_head
    return model


@pytest.fixture
def mmseg_file(randomized):
    """What mmseg's own DeepLabV3+ writes, and that network."""
    network = randomized(build(**deeplabv3plus())).eval()
    cfg = Config(dict(model=deeplabv3plus(), default_scope="mmseg")).pretty_text
    return {"meta": {"cfg": cfg}, "state_dict": network.state_dict()}, network


@torch.no_grad()
def test_mmseg_deeplabv3plus_fits_the_padding_aware_head(mmseg_file):
    content, theirs = mmseg_file
    ours = build(**deeplabv3plus("PaddingAwareDepthwiseSeparableASPPHead", auxiliary=False))
    ours, report = loaded(content, ours)
    assert set(report.dropped.values()) == {"only for training, and the network has none"}
    assert all(key.startswith("auxiliary_head.") for key in report.dropped)
    x = torch.randn(2, 3, 33, 48, generator=torch.Generator().manual_seed(1))
    meta = [dict(img_shape=(33, 48))]
    torch.testing.assert_close(ours.encode_decode(x, meta), theirs.encode_decode(x, meta))
    # The network that the file tells of is mmseg's own, with all heads.
    _, report = import_weights(content, network_of(content))
    assert not report.dropped


def test_what_does_not_fit_comes_with_the_way_out(mmseg_file):
    content, _ = mmseg_file
    plain_head = build(**deeplabv3plus("DeepLabV3PlusHead", auxiliary=False))
    with pytest.raises(ValueError, match=r"(?s)depthwise_conv.*no place.*hint: .*PaddingAware"):
        import_weights(content, plain_head)
    trunk = build(**RESNET)
    with pytest.raises(ValueError, match=r"hint: .*ResNetV1c"):
        import_weights(content, trunk)
    with pytest.raises(ValueError, match=r"hint: .*7x7 stem; use type='ResNet'"):
        import_weights(LAYOUTS["torchvision"](), build(**deeplabv3plus()["backbone"]))
    with pytest.raises(ValueError, match=r"hint: the file holds a trunk only; .* model\.backbone$"):
        import_weights(LAYOUTS["mmpretrain"](), build(**deeplabv3plus()))


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "nothing in the file for {key} (64, 32, 3, 3)"),
        ("shape", "{key} (1, 32, 3, 3) does not fit {key} (64, 32, 3, 3)"),
        ("turned", "{key} (32, 64, 3, 3) does not fit {key} (64, 32, 3, 3)"),
        ("unknown", "mod8.weight (64, 32, 3, 3) has no place in the network"),
    ],
)
def test_keys_and_shapes_that_do_not_fit_are_named_on_both_sides(change, message):
    content = file_of(imagenet_wide_resnet38())
    key = "mod5.block1.convs.conv2.weight"
    value = content["state_dict"].pop(f"module.{key}")
    if change == "shape":
        content["state_dict"][f"module.{key}"] = value[:1]
    elif change == "turned":
        content["state_dict"][f"module.{key}"] = value.transpose(0, 1)
    elif change == "unknown":
        content["state_dict"] |= {f"module.{key}": value, "module.mod8.weight": value}
    with pytest.raises(ValueError, match=re.escape(message.format(key=key))) as error:
        import_weights(content, WideResNet38(), source="x.pth")
    first, *lines = str(error.value).splitlines()
    assert first == "x.pth (an ImageNet WideResNet38) does not fit WideResNet38:"
    assert len(lines) == 1


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(("count", "last"), [(6, "x5 (1) has no place"), (8, "and 2 more")])
def test_six_of_many_problems_are_shown(count, last):
    content = LAYOUTS["deepwv3plus"]()
    network = network_of(content)
    content["state_dict"] |= {f"x{i}": torch.ones(1) for i in range(count)}
    with pytest.raises(ValueError, match="does not fit EncoderDecoder") as error:
        import_weights(content, network)
    _, *lines = str(error.value).splitlines()
    assert lines[5].startswith("  x5 (1) has no place")
    assert lines[-1].startswith(f"  {last}")
    assert len(lines) == min(count, 7)


@pytest.mark.parametrize(
    ("layers", "keys", "count", "end"),
    [(5, None, 9, "  and 3 more"), (99, ["0.weight"], 3, "torch.Size([1, 1]).")],
)
def test_lines_of_what_does_not_fit_a_network_are_few_and_short(layers, keys, count, end):
    network = torch.nn.Sequential(*(torch.nn.Linear(1, 1) for _ in range(layers)))
    state = {key: torch.ones(3) for key in keys or network.state_dict()}
    with pytest.raises(ValueError, match=r"^x\.pth does not fit the config: Error") as error:
        load_weights(network, state, "x.pth")
    lines = str(error.value).splitlines()
    assert len(lines) == count
    assert max(map(len, lines)) <= 302
    assert lines[-1].endswith(end)


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_the_depth_of_a_resnet_is_told_from_its_keys(depth):
    with torch.device("meta"):
        network = build(type="ResNet", depth=depth, stem_channels=4, base_channels=8)
    state = network.state_dict()
    assert network_of(state).depth == depth
    state = {key: value for key, value in state.items() if not key.startswith("layer4.1.")}
    with pytest.raises(ValueError, match=r"x\.pth is a ResNet of .*: no ResNet of mmseg has \("):
        network_of(state, source="x.pth")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (dict(type="a"), "x.pth holds a trunk, but the model of config {} has no backbone"),
        (dict(backbone=dict(type="ResNet", depth=17)), "config {}: invalid depth 17 for resnet"),
    ],
)
def test_a_config_that_cannot_take_a_trunk_is_named(tmp_path, model, message):
    path = tmp_path / "c.py"
    Config(dict(model=model)).dump(path)
    with pytest.raises(ValueError, match=f"^{re.escape(message.format(path))}$"):
        network_of(LAYOUTS["torchvision"](), Config.fromfile(path), source="x.pth")


def test_a_trunk_whose_first_weight_has_no_shape_is_named():
    state = tensors(resnet18()) | {"conv1.weight": torch.tensor(1.0)}
    with pytest.raises(ValueError, match=r"x\.pth is a ResNet of .*, but not complete: tuple"):
        network_of(state, source="x.pth")


def test_two_keys_for_one_parameter_are_refused():
    state = tensors(resnet18())
    state["backbone.bn1.bias"] = state["bn1.bias"] + 1
    trunk = build(**RESNET)
    message = r"\n  bn1\.bias and backbone\.bn1\.bias are both for bn1\.bias$"
    with pytest.raises(ValueError, match=message):
        import_weights(state, trunk)


def test_a_network_that_nobody_registered_is_named():
    state = {"backbone.a": torch.ones(1), "decode_head.b": torch.ones(1)}
    content = {"state_dict": state, "meta": {"cfg": "model = dict(type='NobodysNetwork')"}}
    with pytest.raises(
        ValueError,
        match=r"x\.pth: NobodysNetwork is not in the .* Give a config",
    ):
        network_of(content, source="x.pth")
    with pytest.raises(ValueError, match=r"x\.pth is an mmseg network, but stores no config"):
        network_of(state, source="x.pth")
    with pytest.raises(ValueError, match=r"x\.pth is no checkpoint: its meta is a list instead"):
        network_of({"state_dict": state, "meta": [1]}, source="x.pth")
    with pytest.raises(ValueError, match=r"x\.pth is no checkpoint: its dataset_meta is a list"):
        network_of({"state_dict": state, "meta": {"dataset_meta": [1]}}, source="x.pth")
    with pytest.raises(ValueError, match=r"^format must be auto, .*, mmseg, resnet, got 'keras'$"):
        network_of(content, format="keras")
    stored = {"state_dict": state, "meta": {"cfg": "a = 1"}}
    with pytest.raises(ValueError, match=r"x\.pth: its stored config has no model"):
        network_of(stored, source="x.pth")


@pytest.mark.parametrize(
    ("layout", "name"),
    [("torchvision", "deepwv3plus"), ("deepwv3plus", "wider_resnet38"), ("mmpretrain", "mmseg")],
)
def test_a_file_of_another_format_is_recognized(layout, name):
    content = LAYOUTS[layout]()
    looks = "Cityscapes DeepWV3Plus" if layout == "deepwv3plus" else "ResNet of torchvision"
    message = rf"x\.pth is not the format {name}: it looks like a {looks}"
    with pytest.raises(ValueError, match=message):
        import_weights(content, nn.Module(), name, "x.pth")


@pytest.mark.parametrize(
    ("content", "looks"),
    [
        ({"features.0.weight": 1, "classifier.0.weight": 1}, "a VGG or AlexNet"),
        ({"patch_embed.proj.weight": 1, "blocks.0.attn.qkv.weight": 1}, "a vision transformer"),
        ({"backbone.conv1.weight": 1, "rpn_head.rpn_conv.weight": 1}, "an object detector"),
        ({"encoder.layer1.0.conv1.weight": 1}, r"a network of segmentation_models\.pytorch"),
        ({"features.denseblock1.denselayer1.conv1.weight": 1}, "a DenseNet"),
        ({"a": 1, "b": 1, "c": 1, "d": 1}, "nothing known; its keys are a, b, c, "),
    ],
)
def test_files_that_are_not_for_us_are_recognized(content, looks):
    content = {key: torch.ones(1) for key in content}
    message = rf"x\.pth is not one of these formats: it looks like {looks}"
    with pytest.raises(ValueError, match=message):
        import_weights(content, nn.Module(), source="x.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "holds no weights"),
        ({}, "holds no weights"),
        ({"state_dict": {}, "epoch": 3}, "holds no weights"),
        ({"state_dict": {"weight": 1}}, "holds no state dict: 'weight' is no tensor"),
        ({"optimizer": {}}, "holds no state dict: 'optimizer' is no tensor"),
    ],
)
def test_what_holds_no_weights_is_refused(content, message):
    with pytest.raises(ValueError, match=rf"x\.pth {message}"):
        import_weights(content, nn.Module(), source="x.pth")


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_parts_of_larger_tensors_are_written_alone(tmp_path, suffix):
    source, target = tmp_path / "new.pth", tmp_path / f"out.{suffix}"
    source.write_bytes(b"published")
    large = torch.arange(500_000.0).view(500, 1000)
    state = {"part": large[:2, :3], "turned": large[:2, :3].T, "again": large[:2, :3]}
    save_weights(state, target, source, {"source": "old.pth", "epoch": 3})
    written = load_file(target)
    part = torch.tensor([[0.0, 1.0, 2.0], [1000.0, 1001.0, 1002.0]])
    expected = {"part": part, "turned": part.T, "again": part}
    torch.testing.assert_close(written.get("state_dict", written), expected, rtol=0, atol=0)
    assert target.stat().st_size < 10_000
    if suffix == "pth":  # what it is from now counts
        assert (written["meta"]["source"], written["meta"]["epoch"]) == ("new.pth", 3)


def test_a_checkpoint_may_say_nothing_of_itself():
    for content in ({"meta": None}, {"meta": {"dataset_meta": None}}, {"meta": {}}, {}):
        assert checked(content, "x.pth") is content


class TestInitCfg:
    """The original files in a config."""

    @pytest.fixture
    def published(self, tmp_path):
        """A function that writes a file and returns what takes the weights from it."""

        def write(content):
            torch.save(content, tmp_path / "file.pth")
            return dict(type="PublishedWeights", checkpoint=str(tmp_path / "file.pth"))

        return write

    @pytest.mark.usefixtures("narrow")
    @pytest.mark.parametrize("layout", ["wider_resnet38", "deepwv3plus"])
    def test_a_backbone_takes_the_trunk(self, published, layout):
        init_cfg = published(LAYOUTS[layout]())
        head = dict(
            type="FCNHead", in_channels=256, channels=4, num_convs=1, num_classes=2, norm_cfg=BN
        )
        network = segmentor(
            dict(type="WideResNet38", conv_cfg=dict(type="PConv"), init_cfg=init_cfg), head
        )
        network.init_weights()
        expected = tensors(wide_resnet38())  # with either layout, as the other tensors follow
        state = network.backbone.state_dict()
        weights = [key for key in state if not key.endswith("num_batches_tracked")]
        assert weights
        for key in weights:
            assert torch.equal(state[key], expected[key]), key

    def test_a_whole_network_is_not_initialized_again(self, published, mmseg_file):
        content, theirs = mmseg_file
        config = deeplabv3plus("PaddingAwareDepthwiseSeparableASPPHead", auxiliary=False)
        config["backbone"]["init_cfg"] = dict(type="Constant", layer="Conv2d", val=0)
        config["init_cfg"] = published(content) | dict(type="pconv_seg.PublishedWeights")
        network = build(**config)
        network.init_weights()
        expected = theirs.state_dict()
        for key, value in network.state_dict().items():
            assert torch.equal(value, expected[key]), key

    def test_layers_that_initialize_themselves_keep_what_was_loaded(self, published, randomized):
        # The first layer is mmcv's ConvModule, which is no BaseModule.
        trunk = dict(type="MobileNetV2", widen_factor=0.1, norm_cfg=BN)
        expected = randomized(build(**trunk)).state_dict()
        state = {f"backbone.{key}": value for key, value in expected.items()}
        network = build(**trunk, init_cfg=published({**state, "decode_head.x": torch.ones(1)}))
        network.init_weights()
        torch.testing.assert_close(dict(network.state_dict()), dict(expected), rtol=0, atol=0)

    def test_what_does_not_fit_ends_the_run(self, published):
        state = tensors(resnet18())
        del state["layer3.1.bn2.running_mean"]
        network = build(**RESNET, init_cfg=published(state))
        with pytest.raises(
            ValueError, match=r"file\.pth .*\n.*layer3\.1\.bn2\.running_mean \(16\)"
        ):
            network.init_weights()

    def test_a_file_of_another_format_ends_the_run(self, published):
        init_cfg = published(tensors(resnet18())) | dict(format="mmseg")
        network = build(**RESNET, init_cfg=init_cfg)
        with pytest.raises(
            ValueError, match=r"file\.pth is not the format mmseg: it looks like a R"
        ):
            network.init_weights()

    @pytest.mark.parametrize("network", ["r50", "wrn38"])
    def test_our_configs_use_it(self, network):
        config = Config.fromfile(ROOT / f"configs/deeplabv3plus_{network}_pd_cityscapes.py")
        assert config.model.backbone.init_cfg.type == "PublishedWeights"


class TestTool:
    @pytest.mark.usefixtures("narrow")
    @pytest.mark.parametrize("suffix", ["pth", "safetensors"])
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_what_it_writes_can_be_read_and_imported(self, main, tmp_path, capsys, layout, suffix):
        source, target = tmp_path / "file.pth.tar", tmp_path / f"new/file.{suffix}"
        content = LAYOUTS[layout]()
        torch.save(content, source)
        report = main([str(source), str(target)])
        assert str(report) in capsys.readouterr().out

        written = load_file(target)
        weights, _ = import_weights(content, network_of(content))
        torch.testing.assert_close(written.get("state_dict", written), weights, rtol=0, atol=0)
        if suffix == "safetensors":
            with safe_open(target, "pt") as file:
                meta = file.metadata()
        else:
            meta = written["meta"]
        assert meta["source"] == "file.pth.tar"
        assert meta["source_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
        # safetensors is also a format to read
        if layout != "deepwv3plus" and not layout.startswith("wider"):
            assert main([str(target), str(tmp_path / "again.pth")]).missing == report.missing

    def test_weights_must_fit_the_config_given(self, main, tmp_path, mmseg_file):
        content, _ = mmseg_file
        content["meta"]["dataset_meta"] = {"classes": ("a", "b", "c", "d", "e")}
        torch.save(content, tmp_path / "file.pth")
        arguments = [str(tmp_path / "file.pth"), str(tmp_path / "out.pth"), "--config"]
        for head, error in (
            ("PaddingAwareDepthwiseSeparableASPPHead", None),
            ("DeepLabV3PlusHead", "does not fit EncoderDecoder"),
        ):
            config = tmp_path / f"{head}.py"
            Config(dict(model=deeplabv3plus(head))).dump(config)
            if error is None:
                main([*arguments, str(config)])
                before = (tmp_path / "out.pth").read_bytes()
                assert load_file(tmp_path / "out.pth")["meta"]["dataset_meta"]["classes"][4] == "e"
            else:
                with pytest.raises(SystemExit, match=error):
                    main([*arguments, str(config)])
                assert (tmp_path / "out.pth").read_bytes() == before
        assert not list(tmp_path.glob(".out*"))

    def test_names_are_looked_up_in_the_scope_of_the_config(self, main, tmp_path, monkeypatch):
        monkeypatch.setattr(registry.MODELS, "_children", {**registry.MODELS.children})
        own = registry.Registry("models", parent=registry.MODELS, scope="own")
        own.register_module(name="OwnTrunk", module=MODELS.get("ResNet"))
        config = Config(
            dict(default_scope="own", model=dict(backbone=dict(type="OwnTrunk", depth=18)))
        )
        config.dump(tmp_path / "own.py")
        torch.save(MODELS.build(dict(type="ResNet", depth=18)).state_dict(), tmp_path / "file.pth")
        arguments = [str(tmp_path / name) for name in ("file.pth", "out.pth")]
        assert not main([*arguments, "--config", str(tmp_path / "own.py")]).dropped

    @pytest.mark.parametrize("suffix", ["pth", "safetensors"])
    def test_a_full_disk_leaves_what_was_there(self, main, tmp_path, suffix):
        """Here a limit for files, of which the system tells in the same way."""
        torch.save(LAYOUTS["torchvision"](), tmp_path / "file.pth")
        target = tmp_path / f"out.{suffix}"
        target.write_text("old")
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            with pytest.raises(SystemExit, match=rf"\.py: .*File too large: {target} was not wr"):
                main([str(tmp_path / "file.pth"), str(target)])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert target.read_text() == "old"
        assert not list(tmp_path.glob(".out*"))

    def test_a_config_that_cannot_be_run_is_named(self, main, tmp_path, mmseg_file):
        torch.save(mmseg_file[0], tmp_path / "file.pth")
        config = tmp_path / "broken.py"
        config.write_text("model = 1 / 0")
        empty = tmp_path / "empty.py"
        empty.touch()
        for path, error in (
            (config, "ZeroDivisionError"),
            (tmp_path / "none.py", "none.py"),
            (empty, "model: config .*empty.py has none"),
        ):
            with pytest.raises(SystemExit, match=f"(?s)import_checkpoint.py: .*{error}"):
                main([str(tmp_path / "file.pth"), str(tmp_path / "out.pth"), "--config", str(path)])

    def test_other_suffixes_are_refused(self, main, tmp_path, capsys):
        path = tmp_path / "out.pt"
        with pytest.raises(SystemExit):
            main([str(tmp_path / "none.pth"), str(path)])
        message = f"{path}: the suffix must be .pth or .safetensors"
        assert message in capsys.readouterr().err
        (tmp_path / "file").touch()
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            save_weights({}, path, tmp_path / "file", {})

    def test_the_file_that_is_imported_is_not_replaced(self, main, tmp_path, capsys):
        source, link = tmp_path / "file.pth", tmp_path / "link.pth"
        torch.save(LAYOUTS["torchvision"](), source)
        link.symlink_to(source)
        before = source.read_bytes()
        for target in (source, link):
            with pytest.raises(SystemExit):
                main([str(source), str(target)])
            assert f"{target}: DST is SRC" in capsys.readouterr().err
        assert source.read_bytes() == before

    def test_a_malicious_file_ends_it(self, main, tmp_path):
        torch.save({"state_dict": {}, "hook": print}, tmp_path / "file.pth")
        message = r"file\.pth: refused, nothing was run\. It needs builtins\.print"
        with pytest.raises(SystemExit, match=message):
            main([str(tmp_path / "file.pth"), str(tmp_path / "out.pth")])
        with pytest.raises(SystemExit, match=r"no checkpoint .*none"):
            main([str(tmp_path / "none.pth"), str(tmp_path / "out.pth")])
        assert not (tmp_path / "out.pth").exists()
