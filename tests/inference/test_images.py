import sys
import warnings
from types import SimpleNamespace

import cv2
import mmcv
import numpy as np
import pytest
import torch
from PIL import Image

from pconv_seg.inference import output_paths, predict_file

rasterio = pytest.importorskip("rasterio")

PALETTE = [[0, 0, 0], [200, 100, 50], [10, 250, 90]]


class Preprocessor(torch.nn.Module):
    """mmseg's interface; padding and normalisation that would be noticed."""

    test_cfg = {"size_divisor": 32}

    def forward(self, data, training=False):
        assert self.test_cfg is None
        return {"inputs": [tile[[2, 1, 0]].float() / 255 for tile in data["inputs"]]}


class BrightestChannel(torch.nn.Module):
    """A model whose classes are red, green and blue."""

    def __init__(self):
        super().__init__()
        self.data_preprocessor = Preprocessor()
        self.dataset_meta = {"palette": PALETTE}
        self.eval()

    def encode_decode(self, tiles, metas):
        assert tiles.max() <= 1
        return tiles


def rgb_image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write_tiff(path, bands, **profile):
    """``bands`` is [count, H, W]."""
    count, height, width = bands.shape
    profile = {"count": count, "height": height, "width": width, "dtype": bands.dtype, **profile}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver="GTiff", **profile) as file:
            file.write(bands)
    return path


def overlay_of(rgb, labels):
    return rgb // 2 + np.array(PALETTE, np.uint8)[labels] // 2


@pytest.mark.parametrize(("tile", "overlap"), [(16, "1/3"), (64, 0.5), ((7, 40), 0)])
def test_png(tmp_path, tile, overlap):
    rgb = rgb_image(37, 61)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    paths = predict_file(BrightestChannel(), tmp_path / "a.png", tmp_path / "out", tile, overlap)
    assert paths == output_paths("a.png", tmp_path / "out")
    assert [path.name for path in paths] == ["a_labels.png", "a_overlay.png"]
    labels, overlay = (np.asarray(Image.open(path)) for path in paths)
    assert labels.dtype == np.uint8
    assert (labels == rgb.argmax(2)).all()
    assert (overlay == overlay_of(rgb, labels)).all()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [p.name for p in paths]


@pytest.mark.parametrize("channels", [1, 3])
def test_more_than_8_bits_are_refused(tmp_path, channels):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((9, 9, channels), 700, np.uint16))
    with pytest.raises(ValueError, match=r"a\.png: expected 8 bits per channel, got uint16"):
        predict_file(BrightestChannel(), tmp_path / "a.png", tmp_path / "out", 16)
    assert not (tmp_path / "out").exists()


def test_a_model_in_training_mode_is_refused(tmp_path):
    Image.fromarray(rgb_image(9, 9)).save(tmp_path / "a.png")
    with pytest.raises(
        ValueError, match=rf"^{tmp_path}/a\.png: BrightestChannel is in training mode: call"
    ):
        predict_file(BrightestChannel().train(), tmp_path / "a.png", tmp_path / "out", 16)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("photometric", "alpha"), [("RGB", False), ("RGB", True), ("MINISBLACK", False)]
)
def test_tiff(tmp_path, photometric, alpha):
    rgb = rgb_image(700, 90)
    bands = rgb.transpose(2, 0, 1)
    if alpha:
        bands = np.concatenate([bands, np.full((1, 700, 90), 255, np.uint8)])
    place = {"crs": "EPSG:32632", "transform": rasterio.Affine(0.5, 0, 600000, 0, -0.5, 5340000)}
    image = write_tiff(
        tmp_path / "a.tiff",
        bands,
        tiled=True,
        blockxsize=64,
        blockysize=64,
        photometric=photometric,
        alpha="YES" if alpha else "NO",
        **place,
    )
    paths = predict_file(BrightestChannel(), image, tmp_path, 64, "1/3", batch_size=3)
    assert [path.name for path in paths] == ["a_labels.tif", "a_overlay.tif"]
    for path, expected in zip(paths, (rgb.argmax(2), overlay_of(rgb, rgb.argmax(2))), strict=True):
        with rasterio.open(path) as file:
            assert file.profile["tiled"]
            assert (file.crs, file.transform) == (rasterio.CRS.from_epsg(32632), place["transform"])
            assert file.dtypes[0] == "uint8"
            pixels = file.read()
        assert (pixels == np.atleast_3d(expected).transpose(2, 0, 1)).all()


