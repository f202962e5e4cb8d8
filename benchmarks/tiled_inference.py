"""Tiled inference beside mmseg's and MONAI's, on a network of one convolution.

So little work per tile shows what cutting and averaging cost: 19 classes, tiles of 512 that are 342
pixels apart. Ratios are to pconv_seg with logits as the result. An empty cell is a call that would
take longer than five minutes or more memory than there is, judged by the size before.
"""

import argparse
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
from growth import grow, plot  # noqa: F401  (the runner calls it)

TITLE = "Tiled inference"
OURS = "pconv_seg, logits"
CLASSES, TILE, STRIDE = 19, 512, 342


# Each imports what it needs: so none adds to the memory of another, and any may be missing.
def ours(predict, images, reduce="logits"):
    from pconv_seg import tiled_inference

    return tiled_inference(predict, images, TILE, TILE - STRIDE, reduce=reduce)


def ours_argmax(predict, images):
    return ours(predict, images, "argmax")


def in_place(predict, images):
    from pconv_seg.geometry import TileGrid

    sums = images.new_zeros(len(images), CLASSES, *images.shape[2:])
    counts = images.new_zeros(1, 1, *images.shape[2:])
    for y0, y1, x0, x1 in TileGrid(images.shape[2:], TILE, TILE - STRIDE):
        sums[:, :, y0:y1, x0:x1] += predict(images[:, :, y0:y1, x0:x1])
        counts[:, :, y0:y1, x0:x1] += 1
    return sums.div_(counts)


def mmseg(predict, images):
    from mmseg.models.segmentors import EncoderDecoder

    model = SimpleNamespace(
        test_cfg=SimpleNamespace(stride=(STRIDE,) * 2, crop_size=(TILE,) * 2),
        out_channels=CLASSES,
        encode_decode=lambda tiles, metas: predict(tiles),
    )
    return EncoderDecoder.slide_inference(model, images, [{}])


def monai(predict, images):
    from monai.inferers import sliding_window_inference

    overlap = 1 - STRIDE / TILE
    return sliding_window_inference(images, (TILE,) * 2, 1, predict, overlap=overlap)


def contender(infer):
    def make(size):
        import torch

        images = torch.randn(1, 3, size, size)
        convolution = torch.nn.Conv2d(3, CLASSES, 3, padding=1).eval().requires_grad_(False)
        return lambda: infer(convolution, images), lambda result: result[..., ::61, ::67].numpy()

    return make


CONTENDERS = {
    OURS: contender(ours),
    "pconv_seg, argmax": contender(ours_argmax),
    "sums in place, then divided": contender(in_place),
    "mmseg, slide inference": contender(mmseg),
    "MONAI, sliding window": contender(monai),
}


def check(name: str, sample: np.ndarray, reference: np.ndarray) -> None:
    if sample.ndim == 3:
        equal = np.array_equal(sample, reference.argmax(1))
    else:
        equal = np.allclose(sample, reference, rtol=1e-4, atol=1e-5)
    if not equal:
        raise SystemExit(f"{name}: its result differs from that of {OURS}")


def run(options: argparse.Namespace) -> Iterator[dict]:
    return grow("tiled_inference", OURS, check, options)
