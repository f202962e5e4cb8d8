import logging

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pconv_seg.geometry import WINDOWS, TileGrid
from pconv_seg.inference import stream_tiles, tiled_inference


def positions(tiles):
    """A predictor that knows only where in the tile it is: channel 0 is the row, 1 the column."""
    n, _, h, w = tiles.shape
    grid = torch.meshgrid(torch.arange(h) * 1.0, torch.arange(w) * 1.0, indexing="ij")
    return torch.stack(grid).expand(n, 2, h, w)


def blurring(channels=5, seed=0):
    """A predictor that sees tile borders, as networks with zero padding do."""
    weight = torch.randn(channels, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    return lambda tiles: F.conv2d(tiles, weight, padding=2)


def random_images(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def reference(predict, images, tile, overlap, window):
    """Full-size sums of weighted logits and of weights, in float64."""
    grid = TileGrid(tuple(images.shape[-2:]), tile, overlap)
    total = weights = 0
    for y0, y1, x0, x1 in grid:
        profile = {
            "constant": lambda n: np.ones(n),
            "gaussian": lambda n: np.exp(-(((np.arange(n) - (n - 1) / 2) / (n / 8)) ** 2) / 2),
            "hann": lambda n: np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2,
        }[window]
        weight = torch.from_numpy(np.outer(profile(y1 - y0), profile(x1 - x0)))
        margins = (x0, images.shape[3] - x1, y0, images.shape[2] - y1)
        logits = predict(images[:, :, y0:y1, x0:x1]).double()
        total = total + F.pad(logits * weight, margins)
        weights = weights + F.pad(weight, margins)
    return total / weights


def test_average_of_positions_by_hand():
    # Tiles of 4 begin at 0, 3 and 4: pixel 3 is seen twice, pixels 4 to 6 twice.
    result = tiled_inference(positions, torch.zeros(1, 3, 4, 8), (4, 4), (0, 1))
    across = torch.tensor([0, 1, 2, (3 + 0) / 2, (1 + 0) / 2, (2 + 1) / 2, (3 + 2) / 2, 3])
    assert torch.equal(result[0, 0], torch.arange(4.0)[:, None].expand(4, 8))
    assert torch.equal(result[0, 1], across.expand(4, 8))


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize(
    ("size", "tile", "overlap"),
    [
        ((23, 31), 8, "1/3"),
        ((23, 31), 8, 0.9),
        ((17, 40), (5, 16), (0.5, 3)),
        ((9, 33), 16, 0.25),
        ((12, 12), 32, 0.5),
        ((16, 16), 8, 0),
    ],
)
def test_equals_full_size_sums(size, tile, overlap, window):
    images = random_images(2, 3, *size)
    expected = reference(blurring(), images, tile, overlap, window)
    logits = tiled_inference(blurring(), images, tile, overlap, window=window, batch_size=3)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits.double(), expected, rtol=1e-5, atol=1e-5)
    labels = tiled_inference(blurring(), images, tile, overlap, window=window, reduce="argmax")
    assert labels.dtype == torch.uint8
    assert torch.equal(labels.long(), expected.argmax(1))


@pytest.mark.parametrize("window", WINDOWS)
def test_pointwise_predictor_does_not_notice_tiles(window):
    images = random_images(1, 3, 40, 27)
    weight = random_images(7, 3, 1, 1, seed=1)
    tiled = tiled_inference(lambda x: F.conv2d(x, weight), images, 8, "2/3", window=window)
    torch.testing.assert_close(tiled, F.conv2d(images, weight))


def test_without_overlap_logits_are_untouched():
    images = random_images(1, 3, 24, 16)
    assert torch.equal(tiled_inference(lambda x: x, images, 8), images)


def test_images_smaller_than_the_tile_are_predicted_whole():
    images = random_images(2, 3, 10, 30)
    seen = []

    def predict(tiles):
        seen.append(tuple(tiles.shape))
        return blurring()(tiles)

    whole = tiled_inference(predict, images, 64, 0.5, batch_size=2)
    assert seen == [(2, 3, 10, 30)]
    assert torch.equal(whole, blurring()(images))


def test_batches_fill_across_images_and_rows():
    sizes = []

    def predict(tiles):
        sizes.append(len(tiles))
        return tiles

    images = random_images(2, 3, 12, 20)  # 3 x 5 tiles of 4
    result = tiled_inference(predict, images, 4, batch_size=7)
    assert sizes == [7, 7, 7, 7, 2]
    assert torch.equal(result, images)


def test_batch_size_does_not_change_the_result():
    images = random_images(3, 3, 21, 22)
    results = [tiled_inference(positions, images, 8, 0.5, batch_size=n) for n in (1, 2, 5, 100)]
    for result in results[1:]:
        assert torch.equal(result, results[0])


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_averages_in_float32_or_better(dtype, expected):
    images = random_images(1, 3, 9, 20).to(dtype)
    result = tiled_inference(lambda x: x, images, 4, 0.5)
    assert result.dtype == expected
    torch.testing.assert_close(result, images.to(expected), rtol=1e-6, atol=1e-6)


def test_averages_where_the_images_are_or_where_it_is_told_to():
    images = random_images(1, 3, 9, 20)
    for inputs, options in ((images.to("meta"), {}), (images, {"out_device": "meta"})):
        result = tiled_inference(lambda x: x, inputs, 4, 0.5, **options)
        assert (result.shape, result.device.type) == (images.shape, "meta")


def test_many_classes_need_wider_labels():
    images = torch.zeros(1, 3, 4, 4)
    for classes, dtype in ((255, torch.uint8), (256, torch.int32)):
        logits = torch.arange(classes).view(1, -1, 1, 1).expand(1, -1, 4, 4)
        labels = tiled_inference(lambda x, logits=logits: logits, images, 4, reduce="argmax")
        assert labels.dtype == dtype
        assert (labels == classes - 1).all()


def test_no_graph_is_built():
    weight = torch.randn(4, 3, 1, 1, requires_grad=True)
    images = torch.zeros(1, 3, 8, 8, requires_grad=True)
    assert not tiled_inference(lambda x: F.conv2d(x, weight), images, 4).requires_grad


def test_inputs_and_predictions_are_not_written_to():
    images, kept = random_images(1, 3, 8, 12), []

    def predict(tiles):
        kept.append((tiles, tiles.clone()))
        return tiles

    before = images.clone()
    tiled_inference(predict, images, 4, 0.5, window="hann")
    assert torch.equal(images, before)
    assert all(torch.equal(tiles, copy) for tiles, copy in kept)


def test_streaming_holds_one_row_of_tiles_and_reads_each_tile_once():
    grid = TileGrid((1000, 24), 8, "1/3")
    windows, rows, storages = [], [], set()

    def read(image, y0, y1, x0, x1):
        windows.append((y0, y1, x0, x1))
        return torch.arange(y0, y1).view(1, -1, 1).expand(1, y1 - y0, x1 - x0).float()

    def emit(top, logits):
        storages.add((logits.untyped_storage().data_ptr(), logits.untyped_storage().nbytes()))
        assert logits.shape[:2] == (1, 1)
        for offset in range(logits.shape[2]):
            rows.append(top + offset)
            expected = torch.full((24,), float(top + offset))
            torch.testing.assert_close(logits[0, 0, offset], expected)

    assert stream_tiles(lambda x: x, read, emit, grid) is None
    assert windows == list(grid)
    assert rows == list(range(1000))
    assert [size for _, size in storages] == [8 * 24 * 4]


class Greedy:
    """Runs out of memory with more than ``limit`` tiles."""

    def __init__(self, limit):
        self.limit, self.sizes = limit, []

    def __call__(self, tiles):
        self.sizes.append(len(tiles))
        if len(tiles) > self.limit:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return tiles


def test_out_of_memory_halves_the_batch_and_says_so(monkeypatch):
    lines = []
    monkeypatch.setattr(
        "pconv_seg.inference.tiled.print_log", lambda text, **options: lines.append((text, options))
    )
    images = random_images(1, 3, 16, 20)  # 20 tiles
    predict = Greedy(limit=3)
    assert torch.equal(tiled_inference(predict, images, 4, batch_size=8), images)
    assert predict.sizes == [8, 4, 2, *[2] * 9]
    assert [text for text, _ in lines] == [
        "Out of memory with 8 tiles per batch, going on with 4",
        "Out of memory with 4 tiles per batch, going on with 2",
    ]
    assert {options["level"] for _, options in lines} == {logging.WARNING}


def test_out_of_memory_halves_what_there_was_down_to_one_tile():
    images = random_images(1, 3, 8, 8)  # 4 tiles
    predict = Greedy(limit=1)
    assert torch.equal(tiled_inference(predict, images, 4, batch_size=20), images)
    assert predict.sizes == [4, 2, 1, 1, 1, 1]


def test_out_of_memory_with_one_tile_is_an_error():
    predict = Greedy(limit=0)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        tiled_inference(predict, torch.zeros(1, 3, 8, 8), 4, batch_size=3)
    assert predict.sizes == [3, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 0}, "tile must be a positive number of pixels"),
        ({"overlap": 1.0}, r"overlap must lie in \[0, 1\)"),
        ({"overlap": 4}, "must be smaller than the tile"),
        ({"window": "triangle"}, "window must be one of constant, gaussian, hann, got 'triangle'"),
        ({"reduce": "mean"}, "reduce must be 'logits' or 'argmax', got 'mean'"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"images": torch.zeros(3, 8, 8)}, r"images must be Tensor\[N, C, H, W\]"),
        ({"images": torch.zeros(0, 3, 8, 8)}, "N > 0"),
        ({"predict": lambda x: x[:, :1], "reduce": "argmax"}, "of one class is always 0"),
        (
            {"predict": lambda x: x[:, :, ::2, ::2]},
            r"Tensor\[1, 3, 4, 4\] to Tensor\[1, C, 4, 4\], but returned \[1, 3, 2, 2\]",
        ),
        ({"predict": torch.nn.BatchNorm2d(3)}, "BatchNorm2d is in training mode"),
        ({"predict": lambda x: x[0]}, r"but returned \[3, 4, 4\]"),
        ({"predict": lambda x: x.repeat(2, 1, 1, 1)}, r"but returned \[2, 3, 4, 4\]"),
        # As of a torchvision model, an onnxruntime session, and a function without a return.
        ({"predict": lambda x: {"out": x}}, r"Tensor\[1, C, 4, 4\], but returned dict$"),
        ({"predict": lambda x: x.numpy()}, "but returned ndarray$"),
        ({"predict": lambda x: None}, "but returned NoneType$"),
        ({"predict": lambda x: None, "batch_size": 4}, r"Tensor\[4, C, 4, 4\], but returned NoneT"),
    ],
)
def test_bad_arguments_are_named(options, message):
    options = {"predict": lambda x: x, "images": torch.zeros(1, 3, 8, 8), "tile": 4, **options}
    with pytest.raises(ValueError, match=message):
        tiled_inference(**options)


def test_progress_counts_tiles(capfd):
    tiled_inference(positions, torch.zeros(2, 3, 8, 8), 4, progress=True)
    assert "8/8" in capfd.readouterr().err
    tiled_inference(positions, torch.zeros(2, 3, 8, 8), 4)
    assert capfd.readouterr().err == ""
