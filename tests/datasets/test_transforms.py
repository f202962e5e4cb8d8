import colorsys

import cv2
import numpy as np
import pytest
from mmengine.registry import TRANSFORMS
from PIL import Image, ImageEnhance
from scipy import ndimage

from pconv_seg.datasets.sampling.draw import seeded


def build(type_, **kwargs):
    return TRANSFORMS.build({"type": type_, **kwargs})


@pytest.fixture
def results():
    """An image with structure at all scales, and labels that number its pixels modulo 251."""
    rng = np.random.default_rng(0)
    coarse = cv2.resize(rng.integers(256, size=(9, 13, 3), dtype=np.uint8), (151, 97))
    image = (coarse // 2 + rng.integers(128, size=(97, 151, 3))).astype(np.uint8)
    label = (np.arange(97 * 151) % 251).reshape(97, 151).astype(np.uint8)
    return {"img": image, "gt_seg_map": label, "seg_fields": ["gt_seg_map"]}


@pytest.mark.parametrize("factor", [0.5, 0.73, 1.0, 1.31, 2.0])
@pytest.mark.parametrize("center", [None, (0, 0), (96, 150), (40, 77)])
def test_equals_cropping_the_scaled_image(results, factor, center):
    if center is not None:
        results["crop_center"] = center
    image, label = results["img"], results["gt_seg_map"]
    transform = build("RandomScaleCrop", crop_size=(40, 48), scale=(factor, factor))
    height, width = round(97 * factor), round(151 * factor)
    scaled = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    scaled_label = Image.fromarray(label).resize((width, height), Image.Resampling.NEAREST)
    whole, whole_label = np.array(scaled).astype(int), np.array(scaled_label)
    for seed in range(10):
        with seeded(seed):
            out = transform(dict(results))
        assert out["img_shape"] == out["img"].shape[:2] == out["gt_seg_map"].shape
        size = min(40, height), min(48, width)
        assert out["img_shape"] == size
        # The labels tell where the crop lies: rows and columns of its first pixel.
        starts = whole_label[: height - size[0] + 1, : width - size[1] + 1]
        places = [
            (top, left)
            for top, left in np.argwhere(starts == out["gt_seg_map"][0, 0])
            if (whole_label[top : top + size[0], left : left + size[1]] == out["gt_seg_map"]).all()
            and np.abs(whole[top : top + size[0], left : left + size[1]] - out["img"]).max() <= 1
        ]
        assert places
        assert out["scale_factor"] == (width / 151, height / 97)
        if center is not None:
            y, x = int((center[0] + 0.5) * height / 97), int((center[1] + 0.5) * width / 151)
            assert any(
                top <= y < top + size[0] and left <= x < left + size[1] for top, left in places
            )


@pytest.mark.parametrize(
    ("size", "factor", "crop_size"),
    [((20, 30), 1.5, (4, 45)), ((20, 30), 1.5, (30, 5)), ((120, 180), 0.25, (8, 9))],
)
def test_overshoot_is_cut_off_alike_in_crops_of_all_shapes(size, factor, crop_size):
    """Between black and white, where it shows which axis is interpolated first, and how far."""
    image = 255 * np.random.default_rng(0).integers(2, size=(*size, 3), dtype=np.uint8)
    wide = Image.fromarray(image).resize((45, size[0]), Image.Resampling.BICUBIC)
    whole = np.array(wide.resize((45, 30), Image.Resampling.BICUBIC)).astype(int)
    transform = build("RandomScaleCrop", crop_size=crop_size, scale=(factor, factor))
    height, width = crop_size
    for seed in range(10):
        with seeded(seed):
            out = transform({"img": image})["img"]
        crops = (
            whole[top : top + height, left : left + width]
            for top in range(30 - height + 1)
            for left in range(45 - width + 1)
        )
        assert min(np.abs(crop - out).max() for crop in crops) <= 2


def test_reads_no_more_than_the_crop_needs(results, monkeypatch):
    read = []
    fromarray = Image.fromarray
    monkeypatch.setattr(Image, "fromarray", lambda a: read.append(a.shape) or fromarray(a))
    build("RandomScaleCrop", crop_size=20, scale=(2, 2))(results)
    assert max(read[0][:2]) <= 10 + 2 * 4 + 1


def test_positions_of_the_crop_are_uniform():
    """One source pixel per label: every start comes up, and equally often."""
    label = np.arange(12, dtype=np.uint8)[None]
    image = np.zeros((1, 12, 3), np.uint8)
    transform = build("RandomScaleCrop", crop_size=(1, 5), scale=(1, 1))
    np.random.seed(0)

    def starts(**kwargs):
        base = {"img": image, "seg_fields": ["gt_seg_map"], **kwargs}
        crops = [transform({**base, "gt_seg_map": label})["gt_seg_map"] for _ in range(4000)]
        return np.bincount([crop[0, 0] for crop in crops], minlength=8) / 4000

    np.testing.assert_allclose(starts(), np.full(8, 1 / 8), atol=0.02)
    inside = starts(crop_center=(0, 6))
    np.testing.assert_allclose(inside, [0, 0, 0.2, 0.2, 0.2, 0.2, 0.2, 0], atol=0.03)
    # Those that would begin before the image begin with it.
    np.testing.assert_allclose(starts(crop_center=(0, 1)), [0.8, 0.2, *[0] * 6], atol=0.03)


def test_the_centre_is_that_of_a_pixel():
    """Of three times the size, it is the middle one of the three that the pixel becomes."""
    label = np.arange(12, dtype=np.uint8)[None]
    results = {"img": np.zeros((1, 12, 3), np.uint8), "seg_fields": ["gt_seg_map"]}
    results["crop_center"] = (0, 6)
    transform = build("RandomScaleCrop", crop_size=(1, 5), scale=(3, 3))
    np.random.seed(0)
    crops = [transform({**results, "gt_seg_map": label})["gt_seg_map"][0] for _ in range(2000)]
    scaled = np.arange(12).repeat(3)
    windows = {tuple(scaled[start : start + 5]): start for start in range(32)}
    starts = np.bincount([windows[tuple(crop)] for crop in crops], minlength=32) / 2000
    # Those that contain 19.
    np.testing.assert_allclose(starts[15:20], np.full(5, 0.2), atol=0.04)
    assert starts.sum() == pytest.approx(starts[15:20].sum())


def test_something_stays_of_the_smallest_image():
    results = {"img": np.full((1, 3, 3), 7, np.uint8), "seg_fields": ["gt_seg_map"]}
    results["gt_seg_map"] = np.array([[1, 2, 3]], np.uint8)
    out = build("RandomScaleCrop", crop_size=4, scale=(0.3, 0.3))(results)
    np.testing.assert_array_equal(out["img"], np.full((1, 1, 3), 7))
    np.testing.assert_array_equal(out["gt_seg_map"], [[2]])


def test_scales_are_uniform(results):
    transform = build("RandomScaleCrop", crop_size=(1000, 1000))
    np.random.seed(0)
    factors = [transform(dict(results))["scale_factor"][0] for _ in range(1000)]
    counts, _ = np.histogram(factors, bins=5, range=(0.5, 2.0))
    assert counts.sum() == 1000
    assert np.abs(counts - 200).max() < 50


def test_the_resized_image_counts_as_the_original(results):
    results["ori_shape"] = (97, 151)
    original = dict(results)
    out = build("ResizeOriginal", scale=(75, 48), interpolation="area")(results)
    assert out["ori_shape"] == out["img_shape"] == (48, 75)
    expected = cv2.resize(original["img"], (75, 48), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(out["img"], expected)
    expected = cv2.resize(original["gt_seg_map"], (75, 48), interpolation=cv2.INTER_NEAREST)
    np.testing.assert_array_equal(out["gt_seg_map"], expected)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_jitter_is_that_of_pillow(results, name, monkeypatch):
    """torchvision's adjustments of Pillow images are these enhancers."""
    monkeypatch.setattr(np.random, "uniform", lambda low, high: high)
    results["img"][..., 0] //= 8  # of one colour more than of the others
    out = build("ColorJitter", **{name: 0.25})(dict(results))["img"]
    enhancer = {"saturation": "Color"}.get(name, name.title())
    image = Image.fromarray(results["img"][..., ::-1])
    expected = np.array(getattr(ImageEnhance, enhancer)(image).enhance(1.25))[..., ::-1]
    assert np.abs(out.astype(int) - expected).max() <= 2


def test_hue_turns_the_colour_circle(monkeypatch):
    monkeypatch.setattr(np.random, "uniform", lambda low, high: high)
    image = np.array([[[30, 60, 200], [10, 250, 40], [128, 128, 128]]], np.uint8)
    out = build("ColorJitter", hue=0.25)({"img": image})["img"]
    for before, after in zip(image[0], out[0], strict=True):
        h, s, v = colorsys.rgb_to_hsv(*(before[::-1] / 255))
        expected = np.array(colorsys.hsv_to_rgb((h + 63 / 255) % 1, s, v)) * 255
        np.testing.assert_allclose(after[::-1], expected, atol=5)


def test_jitter_draws_what_torchvision_draws(results, monkeypatch):
    bounds, orders = [], set()

    def uniform(low, high):
        bounds.append((float(low), float(high)))
        return 0.0 if low < 0 else 1.0

    monkeypatch.setattr(np.random, "uniform", uniform)
    permutation = np.random.permutation
    monkeypatch.setattr(
        np.random, "permutation", lambda x: orders.add(tuple(p := permutation(x))) or p
    )
    np.random.seed(0)
    jitter = build("ColorJitter", brightness=0.25, contrast=0.5, saturation=2, hue=0.1)
    for _ in range(200):
        out = jitter(dict(results))["img"]
        # The way to HSV of 8 bits and back costs a few grey levels, in Pillow as well.
        assert np.abs(out.astype(int) - results["img"]).max() <= 8
    assert set(bounds) == {(0.75, 1.25), (0.5, 1.5), (0.0, 3.0), (-0.1, 0.1)}
    assert len(orders) == 24


@pytest.mark.parametrize("sigma", [0.15, 0.7, 1.3])
def test_blur_is_that_of_scipy(results, sigma):
    out = build("GaussianBlur", sigma=(sigma, sigma))(dict(results))["img"]
    image = results["img"].astype(float)
    expected = ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="mirror", truncate=3)
    assert np.abs(out - expected).max() <= 1.5


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (dict(type="RandomScaleCrop", crop_size=(4, 4), scale=(2, 1)), "scale"),
        (dict(type="RandomScaleCrop", crop_size=(4, 4), scale=(0.5, 1, 2)), "scale"),
        (dict(type="RandomScaleCrop", crop_size=(4, 4), scale=(0, 1)), "scale"),
        (dict(type="RandomScaleCrop", crop_size=(4, 4, 3)), "crop_size"),
        (dict(type="ColorJitter", hue=0.6), "hue"),
        (dict(type="ColorJitter", contrast=-0.1), "contrast"),
        (dict(type="GaussianBlur", sigma=(0, 1)), "sigma"),
        (dict(type="GaussianBlur", sigma=(0.1, 0.2, 0.3)), "sigma"),
        (dict(type="GaussianBlur", sigma=(2, 1)), "sigma"),
    ],
)
def test_bad_arguments(config, message):
    with pytest.raises(ValueError, match=message):
        TRANSFORMS.build(config)
