"""The shift test with a network whose answer is known: see known_segmentor."""

import json
import re

import numpy as np
import pytest
import torch
from known_segmentor import SIZE
from PIL import Image

from pconv_seg.evaluation.bootstrap import score_difference
from pconv_seg.evaluation.confusion import mean_iou, pixel_accuracy
from pconv_seg.evaluation.record import Tested
from pconv_seg.evaluation.shift import (
    ShiftImage,
    image_files,
    predict_grids,
    shift_checkpoints,
    shift_regions,
    shift_test,
)
from pconv_seg.evaluation.shift_record import ShiftRecord
from pconv_seg.evaluation.shift_tables import shift_tables
from pconv_seg.geometry import ShiftedGrids, ShiftRegions

TOOL = "border_eval"
TILE = (16, 20)  # its interior begins at 4 pixels
IMAGES = 6
IGNORED = 7
SCORES = {"aAcc": pixel_accuracy, "mIoU": mean_iou}


class TakeFirst(torch.nn.Module):
    def forward(self, x):
        return [x]


@pytest.fixture
def trained(make_config, make_checkpoint, tmp_path):
    """A config file, and checkpoints of networks that are blind within 3 pixels and within 1."""
    config = make_config(images=IMAGES, ignore_index=IGNORED)
    file = tmp_path / "config.py"
    config.dump(file)
    checkpoints = [make_checkpoint(config, tmp_path / f"blind{w}.pth", width=w) for w in (3, 1)]
    return str(file), *checkpoints


def expected(folder, width, start, stop):
    """Pixels, changed pixels, and areas as border and as interior, counted from the truth.

    The network is blind within ``width`` pixels of a seam, and of the border of the image in either
    role; elsewhere it is right.
    """
    distance, _ = ShiftedGrids(SIZE, TILE).compared()
    chosen = (distance >= start) & (distance < stop)
    y, x = np.indices(SIZE)
    frame = np.minimum.reduce([y, SIZE[0] - 1 - y, x, SIZE[1] - 1 - x]) < width
    pixels, changed, areas = 0, 0, np.zeros((2, IMAGES, 3, 3), int)
    for i in range(IMAGES):
        truth = np.array(Image.open(folder / f"images/{i}.png"))[..., ::-1].argmax(-1)
        label = np.array(Image.open(folder / f"labels/{i}.png"))
        roles = [np.where(frame | (distance < width), 0, truth), np.where(frame, 0, truth)]
        pixels += chosen.sum()
        changed += (chosen & (roles[0] != roles[1])).sum()
        counted = chosen & (label != IGNORED)
        for role, prediction in enumerate(roles):
            for c in range(3):
                masks = (label == c) & (prediction == c), label == c, prediction == c
                areas[role, i, :, c] = [(mask & counted).sum() for mask in masks]
    return pixels, changed, areas


def scores(areas):
    intersection, label, prediction = areas.sum(0)
    iou = intersection / (label + prediction - intersection)
    return 100 * intersection.sum() / label.sum(), 100 * np.nanmean(iou)


