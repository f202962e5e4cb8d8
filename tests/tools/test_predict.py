from pathlib import Path

import numpy as np
import pytest
import torch
from mmseg.apis import init_model
from PIL import Image

from pconv_seg.inference import tile_predictor, tiled_inference

TOOL = "predict"
PALETTE = [[128, 64, 128], [244, 35, 232], [70, 70, 70]]
CONFIG = """
default_scope = "mmseg"
custom_imports = dict(imports=["pconv_seg"])
model = dict(
    type="TiledEncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor", mean=[120.0, 110.0, 100.0], std=[60.0, 50.0, 40.0],
        bgr_to_rgb=True, size_divisor=64, test_cfg=dict(size_divisor=64)),
    backbone=dict(type="ResNet", depth=18, base_channels=8, num_stages=1, strides=(1,),
                  dilations=(1,), out_indices=(0,)),
    decode_head=dict(type="FCNHead", in_channels=8, in_index=0, channels=8, num_convs=1,
                     concat_input=False, num_classes=3, align_corners=False),
    test_cfg=dict(mode="whole"),
)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Config and checkpoint of a random network that predicts all classes."""
    folder = tmp_path_factory.mktemp("model")
    config, checkpoint = folder / "config.py", folder / "checkpoint.pth"
    config.write_text(CONFIG)
    torch.manual_seed(0)
    weights = init_model(str(config), device="cpu").state_dict()
    torch.nn.init.normal_(weights["decode_head.conv_seg.weight"])
    meta = {"dataset_meta": {"classes": ("a", "b", "c"), "palette": PALETTE}}
    torch.save({"state_dict": weights, "meta": meta}, checkpoint)
    return str(config), str(checkpoint)