@pytest.mark.parametrize("crs", [rasterio.CRS.from_epsg(32632), None])
def test_control_points_are_written_too(tmp_path, crs):
    corners = [(0, 0, 600000, 5340000), (0, 30, 600015, 5340001), (20, 0, 600002, 5339990)]
    points = [rasterio.control.GroundControlPoint(*corner) for corner in corners]
    grey = rgb_image(20, 30)[None, ..., 0]
    image = write_tiff(tmp_path / "a.tif", grey, gcps=points, crs=crs or rasterio.CRS())
    for path in predict_file(BrightestChannel(), image, tmp_path, 16):
        with rasterio.open(path) as file:
            points, written = file.gcps
        assert [(point.row, point.col, point.x, point.y) for point in points] == corners
        assert written == crs


def test_rpcs_are_written_too(tmp_path):
    one, quarters = [1, *[0] * 19], [0.25] * 20
    rpcs = rasterio.rpc.RPC(9, 100, 48, 0.1, one, quarters, 10, 10, 11, 0.1, one, quarters, 15, 15)
    image = write_tiff(tmp_path / "a.tif", rgb_image(20, 30)[None, ..., 0], rpcs=rpcs)
    with rasterio.open(image) as file:
        rpcs = file.rpcs
    assert (rpcs.lat_off, rpcs.samp_num_coeff) == (48, quarters)
    for path in predict_file(BrightestChannel(), image, tmp_path, 16):
        with rasterio.open(path) as file:
            assert file.rpcs == rpcs


def test_tiff_is_never_held_as_a_whole(tmp_path, monkeypatch):
    heights = []
    image = write_tiff(
        tmp_path / "tall.tif",
        rgb_image(4000, 40).transpose(2, 0, 1),
        tiled=True,
        blockxsize=16,
        blockysize=16,
        photometric="RGB",
    )
    opened = rasterio.open
    monkeypatch.setattr(
        "rasterio.open",
        lambda *args, **kwargs: (
            CountingReader(opened(image), heights) if args == (image,) else opened(*args, **kwargs)
        ),
    )
    predict_file(BrightestChannel(), image, tmp_path, 32, 0.5)
    assert len(heights) > 2 * 4000 / 32
    assert max(heights) <= 32


class CountingReader:
    """Notes the heights of windows; a proxy, since rasterio's readers are extension types."""

    def __init__(self, file, heights):
        self.file, self.heights = file, heights

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def read(self, bands, window):
        self.heights.append(window[0][1] - window[0][0])
        return self.file.read(bands, window=window)


def test_bands_are_the_colours_that_they_say(tmp_path):
    rgb = rgb_image(30, 40)
    image = write_tiff(tmp_path / "a.tif", rgb.transpose(2, 0, 1)[::-1])
    with rasterio.open(image, "r+") as file:
        colours = rasterio.enums.ColorInterp
        file.colorinterp = (colours.blue, colours.green, colours.red)
    paths = predict_file(BrightestChannel(), image, tmp_path, 16)
    for path, expected in zip(paths, (rgb.argmax(2), overlay_of(rgb, rgb.argmax(2))), strict=True):
        with rasterio.open(path) as file:
            assert (file.read() == np.atleast_3d(expected).transpose(2, 0, 1)).all()