def test_numbers_of_two_checkpoints(main, trained, tmp_path, capsys):
    out, plot = tmp_path / "new/shift.json", tmp_path / "shift.svg"
    arguments = ["--shift-test", "--tile", *map(str, TILE), "--bin-width", "1", "--batch-size", "3"]
    arguments += ["--tolerance", "0", "0.9", "--seed", "5"]
    main([*trained, *arguments, "--out", str(out), "--plot", str(plot)])
    results = json.loads(out.read_text())["shift_test"]
    text = capsys.readouterr().out
    assert plot.read_text().startswith("<?xml")
    for result, checkpoint, width in zip(results, trained[1:], (3, 1), strict=True):
        assert result["checkpoint"] == checkpoint
        assert (result["tile"], result["interior"], result["images"]) == ([16, 20], 4, IMAGES)
        bins = result["bins"]
        assert [(b["from_pixel"], b["to_pixel"]) for b in bins] == [(0, 1), (1, 2), (2, 3), (3, 4)]
        for row in (*bins, {**result["total"], "from_pixel": 0, "to_pixel": 4}):
            start, stop = row["from_pixel"], row["to_pixel"]
            pixels, changed, areas = expected(tmp_path / "data", width, start, stop)
            assert row["pixels"] == pixels
            assert row["agreement"] == pytest.approx(100 * (1 - changed / pixels))
            border, interior = (scores(role) for role in areas)
            for name, low, high in zip(SCORES, border, interior, strict=True):
                assert row[name]["border"] == pytest.approx(low)
                assert row[name]["interior"] == pytest.approx(high)
                assert row[name]["cost"] == pytest.approx(high - low)
                cost = score_difference(areas.swapaxes(0, 1), SCORES[name], seed=5)
                assert row[name]["interval"] == pytest.approx([100 * cost.low, 100 * cost.high])
        for row in bins:
            pixels, changed, _ = expected(tmp_path / "data", width, row["from_pixel"], 4)
            assert row["overlap"] == 2 * row["from_pixel"]
            assert row["changed"] == pytest.approx(100 * changed / pixels)
        # Beyond the reach of a seam, nothing changes: an overlap of twice that reach is enough.
        assert all(b["agreement"] == 100 for b in bins[width:])
        assert bins[width - 1]["agreement"] < 100
        assert result["recommended"] == [
            {"tolerance": 0, "overlap": 2 * width, "changed": 0},
            {"tolerance": 0.9, "overlap": 0, "changed": bins[0]["changed"]},
        ]
        assert f"{2 * width}: 0.00%" in text
        assert f"{result['total']['mIoU']['cost']:+.2f}" in text


def test_agreement_of_a_folder_without_labels(main, trained, tmp_path, capsys):
    arguments = ["--shift-test", "--tile", *map(str, TILE), "--bin-width", "1", "--tolerance", "0"]
    labelled = main([*trained, *arguments])
    for path in tmp_path.glob("data/labels/*"):
        path.unlink()
    (tmp_path / "data/folder.png").mkdir()
    (tmp_path / "data/notes.txt").write_text("no image")
    # Links are followed, and no folder is taken twice.
    (tmp_path / "data/images").rename(tmp_path / "elsewhere")
    (tmp_path / "data/images").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "data")
    capsys.readouterr()
    plot = str(tmp_path / "plot.png")
    images = ["--images", str(tmp_path / "data"), "--plot", plot]
    plain = main([*trained, *arguments, *images])
    for row in labelled["shift_test"]:
        for cell in (row["total"], *row["bins"]):
            del cell["aAcc"], cell["mIoU"]
    assert plain == labelled
    assert "mIoU" not in capsys.readouterr().out
    Image.open(plot).verify()


def test_a_tolerance_is_met_exactly():
    regions = shift_regions(8, 1)
    pixels, agreeing = (np.array([[0, count]]) for count in (1000, 995))
    record = ShiftRecord(None, regions, ("a.png",), pixels, agreeing, None)
    assert record.changed().tolist() == [0.005, 0.005]
    assert record.overlap(0.005) == 0
    assert record.overlap(0.00499) is None


def test_a_later_bin_that_changes_more_rules_out_an_earlier_overlap():
    regions = shift_regions((16, 20), 1)
    pixels = np.full((1, 4), 1000)
    # From the bins on, shares of 0.0015, 0.002, 0.003 and 0.001 of the pixels change.
    agreeing = pixels - [[0, 0, 5, 1]]
    record = ShiftRecord(None, regions, ("a.png",), pixels, agreeing, None)
    assert record.changed() == pytest.approx([0.0015, 0.002, 0.003, 0.001])
    overlaps = [record.overlap(tolerance) for tolerance in (0.0031, 0.0021, 0.0016, 0.0009)]
    assert overlaps == [0, 6, 6, None]


@pytest.mark.parametrize("first", [(130, 200), (200, 130)])
def test_tiles_and_bins_default_to_the_first_image(make_config, make_segmentor, first):
    model = make_segmentor(make_config()).eval()
    images = [ShiftImage("a", torch.zeros(3, *size)) for size in (first, (60, 300))]
    [record] = shift_test([model], [None], images)
    assert record.regions == ShiftRegions((130, 130), 2)
    assert shift_regions((256, 128)).bin_width == 2
    assert shift_regions(63).bin_width == 1