@pytest.mark.parametrize(
    ("overlap", "window"), [("1/3", "constant"), ("10", "hann")], ids=["proportion", "pixels"]
)
def test_label_maps_are_the_models(main, trained, tmp_path, capsys, overlap, window):
    images = []
    for seed, size in enumerate([(50, 70, 3), (90, 33, 3)]):
        pixels = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
        images.append(str(tmp_path / f"{seed}.png"))
        Image.fromarray(pixels).save(images[-1])
    options = ["--config", trained[0], "--checkpoint", trained[1], "--device", "cpu"]
    out = tmp_path / "out"
    options += ["--tile", "32", "--overlap", overlap, "--window", window]
    # As in Python-style configs.
    main([*images, *options, "--out", str(out), "--cfg-options", "default_scope=None"])
    model = init_model(*trained, device="cpu")
    for name in images:
        rgb = torch.from_numpy(np.array(Image.open(name))).permute(2, 0, 1).float()
        mean, std = torch.tensor([[120.0, 110.0, 100.0], [60.0, 50.0, 40.0]]).view(2, 3, 1, 1)
        inputs, share = ((rgb - mean) / std)[None], 1 / 3
        expected = tiled_inference(
            tile_predictor(model), inputs, 32, share, window=window, reduce="argmax"
        )[0].numpy()
        labels = np.asarray(Image.open(out / f"{Path(name).stem}_labels.png"))
        assert len(np.unique(labels)) > 1
        assert (labels == expected).all()
        overlay = np.asarray(Image.open(out / f"{Path(name).stem}_overlay.png"))
        colours = np.array(PALETTE, np.uint8)[labels]
        assert (overlay == np.array(Image.open(name)) // 2 + colours // 2).all()
    printed = capsys.readouterr()
    assert "0_labels.png" in printed.out
    assert "6/6" in printed.err  # 2 x 3 tiles of the first image


def test_padding_is_what_the_network_was_trained_with(main, trained, tmp_path, capsys):
    content = torch.load(trained[1], weights_only=True)
    content["meta"]["padding"] = "reflect"
    checkpoint, image = tmp_path / "reflect.pth", tmp_path / "image.png"
    torch.save(content, checkpoint)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(image)

    def labels(name, *options):
        out = tmp_path / name
        arguments = [str(image), "--config", trained[0], "--checkpoint", str(checkpoint)]
        main([*arguments, "--device", "cpu", "--out", str(out), *options])
        return np.asarray(Image.open(out / "image_labels.png"))

    reflect = labels("reflect")
    assert (reflect == labels("named", "--padding", "reflect")).all()
    assert (reflect != labels("zeros", "--padding", "zeros")).any()


def test_colours_are_also_those_of_checkpoints_before_mmseg_1(main, trained, tmp_path):
    content = torch.load(trained[1], weights_only=True)
    new = content["meta"].pop("dataset_meta")
    content["meta"].update(CLASSES=new["classes"], PALETTE=new["palette"])
    checkpoint, image = tmp_path / "old.pth", tmp_path / "image.png"
    torch.save(content, checkpoint)
    Image.new("RGB", (32, 32)).save(image)
    options = ["--config", trained[0], "--checkpoint", str(checkpoint), "--device", "cpu"]
    main([str(image), *options, "--out", str(tmp_path)])
    labels = np.asarray(Image.open(tmp_path / "image_labels.png"))
    overlay = np.asarray(Image.open(tmp_path / "image_overlay.png"))
    assert (overlay == np.array(PALETTE, np.uint8)[labels] // 2).all()


def test_weights_alone_are_enough_and_others_are_refused(main, trained, tmp_path):
    weights = torch.load(trained[1], weights_only=True)["state_dict"]
    image = tmp_path / "image.png"
    Image.fromarray(np.full((32, 32, 3), 99, np.uint8)).save(image)

    def run(**changes):
        torch.save({**weights, **changes}, tmp_path / "weights.pth")
        options = ["--config", trained[0], "--checkpoint", str(tmp_path / "weights.pth")]
        main([str(image), *options, "--device", "cpu", "--out", str(tmp_path / "out")])

    run()
    assert np.asarray(Image.open(tmp_path / "out/image_labels.png")).shape == (32, 32)
    with pytest.raises(SystemExit, match=r"weights\.pth does not fit the config: (.|\n)*conv_seg"):
        run(**{"decode_head.conv_seg.weight": torch.zeros(4, 8, 1, 1)})


def test_images_without_permission_end_with_one_line(main, trained, tmp_path, monkeypatch):
    image = tmp_path / "image.png"
    image.touch()

    def refuse(*_):
        raise PermissionError(13, "Permission denied", str(image))

    monkeypatch.setattr("mmcv.imread", refuse)  # root may read everything
    with pytest.raises(SystemExit, match=r"^predict\.py: .*Permission denied: '.*image\.png'$"):
        main([str(image), "--config", trained[0], "--checkpoint", trained[1], "--device", "cpu"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = 1", r"  - model: config .*config\.py has none\n"),
        ("model = dict(type='Nobody')", r"config .*config\.py: Nobody is not in the"),
        ("model = dict(type='ResNet', depth=18, foo=4)", r"config .*: .*__init__\(\) got .*'foo'$"),
    ],
)
def test_configs_without_a_network_are_named(main, trained, tmp_path, text, message):
    config, image = tmp_path / "config.py", tmp_path / "image.png"
    config.write_text(text)
    image.touch()
    with pytest.raises(SystemExit, match=rf"^predict\.py: (?s:.*){message}"):
        main([str(image), "--config", str(config), "--checkpoint", trained[1]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.png"], "predict.py: no such image: none.png"),
        (["."], "predict.py: image . is a folder: name files, such as ./*"),
        (["a.png", "--config", "none.py"], "predict.py: no such config: none.py"),
        (["a.png", "--checkpoint", "none.pth"], "predict.py: no such checkpoint: none.pth"),
        (["a.png", "a.jpg"], "several images would be written to predictions/a_labels.png"),
        (["a.png", "a_labels.png", "--out", "."], "the result of a.png would replace a_labels.png"),
        (["a.png", "--out", "out"], "result of a.png goes to out/a_overlay.png, which is a folder"),
        (["a.png", "--overlap", "5/4"], "overlap must lie in [0, 1), got '5/4'"),
        (["a.png", "--overlap", "1"], "overlap must lie in [0, 1) or be 2 pixels or more"),
        (["a.png", "--overlap", "1024"], "1024"),
        (["a.png", "--tile", "0"], "tile must be a positive number of pixels, got 0"),
        (["a.png", "--device", "cpux"], "--device cpux: Expected one of cpu"),
    ],
)
def test_bad_arguments_end_with_one_line(main, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "a_labels.png", "a.jpg", "config.py", "weights.pth"):
        Path(name).touch()
    Path("out/a_overlay.png").mkdir(parents=True)
    with pytest.raises(SystemExit) as stopped:
        main(["--config", "config.py", "--checkpoint", "weights.pth", *arguments])
    assert message in stopped.value.code
    assert "\n" not in stopped.value.code
