import copy
from types import SimpleNamespace

import cv2
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmseg.utils import register_all_modules

from pconv_seg.inference import (
    TiledEncoderDecoder,
    image_preprocessor,
    predicted_labels,
    tile_predictor,
    tiled_inference,
)

SLIDE = {"mode": "slide", "crop_size": (32, 40), "stride": (21, 27)}


@pytest.fixture(scope="module", autouse=True)
def _mmseg_modules():
    register_all_modules(init_default_scope=False)


def config(test_cfg, **changes):
    return {
        "type": "EncoderDecoder",
        "data_preprocessor": {
            "type": "SegDataPreProcessor",
            "mean": [120.0, 110.0, 100.0],
            "std": [60.0, 50.0, 40.0],
            "bgr_to_rgb": True,
        },
        "backbone": {
            "type": "ResNet",
            "depth": 18,
            "base_channels": 8,
            "num_stages": 2,
            "strides": (1, 2),
            "dilations": (1, 1),
            "out_indices": (0, 1),
        },
        "decode_head": {
            "type": "FCNHead",
            "in_channels": 16,
            "in_index": 1,
            "channels": 8,
            "num_convs": 1,
            "concat_input": False,
            "num_classes": 5,
            "align_corners": False,
        },
        "test_cfg": test_cfg,
        **changes,
    }


def build(test_cfg, kind, seed=0):
    """A random network; the same weights for the same seed."""
    torch.manual_seed(seed)
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = MODELS.build(ConfigDict(config(test_cfg, type=kind))).eval()
    torch.nn.init.normal_(model.decode_head.conv_seg.weight, std=0.5)  # logits that differ
    return model


def samples(n, height, width, **meta):
    size = {
        "img_shape": (height, width),
        "ori_shape": (height, width),
        "pad_shape": (height, width),
    }
    return [SegDataSample(metainfo={**size, **meta}) for _ in range(n)]


