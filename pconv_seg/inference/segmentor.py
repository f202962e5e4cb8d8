"""mmseg's segmentor on the tile engine."""

import copy
from collections.abc import Callable

import mmcv
import torch
from mmengine.registry import MODELS
from mmseg.models.segmentors import EncoderDecoder
from torch import Tensor, nn

from pconv_seg.geometry import pair
from pconv_seg.wrappers import takes_grey

from .tiled import argmax_labels, refuse_training, tiled_inference

# Of test_cfg: what each mode needs, and what all tiled modes may have.
_NEEDED = {"slide": ("crop_size", "stride"), "tile": ("tile",)}
_OPTIONAL = ("overlap", "batch_size", "window", "out_device", "progress")


def tile_predictor(model: nn.Module, img_meta: dict | None = None) -> Callable[[Tensor], Tensor]:
    """A segmentor as :func:`tiled_inference` calls it: from tiles to logits of the same size.

    Args:
        model: An mmseg ``EncoderDecoder``, or another module with its ``encode_decode``, in
            evaluation mode.
        img_meta: Meta information of the image, which heads may look at. Its sizes are
            replaced by those of the tile.

    Returns:
        Maps preprocessed tiles ``Tensor[N, c, h, w]`` to logits ``Tensor[N, C, h, w]``.

    Raises:
        ValueError: When the result is called while the model is in training mode, or with tiles of
            a size that an assertion of the model refuses.
    """

    def predict(tiles: Tensor) -> Tensor:
        refuse_training(model)
        # A torch.Size, by which mmseg's heads know that they see a part of an image.
        size = tiles.shape[2:]
        meta = {**(img_meta or {}), "img_shape": size, "pad_shape": size}
        try:
            return model.encode_decode(tiles, [meta] * len(tiles))
        except AssertionError as error:  # as mmseg's U-Net checks its input
            raise ValueError(
                f"the network refuses an input of {size[0]}x{size[1]} pixels ({error}): predict in "
                "tiles alone, of a size that it takes, or put dict(type='ResizeToMultiple', "
                "size_divisor=...) into the test pipeline"
            ) from error

    return predict


def image_preprocessor(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """A segmentor's data preprocessor for one image, without the padding that it adds in tests.

    Returns:
        Maps BGR pixels ``uint8 Tensor[3, H, W]`` to what the network takes, ``Tensor[3, H, W]``.
        If its first convolution has one channel, these or grey pixels ``Tensor[1, H, W]`` become
        ``Tensor[1, H, W]``.
    """
    preprocess = copy.copy(model.data_preprocessor)
    preprocess.test_cfg = None  # it would pad every tile
    grey = takes_grey(model)

    def prepare(pixels: Tensor) -> Tensor:
        if grey and len(pixels) == 3:
            bgr = pixels.permute(1, 2, 0).contiguous().cpu().numpy()
            pixels = torch.from_numpy(mmcv.bgr2gray(bgr))[None]
        return preprocess({"inputs": [pixels]})["inputs"][0]

    return prepare


def predicted_labels(logits: Tensor, model: nn.Module) -> Tensor:
    """Label maps ``Tensor[N, H, W]`` of a segmentor's logits ``Tensor[N, C, H, W]``.

    The most likely class; for one logit, whether its sigmoid exceeds the decode head's threshold.
    """
    if logits.shape[1] == 1:
        return (logits[:, 0].sigmoid() > model.decode_head.threshold).to(torch.uint8)
    return argmax_labels(logits)


@MODELS.register_module()
class TiledEncoderDecoder(EncoderDecoder):
    """``EncoderDecoder`` whose tiled test modes run on :func:`tiled_inference`.

    Test-time augmentation, batches, ``tools/test.py`` and checkpoints stay what they are.

    - ``test_cfg=dict(mode='tile', tile=1024, overlap='1/3')``; further keys are those of
      :func:`tiled_inference`: ``batch_size``, ``window``, ``out_device``, ``progress``.
    - ``test_cfg=dict(mode='slide', crop_size=(h, w), stride=(h, w))``, or one value for both,
      gives the logits of mmseg's own implementation; the further keys are allowed here too.
    - ``test_cfg=dict(mode='whole')`` is mmseg's.

    Keys of another mode may stay where configs are merged; they do nothing.

    Raises:
        ValueError: If ``test_cfg`` has no known mode, lacks a key, has one that no mode knows, or
            describes no grid of tiles.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        options = self._tile_options()
        if options is not None:
            # Bad ones shall fail now, not after an epoch: one pixel here tries them all.
            options.update(out_device=None, progress=False)
            tiled_inference(lambda tiles: tiles, torch.zeros(1, 1, 1, 1), **options)

    def inference(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Logits ``Tensor[N, C, H, W]`` of preprocessed images ``Tensor[N, c, H, W]``.

        Raises:
            ValueError: If ``test_cfg`` was changed since to something that the constructor refuses.
        """
        options = self._tile_options()
        if options is None:
            return self.whole_inference(inputs, batch_img_metas)
        predict = tile_predictor(self, batch_img_metas[0])
        return tiled_inference(predict, inputs, **options)

    def _tile_options(self) -> dict | None:
        """What :func:`tiled_inference` takes; None for whole images."""
        given = dict(self.test_cfg or {"mode": "whole"})
        mode = given.pop("mode", None)
        if mode == "whole":
            return None
        if mode not in _NEEDED:
            raise ValueError(f"test_cfg.mode must be 'whole', 'slide' or 'tile', got {mode!r}")
        known = (*_NEEDED["tile"], *_NEEDED["slide"], *_OPTIONAL)
        for key in given:
            if key not in known:
                raise ValueError(f"test_cfg has no key {key!r}; it knows {', '.join(known)}")
        for key in _NEEDED[mode]:
            if key not in given:
                raise ValueError(f"test_cfg.{key} is missing in {dict(self.test_cfg)}")
        options = {k: v for k, v in given.items() if k not in _NEEDED["slide"]}
        if mode == "slide":
            crop_size, stride = (pair(given[key], f"test_cfg.{key}") for key in _NEEDED[mode])
            overlap = tuple(crop - step for crop, step in zip(crop_size, stride, strict=True))
            if min(stride) < 1 or min(overlap) < 0:
                raise ValueError(
                    f"test_cfg.stride {stride} must lie between 1 and crop_size {crop_size}"
                )
            options.update(tile=crop_size, overlap=overlap)
        return options