def test_images_are_found_below_a_folder_whatever_the_case_of_their_suffix(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("b/1.JPG", "c.png", "a.Tif", "d.txt"):
        (tmp_path / name).touch()
    assert image_files(tmp_path) == [tmp_path / name for name in ("a.Tif", "b/1.JPG", "c.png")]


def test_an_overlap_that_the_interior_is_too_small_for(main, trained, capsys):
    arguments = ["--shift-test", "--tile", "12", "--bin-width", "1", "--tolerance", "0"]
    wide, narrow = main([*trained, *arguments])["shift_test"]  # the interior begins at 3 pixels
    assert wide["recommended"] == [{"tolerance": 0, "overlap": None, "changed": None}]
    assert narrow["recommended"] == [{"tolerance": 0, "overlap": 2, "changed": 0}]
    text = capsys.readouterr().out
    assert "none: of the pixels 2 px and more from the seam" in text
    assert "still change. Larger tiles reach farther.\n" in text  # no bin is narrower than 1 pixel
    main([*trained, *arguments[:3], "--bin-width", "2", *arguments[5:]])
    assert "Larger tiles reach farther, and narrower bins (--bin-width) " in capsys.readouterr().out


def test_costs_without_an_interval_say_why(main, trained, tmp_path, capsys):
    arguments = ["--shift-test", "--tile", "12", "--bin-width", "3"]
    main([*trained, *arguments])
    assert "no interval" not in capsys.readouterr().out
    for path in tmp_path.glob("data/*/5.png"):
        path.unlink()
    cost = main([*trained, *arguments])["shift_test"][0]["total"]["aAcc"]["cost"]
    text = capsys.readouterr().out
    assert f" {cost:+.2f} none |" in text
    assert "\nno interval (none): fewer than 6 images, or" in text
    for path in tmp_path.glob("data/labels/*.png"):
        Image.fromarray(np.full(SIZE, IGNORED, np.uint8)).save(path)
    main([*trained, *arguments])
    assert re.search(r"\| +none \|", capsys.readouterr().out)


def test_a_distance_alone_without_an_interval_says_why():
    pixels = np.full((IMAGES, 2), 20)
    areas = np.full((2, IMAGES, 2, 3, 1), 10)
    areas[:, :, :, 0] = np.arange(1, IMAGES + 1)[:, None, None]
    tested, images = Tested("a.pth", "zeros", "zeros"), tuple("abcdef")

    def text():
        record = ShiftRecord(tested, ShiftRegions(TILE, 2), images, pixels, pixels, areas)
        return shift_tables([record.as_dict()])

    assert "no interval (none)" not in text()
    areas[:, 1:, 1] = 0  # one image alone has labels there, and not every resample has it
    assert "\nno interval (none): fewer than 6 images, or a resample of them has no" in text()
    assert len(re.findall(r" none \|", text())) == len(SCORES)


def test_each_tolerance_has_one_column(main, trained, capsys):
    tolerances = ["0.005", "0.0050000001", "0.005"]
    arguments = ["--shift-test", "--tile", "12", "--bin-width", "1", "--tolerance", *tolerances]
    for result in main([*trained, *arguments])["shift_test"]:
        assert [row["tolerance"] for row in result["recommended"]] == [0.005, 0.0050000001]
    assert re.search(r"<= 0\.5% +\| +<= 0\.50000001% +\|", capsys.readouterr().out)


def test_records_keep_images_apart(make_config, trained, tmp_path):
    config = make_config(images=IMAGES, ignore_index=IGNORED)
    records = shift_checkpoints(config, trained[1:], TILE, bin_width=4, progress=False)
    for record, width in zip(records, (3, 1), strict=True):
        pixels, changed, areas = expected(tmp_path / "data", width, 0, 4)
        assert len(record.images) == IMAGES
        assert record.pixels.tolist() == [[pixels // IMAGES]] * IMAGES
        assert (record.pixels - record.agreeing).sum() == changed
        assert np.array_equal(record.areas[:, :, 0], areas)


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
def test_a_convolution_is_the_same_from_its_radius_on(make_config, make_segmentor, padding):
    radius, size, tile = 3, (48, 64), (16, 16)
    model = make_segmentor(make_config()).eval()
    conv = torch.nn.Conv2d(3, 3, 2 * radius + 1, padding=radius, padding_mode=padding)
    model.backbone = torch.nn.Sequential(conv, TakeFirst())
    pixels = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    grids = ShiftedGrids(size, tile)
    maps = predict_grids(model, pixels, grids, batch_size=5).numpy()
    with torch.no_grad():
        whole = conv(pixels[None].float())[0].argmax(0).numpy()
    wrong = maps != whole
    distance = grids.seam_distances()
    assert not wrong[distance >= radius].any()
    assert wrong[distance == radius - 1].any()

    [record] = shift_test([model], [None], [ShiftImage("a.png", pixels)], tile, bin_width=1)
    compared, _ = grids.compared()
    changed = (maps[0] != maps[1]) & (compared >= 0)
    expected = [changed[compared >= d].sum() / (compared >= d).sum() for d in range(4)]
    assert record.changed() == pytest.approx(expected)
    assert record.overlap(0) == 2 * radius


def refuse(inputs, metas):
    raise AssertionError("a forward for nothing")


def test_images_in_which_nothing_is_compared_are_not_predicted(make_config, make_segmentor):
    model = make_segmentor(make_config()).eval()
    rng = np.random.default_rng(0)

    def image(size):
        label = torch.from_numpy(rng.integers(0, 3, size))
        pixels = 255 * torch.stack([label == c for c in range(3)]).to(torch.uint8)
        return ShiftImage(f"{size}.png", pixels, label[None])

    square, wide = image((16, 16)), image((16, 40))
    [expected] = shift_test([model], [None], [wide], 16)
    [both] = shift_test([model], [None], [square, wide, square], 16)
    assert expected.agreeing.any()
    for all_images, alone in (
        (both.pixels, expected.pixels),
        (both.agreeing, expected.agreeing),
        (both.areas.swapaxes(0, 1), expected.areas.swapaxes(0, 1)),
    ):
        nothing = np.zeros_like(alone)
        assert np.array_equal(all_images, np.concatenate([nothing, alone, nothing]))
    model.encode_decode = refuse
    with pytest.raises(ValueError, match="16 x 16 pixels leave no pixel border"):
        shift_test([model], [None], [square, square])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tile", "40"], "leave no pixel border in one grid .* of 24 x 40. Give smaller tiles"),
        (["--tile", "0"], "got 0"),
        (["--tile", "3"], "at least 4 x 4 pixels needed"),
        (["--images", "EMPTY"], "no image .* in .*empty"),
    ],
)
def test_bad_input_gets_one_message(main, trained, arguments, message, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    arguments = [str(empty) if argument == "EMPTY" else argument for argument in arguments]
    with pytest.raises(SystemExit, match=rf"(?s)border_eval\.py: .*{message}"):
        main([*trained, "--shift-test", *arguments])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"batch_size": 0}, "batch_size must be at least 1, got 0"), ({}, "at least one image")],
)
def test_a_test_of_nothing_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        shift_test([], [], [], **options)


def test_images_that_the_pipeline_resizes_are_named(make_config, trained):
    config = make_config(images=IMAGES)
    resize = {"type": "Resize", "scale": (80, 48)}
    config.test_dataloader.dataset.pipeline.insert(1, resize)
    with pytest.raises(ValueError, match=r"images/0\.png: the shift test needs .* makes"):
        shift_checkpoints(config, trained[1:], TILE, progress=False)


def test_labels_that_do_not_fit_are_named(main, trained, tmp_path):
    path = tmp_path / "data/labels/2.png"
    Image.fromarray(np.zeros((24, 41), np.uint8)).save(path)
    with pytest.raises(SystemExit, match=r"labels/2\.png: .*24 x 41 pixels, but its image 24 x 40"):
        main([*trained, "--shift-test", "--tile", "16"])
    path.write_bytes(b"")
    with pytest.raises(SystemExit, match=r"border_eval\.py: .*labels/2\.png: Unidentified"):
        main([*trained, "--shift-test", "--tile", "16"])
