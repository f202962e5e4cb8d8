"""Augmentation of the paper's recipe.

All random numbers come from numpy's global generator, as in mmcv's and mmseg's transforms. Images
are uint8 in BGR order, as mmcv's ``LoadImageFromFile`` gives them.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import cv2
import mmcv
import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.registry import TRANSFORMS
from mmseg.datasets.transforms import Resize
from PIL import Image

from pconv_seg.geometry import pair


@TRANSFORMS.register_module()
class ResizeOriginal(Resize):
    """Resize image and labels, and let the result count as the original.

    After mmseg's ``Resize`` a prediction is scaled back to the size of the file. After this one it
    stays as it is: scores, tiles, border regions and distances are in pixels of the resized image.
    Comes after ``LoadAnnotations``; takes the arguments of :class:`mmseg.datasets.Resize`.
    """

    def transform(self, results: dict) -> dict:
        """Change ``img``, ``img_shape``, ``ori_shape`` and all ``seg_fields``."""
        results = super().transform(results)
        results["ori_shape"] = results["img_shape"]
        return results


@TRANSFORMS.register_module()
class RandomScaleCrop(BaseTransform):
    """Scale by a random factor, and crop; only the part that the crop shows is scaled.

    The image is interpolated bicubically by Pillow, which filters when it shrinks; labels take the
    nearest pixel. The result is the same as when the whole image is scaled, width first, and then
    cropped: to within two grey levels (sums of weights round differently), and exactly for labels.

    The crop is drawn uniformly from all that lie inside the scaled image; if the results hold a
    ``crop_center`` (row and column in the unscaled image), from all that contain that pixel, and
    is then shifted inside. Scaled images smaller than the crop stay smaller:
    ``data_preprocessor.size`` pads them with the mean colour, and labels with ``seg_pad_val``.

    Args:
        crop_size: Height and width, or one value for both.
        scale: Lowest and highest factor.

    Raises:
        ValueError: ``scale`` is not two factors above 0 in ascending order, or ``crop_size`` is
            neither one value nor two.
    """

    def __init__(
        self, crop_size: int | tuple[int, int], scale: tuple[float, float] = (0.5, 2.0)
    ) -> None:
        if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
            raise ValueError(f"scale is a lowest and a highest factor above 0, not {scale}")
        self.crop_size = pair(crop_size, "crop_size")
        self.scale = scale

    def transform(self, results: dict) -> dict:
        """Change ``img``, ``img_shape``, ``scale_factor`` and all ``seg_fields``."""
        image = results["img"]
        factor = np.random.uniform(*self.scale)
        center = results.get("crop_center", (None, None))
        rows, columns = (
            _Window.draw(source, max(1, round(source * factor)), crop, at)
            for source, crop, at in zip(image.shape[:2], self.crop_size, center, strict=True)
        )
        results["img"] = _resample(image, rows, columns)
        results["img_shape"] = results["img"].shape[:2]
        results["scale_factor"] = (columns.scaled / columns.source, rows.scaled / rows.source)
        for key in results.get("seg_fields", []):
            results[key] = results[key].take(rows.nearest(), 0).take(columns.nearest(), 1)
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(crop_size={self.crop_size}, scale={self.scale})"


class _Window(NamedTuple):
    """What a crop shows of one axis: ``size`` of ``scaled`` pixels, from ``start`` on."""

    source: int
    scaled: int
    start: int
    size: int

    @classmethod
    def draw(cls, source: int, scaled: int, size: int, center: int | None) -> "_Window":
        size = min(size, scaled)
        if center is None:
            start = np.random.randint(scaled - size + 1)
        else:
            pixel = (2 * center + 1) * scaled // (2 * source)
            start = np.random.randint(pixel - size + 1, pixel + 1)
            start = min(max(start, 0), scaled - size)
        return cls(source, scaled, start, size)

    def nearest(self) -> np.ndarray:
        """The source pixels in which the centres of the crop's pixels lie."""
        pixels = np.arange(self.start, self.start + self.size)
        return (2 * pixels + 1) * self.source // (2 * self.scaled)

    def interval(self) -> tuple[float, float]:
        """The crop in coordinates of the source, where pixel i is from i to i + 1."""
        ratio = self.source / self.scaled
        return self.start * ratio, (self.start + self.size) * ratio

    def support(self) -> tuple[int, int]:
        """First and last + 1 of the source pixels that bicubic interpolation reads."""
        low, high = self.interval()
        reach = 2 * max(1.0, self.source / self.scaled) + 1
        return max(0, math.floor(low - reach)), min(self.source, math.ceil(high + reach))


