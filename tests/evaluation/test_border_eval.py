import csv
import json
import re
from fractions import Fraction
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
from known_segmentor import CLASSES, SIZE, border_blind
from matplotlib.figure import Figure
from mmengine.config import Config
from mmseg.registry import DATASETS
from PIL import Image

from pconv_seg.evaluation import EvaluationPlan, compare
from pconv_seg.evaluation.bootstrap import score_difference
from pconv_seg.evaluation.confusion import class_areas, mean_iou
from pconv_seg.evaluation.record import Record
from pconv_seg.evaluation.report import Report
from pconv_seg.geometry import BorderRegions, TileGrid
from pconv_seg.visualization import draw_comparison

TOOL = "border_eval"
OVERLAPS = {"regular": None, "tile": 0, "tile_overlap": 0.5}
IGNORED = 7
IMAGES = 6
OPTIONS = ["--tile", "16", "20", "--overlap", "1/2", "--leave-out", "1/3", "0.75"]


@pytest.fixture
def trained(make_config, make_checkpoint, tmp_path):
    """A config file, and checkpoints of a network that is blind in 2 pixels and of one in 1."""
    config = make_config(images=IMAGES, ignore_index=IGNORED)
    file = tmp_path / "config.py"
    config.dump(file)
    checkpoints = []
    for width in (2, 1):
        folder = tmp_path / f"work_dirs/blind{width}"
        checkpoints.append(make_checkpoint(config, folder / "iter_4.pth", width=width))
        (folder / "last_checkpoint").write_text(checkpoints[-1])
        config.dump(folder / "config.py")
    return str(file), *checkpoints


@pytest.fixture
def drawn(monkeypatch):
    """The arguments of each comparison, whose figure stays empty."""
    calls = []

    def draw(*arguments):
        calls.append(signature(draw_comparison).bind(*arguments).arguments)
        return Figure()

    monkeypatch.setattr(compare, "draw_comparison", draw)
    return calls


def expected_areas(folder, width, mode, leave_out):
    """Pixels of each class in both, in the label and in the prediction, by sets of pixels."""
    tile, overlap = (16, 20), OVERLAPS[mode]
    windows = None if overlap is None else list(TileGrid(SIZE, tile, overlap))
    cells, members = BorderRegions([leave_out]).map(SIZE)
    found = np.zeros((3, 3))
    for i in range(IMAGES):
        truth = np.array(Image.open(folder / f"images/{i}.png"))[..., ::-1].argmax(-1)
        label = np.array(Image.open(folder / f"labels/{i}.png"))
        prediction = border_blind(truth, windows, width)
        counted = (label != IGNORED) & members[0, cells]
        for c in range(3):
            here, there = (label == c) & counted, (prediction == c) & counted
            found[:, c] += (here & there).sum(), here.sum(), there.sum()
    return found


def test_results_of_two_checkpoints(main, trained, tmp_path, capsys):
    out = [str(tmp_path / name) for name in ("new/result.json", "result.csv")]
    main([*trained, *OPTIONS, "--out", *out])
    report = json.loads(Path(out[0]).read_text())
    assert report["config"] == trained[0]
    assert {"pconv_seg", "torch", "mmseg", "numpy"} <= report["versions"].keys()
    assert len(report["results"]) == 2 * 3 * 3
    score = {}
    for result in report["results"]:
        width = 2 - trained[1:].index(result["checkpoint"])
        leave_out = Fraction(result["leave_out"]).limit_denominator(10)
        right, label, said = expected_areas(tmp_path / "data", width, result["mode"], leave_out)
        iou = 100 * right / (label + said - right)
        assert result["IoU"] == pytest.approx(dict(zip(CLASSES, iou, strict=True)))
        assert result["mIoU"] == pytest.approx(iou.mean())
        assert result["aAcc"] == pytest.approx(100 * right.sum() / label.sum())
        assert result["mAcc"] == pytest.approx(100 * (right / label).mean())
        assert result["pixels"] == label.sum()
        assert result["padding"] == "none"
        assert result["overlap"] == OVERLAPS[result["mode"]]
        assert result["tile"] == (None if result["mode"] == "regular" else [16, 20])
        assert (result["proportion"], result["region"]) == ("side", "image")
        score[width, result["mode"], float(leave_out)] = result["mIoU"]
    for difference in report["differences"]:
        cell = difference["mode"], pytest.approx(difference["leave_out"])
        first, second = (
            next(v for (w, *key), v in score.items() if w == width and tuple(key) == cell)
            for width in (2, 1)
        )
        assert difference["mIoU"] == pytest.approx(second - first)
        low, high = difference["interval"]
        assert low < difference["mIoU"] < high
        assert difference["distinguishable"] == (low > 0)

    text = capsys.readouterr().out
    for cell in (("tile", 0.0), ("regular", 0.75)):
        assert f"{score[(1, *cell)]:.3f}" in text
        assert f"{score[(1, *cell)] - score[(2, *cell)]:+.3f} *" in text
    rows = list(csv.DictReader(Path(out[1]).read_text().splitlines()))
    assert [float(row["IoU tree"]) for row in rows] == [
        result["IoU"]["tree"] for result in report["results"]
    ]


