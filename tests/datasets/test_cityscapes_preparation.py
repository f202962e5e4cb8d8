"""Complete, broken and interrupted downloads of Cityscapes."""

import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cityscapes_tree import HEIGHT, SMALL_PARTS, WIDTH, label_map, polygons, write_small_tree
from PIL import Image

from pconv_seg.datasets.cityscapes import preparation, prepare_cityscapes

TOOL = "prepare_cityscapes"
AACHEN = "train/aachen/aachen_000000_000001"
IMAGE = f"leftImg8bit/{AACHEN}_leftImg8bit.png"
POLYGONS = f"gtFine/{AACHEN}_gtFine_polygons.json"
LABEL_IDS = f"gtFine/{AACHEN}_gtFine_labelIds.png"
TRAIN_IDS = f"gtFine/{AACHEN}_gtFine_labelTrainIds.png"


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(preparation, "PARTS", SMALL_PARTS)
    write_small_tree(tmp_path)
    return tmp_path


def prepare(root: Path) -> preparation.Preparation:
    return prepare_cityscapes(root, num_workers=1)


def problems(root: Path) -> list[tuple[str, str]]:
    return [(problem.path, problem.reason) for problem in prepare(root).problems]


def only_problem(root: Path) -> tuple[str, str]:
    (problem,) = problems(root)
    return problem


def snapshot(root: Path) -> dict[str, tuple[int, bytes]]:
    """Time of change and content of every file, and every folder."""
    return {
        str(path.relative_to(root)): (
            path.stat().st_mtime_ns,
            b"" if path.is_dir() else path.read_bytes(),
        )
        for path in root.rglob("*")
    }


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def test_complete_tree(root):
    result = prepare(root)
    assert not result.problems
    assert not result.absent
    assert result.frames == {"train": (5, 5), "val": (2, 2), "test": (1, 1), "train_extra": (3, 3)}
    assert (result.checked, result.written) == (11, 10)
    written = sorted(root.rglob("*_labelTrainIds.png"))
    assert len(written) == 10
    for path in written:
        index = int(path.name.split("_")[2])
        with Image.open(path) as image:
            assert image.mode == "L"
            np.testing.assert_array_equal(image, label_map(index))


def test_another_call_changes_nothing_and_reads_no_image(root, monkeypatch):
    prepare(root)
    before = snapshot(root)
    monkeypatch.setattr(preparation, "_check", None)
    result = prepare(root)
    assert (result.checked, result.written) == (0, 0)
    assert not result.problems
    assert snapshot(root) == before


def test_hidden_files_are_not_of_the_data_set(root):
    for path in (IMAGE, POLYGONS, LABEL_IDS):
        (root / path).with_name(f"._{Path(path).name}").write_bytes(b"of macOS")
    result = prepare(root)
    assert not result.problems
    assert (result.checked, result.written) == (11, 10)


def test_label_maps_of_other_tools_are_kept(root):
    Image.fromarray(label_map(1)).save(root / TRAIN_IDS, compress_level=0)
    before = snapshot(root)[TRAIN_IDS]
    assert prepare(root).written == 9
    assert snapshot(root)[TRAIN_IDS] == before


@pytest.mark.parametrize(
    "labels",
    [
        np.full((HEIGHT, WIDTH), 19, np.uint8),
        np.zeros((HEIGHT, WIDTH + 1), np.uint8),
        np.zeros((HEIGHT, WIDTH, 3), np.uint8),
        None,
    ],
    ids=["no class", "other size", "colours", "truncated"],
)
def test_invalid_label_maps_are_replaced(root, labels):
    if labels is None:
        Image.fromarray(label_map(1)).save(root / TRAIN_IDS)
        truncate(root / TRAIN_IDS)
    else:
        Image.fromarray(labels).save(root / TRAIN_IDS)
    assert prepare(root).written == 10
    np.testing.assert_array_equal(Image.open(root / TRAIN_IDS), label_map(1))


def test_changed_polygons_are_drawn_again(root):
    prepare(root)
    (root / POLYGONS).write_text(json.dumps(polygons(20)))
    result = prepare(root)
    assert (result.checked, result.written) == (1, 1)
    np.testing.assert_array_equal(Image.open(root / TRAIN_IDS), label_map(20))


def test_lost_label_map_is_drawn_again(root):
    prepare(root)
    (root / TRAIN_IDS).unlink()
    result = prepare(root)
    assert (result.checked, result.written) == (1, 1)
    np.testing.assert_array_equal(Image.open(root / TRAIN_IDS), label_map(1))