def _resample(image: np.ndarray, rows: _Window, columns: _Window) -> np.ndarray:
    (top, bottom), (left, right) = rows.support(), columns.support()
    (y0, y1), (x0, x1) = rows.interval(), columns.interval()
    part = Image.fromarray(np.ascontiguousarray(image[top:bottom, left:right]))
    # One axis after the other: which one Pillow 13 would take first depends on the size of the
    # crop, and shows wherever overshoot is cut off. Rounding must not put a box outside.
    box = (x0 - left, 0, min(x1, columns.source) - left, part.height)
    part = part.resize((columns.size, part.height), Image.Resampling.BICUBIC, box=box)
    box = (0, y0 - top, columns.size, min(y1, rows.source) - top)
    return np.array(part.resize((columns.size, rows.size), Image.Resampling.BICUBIC, box=box))


@TRANSFORMS.register_module()
class ColorJitter(BaseTransform):
    """Change brightness, contrast, saturation and hue by random amounts in random order.

    Amounts and their meaning are torchvision's: each of the first three multiplies by a factor
    uniform in [max(0, 1 - x), 1 + x]; hue shifts along the colour circle by a share of it uniform
    in [-x, x].

    Args:
        brightness: Largest change of the factor.
        contrast: The same; the mean grey level stays.
        saturation: The same; the grey level of each pixel stays.
        hue: Largest shift, at most 0.5.

    Raises:
        ValueError: An amount is negative, or ``hue`` above 0.5.
    """

    def __init__(
        self,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
    ) -> None:
        if min(brightness, contrast, saturation, hue) < 0 or hue > 0.5:
            raise ValueError("brightness, contrast, saturation are at least 0; hue is in 0-0.5")
        amounts = dict(brightness=brightness, contrast=contrast, saturation=saturation, hue=hue)
        self.amounts = {name: amount for name, amount in amounts.items() if amount}

    def transform(self, results: dict) -> dict:
        """Change ``img``."""
        for name in np.random.permutation(list(self.amounts)):
            amount = self.amounts[name]
            if name == "hue":
                value = np.random.uniform(-amount, amount)
            else:
                value = np.random.uniform(max(0.0, 1 - amount), 1 + amount)
            results["img"] = _ADJUST[name](results["img"], value)
        return results

    def __repr__(self) -> str:
        amounts = ", ".join(f"{name}={value}" for name, value in self.amounts.items())
        return f"{type(self).__name__}({amounts})"


# In mmcv these two take ten times as long.
def _brightness(image: np.ndarray, factor: float) -> np.ndarray:
    return cv2.addWeighted(image, factor, image, 0, 0)


def _contrast(image: np.ndarray, factor: float) -> np.ndarray:
    mean = round(cv2.mean(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY))[0])
    return cv2.addWeighted(image, factor, image, 0, mean * (1 - factor))


_ADJUST: dict[str, Callable[[np.ndarray, float], np.ndarray]] = dict(
    brightness=_brightness,
    contrast=_contrast,
    saturation=mmcv.adjust_color,
    hue=mmcv.adjust_hue,
)


@TRANSFORMS.register_module()
class GaussianBlur(BaseTransform):
    """Blur with a Gaussian of random width.

    Args:
        sigma: Lowest and highest standard deviation in pixels.

    Raises:
        ValueError: ``sigma`` is not two values above 0 in ascending order.
    """

    def __init__(self, sigma: tuple[float, float] = (0.15, 1.30)) -> None:
        if len(sigma) != 2 or not 0 < sigma[0] <= sigma[1]:
            raise ValueError(f"sigma is a lowest and a highest value above 0, not {sigma}")
        self.sigma = sigma

    def transform(self, results: dict) -> dict:
        """Change ``img``."""
        results["img"] = cv2.GaussianBlur(results["img"], (0, 0), np.random.uniform(*self.sigma))
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(sigma={self.sigma})"