@pytest.mark.parametrize("alpha", [False, True])
def test_grey_tiff_is_read_as_mmcv_reads_grey(tmp_path, alpha, recwarn):
    bands = rgb_image(30, 40).transpose(2, 0, 1)[: 1 + alpha]
    image = write_tiff(tmp_path / "a.tif", bands, alpha="YES" if alpha else "NO")
    model = BrightestChannel()
    model.encode_decode = lambda tiles, metas: tiles - 0.5 * torch.eye(3)[0].view(1, 3, 1, 1)
    labels, overlay = predict_file(model, image, tmp_path, 16)
    assert not recwarn.list  # of the missing georeference
    with rasterio.open(labels) as file:
        assert (file.read(1) == 1).all()
    with rasterio.open(overlay) as file:
        assert (file.read() == bands[0] // 2 + np.array(PALETTE[1])[:, None, None] // 2).all()


def test_tiff_whose_zeros_are_white_is_read_as_mmcv_reads_it(tmp_path):
    bands = rgb_image(30, 40).transpose(2, 0, 1)[:1]
    image = write_tiff(tmp_path / "a.tif", bands, photometric="MINISWHITE")
    shown = mmcv.imread(str(image), "color", channel_order="rgb")
    assert np.array_equal(shown, 255 - np.repeat(bands[0, ..., None], 3, 2))
    _, overlay = predict_file(BrightestChannel(), image, tmp_path, 16)
    with rasterio.open(overlay) as file:
        assert np.array_equal(file.read().transpose(1, 2, 0), overlay_of(shown, shown.argmax(2)))


def test_one_logit_is_thresholded(tmp_path):
    rgb = rgb_image(20, 20)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    model = BrightestChannel()
    model.encode_decode = lambda tiles, metas: tiles[:, :1] - 0.5
    model.decode_head = SimpleNamespace(threshold=0.5)
    labels, _ = predict_file(model, tmp_path / "a.png", tmp_path, 8)
    assert (np.asarray(Image.open(labels)) == (rgb[..., 0] > 127)).all()


def test_palettes_may_have_more_colours_than_uint8_counts(tmp_path):
    rgb, model = rgb_image(9, 12), BrightestChannel()
    model.dataset_meta = {"palette": PALETTE + [[255, 255, 255]] * 253}
    Image.fromarray(rgb).save(tmp_path / "a.png")
    labels, overlay = map(Image.open, predict_file(model, tmp_path / "a.png", tmp_path, 16))
    assert np.array_equal(overlay, overlay_of(rgb, np.asarray(labels)))


@pytest.mark.parametrize("meta", [{"palette": None}, {"palette": []}, None])
def test_without_palette_classes_still_differ(tmp_path, meta):
    Image.fromarray(rgb_image(8, 8)).save(tmp_path / "a.png")
    model = BrightestChannel()
    model.dataset_meta = meta
    labels, overlay = predict_file(model, tmp_path / "a.png", tmp_path, 8)
    labels = np.asarray(Image.open(labels))
    colours = np.array([(31, 119, 180), (174, 199, 232), (255, 127, 14)], np.uint8)  # of tab20
    assert (np.asarray(Image.open(overlay)) == rgb_image(8, 8) // 2 + colours[labels] // 2).all()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_more_classes_than_a_byte_holds_and_than_colours_there_are(tmp_path, suffix):
    rgb = rgb_image(20, 30) // 2 + 22
    classes = rgb[..., 0].astype(int) + rgb[..., 1]  # 44 .. 298
    if suffix == "png":
        Image.fromarray(rgb).save(tmp_path / "a.png")
    else:
        write_tiff(tmp_path / "a.tif", rgb.transpose(2, 0, 1), photometric="RGB")
    model = BrightestChannel()

    def encode_decode(tiles, metas):
        said = (255 * (tiles[:, 0] + tiles[:, 1])).round().long()
        return torch.nn.functional.one_hot(said, 300).permute(0, 3, 1, 2).float()

    model.encode_decode = encode_decode
    labels, overlay = predict_file(model, tmp_path / f"a.{suffix}", tmp_path / "out", 16)
    written = cv2.imread(str(labels), cv2.IMREAD_UNCHANGED)
    assert written.dtype == np.uint16
    assert (written == classes).all()
    assert (np.array(Image.open(overlay)) == overlay_of(rgb, classes % 3)).all()


@pytest.mark.parametrize(
    ("bands", "profile", "message"),
    [
        (
            np.zeros((3, 8, 8), np.uint16),
            {},
            "expected 8-bit grey or RGB, with or without alpha, got uint16",
        ),
        (np.zeros((2, 8, 8), np.uint8), {}, "with bands gray, undefined"),
        (np.zeros((4, 8, 8), np.uint8), {"photometric": "RGB"}, "red, green, blue, undefined"),
        (np.zeros((1, 8, 8), np.uint8), {"photometric": "palette"}, "with bands palette"),
        (
            np.zeros((2, 8, 8), np.uint8),
            {"photometric": "palette", "alpha": "YES"},
            "with bands palette, alpha",
        ),
    ],
)
def test_other_kinds_of_tiff_are_refused(tmp_path, bands, profile, message):
    image = write_tiff(tmp_path / "odd.tif", bands, **profile)
    advice = (
        "-scale for more bits, -expand rgb for a palette, -b 1 or -b 1 -b 2 -b 3 for more bands"
    )
    with pytest.raises(ValueError, match=f"odd.tif: .*{message}.*{advice}"):
        predict_file(BrightestChannel(), image, tmp_path, 8)


@pytest.mark.parametrize(
    ("bits", "photometric", "scale"),
    [(2, "RGB", "0 3 0 255"), (7, "RGB", "0 127 0 255"), (4, "MINISWHITE", "0 15 255 0")],
)
def test_tiff_of_fewer_than_8_bits_is_refused(tmp_path, bits, photometric, scale):
    bands = np.ones((3 if photometric == "RGB" else 1, 8, 8), np.uint8)
    image = write_tiff(tmp_path / "a.tif", bands, nbits=bits, photometric=photometric)
    message = rf"a\.tif: expected 8 bits per channel, got {bits}; .* -scale {scale} "
    with pytest.raises(ValueError, match=message):
        predict_file(BrightestChannel(), image, tmp_path, 8)


@pytest.mark.parametrize("content", ["hello", ""])
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_what_is_no_image_is_named(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=name):
        predict_file(BrightestChannel(), tmp_path / name, tmp_path, 8)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_a_missing_image_is_named(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=name):
        predict_file(BrightestChannel(), tmp_path / name, tmp_path, 8)


def test_a_damaged_tiff_is_named_and_nothing_is_written(tmp_path):
    image = write_tiff(tmp_path / "a.tif", rgb_image(600, 90).transpose(2, 0, 1))
    image.write_bytes(image.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"a\.tif: damaged, perhaps not completely copied: "):
        predict_file(BrightestChannel(), image, tmp_path / "out", 16)
    assert list((tmp_path / "out").iterdir()) == []


def test_missing_rasterio_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(ModuleNotFoundError, match="pconv-seg\\[large-images\\]"):
        predict_file(BrightestChannel(), tmp_path / "a.tif", tmp_path, 8)


@pytest.mark.parametrize(
    ("suffix", "height", "width", "room", "message"),
    [
        ("png", 60, 60, 8_000, r"File too large: '.*/a_overlay\.png'$"),
        # Found when the file is closed, and before.
        ("tif", 60, 60, 8_000, r"^a_overlay\.tif could not be written as a whole: is "),
        ("tif", 1500, 600, 50_000, r"^a_overlay\.tif could not be written as a whole: is "),
    ],
)
def test_a_result_without_room_is_an_error_and_is_not_there(
    tmp_path, suffix, height, width, room, message
):
    resource = pytest.importorskip("resource")
    rgb, image = rgb_image(height, width), tmp_path / f"a.{suffix}"
    if suffix == "png":
        Image.fromarray(rgb).save(image)
    else:
        write_tiff(image, rgb.transpose(2, 0, 1))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(OSError, match=message):
            predict_file(BrightestChannel(), image, tmp_path / "out", 64)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list((tmp_path / "out").iterdir()) == []


def test_failure_leaves_nothing_behind(tmp_path):
    image = write_tiff(tmp_path / "a.tif", rgb_image(600, 30).transpose(2, 0, 1))
    model, calls = BrightestChannel(), []

    def fail_late(tiles, metas):
        calls.append(1)
        if len(calls) == 30:
            raise RuntimeError("broken")
        return tiles

    model.encode_decode = fail_late
    with pytest.raises(RuntimeError, match="broken"):
        predict_file(model, image, tmp_path / "out", 16)
    assert list((tmp_path / "out").iterdir()) == []


def test_what_a_killed_process_left_of_these_files_is_removed(tmp_path):
    rgb = rgb_image(8, 8)
    Image.fromarray(rgb).save(tmp_path / "a[1].png")
    for name in ("a[1]_labels.png", "a[1]_overlay.png", "a1_labels.png"):
        folder = tmp_path / f"out/.{name}.abcd_123"
        folder.mkdir(parents=True)
        (folder / name).write_text("half")
    labels, overlay = predict_file(BrightestChannel(), tmp_path / "a[1].png", tmp_path / "out", 8)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    # The last is of another image, which another process may be writing.
    assert names == {labels.name, overlay.name, ".a1_labels.png.abcd_123"}
