"""The hook on a segmentor of mmseg: losses and predictions as if each image came alone."""

import copy
import re
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.registry import HOOKS
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmseg.utils import register_all_modules
from torch import Tensor, nn

from pconv_seg.padding import extents_of

CLASSES = 5
SIZES = ((64, 64), (45, 52), (37, 64))
NORM = dict(type="BN")
CONV = dict(type="PConv")


@pytest.fixture
def segmentor() -> nn.Module:
    register_all_modules()
    head = dict(
        channels=8,
        num_classes=CLASSES,
        norm_cfg=NORM,
        conv_cfg=CONV,
        align_corners=False,
        dropout_ratio=0.0,
        loss_decode=[
            dict(type="CrossEntropyLoss", loss_name="loss_ce"),
            dict(type="DiceLoss", loss_name="loss_dice"),
        ],
    )
    model = MODELS.build(
        dict(
            type="EncoderDecoder",
            data_preprocessor=dict(
                type="SegDataPreProcessor",
                mean=[120.0] * 3,
                std=[60.0] * 3,
                pad_val=50,
                size_divisor=32,
                test_cfg=dict(size_divisor=32),
            ),
            backbone=dict(
                type="ResNetV1c",
                depth=18,
                base_channels=8,
                num_stages=4,
                out_indices=(0, 1, 2, 3),
                strides=(1, 2, 1, 1),
                dilations=(1, 1, 2, 4),
                norm_cfg=NORM,
                conv_cfg=CONV,
            ),
            decode_head=dict(
                type="ASPPHead", in_channels=64, in_index=3, dilations=(1, 6, 12), **head
            ),
            auxiliary_head=dict(type="FCNHead", in_channels=32, in_index=2, num_convs=1, **head),
            train_cfg=dict(),
            test_cfg=ConfigDict(mode="whole"),
        )
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    model = model.double().eval()
    # It casts images to float32, so let this be the only rounding: parameters take doubles.
    model.register_forward_pre_hook(_to_double, with_kwargs=True)
    return model


def _to_double(module: nn.Module, args: tuple, kwargs: dict) -> tuple:
    return args, {**kwargs, "inputs": kwargs["inputs"].double()}


def _with_hook(model: nn.Module) -> nn.Module:
    hook = HOOKS.build(dict(type="PaddedBatchHook"))
    hook.before_run(SimpleNamespace(model=model))
    return model


def test_a_second_run_of_a_runner_follows_padding_once() -> None:
    hook = HOOKS.build(dict(type="PaddedBatchHook"))
    runner = SimpleNamespace(model=nn.Identity())
    runner.model.data_preprocessor = nn.Identity()
    for _ in range(2):
        hook.before_run(runner)
        assert len(runner.model._forward_pre_hooks) == len(runner.model._forward_hooks) == 1
        hook.after_run(runner)
    assert not runner.model._forward_pre_hooks
    assert not runner.model._forward_hooks


def test_padding_of_tests_that_is_left_out_is_logged(
    segmentor: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = []
    monkeypatch.setattr("pconv_seg.padding.batch.print_log", lambda text, **_: lines.append(text))
    for _ in range(2):
        _with_hook(segmentor)
        assert segmentor.data_preprocessor.test_cfg is None
    (line,) = lines
    assert "test_cfg={'size_divisor': 32} of the data preprocessor is left out" in line


def _batch(sizes: tuple) -> dict:
    generator = torch.Generator().manual_seed(0)
    inputs, samples = [], []
    for size in sizes:
        inputs.append(torch.randint(256, (3, *size), generator=generator, dtype=torch.uint8))
        label = torch.randint(CLASSES, (1, *size), generator=generator)
        label[label == 0] = 255
        sample = SegDataSample(gt_sem_seg=PixelData(data=label))
        # Of other size than the image, as after resizing; for one of them the padded size.
        sample.set_metainfo(dict(ori_shape=(64, 64), img_shape=size))
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def _loss(model: nn.Module, batch: dict) -> dict[str, Tensor]:
    # It pads labels in place.
    batch = model.data_preprocessor(copy.deepcopy(batch), training=True)
    return model(**batch, mode="loss")


def test_loss_is_that_of_the_images_alone(segmentor: nn.Module) -> None:
    batch = _batch(SIZES)
    logits = []
    for image in batch["inputs"]:
        x = segmentor(inputs=(image[None].double() - 120) / 60, mode="tensor")
        logits.append(F.interpolate(x, image.shape[1:], mode="bilinear", align_corners=False))
    labels = [sample.gt_sem_seg.data for sample in batch["data_samples"]]
    total = sum(
        F.cross_entropy(x, y, ignore_index=255, reduction="sum")
        for x, y in zip(logits, labels, strict=True)
    )
    hits = sum((x.argmax(1) == y).sum() for x, y in zip(logits, labels, strict=True))
    plain = _loss(segmentor, batch)

    losses = _loss(_with_hook(segmentor), batch)

    # mmseg divides by the size of the batch, ignored pixels included.
    torch.testing.assert_close(losses["decode.loss_ce"], total / (3 * 64 * 64), rtol=1e-5, atol=0)
    real = sum((y != 255).sum() for y in labels)
    torch.testing.assert_close(losses["decode.acc_seg"], (100 * hits / real).view(1))
    assert not torch.allclose(plain["decode.loss_ce"], losses["decode.loss_ce"], rtol=1e-3)
    assert all(torch.isfinite(value).all() for value in losses.values())


@pytest.mark.parametrize(
    ("loss", "independent"),
    [
        (dict(type="CrossEntropyLoss", avg_non_ignore=True), True),
        (dict(type="CrossEntropyLoss", use_sigmoid=True, avg_non_ignore=True), True),
        (dict(type="TverskyLoss"), True),
        (dict(type="CrossEntropyLoss"), False),
        (dict(type="DiceLoss"), False),
        (dict(type="HuasdorffDisstanceLoss"), False),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else None,
)
def test_losses_that_do_not_depend_on_the_amount_of_padding(
    segmentor: nn.Module, loss: dict, independent: bool
) -> None:
    segmentor.decode_head.loss_decode = MODELS.build(loss)
    name = f"decode.{segmentor.decode_head.loss_decode.loss_name}"
    _with_hook(segmentor)
    little = _loss(segmentor, _batch(SIZES))[name]
    segmentor.data_preprocessor.size_divisor = 96
    much = _loss(segmentor, _batch(SIZES))[name]
    assert torch.allclose(little, much, rtol=1e-5, atol=0) == independent


def test_training_step(segmentor: nn.Module) -> None:
    segmentor = _with_hook(segmentor).train()
    losses = _loss(segmentor, _batch(SIZES))
    sum(value for name, value in losses.items() if "loss" in name).backward()
    assert all(
        parameter.grad is not None and parameter.grad.isfinite().all()
        for parameter in segmentor.parameters()
    )


@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize(
    "test_cfg", [dict(mode="whole"), dict(mode="slide", crop_size=(48, 48), stride=(32, 32))]
)
def test_images_are_tested_as_if_nothing_had_been_padded(
    segmentor: nn.Module, test_cfg: dict, augmented: bool
) -> None:
    segmentor.test_cfg = ConfigDict(test_cfg)
    batch, model = _batch(((45, 52),)), segmentor
    if augmented:
        model = MODELS.build(dict(type="SegTTAModel", module=segmentor))
        batch["data_samples"][0].set_metainfo(dict(img_path="a.png"))
        batch = {name: [values] for name, values in batch.items()}

    def predict() -> Tensor:
        # Test-time augmentation keeps the logits of its last version.
        return model.test_step(copy.deepcopy(batch))[0].seg_logits.data

    padded = predict()
    segmentor.data_preprocessor.test_cfg = None
    alone = predict()
    segmentor.data_preprocessor.test_cfg = dict(size_divisor=32)
    assert not torch.allclose(padded, alone, rtol=1e-3, atol=1e-3)
    _with_hook(model)
    assert torch.equal(predict(), alone)


def test_prediction_does_not_depend_on_padding_that_comes_all_the_same(
    segmentor: nn.Module,
) -> None:
    batch = _batch(((45, 52), (45, 52)))
    padded_plain = segmentor.test_step(copy.deepcopy(batch))
    segmentor.data_preprocessor.test_cfg = None
    alone = segmentor.test_step(copy.deepcopy(batch))
    _with_hook(segmentor).data_preprocessor.test_cfg = dict(size_divisor=32)

    padded = segmentor.test_step(copy.deepcopy(batch))

    for sample, expected, plain in zip(padded, alone, padded_plain, strict=True):
        assert sample.metainfo["pad_shape"] == (64, 64)
        actual, expected = sample.seg_logits.data, expected.seg_logits.data
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
        assert not torch.allclose(plain.seg_logits.data, expected, rtol=1e-3, atol=1e-3)


def test_slide_inference_of_padded_images_is_refused(segmentor: nn.Module) -> None:
    segmentor.test_cfg = ConfigDict(mode="slide", crop_size=(48, 48), stride=(32, 32))
    _with_hook(segmentor).data_preprocessor.test_cfg = dict(size_divisor=32)
    with pytest.raises(NotImplementedError, match="in the model itself"):
        segmentor.test_step(_batch(((45, 52), (45, 52))))


def test_copies_of_the_model_track_themselves(segmentor: nn.Module) -> None:
    """As EMAHook makes them."""
    batch = _batch(SIZES)
    duplicate = copy.deepcopy(_with_hook(segmentor))
    expected = _loss(segmentor, batch)["decode.loss_ce"]
    assert torch.equal(_loss(duplicate, batch)["decode.loss_ce"], expected)
    nn.init.zeros_(duplicate.decode_head.conv_seg.weight)
    assert torch.equal(_loss(segmentor, batch)["decode.loss_ce"], expected)
    assert not torch.equal(_loss(duplicate, batch)["decode.loss_ce"], expected)


@torch.jit.script
def _scripted_swish(x: Tensor) -> Tensor:
    return x * x.sigmoid()


@pytest.mark.parametrize(
    ("place", "noticed"),
    [("backbone", "image_pool"), ("head", "image_pool"), ("logits", "loss_decode")],
)
def test_what_a_segmentor_hides_from_torch_is_refused(
    segmentor: nn.Module, place: str, noticed: str
) -> None:
    """In losses mmseg calls the forward of heads without the call of a module."""
    backbone, head = segmentor.backbone, segmentor.decode_head
    forward = head.forward
    if place == "backbone":
        segmentor.extract_feat = lambda images: [_scripted_swish(x) for x in backbone(images)]
    elif place == "head":
        head.forward = lambda maps: forward([_scripted_swish(x) for x in maps])
    else:
        head.forward = lambda maps: _scripted_swish(forward(maps))
    with pytest.raises(NotImplementedError, match=rf"its input in decode_head\.{noticed}.* hides"):
        _loss(_with_hook(segmentor), _batch(SIZES))


def test_batch_without_padding(segmentor: nn.Module) -> None:
    batch = _batch(((64, 64), (64, 64)))
    expected = _loss(segmentor, batch)
    losses = _loss(_with_hook(segmentor), batch)
    assert all(torch.equal(losses[name], expected[name]) for name in expected)
    inputs = segmentor.data_preprocessor(copy.deepcopy(batch), training=True)
    for call in (inputs, dict(inputs=inputs["inputs"])):
        assert extents_of(segmentor(**call, mode="tensor")) is None


def test_extents_of_raw_output(segmentor: nn.Module) -> None:
    batch = _with_hook(segmentor).data_preprocessor(_batch(SIZES), training=True)
    output = segmentor(**batch, mode="tensor")
    assert extents_of(output) == tuple((-(-h // 8), -(-w // 8)) for h, w in SIZES)


@pytest.mark.parametrize("padding", [(4, 8, 0, 19), (0, 12, 4, 15)])
def test_padding_elsewhere_is_refused(segmentor: nn.Module, padding: tuple) -> None:
    segmentor = _with_hook(segmentor)
    batch = segmentor.data_preprocessor(_batch(SIZES), training=True)
    batch["data_samples"][1].set_metainfo(dict(padding_size=padding, img_path="a.png"))
    with pytest.raises(ValueError, match=re.escape(f"{padding} on a.png")):
        segmentor(**batch, mode="tensor")
