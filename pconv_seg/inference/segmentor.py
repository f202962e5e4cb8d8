"""mmseg's segmentor on the tile engine."""

import copy
from collections.abc import Callable

import torch
from mmengine.registry import MODELS
from mmseg.models.segmentors import EncoderDecoder
from torch import Tensor, nn

from ..geometry import TileGrid
from .tiled import labels, tiled_inference


def tile_predictor(model: nn.Module, img_meta: dict | None = None) -> Callable[[Tensor], Tensor]:
    """What :func:`tiled_inference` wants to call: a segmentor's logits at the size of its input.

    Args:
        model: An mmseg ``EncoderDecoder`` or whatever has its ``encode_decode``.
        img_meta: Meta information of the image, which heads may look at. Its sizes are
            replaced by those of the tile.

    Returns:
        Maps preprocessed tiles ``Tensor[N, 3, h, w]`` to logits ``Tensor[N, C, h, w]``.
    """

    def predict(tiles: Tensor) -> Tensor:
        # A torch.Size, by which mmseg's heads know that they see a part of an image.
        size = tiles.shape[2:]
        meta = {**(img_meta or {}), "img_shape": size, "pad_shape": size}
        return model.encode_decode(tiles, [meta] * len(tiles))

    return predict


def image_preprocessor(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """A segmentor's data preprocessor for one image, without the padding that it adds in tests.

    Returns:
        Maps BGR pixels ``Tensor[3, H, W]`` to what the network takes, ``Tensor[3, H, W]``.
    """
    preprocess = copy.copy(model.data_preprocessor)
    preprocess.test_cfg = None  # it would pad every tile
    return lambda pixels: preprocess({"inputs": [pixels]})["inputs"][0]


def predicted_labels(logits: Tensor, model: nn.Module) -> Tensor:
    """Label maps ``Tensor[N, H, W]`` of a segmentor's logits ``Tensor[N, C, H, W]``.

    The most likely class; of a single logit, whether it exceeds the threshold of the decode head.
    """
    if logits.shape[1] == 1:
        return (logits[:, 0].sigmoid() > model.decode_head.threshold).to(torch.uint8)
    return labels(logits)


@MODELS.register_module()
class TiledEncoderDecoder(EncoderDecoder):
    """``EncoderDecoder`` whose tiled test modes run on :func:`tiled_inference`.

    Test-time augmentation, batches, ``tools/test.py`` and checkpoints stay what they are.

    - ``test_cfg=dict(mode='tile', tile=1024, overlap='1/3')``; further keys are those of
      :func:`tiled_inference`: ``batch_size``, ``window``, ``out_device``, ``progress``.
    - ``test_cfg=dict(mode='slide', crop_size=(h, w), stride=(h, w))`` gives the logits
      of mmseg's own implementation; the further keys are allowed here too.
    - ``test_cfg=dict(mode='whole')`` is mmseg's.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.test_cfg and self.test_cfg.get("mode") in ("slide", "tile"):
            options = self._tile_options()  # bad ones shall fail now, not after an epoch
            TileGrid((1, 1), options["tile"], options["overlap"])

    def inference(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Logits ``Tensor[N, C, H, W]`` of preprocessed images ``Tensor[N, 3, H, W]``.

        Raises:
            ValueError: If ``test_cfg`` has no known mode, or describes no grid of tiles.
        """
        mode = self.test_cfg.get("mode", "whole")
        if mode == "whole":
            return self.whole_inference(inputs, batch_img_metas)
        if mode not in ("slide", "tile"):
            raise ValueError(f"test_cfg.mode must be 'whole', 'slide' or 'tile', got {mode!r}")
        predict = tile_predictor(self, batch_img_metas[0])
        return tiled_inference(predict, inputs, reduce="logits", **self._tile_options())

    def _tile_options(self) -> dict:
        options = {"overlap": 0, **self.test_cfg}
        for key in ("tile",) if options.pop("mode") == "tile" else ("crop_size", "stride"):
            if key not in options:
                raise ValueError(f"test_cfg.{key} is missing in {dict(self.test_cfg)}")
        if "crop_size" in options:
            crop_size, stride = options.pop("crop_size"), options.pop("stride")
            overlap = tuple(crop - step for crop, step in zip(crop_size, stride, strict=True))
            if min(overlap) < 0:
                raise ValueError(f"test_cfg.stride {stride} must not exceed crop_size {crop_size}")
            options.update(tile=crop_size, overlap=overlap)
        return options