def test_python_style_configs_have_classes_for_names(main, trained, make_config, make_checkpoint):
    expected = main([*trained[:2], *OPTIONS])["results"]
    config = make_config(images=IMAGES, ignore_index=IGNORED)
    config.merge_from_dict({"default_scope": None, "model.type": "mmseg.models.EncoderDecoder"})
    config.dump(trained[0])
    make_checkpoint(config, Path(trained[1]), width=2)
    assert main([*trained[:2], *OPTIONS])["results"] == expected


@pytest.mark.parametrize("options", [OPTIONS, ["--shift-test", "--tile", "16", "20"]], ids=len)
def test_a_data_set_without_class_names_is_one_message(main, trained, options):
    config = Config.fromfile(trained[0])
    config.test_dataloader.dataset.metainfo = {}
    config.pop("test_evaluator")  # for which the names would be looked for before
    config.dump(trained[0])
    with pytest.raises(SystemExit, match=r"^border_eval\.py.*BaseSegDataset has no class names"):
        main([*trained[:2], *options])


def test_counts_give_the_same_results_without_network_and_data(main, trained, tmp_path, capsys):
    counts, printing = str(tmp_path / "counts.npz"), ["--per-class", "--seed", "5"]
    first = main([*trained, *OPTIONS, "--bands", "2", "8", *printing, "--save-confusion", counts])
    text = capsys.readouterr().out
    for path in (*trained, *tmp_path.glob("data/*/*")):
        Path(path).unlink()
    again = main(["--from-confusion", counts, *printing])
    assert again == first
    assert capsys.readouterr().out.strip() == text.replace(f"wrote {counts}", "").strip()
    assert len(first["bands"]) == 2 * 3 * 2 * 3
    areas = Record.load(counts).areas()
    whole = [found for found in first["differences"] if found.get("leave_out") == 0]
    for mode, found in enumerate(whole):
        expected = score_difference(areas[:, :, mode, 0], mean_iou, seed=5)
        assert found["interval"] == pytest.approx([100 * expected.low, 100 * expected.high])
    inner = [band for band in first["bands"] if band["from_pixel"] == 2]
    assert {band["to_pixel"] for band in inner} == {8}
    regular = [b["mIoU"] for b in inner if b["mode"] == "regular" and "border" in b["band"]]
    assert regular == [100, 100]  # both networks are only blind nearer to the border


