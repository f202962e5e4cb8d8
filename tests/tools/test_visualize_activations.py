import json

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

TOOL = "visualize_activations"
CONFIG = """
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(type="SegDataPreProcessor"),
    backbone=dict(type="ResNet", depth=18, base_channels=4, num_stages=1, strides=(1,),
                  dilations=(1,), out_indices=(0,), norm_cfg=dict(type="BN")),
    decode_head=dict(type="ASPPHead", in_channels=4, in_index=0, channels=4, dilations=(1, 6),
                     num_classes=3, align_corners=False),
    test_cfg=dict(mode="whole"),
)
"""


@pytest.fixture
def files(tmp_path):
    """A config, a checkpoint with zero and one with partial padding, and two images."""
    config = tmp_path / "config.py"
    config.write_text(CONFIG)
    init_default_scope("mmseg")
    cfg = Config.fromfile(config)
    weights = MODELS.build(cfg.model).state_dict()
    for name in ("zeros", "partial"):
        cfg.custom_hooks = [dict(type="pconv_seg.PaddingHook", scheme=name)]
        torch.save(
            {"meta": {"cfg": cfg.pretty_text}, "state_dict": weights}, tmp_path / f"{name}.pth"
        )
    rng = np.random.default_rng(0)
    for i in range(2):
        pixels = rng.integers(0, 256, (48, 64 + 32 * i, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    return [str(tmp_path / name) for name in ("config.py", "zeros.pth", "partial.pth")]


def test_figures_and_numbers(main, files, tmp_path, capsys):
    outputs = [tmp_path / name for name in ("new/maps.png", "profiles.svg", "numbers.json")]
    arguments = ["--image", str(tmp_path / "0.png"), str(tmp_path / "1.png"), "--untrained"]
    out, profiles, numbers = map(str, outputs)
    networks = main([*files, *arguments, "--out", out, "--profiles", profiles, "--json", numbers])
    folder = tmp_path.name
    names = [f"{folder}/zeros.pth (zeros)", f"{folder}/partial.pth (partial)"]
    names += [f"{name}, untrained" for name in names]
    assert [network.name for network in networks] == names
    written = json.loads(outputs[2].read_text())
    assert written == [network.as_dict() for network in networks]
    layers = [layer["layer"] for layer in written[0]["layers"]]
    assert layers[0] == "backbone.conv1"
    assert "decode_head.aspp_modules.1.conv" in layers
    first = {n["name"]: n["layers"][0]["relative"] for n in written}
    # The stem has the same input under either padding. Beside the border it sees 4 of 7 taps at one
    # end of an axis and 5 at the other, two pixels farther all of them.
    for zeros, partial in (names[:2], names[2:]):
        assert 7 / 5 < first[partial][0] / first[zeros][0] < 7 / 4
        assert first[partial][2:] == pytest.approx(first[zeros][2:])
    Image.open(outputs[0]).verify()
    assert outputs[1].read_text().startswith("<?xml")
    assert f"wrote {numbers}" in capsys.readouterr().out


def test_all_checkpoints_under_one_padding(main, files, tmp_path):
    arguments = ["--image", str(tmp_path / "0.png"), "--out", str(tmp_path / "a.png")]
    first, second = main([*files, *arguments, "--padding", "reflect", "--layers", "backbone.*"])
    assert [n.name.split(" ")[1] for n in (first, second)] == ["(reflect)"] * 2
    assert np.array_equal(first.response, second.response)
    assert {p.layer.split(".")[0] for p in first.profiles} == {"backbone"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image", "nothing.png"], r"nothing\.png"),
        (["--image", "FOLDER"], "Is a directory"),
        (["--image", "CONFIG"], r"config\.py: not an image"),
        (["--image", "IMAGE", "--layers", "head"], "no padded convolution .* is called head"),
    ],
)
def test_bad_input_gets_one_message(main, files, tmp_path, arguments, message):
    names = {"CONFIG": files[0], "FOLDER": str(tmp_path), "IMAGE": str(tmp_path / "0.png")}
    arguments = [names.get(argument, argument) for argument in arguments]
    with pytest.raises(SystemExit, match=rf"visualize_activations\.py: .*{message}"):
        main([*files, *arguments, "--out", str(tmp_path / "a.png")])
    assert not (tmp_path / "a.png").exists()