@pytest.mark.parametrize("path", [IMAGE, LABEL_IDS])
def test_truncated_png_is_named_until_it_is_whole(root, path):
    whole = (root / path).read_bytes()
    truncate(root / path)
    for _ in range(2):
        name, reason = only_problem(root)
        assert name == path
        assert reason.startswith("not a complete PNG file (")
    (root / path).write_bytes(whole)
    result = prepare(root)
    assert not result.problems
    assert result.checked == 1


def test_every_truncation_and_every_flipped_bit_of_the_pixels_is_seen(tmp_path):
    path = tmp_path / "image.png"
    noise = np.random.default_rng(0).integers(256, size=(4, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    end = content.index(b"IEND")
    broken = [content[:length] for length in range(end + 4)]
    start = content.index(b"IDAT")
    broken += [
        content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :] for i in range(start, end - 4)
    ]
    assert preparation._verified_size(path) == (8, 4)
    for corrupt in broken:
        path.write_bytes(corrupt)
        with pytest.raises(preparation._BROKEN_PNG):
            preparation._verified_size(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"imgHeight": 24, "imgWid', "Unterminated string"),
        ('{"imgHeight": 24, "objects": []}', "imgWidth"),
        ("[]", "list indices must be integers"),
        (json.dumps(polygons()).replace('"sky"', '"heaven"'), "Label 'heaven' not known"),
        (json.dumps(polygons()).replace("[[0, 0]", "[[0, null]"), "coordinate"),
    ],
    ids=["truncated", "no width", "no object", "unknown label", "no number"],
)
def test_broken_polygons_are_named_and_not_drawn(root, capfd, content, reason):
    (root / POLYGONS).write_text(content)
    name, what = only_problem(root)
    assert name == POLYGONS
    assert what.startswith("not polygons of Cityscapes (")
    assert reason in what
    assert not (root / TRAIN_IDS).exists()
    assert not capfd.readouterr().out


def test_size_that_contradicts_the_image(root):
    content = {**polygons(), "imgWidth": WIDTH + 1}
    (root / POLYGONS).write_text(json.dumps(content))
    assert only_problem(root) == (POLYGONS, "41x24, but aachen_000000_000001_leftImg8bit.png 40x24")


@pytest.mark.parametrize(
    ("path", "suffix", "archive"),
    [
        (IMAGE, "_leftImg8bit.png", "images.zip"),
        (POLYGONS, "_gtFine_polygons.json", "fine.zip"),
        (LABEL_IDS, "_gtFine_labelIds.png", "fine.zip"),
    ],
)
def test_missing_partner_is_named(root, path, suffix, archive):
    (root / path).unlink()
    result = prepare(root)
    folder = str(Path(path).parent)
    assert result.problems == [
        (folder, f"2 files *{suffix}, published: 3", archive),
        (path, "missing", archive),
    ]
    assert (root / TRAIN_IDS).exists() == (path != POLYGONS)


def test_missing_city_is_named_once_per_kind_of_file(root):
    shutil.rmtree(root / "leftImg8bit/train/bochum")
    assert only_problem(root) == (
        "leftImg8bit/train/bochum",
        "0 files *_leftImg8bit.png, published: 2",
    )


def test_foreign_city(root):
    (root / "leftImg8bit/val/paris").mkdir()
    shutil.copy(root / IMAGE, root / "leftImg8bit/val/paris/paris_0_0_leftImg8bit.png")
    assert ("leftImg8bit/val/paris", "1 files *_leftImg8bit.png, published: 0") in problems(root)


def test_missing_folder_is_named_once(root):
    shutil.rmtree(root / "gtFine/val")
    assert only_problem(root) == ("gtFine/val", "no such folder")


def test_parts_that_fine_annotations_do_not_need(root):
    shutil.rmtree(root / "leftImg8bit/test")
    shutil.rmtree(root / "leftImg8bit/train_extra")
    assert problems(root) == [("leftImg8bit/train_extra", "no such folder")]
    shutil.rmtree(root / "gtCoarse")
    result = prepare(root)
    assert not result.problems
    assert [part.name for part in result.absent] == ["test", "train_extra"]


def test_coarse_images_are_counted_as_a_whole(root):
    stem = "train_extra/augsburg/augsburg_000000_000001"
    (root / f"leftImg8bit/{stem}_leftImg8bit.png").unlink()
    assert problems(root) == [
        ("leftImg8bit/train_extra", "2 files *_leftImg8bit.png, published: 3"),
        (f"leftImg8bit/{stem}_leftImg8bit.png", "missing"),
    ]


