"""Prediction of large images in tiles, with the memory of one row of tiles.

Tiles are predicted row by row. As soon as a row of tiles is complete, the pixel rows above the next
one are final: they are handed on (kept, reduced to labels, written to a file) and their memory is
reused. :func:`stream_tiles` does this for any source and sink, :func:`tiled_inference` for
tensors.
"""

import logging
from collections.abc import Callable
from itertools import product

import torch
from mmengine.logging import print_log
from torch import Tensor
from tqdm import tqdm

from pconv_seg.geometry import Overlap, TileGrid, blend_weights


def tiled_inference(
    predict: Callable[[Tensor], Tensor],
    images: Tensor,
    tile: int | tuple[int, int],
    overlap: Overlap | tuple[Overlap, Overlap] = 0,
    *,
    batch_size: int = 1,
    window: str = "constant",
    reduce: str = "logits",
    out_device: torch.device | str | None = None,
    progress: bool = False,
) -> Tensor:
    """Predict images tile by tile and average the logits where tiles overlap.

    The grid is the one of `Partial Convolution based Padding <https://arxiv.org/abs/1811.11718>`_,
    section 4.2: tiles are ``ceil(tile * (1 - overlap))`` apart and the last one is shifted back
    inside the image. Images smaller than the tile are predicted whole. No gradients are recorded.

    Args:
        predict: Maps ``Tensor[n, c, h, w]`` to logits ``Tensor[n, C, h, w]``; a module in
            evaluation mode. It must not write to its input, which may be a view of ``images``.
        images: ``Tensor[N, c, H, W]``.
        tile: Side length, or (height, width), in pixels.
        overlap: Of neighbouring tiles: a proportion of the tile in [0, 1) such as ``0.5``, ``1/3``
            or ``'1/3'`` (exact in spite of floating point), or pixels as an int. One value or
            (vertical, horizontal).
        batch_size: Tiles per call of ``predict``, taken across images and rows of tiles. When an
            accelerator runs out of memory, the batch is halved, down to 1.
        window: Weights of the average: ``'constant'``, ``'gaussian'`` (a standard deviation of
            tile / 8) or ``'hann'``. The last two trust tile centres more than tile borders.
        reduce: ``'logits'``, or ``'argmax'``, which never holds the logits of more than
            one row of tiles.
        out_device: Where logits are averaged and returned. Default: where ``images`` are. With
            ``'cpu'`` an accelerator only holds the tiles of one batch.
        progress: Show a progress bar over tiles.

    Returns:
        ``'logits'``: ``Tensor[N, C, H, W]``, in the dtype of the predictions, but at least float32.
        ``'argmax'``: ``Tensor[N, H, W]``, uint8 for up to 255 classes, else int32; the first class
        wins ties.

    Raises:
        ValueError: If an argument is out of range, ``predict`` returns no tensor or one of
            another size, or is a module in training mode.
    """
    if reduce not in ("logits", "argmax"):
        raise ValueError(f"reduce must be 'logits' or 'argmax', got {reduce!r}")
    if images.ndim != 4 or images.shape[0] == 0:
        raise ValueError(f"images must be Tensor[N, C, H, W], N > 0, got {tuple(images.shape)}")
    grid = TileGrid(tuple(images.shape[-2:]), tile, overlap)
    labels: Tensor | None = None

    def keep(top: int, logits: Tensor) -> None:
        nonlocal labels
        rows = argmax_labels(logits)
        if labels is None:
            labels = rows.new_empty((len(images), *grid.size))
        labels[:, top : top + rows.shape[1]] = rows

    sums = stream_tiles(
        predict,
        lambda image, y0, y1, x0, x1: images[image, :, y0:y1, x0:x1],
        keep if reduce == "argmax" else None,
        grid,
        num_images=len(images),
        batch_size=batch_size,
        window=window,
        out_device=out_device,
        progress=progress,
    )
    return labels if reduce == "argmax" else sums


def argmax_labels(logits: Tensor) -> Tensor:
    """Most likely class of each pixel: ``Tensor[N, C, H, W]`` to ``Tensor[N, H, W]``.

    uint8 for up to 255 classes (255 is the usual label of ignored pixels), else int32.

    Raises:
        ValueError: If there is one class only.
    """
    if logits.shape[1] == 1:
        raise ValueError("the most likely of one class is always 0; threshold the logits instead")
    # The indices are argmax's, which takes four times as long on a CPU.
    indices = logits.max(dim=1).indices
    return indices.to(torch.uint8 if logits.shape[1] <= 255 else torch.int32)