def images(n, height, width):
    """Coloured patches of 8 pixels."""
    generator = torch.Generator().manual_seed(1)
    patches = torch.randint(0, 256, (n, 3, height // 8 + 1, width // 8 + 1), generator=generator)
    pixels = patches.repeat_interleave(8, 2).repeat_interleave(8, 3)
    return list(pixels[:, :, :height, :width])


@torch.no_grad()
def predict(model, n, height, width, **meta):
    data = {"inputs": images(n, height, width), "data_samples": samples(n, height, width, **meta)}
    return model.test_step(data)


@pytest.mark.parametrize("options", [{}, {"batch_size": 5}])
@pytest.mark.parametrize("size", [(47, 83), (32, 40), (20, 65), (19, 23)])
def test_slide_configs_give_mmsegs_logits(size, options):
    ours = build({**SLIDE, **options}, "TiledEncoderDecoder")
    theirs = build(SLIDE, "EncoderDecoder")
    for sample, expected in zip(predict(ours, 2, *size), predict(theirs, 2, *size), strict=True):
        logits = sample.seg_logits.data
        assert logits.shape == (5, *size)
        assert logits.std() > 0.1
        torch.testing.assert_close(logits, expected.seg_logits.data, rtol=1e-5, atol=1e-5)


def test_tile_mode_is_tiled_inference_on_preprocessed_images():
    model = build(
        {"mode": "tile", "tile": 32, "overlap": "1/3", "window": "hann", "batch_size": 3},
        "TiledEncoderDecoder",
    )
    result = predict(model, 1, 50, 70)[0]
    bgr = images(1, 50, 70)[0].float()
    mean, std = torch.tensor([120.0, 110.0, 100.0]), torch.tensor([60.0, 50.0, 40.0])
    inputs = ((bgr[[2, 1, 0]] - mean.view(3, 1, 1)) / std.view(3, 1, 1))[None]
    expected = tiled_inference(tile_predictor(model), inputs, 32, 1 / 3, window="hann")
    torch.testing.assert_close(result.seg_logits.data, expected[0])
    assert torch.equal(result.pred_sem_seg.data[0], expected[0].argmax(0))


def test_an_image_is_prepared_without_padding_and_the_model_keeps_its_own():
    model = build({"mode": "whole"}, "EncoderDecoder")
    model.data_preprocessor.test_cfg = padding = {"size_divisor": 64}
    [image] = images(1, 50, 70)
    prepared = image_preprocessor(model)(image)
    mean, std = torch.tensor([120.0, 110.0, 100.0]), torch.tensor([60.0, 50.0, 40.0])
    expected = (image.float()[[2, 1, 0]] - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(prepared, expected)
    assert model.data_preprocessor.test_cfg is padding


@pytest.mark.parametrize("bgr_to_rgb", [False, True])
def test_colours_become_grey_for_a_network_of_one_channel(bgr_to_rgb):
    model = build({"mode": "whole"}, "EncoderDecoder")
    preprocessor = dict(type="SegDataPreProcessor", mean=[120.0], std=[60.0], bgr_to_rgb=bgr_to_rgb)
    model.data_preprocessor = MODELS.build(preprocessor)
    model.backbone.conv1 = torch.nn.Conv2d(1, 64, 7, 2, 3)
    colours = images(1, 50, 70)[0].to(torch.uint8)
    grey = torch.from_numpy(cv2.cvtColor(colours.permute(1, 2, 0).numpy(), cv2.COLOR_BGR2GRAY))
    expected = (grey[None].float() - 120) / 60
    prepare = image_preprocessor(model)
    assert torch.equal(prepare(colours), expected)
    assert torch.equal(prepare(grey[None]), expected)
    assert torch.equal(prepare(grey.expand(3, -1, -1)), expected)
    assert tile_predictor(model)(prepare(colours)[None]).shape == (1, 5, 50, 70)


def test_one_logit_exceeds_the_threshold_as_in_mmseg():
    model = build({"mode": "whole"}, "EncoderDecoder")
    model.decode_head.threshold = 0.5
    logits = torch.tensor([-1.0, 0.0, 1e-3, 1.0]).view(1, 1, 1, 4)
    (sample,) = model.postprocess_result(logits)
    assert predicted_labels(logits, model).tolist() == [[[0, 0, 1, 1]]]
    assert sample.pred_sem_seg.data.tolist() == [[[0, 0, 1, 1]]]


def test_one_side_stands_for_both():
    slide = {"mode": "slide", "crop_size": 32, "stride": 21}
    ours = predict(build(slide, "TiledEncoderDecoder"), 1, 41, 50)[0]
    slide = {"mode": "slide", "crop_size": (32, 32), "stride": (21, 21)}
    theirs = predict(build(slide, "EncoderDecoder"), 1, 41, 50)[0]
    torch.testing.assert_close(ours.seg_logits.data, theirs.seg_logits.data, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("test_cfg", [{"mode": "whole"}, None])
def test_whole_mode_is_mmsegs(test_cfg):
    ours = predict(build(test_cfg, "TiledEncoderDecoder"), 2, 41, 30)
    theirs = predict(build({"mode": "whole"}, "EncoderDecoder"), 2, 41, 30)
    for sample, expected in zip(ours, theirs, strict=True):
        assert torch.equal(sample.seg_logits.data, expected.seg_logits.data)


def test_padding_and_rescaling_are_undone_as_ever():
    meta = {"padding_size": [0, 6, 0, 3], "ori_shape": (30, 37)}
    ours = predict(build(SLIDE, "TiledEncoderDecoder"), 1, 47, 60, **meta)[0]
    theirs = predict(build(SLIDE, "EncoderDecoder"), 1, 47, 60, **meta)[0]
    assert ours.seg_logits.shape == (30, 37)
    torch.testing.assert_close(ours.seg_logits.data, theirs.seg_logits.data, rtol=1e-5, atol=1e-5)


def test_heads_see_the_meta_information_of_the_image_and_the_size_of_the_tile():
    seen = []
    model = SimpleNamespace(encode_decode=lambda tiles, metas: seen.extend(metas))
    tile_predictor(model, {"flip": True, "img_shape": (50, 50)})(torch.zeros(2, 3, 8, 6))
    assert seen == [{"flip": True, "img_shape": (8, 6), "pad_shape": (8, 6)}] * 2


def test_options_are_tried_without_a_device_and_a_progress_bar(capfd):
    options = {"out_device": "nowhere", "progress": True}
    build({"mode": "tile", "tile": 8, **options}, "TiledEncoderDecoder")
    assert "tile" not in capfd.readouterr().err


def test_sizes_that_a_network_refuses_are_named():
    unet = {
        "type": "UNet",
        "base_channels": 4,
        "num_stages": 2,
        "strides": (1, 1),
        "enc_num_convs": (1, 1),
        "dec_num_convs": (1,),
        "downsamples": (True,),
        "enc_dilations": (1, 1),
        "dec_dilations": (1,),
    }
    head = {"in_channels": 4, "in_index": 1}
    changed = config({"mode": "whole"}, backbone=unet)
    changed["decode_head"] = changed["decode_head"] | head
    model = MODELS.build(ConfigDict(changed)).eval()
    predict = tile_predictor(model)
    with torch.no_grad():
        assert predict(torch.zeros(1, 3, 10, 12)).shape == (1, 5, 10, 12)
        with pytest.raises(
            ValueError, match=r"refuses an input of 9x12 pixels \(The input image size \(9, 12\) "
        ) as error:
            predict(torch.zeros(1, 3, 9, 12))
    assert "dict(type='ResizeToMultiple', size_divisor=...)" in str(error.value)


def test_meta_information_is_left_alone():
    model = build(SLIDE, "TiledEncoderDecoder")
    metas = [sample.metainfo for sample in samples(2, 50, 50, flip=False)]
    before = copy.deepcopy(metas)
    with torch.no_grad():
        model.inference(torch.zeros(2, 3, 50, 50), metas)
    assert metas == before


def test_test_time_augmentation():
    results = []
    for kind in ("TiledEncoderDecoder", "EncoderDecoder"):
        model = MODELS.build({"type": "SegTTAModel", "module": build(SLIDE, kind, seed=6)}).eval()
        plain = images(2, 47, 50)
        data = {
            "inputs": [plain, [image.flip(-1) for image in plain]],
            "data_samples": [
                samples(2, 47, 50, flip=flip, flip_direction="horizontal", img_path="a.png")
                for flip in (False, True)
            ],
        }
        for sample in data["data_samples"][0]:
            sample.gt_sem_seg = PixelData(data=torch.zeros(1, 47, 50))
        with torch.no_grad():
            results.append([sample.pred_sem_seg.data for sample in model.test_step(data)])
    for ours, theirs in zip(*results, strict=True):
        assert len(ours.unique()) > 1
        assert torch.equal(ours, theirs)


def test_found_by_every_name():
    for registry in (MODELS, ROOT_MODELS):
        for name in ("TiledEncoderDecoder", "pconv_seg.TiledEncoderDecoder"):
            assert registry.get(name) is TiledEncoderDecoder
    assert issubclass(TiledEncoderDecoder, EncoderDecoder)


@pytest.mark.parametrize(
    ("test_cfg", "message"),
    [
        ({"mode": "tile"}, "test_cfg.tile is missing"),
        ({"mode": "slide", "crop_size": (8, 8)}, "test_cfg.stride is missing"),
        ({"mode": "slide", "crop_size": (8, 8), "stride": (8, 9)}, r"stride \(8, 9\) must lie"),
        ({"mode": "slide", "crop_size": (8, 8), "stride": (8, 0)}, r"between 1 and crop_size \(8,"),
        ({"mode": "slide", "crop_size": (8, 8), "stride": (4,)}, r"test_cfg\.stride must be one"),
        ({"mode": "tile", "tile": 8, "overlap": 1.5}, r"overlap must lie in \[0, 1\)"),
        ({"mode": "tiles", "tile": 8}, "must be 'whole', 'slide' or 'tile', got 'tiles'"),
        ({"mod": "tile", "tile": 8}, "must be 'whole', 'slide' or 'tile', got None"),
        ({"mode": "tile", "tile": 8, "overlp": 0.5}, "has no key 'overlp'; it knows tile, crop_si"),
        ({**SLIDE, "reduce": "argmax"}, "has no key 'reduce'"),
        ({"mode": "tile", "tile": 8, "window": "han"}, "one of constant, .*, got 'han'"),
        ({**SLIDE, "batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_bad_test_cfg_is_refused_when_the_model_is_built(test_cfg, message):
    with pytest.raises(ValueError, match=message):
        build(test_cfg, "TiledEncoderDecoder")


def test_unknown_mode_of_a_changed_test_cfg_is_refused():
    model = build({"mode": "whole"}, "TiledEncoderDecoder")
    model.test_cfg.mode = "tiles"
    with pytest.raises(ValueError, match="must be 'whole', 'slide' or 'tile', got 'tiles'"):
        predict(model, 1, 20, 20)


def test_keys_of_another_mode_may_stay():
    """As after --cfg-options model.test_cfg.mode=..., or in a config that inherits another."""
    tile = {"mode": "tile", "tile": 24, "overlap": "1/3"}
    expected = {
        mode: predict(build(test_cfg, "TiledEncoderDecoder"), 1, 50, 70)[0].seg_logits.data
        for mode, test_cfg in (("whole", {"mode": "whole"}), ("slide", SLIDE), ("tile", tile))
    }
    for mode, logits in expected.items():
        model = build({**SLIDE, **tile, "mode": mode}, "TiledEncoderDecoder")
        assert torch.equal(predict(model, 1, 50, 70)[0].seg_logits.data, logits)
    assert not torch.equal(expected["slide"], expected["tile"])