@pytest.mark.parametrize("option", ["--out", "--plot"])
def test_a_result_without_room_is_named(main, trained, tmp_path, capsys, option):
    """``capsys``, since pytest keeps what is printed in a file otherwise."""
    resource = pytest.importorskip("resource")
    counts, result = (
        tmp_path / "counts.npz",
        tmp_path / ("a.json" if option == "--out" else "a.png"),
    )
    main([*trained, "--leave-out", "0", "--modes", "tile", "--save-confusion", str(counts)])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(SystemExit, match=rf"^border_eval\.py: .*File too large: '{result}'$"):
            main(["--from-confusion", str(counts), option, str(result)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not result.exists()


def test_areas_give_the_same_results_as_matrices(make_config, trained, tmp_path):
    plan = EvaluationPlan(tile=(16, 20), leave_outs=["1/2"], bands=[2])
    config = make_config(images=IMAGES, ignore_index=IGNORED)
    whole, reduced = (
        compare.evaluate_checkpoints(
            config, list(trained[1:]), plan, progress=False, matrices=matrices
        )
        for matrices in (True, False)
    )
    assert whole.counts.dtype == np.int32
    assert np.array_equal(reduced.counts, class_areas(whole.counts))
    assert Report(reduced).as_dict() == Report(whole).as_dict()
    reduced.save(tmp_path / "areas.npz")
    assert np.array_equal(Record.load(tmp_path / "areas.npz").areas(), whole.areas())


def test_what_has_no_interval_says_why(main, trained, tmp_path, capsys):
    arguments = [*trained, "--modes", "regular", "--leave-out", "0"]
    main(arguments)
    assert "no interval" not in capsys.readouterr().out
    for path in tmp_path.glob("data/*/5.png"):
        path.unlink()
    [difference] = main(arguments)["differences"]
    assert difference["interval"] == [None, None]
    text = capsys.readouterr().out
    assert re.search(r"95% interval +\| +\| +none +\|", text)
    assert "\nno interval (none): fewer than 6 images, or" in text


def test_the_newest_run_is_taken_by_default(main, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    result = main(["--leave-out", "0.5"])
    assert f"newest finished run: {Path('work_dirs/blind1')}/config.py" in capsys.readouterr().out
    assert [r["leave_out"] for r in result["results"]] == [0, 0.5] * 3
    assert {r["tile"] for r in result["results"]} == {None, 24}
    assert result["differences"] == []


def test_figures(main, trained, tmp_path):
    for path in tmp_path.glob("data/*/[2-5].png"):
        path.unlink()
    folder = tmp_path / "figures"
    plot = str(tmp_path / "plot.svg")
    main([*trained, *OPTIONS, "--modes", "tile", "--show-dir", str(folder), "--plot", plot])
    names = {f"{i}_tile.png" for i in range(2)}
    assert {path.name for path in folder.iterdir()} == names
    for name in names:
        Image.open(folder / name).verify()
    assert (tmp_path / "plot.svg").read_text().startswith("<?xml")


def test_images_of_one_name_have_figures_of_their_own(main, trained, tmp_path, drawn):
    for path in tmp_path.glob("data/*/[45].png"):
        path.unlink()
    for kind in ("images", "labels"):
        folder = tmp_path / "data" / kind
        for i, name in enumerate(("a/0", "a/b/0", "b/0", "b/1")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / f"{i}.png").rename(folder / f"{name}.png")
    figures = tmp_path / "figures"
    main([*trained, *OPTIONS, "--modes", "regular", "--show-dir", str(figures)])
    written = {path.relative_to(figures).as_posix() for path in figures.rglob("*.png")}
    assert written == {f"{name}_regular.png" for name in ("a/0", "a/b/0", "b/0", "b/1")}


def test_images_that_differ_in_their_suffix_alone_have_no_figures(main, trained, tmp_path, drawn):
    config = Config.fromfile(trained[0])
    dataset = config.test_dataloader.dataset
    for folder, suffix in (("images", ".bmp"), ("labels", ".png")):
        file = tmp_path / f"data/{folder}/0"
        Image.open(f"{file}.png").save(f"{file}{suffix}")
    config.test_dataloader.dataset = dict(
        type="ConcatDataset", datasets=[dataset, dict(dataset, img_suffix=".bmp")]
    )
    config.dump(trained[0])
    main([*trained, *OPTIONS, "--modes", "regular"])
    with pytest.raises(SystemExit, match=r"would have the figure of .*data/images/0: rename"):
        main([*trained, *OPTIONS, "--modes", "regular", "--show-dir", str(tmp_path / "figures")])
    assert not drawn


@pytest.mark.parametrize("options", [OPTIONS, ["--shift-test", "--tile", "16", "20"]], ids=len)
def test_what_is_ignored_is_what_mmsegs_test_ignores(main, trained, options):
    expected = main([*trained[:2], *options])
    metric, key = dict(type="IoUMetric"), "test_dataloader.dataset.ignore_index"
    config = Config.fromfile(trained[0])
    config.test_evaluator = [dict(metric, ignore_index=IGNORED), dict(type="F1", ignore_index=3)]
    config.dump(trained[0])
    assert main([*trained[:2], *options, "--cfg-options", f"{key}=255"]) == expected
    config.test_evaluator.append(dict(metric, ignore_index=0))
    config.dump(trained[0])
    with pytest.raises(SystemExit, match=r"must have one ignore_index, got \[0, 7\]"):
        main([*trained[:2], *options])


def test_checkpoints_of_one_name_are_told_apart(main, trained, tmp_path, drawn, capsys):
    checkpoints = [tmp_path / f"{name}/seed0/iter_4.pth" for name in "ab"]
    for path, checkpoint in zip(checkpoints, trained[1:], strict=True):
        path.parent.mkdir(parents=True)
        path.write_bytes(Path(checkpoint).read_bytes())
    arguments = [*map(str, checkpoints), *OPTIONS, "--modes", "tile"]
    main([trained[0], *arguments, "--show-dir", str(tmp_path / "figures")])
    names = ["a/seed0/iter_4.pth", "b/seed0/iter_4.pth"]
    titles = [f"{name} (none)" for name in names]
    assert [list(call["predictions"]) for call in drawn] == [titles] * IMAGES
    printed = capsys.readouterr().out
    assert all(name in printed for name in names)


def test_seams_of_padded_images_are_drawn_where_they_were(
    main, make_config, make_checkpoint, tmp_path, drawn
):
    config = make_config(images=1)
    config.model.data_preprocessor.test_cfg = {"size_divisor": 16}  # 24 x 40 to 32 x 48
    checkpoint = make_checkpoint(config, tmp_path / "iter_4.pth", width=1)
    config.dump(tmp_path / "config.py")
    arguments = [str(tmp_path / "config.py"), checkpoint, "--modes", "tile"]
    main([*arguments, "--show-dir", str(tmp_path / "figures")])
    assert [list(call["grid"]) for call in drawn] == [[(0, 32, 0, 32), (0, 32, 16, 48)]]


def test_no_seams_are_drawn_in_images_of_another_size_than_the_network_saw(
    main, make_config, make_checkpoint, tmp_path, drawn
):
    config = make_config(images=1)
    resize = {"type": "Resize", "scale": (80, 48)}
    config.test_dataloader.dataset.pipeline.insert(1, resize)
    checkpoint = make_checkpoint(config, tmp_path / "iter_4.pth", width=1)
    config.dump(tmp_path / "config.py")
    arguments = [str(tmp_path / "config.py"), checkpoint, "--modes", "regular", "tile"]
    main([*arguments, "--show-dir", str(tmp_path / "figures")])
    assert [call["grid"] for call in drawn] == [None, None]


def test_seams_are_those_of_the_tiles_that_the_first_image_has_settled(
    main, trained, tmp_path, drawn
):
    for path in tmp_path.glob("data/*/[1-5].png"):  # 16 x 40 pixels, and the first 24 x 40
        Image.open(path).crop((0, 0, 40, 16)).save(path)
    main([*trained[:2], "--modes", "tile", "--show-dir", str(tmp_path / "figures")])
    assert [list(call["grid"]) for call in drawn] == [
        [(0, 24, 0, 24), (0, 24, 16, 40)],
        *[[(0, 16, 0, 24), (0, 16, 16, 40)]] * (IMAGES - 1),
    ]


def turned_by_a_tag(image, path):
    tags = Image.Exif()
    tags[0x0112] = 6  # to be turned by 90 degrees, as cameras that are held upright say
    Image.fromarray(np.rot90(image)).save(path, exif=tags)


def grey_of_16_bits(image, path):
    Image.fromarray(image[..., 0].astype(np.uint16) * 200).save(path)


@pytest.mark.parametrize(
    ("write", "suffix"), [(turned_by_a_tag, ".jpg"), (grey_of_16_bits, ".png")]
)
def test_figures_show_what_the_network_saw(
    main, make_config, make_checkpoint, tmp_path, drawn, write, suffix
):
    config = make_config(images=1, ignore_index=IGNORED)
    config.test_dataloader.dataset.img_suffix = suffix
    path = tmp_path / "data/images/0.png"
    image = np.array(Image.open(path))
    path.unlink()
    write(image, path.with_suffix(suffix))
    checkpoint = make_checkpoint(config, tmp_path / "iter_4.pth", width=1)
    config.dump(tmp_path / "config.py")
    arguments = [str(tmp_path / "config.py"), checkpoint, "--modes", "regular"]
    main([*arguments, "--show-dir", str(tmp_path / "figures")])
    loaded = DATASETS.build(config.test_dataloader.dataset)[0]["inputs"].numpy()
    assert loaded.std() > 20
    [call] = drawn
    assert np.array_equal(call["image"], loaded[::-1].transpose(1, 2, 0))
    assert call["ignore_index"] == IGNORED


NETWORK = ["CONFIG", "CHECKPOINT"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["CONFIG", "nothing.pth"], r"checkpoint: no file .*nothing\.pth"),
        (["nothing.py", "CHECKPOINT"], r"config .*nothing\.py"),
        ([*NETWORK, "--leave-out", "1"], r"leave-out must lie in \[0, 1\), got '1'"),
        ([*NETWORK, "--overlap", "1.5"], r"overlap must lie in \[0, 1\), got '1\.5'"),
        ([*NETWORK, "--overlap", "1"], r"overlap must lie in \[0, 1\) or be 2 pixels"),
        ([*NETWORK, "--tile", "8", "--overlap", "8"], "must be smaller than the tile"),
        ([*NETWORK, "--bands", "8", "4"], "bands must be ascending"),
        (["--work-dirs", "nowhere"], "no finished training run below .*nowhere"),
        (["--from-confusion", "nothing.npz"], r"No such file .*nothing\.npz"),
        (
            ["--from-confusion", "CONFIG"],
            r"config\.py is damaged, or not from an eval.* no \.npz archive",
        ),
    ],
)
def test_bad_input_gets_one_message(main, trained, arguments, message):
    names = {"CONFIG": trained[0], "CHECKPOINT": trained[1]}
    with pytest.raises(SystemExit, match=rf"(?s)border_eval\.py: .*{message}"):
        main([names.get(argument, argument) for argument in arguments])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["config.py"], "config.py: also name its checkpoints"),
        (["--out", "table.xls"], "the suffix must be .json or .csv"),
        (["--save-confusion", "counts.json"], "the suffix must be .npz"),
        (["--seed", "-1"], "argument --seed: '-1' is not a whole number from 0 to 4294967295"),
        (["--tile", "1", "2", "3"], "one side, or height and width"),
        (["--from-confusion", "x.npz", "--tile", "8"], "the file has settled --tile already"),
        (["--from-confusion", "x.npz", "--leave-out", "0.5"], "has settled --leave-out already"),
        (["--shift-test", "--images", "nowhere"], "--images nowhere: no such folder"),
        (["--shift-test", "--bin-width", "0"], "'0' is not a whole number of at least 1"),
        (["--batch-size", "0"], "'0' is not a whole number of at least 1"),
        (["config.py", "--from-confusion", "x.npz"], "the file has settled config already"),
        (["--tolerance", "0.1"], "--tolerance belongs to --shift-test"),
        (["--images", "DIR"], "--images belongs to --shift-test"),
        (["--shift-test", "--leave-out", "1/2"], "--shift-test does not go with --leave-out"),
        (["--shift-test", "--per-class"], "--shift-test does not go with --per-class"),
        (["--shift-test", "--out", "table.csv"], "--out writes .json only"),
        (["--shift-test", "--tolerance", "1"], r"--tolerance must lie in [0, 1), got 1.0"),
    ],
)
def test_bad_usage_is_refused_before_anything_is_read(main, arguments, message, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err