@torch.no_grad()
def stream_tiles(
    predict: Callable[[Tensor], Tensor],
    read: Callable[[int, int, int, int, int], Tensor],
    emit: Callable[[int, Tensor], None] | None,
    grid: TileGrid,
    *,
    num_images: int = 1,
    batch_size: int = 1,
    window: str = "constant",
    out_device: torch.device | str | None = None,
    progress: bool = False,
) -> Tensor | None:
    """The engine of :func:`tiled_inference`, for images and results that live anywhere.

    With ``emit`` it holds one batch of tiles and ``num_images * C * tile height * image width``
    averaged logits, whatever the height of the image.

    Args:
        predict: As in :func:`tiled_inference`.
        read: ``read(image, y0, y1, x0, x1)`` returns that window of image number ``image``,
            ``Tensor[c, y1 - y0, x1 - x0]``, ready for ``predict``.
        emit: ``emit(top, logits)`` receives the final logits ``Tensor[num_images, C, h, W]`` of the
            pixel rows ``top .. top + h - 1``, from the top down. They are overwritten later: copy
            what is to be kept. None keeps them all.
        grid: The tiles of one image.
        num_images: How many images of this size there are.
        batch_size: As in :func:`tiled_inference`, also for the arguments below.
        window: Weights of the average.
        out_device: Where logits are averaged.
        progress: Show a progress bar over tiles.

    Returns:
        Without ``emit``: the averaged logits ``Tensor[num_images, C, H, W]``.

    Raises:
        ValueError: If an argument is out of range, ``predict`` returns no tensor or one of
            another size, or is a module in training mode.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    refuse_training(predict)
    average = _Average(grid, window, emit)
    tiles = list(product(range(len(grid.rows)), range(len(grid.cols)), range(num_images)))
    done = 0
    with tqdm(total=len(tiles), unit="tile", disable=not progress) as bar:
        while done < len(tiles):
            batch = tiles[done : done + batch_size]
            logits, exhausted = None, False  # None frees the batch before
            inputs = [read(i, *grid.rows[r], *grid.cols[c]) for r, c, i in batch]
            inputs = torch.stack(inputs) if len(inputs) > 1 else inputs[0][None]
            try:
                logits = predict(inputs)
            except torch.cuda.OutOfMemoryError:
                if len(batch) == 1:
                    raise
                exhausted = True
            if exhausted:  # out of the handler, whose traceback keeps tensors alive
                batch_size = len(batch) // 2
                torch.cuda.empty_cache()
                print_log(
                    f"Out of memory with {len(batch)} tiles per batch, going on with {batch_size}",
                    logger="current",
                    level=logging.WARNING,
                )
                continue
            _check(logits, inputs)
            if average.sums is None:
                average.allocate(num_images, logits, out_device or inputs.device)
            average.add(batch, logits)
            done += len(batch)
            bar.update(len(batch))
    average.finish_row()
    return average.sums if emit is None else None


class _Average:
    """Weighted sums of logits, in a ring of pixel rows: row y of the image lies at y % height.

    Without ``emit`` the ring is as high as the image, so nothing is ever overwritten.
    """

    def __init__(self, grid: TileGrid, window: str, emit: Callable[[int, Tensor], None] | None):
        self.grid, self.emit = grid, emit
        self.height = grid.size[0] if emit is None else grid.rows[0][1]
        self.weights = [blend_weights(intervals, window) for intervals in (grid.rows, grid.cols)]
        self.row = 0
        self.sums: Tensor | None = None

    def allocate(self, num_images: int, like: Tensor, device: torch.device | str) -> None:
        # Low precision would lose the smaller share of an average.
        dtype = torch.promote_types(like.dtype, torch.float32)
        shape = (num_images, like.shape[1], self.height, self.grid.size[1])
        self.sums = torch.zeros(shape, dtype=dtype, device=device)
        self.weights = [
            [torch.from_numpy(share).to(self.sums) for share in shares] for shares in self.weights
        ]

    def pieces(self, y0: int, y1: int) -> list[tuple[int, int]]:
        """Cut pixel rows where the ring begins again."""
        wrap = (y0 // self.height + 1) * self.height
        return [(y0, wrap), (wrap, y1)] if wrap < y1 else [(y0, y1)]

    def rows(self, y0: int, y1: int) -> Tensor:
        start = y0 % self.height
        return self.sums[:, :, start : start + y1 - y0]

    def add(self, tiles: list[tuple[int, int, int]], batch: Tensor) -> None:
        for (row, col, image), logits in zip(tiles, batch.to(self.sums), strict=True):
            if row != self.row:
                self.finish_row()
            (top, bottom), (left, right) = self.grid.rows[row], self.grid.cols[col]
            weight = self.weights[0][row][:, None] * self.weights[1][col]
            for y0, y1 in self.pieces(top, bottom):
                part = slice(y0 - top, y1 - top)
                sums = self.rows(y0, y1)[image, :, :, left:right]
                sums.addcmul_(logits[:, part], weight[part])

    def finish_row(self) -> None:
        """Hand on the pixel rows that no later tile touches."""
        top, bottom = self.grid.rows[self.row]
        self.row += 1
        if self.row < len(self.grid.rows):
            bottom = self.grid.rows[self.row][0]
        if self.emit is not None:
            for y0, y1 in self.pieces(top, bottom):
                self.emit(y0, self.rows(y0, y1))
                self.rows(y0, y1).zero_()


def refuse_training(predict: Callable) -> None:
    """Raise a ValueError for a module in training mode."""
    # Each tile would be normalised by its own statistics, and change those that are kept.
    if getattr(predict, "training", False):
        raise ValueError(f"{type(predict).__name__} is in training mode: call its eval() before")


def _check(logits: Tensor, inputs: Tensor) -> None:
    n, _, h, w = inputs.shape
    is_tensor = isinstance(logits, Tensor)
    if not is_tensor or (*logits.shape[:1], *logits.shape[2:]) != (n, h, w):
        returned = list(logits.shape) if is_tensor else type(logits).__name__
        raise ValueError(
            f"predict must map Tensor[{n}, {inputs.shape[1]}, {h}, {w}] to "
            f"Tensor[{n}, C, {h}, {w}], but returned {returned}"
        )