def test_the_black_image_is_left_out_in_any_state(root):
    black = "train_extra/troisdorf/troisdorf_000000_000073"
    (root / f"leftImg8bit/{black}_leftImg8bit.png").write_bytes(b"")
    assert not prepare(root).problems
    assert not (root / f"gtCoarse/{black}_gtCoarse_labelTrainIds.png").exists()


def test_nothing_is_half_written_and_the_way_so_far_is_remembered(root):
    (root / TRAIN_IDS).mkdir()  # cannot be replaced by a file
    with pytest.raises(OSError, match="labelTrainIds"):
        prepare(root)
    assert not list(root.rglob(".*"))
    (root / TRAIN_IDS).rmdir()
    assert prepare(root).checked == 10


def test_foreign_record(root):
    (root / preparation.RECORD).write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"checked_files.json is not a record .* delete it"):
        prepare(root)


def test_record_that_cannot_be_written(root, monkeypatch):
    # Root may write in any folder, but in no file.
    monkeypatch.setattr(preparation, "RECORD", f"{IMAGE}/record.json")
    with pytest.warns(UserWarning, match="record.json cannot be written .* checks all files again"):
        assert not prepare(root).problems


def test_without_cityscapesscripts(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "cityscapesscripts", None)
    with pytest.raises(ImportError, match=r"pip install 'pconv-seg\[cityscapes\]'"):
        prepare(root)


def _prepare_slowly(root: Path) -> None:
    """So that every kill finds it at work: before a file is renamed, and after."""
    replace = os.replace

    def slow(*paths: Path) -> None:
        time.sleep(0.05)
        replace(*paths)
        time.sleep(0.05)

    os.setsid()
    os.replace = slow
    prepare_cityscapes(root, num_workers=2)


def test_killed_runs_leave_whole_files_and_the_next_one_completes_them(root):
    prepare(root)
    expected = {path: value[1] for path, value in snapshot(root).items() if "TrainIds" in path}
    total = len(expected)
    for path in expected:
        (root / path).unlink()
    (root / preparation.RECORD).unlink()
    for wanted in (1, 6):
        context = multiprocessing.get_context("fork")
        process = context.Process(target=_prepare_slowly, args=(root,))
        process.start()
        # By name: a search would meet folders that it is about to remove.
        while sum((root / path).exists() for path in expected) < wanted:
            assert process.is_alive()
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
        written = {path for path in expected if (root / path).exists()}
        assert wanted <= len(written) < total
        for path in written:
            assert (root / path).read_bytes() == expected[path]
    (root / f".{preparation.RECORD}.abcd_123").mkdir()  # killed while it wrote its record
    result = prepare(root)
    assert not result.problems
    assert result.written == total - len(written)
    assert not list(root.rglob(".*"))
    after = {path: value[1] for path, value in snapshot(root).items() if "TrainIds" in path}
    assert after == expected


def test_tool_says_what_is_there(root, main, capsys):
    shutil.rmtree(root / "leftImg8bit/test")
    main([str(root), "--num-workers", "1"])
    output = capsys.readouterr().out
    assert "| train_extra |      3 |         3 |" in output
    assert "published as a black image: troisdorf_000000_000073\n" in output
    assert "not there, and not needed for fine annotations: test (images.zip)\n" in output
    assert "10 images checked, 10 label maps written\n" in output


def test_tool_says_where_missing_files_are_downloaded(root, main, capsys):
    truncate(root / IMAGE)
    (root / POLYGONS).unlink()
    with pytest.raises(SystemExit) as error:
        main([str(root), "--num-workers", "1"])
    assert error.value.code == (
        "prepare_cityscapes.py: 3 problems. Download again, after registration, from "
        "https://www.cityscapes-dataset.com/downloads/ (or with csDownload of cityscapesscripts), "
        f"and unpack into {root}: fine.zip, images.zip"
    )
    output = capsys.readouterr().out
    assert f"{POLYGONS}: missing\n" in output
    assert f"{IMAGE}: not a complete PNG file" in output


def test_tool_needs_a_process(root, main, capsys):
    with pytest.raises(SystemExit):
        main([str(root), "--num-workers", "0"])
    assert "--num-workers: '0' is not a whole number of at least 1" in capsys.readouterr().err


def test_tool_needs_a_folder(main, tmp_path):
    with pytest.raises(SystemExit, match="absent is not a folder"):
        main([str(tmp_path / "absent")])
