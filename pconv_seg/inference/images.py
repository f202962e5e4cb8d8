"""Prediction of image files. TIFF streams from disk to disk, window by window."""

import glob
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import cv2
import mmcv
import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image
from torch import Tensor, nn

from pconv_seg.files import atomic_path, naming_files, remove_leftovers
from pconv_seg.geometry import Overlap, TileGrid

from .segmentor import image_preprocessor, predicted_labels, tile_predictor
from .tiled import stream_tiles

# GDAL would otherwise keep decoded blocks in up to 5 % of the machine's memory.
_GDAL_CACHE_BYTES = 64 << 20
# Side length of the blocks of written TIFFs.
_BLOCK = 256
_UNWRITTEN = "{} could not be written as a whole: is the disk full?"


def output_paths(image: str | Path, out: str | Path) -> tuple[Path, Path]:
    """Where the label map and the overlay of an image go: TIFF for TIFF, PNG for anything else."""
    image = Path(image)
    suffix = ".tif" if _is_tiff(image) else ".png"
    return tuple(Path(out, f"{image.stem}_{kind}{suffix}") for kind in ("labels", "overlay"))


def predict_file(
    model: nn.Module,
    image: str | Path,
    out: str | Path,
    tile: int | tuple[int, int],
    overlap: Overlap | tuple[Overlap, Overlap] = 0,
    *,
    batch_size: int = 1,
    window: str = "constant",
    progress: bool = False,
) -> tuple[Path, Path]:
    """Write the label map of an image and a coloured overlay.

    Images have 8 bits per channel. A TIFF of grey or RGB pixels, with or without alpha, is read in
    windows and written in slabs of rows as soon as they are final, with its georeference
    (transform, control points or RPCs): memory depends on its width, not on its height (if its
    blocks or strips are small against the image, as usual). Other formats are read and written
    whole. The image is predicted at its own size: no resizing from the config's pipeline is
    applied, and no padding from its data preprocessor. What a killed process left of the same
    results is removed.

    Args:
        model: An mmseg ``EncoderDecoder`` with its data preprocessor, such as ``init_model`` gives.
        image: Image file.
        out: Folder for the results, created if needed.
        tile: As in :func:`tiled_inference`, also for the arguments below.
        overlap: Of neighbouring tiles.
        batch_size: Tiles per forward.
        window: Weights of the average.
        progress: Show a progress bar over tiles.

    Returns:
        Paths of the label map (uint8; uint16 for more than 255 classes) and of the overlay (RGB,
        half image, half the palette of ``model.dataset_meta``; without one, matplotlib's tab20).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no image or one of another kind, an argument is out of range, or
            ``model`` is in training mode.
        ModuleNotFoundError: If a TIFF is to be read without rasterio.
        OSError: If a result cannot be written as a whole; what was there before stays.
    """
    with ExitStack() as stack:
        source = stack.enter_context(_open(Path(image)))
        grid = TileGrid(source.size, tile, overlap)
        paths = output_paths(image, out)
        for path in paths:
            remove_leftovers(path.parent, glob.escape(path.name))
        append_labels, append_overlay = (
            stack.enter_context(source.writer(stack.enter_context(atomic_path(path))))
            for path in paths
        )
        preprocess = image_preprocessor(model)
        palette = _palette(model)

        def read(_: int, y0: int, y1: int, x0: int, x1: int) -> Tensor:
            return preprocess(torch.from_numpy(source.read(y0, y1, x0, x1)).permute(2, 0, 1))

        def emit(top: int, logits: Tensor) -> None:
            rows = predicted_labels(logits, model)[0].cpu().numpy()
            append_labels(rows if rows.dtype == np.uint8 else rows.astype(np.uint16))
            rgb = source.read(top, top + len(rows), 0, rows.shape[1])[..., ::-1]
            append_overlay(rgb // 2 + palette.take(rows, axis=0, mode="wrap") // 2)

        with naming_files(str(image)):
            stream_tiles(
                tile_predictor(model),
                read,
                emit,
                grid,
                batch_size=batch_size,
                window=window,
                progress=progress,
            )
    return paths


def read_pixels(path: str | Path) -> np.ndarray:
    """Pixels of an image, ``uint8[H, W, 3]`` in the order BGR, as mmseg's pipelines load them.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no image.
    """
    return _read(path, "color")


def read_input(path: str | Path) -> np.ndarray:
    """Pixels to predict, as :func:`read_pixels`, but refusing what that would cut to 8 bits.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no image, or one of more than 8 bits per channel.
    """
    pixels = _read(path, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if pixels.dtype != np.uint8:
        raise ValueError(
            f"{path}: expected 8 bits per channel, got {pixels.dtype}; convert it, or let "
            "tools/test.py --out DIR predict it, which loads images as the config says"
        )
    return pixels


def _read(path: str | Path, flag: str | int) -> np.ndarray:
    try:
        pixels = mmcv.imread(path, flag)
    except cv2.error:  # of a file without a byte, or one of too many pixels
        pixels = None
    if pixels is None:
        raise ValueError(
            f"{path}: not an image that OpenCV can read, or too large for it (2^30 pixels, 2^20 "
            "per side); predict.py streams larger ones as TIFF"
        )
    return pixels


def _palette(model: nn.Module) -> np.ndarray:
    palette = (getattr(model, "dataset_meta", None) or {}).get("palette")
    if palette is None or not len(palette):  # as of data sets without class names
        palette = np.multiply(colormaps["tab20"].colors, 255).round()
    return np.asarray(palette, dtype=np.uint8)


def _is_tiff(path: Path) -> bool:
    return path.suffix.lower() in (".tif", ".tiff")


class _Source(NamedTuple):
    """An image that is open.

    Attributes:
        size: (height, width).
        read: ``read(y0, y1, x0, x1)`` returns the window's BGR pixels, ``uint8[h, w, 3]``, the
            order in which mmseg's pipelines load images.
        writer: Opens a file of the same size and kind, to which rows are appended from the top,
            ``[h, W]`` or ``[h, W, 3]``.
    """

    size: tuple[int, int]
    read: Callable[[int, int, int, int], np.ndarray]
    writer: Callable[[Path], AbstractContextManager[Callable[[np.ndarray], None]]]


def _open(path: Path) -> AbstractContextManager[_Source]:
    if _is_tiff(path):
        return _open_tiff(path)
    pixels = read_input(path)
    return nullcontext(
        _Source(pixels.shape[:2], lambda y0, y1, x0, x1: pixels[y0:y1, x0:x1], _write_png)
    )


@contextmanager
def _write_png(path: Path) -> Iterator[Callable[[np.ndarray], None]]:
    rows = []
    yield rows.append
    Image.fromarray(np.concatenate(rows)).save(path)


@contextmanager
def _open_tiff(path: Path) -> Iterator[_Source]:
    try:
        import rasterio
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{path}: TIFF images are read with rasterio; pip install 'pconv-seg[large-images]'"
        ) from error

    with warnings.catch_warnings(), rasterio.Env(GDAL_CACHEMAX=_GDAL_CACHE_BYTES):
        # A photograph has no georeference, and its label map needs none.
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        path.stat()  # to rasterio, a file that is missing is one that cannot be read
        try:
            image = rasterio.open(path)
        except rasterio.errors.RasterioIOError as error:
            raise ValueError(f"{path}: {error}") from error
        with image:
            kinds = [kind.name for kind in image.colorinterp]
            colours = kinds[:-1] if kinds[-1] == "alpha" else kinds
            known = len(colours) in (1, 3) and colours != ["palette"]
            if not known or set(image.dtypes) != {"uint8"}:
                raise ValueError(
                    f"{path}: expected 8-bit grey or RGB, with or without alpha, got "
                    f"{', '.join(image.dtypes)} with bands {', '.join(kinds)}; convert it with "
                    "gdal_translate: -ot Byte -scale for more bits, -expand rgb for a palette, "
                    "-b 1 or -b 1 -b 2 -b 3 for more bands"
                )

            # What GDAL says of values that it hands out as they are stored.
            inverted = image.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES"
            bits = int(image.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", 8))
            if bits < 8:
                ends = "255 0" if inverted else "0 255"
                raise ValueError(
                    f"{path}: expected 8 bits per channel, got {bits}; convert it with "
                    f"gdal_translate -ot Byte -scale 0 {2**bits - 1} {ends} -co NBITS=8"
                )

            if set(colours) == {"red", "green", "blue"}:  # in any order
                bgr = tuple(1 + colours.index(colour) for colour in ("blue", "green", "red"))
            else:
                bgr = (1, 1, 1) if len(colours) == 1 else (3, 2, 1)

            def read(y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
                try:
                    pixels = image.read(bgr, window=((y0, y1), (x0, x1)))
                except rasterio.errors.RasterioIOError as error:
                    message = f"damaged, perhaps not completely copied: {error}"
                    raise ValueError(message) from error
                pixels = np.ascontiguousarray(pixels.transpose(1, 2, 0))
                return 255 - pixels if inverted else pixels

            points, crs = image.gcps
            if points:
                # Without a CRS rasterio reads None and writes only an empty one.
                place = {"gcps": points, "crs": crs or rasterio.CRS()}
            else:
                place = {"transform": image.transform, "crs": image.crs}
            profile = {"height": image.height, "width": image.width, "rpcs": image.rpcs, **place}
            yield _Source(image.shape, read, lambda target: _write_tiff(target, profile))


@contextmanager
def _write_tiff(path: Path, profile: dict) -> Iterator[Callable[[np.ndarray], None]]:
    import rasterio

    dataset, pending, top, checksum = None, None, 0, 0
    with ExitStack() as stack:

        def append(rows: np.ndarray) -> None:
            nonlocal dataset, pending, top, checksum
            rows = np.atleast_3d(rows)
            checksum = zlib.crc32(np.ascontiguousarray(rows), checksum)
            if dataset is None:
                dataset = stack.enter_context(
                    rasterio.open(
                        path,
                        "w",
                        driver="GTiff",
                        count=rows.shape[2],
                        dtype=rows.dtype,
                        tiled=True,
                        blockxsize=_BLOCK,
                        blockysize=_BLOCK,
                        compress="deflate",
                        BIGTIFF="IF_SAFER",
                        **profile,
                    )
                )
                pending = rows[:0]
            pending = np.concatenate([pending, rows])
            # Whole blocks only: a block written twice is compressed twice and leaves a gap.
            ready = len(pending)
            if top + ready < dataset.height:
                ready -= ready % _BLOCK
            if ready:
                window = ((top, top + ready), (0, dataset.width))
                try:
                    dataset.write(pending[:ready].transpose(2, 0, 1), window=window)
                except rasterio.errors.RasterioIOError as error:
                    raise OSError(_UNWRITTEN.format(path.name)) from error
                pending, top = pending[ready:].copy(), top + ready

        yield append
    # GDAL writes much of a file when it closes it, and rasterio does not tell if that failed.
    if _checksum(path) != checksum:
        raise OSError(_UNWRITTEN.format(path.name))


def _checksum(path: Path) -> int | None:
    """CRC-32 of the pixels of a TIFF, row by row; None if it cannot be read."""
    import rasterio

    checksum = 0
    try:
        with rasterio.open(path) as file:
            for top in range(0, file.height, _BLOCK):
                rows = file.read(window=((top, min(top + _BLOCK, file.height)), (0, file.width)))
                checksum = zlib.crc32(np.ascontiguousarray(rows.transpose(1, 2, 0)), checksum)
    except rasterio.errors.RasterioIOError:
        return None
    return checksum
