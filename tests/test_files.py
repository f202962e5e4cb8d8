"""Whole files or nothing, and their names."""

import errno
import json
import math
import os
import re
from pathlib import Path

import pytest

from pconv_seg.files import atomic_path, parse_json, remove_leftovers, short_names, write_json


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    with atomic_path(path) as temporary:
        assert temporary.suffix == ".txt"  # by which many writers choose a format
        temporary.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:
        temporary.write_text(str(1 / (temporary.write_text("new") - 3)))
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_is_named_with_the_file_that_it_has_no_room_for(tmp_path: Path) -> None:
    path, full = tmp_path / "a.json", OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match=rf"No space left on device: '{path}'$"), atomic_path(path):
        raise full
    with pytest.raises(FileNotFoundError, match=r"'absent'$"), atomic_path(path):
        Path("absent").read_text()


def test_a_durable_file_is_on_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "b.txt"
    path.write_text("old")
    seen = []
    flush = os.fsync

    def fsync(descriptor: int) -> None:
        is_folder = os.path.samestat(os.fstat(descriptor), tmp_path.stat())
        seen.append((is_folder, path.read_text()))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with atomic_path(path, durable=True) as temporary:
        temporary.write_text("new")
    # The file while the old one is in place, then the folder with the new one.
    assert seen == [(False, "old"), (True, "new")]


def test_only_what_atomic_path_left_is_removed(tmp_path: Path) -> None:
    """The tests of killed runs show that nothing of that stays."""
    for name in (".a.pth.abcd_123", ".b.pth.abcdefgh"):
        (tmp_path / name).mkdir()
    (tmp_path / ".a.pth.abcd_123" / "a.pth").write_text("half")
    files = [".a.pth.Xa3bQ9", ".a.pth.12345678"]
    for name in files:
        (tmp_path / name).write_text("of rsync")
    folders = [".a.pth.of_users", ".a.pth.backup", ".c.txt.abcd_123"]
    for name in folders:
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes").touch()
    remove_leftovers(tmp_path, "*.pth")
    assert {path.name for path in tmp_path.iterdir()} == {*files, *folders}


def test_json_is_whole_or_not_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    write_json({"a": [1, None]}, path)
    assert json.loads(path.read_text()) == {"a": [1, None]}
    for number in (math.nan, math.inf):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write_json([0, number], path)
    assert json.loads(path.read_text()) == {"a": [1, None]}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "Expecting value: line 1 column 1 (char 0)"),
        (b'{"a": 1, "b', "Unterminated string starting at: line 1 column 10 (char 9)"),
        (
            b'{"a": "\xff"}',
            "'utf-8' codec can't decode byte 0xff in position 7: invalid start byte",
        ),
        (b"[]", "it is no object with a, b"),
        (b'{"a": 1}', "it is no object with a, b"),
    ],
)
def test_json_that_is_damaged_is_named_with_the_way_out(text: bytes, reason: str) -> None:
    message = re.escape(f"{Path('x/run.json')} is damaged ({reason}): delete it")
    with pytest.raises(ValueError, match=f"^{message}$"):
        parse_json(text, Path("x/run.json"), ["a", "b"], "delete it")
    assert parse_json(b'{"a": 1, "b": [], "c": "\xc3\xa4"}', "", ["a", "b"], "") == {
        "a": 1,
        "b": [],
        "c": "\u00e4",
    }


def test_names_of_checkpoints_reach_as_far_up_as_tells_them_apart() -> None:
    assert short_names(["w/a/1.pth", "w/b/1.pth"]) == {
        "w/a/1.pth": "a/1.pth",
        "w/b/1.pth": "b/1.pth",
    }
    assert short_names(["w/a/1.pth", "w/a/2.pth"]) == {
        "w/a/1.pth": "a/1.pth",
        "w/a/2.pth": "a/2.pth",
    }
    # One file, written in two ways.
    assert short_names(["a/1.pth", "./a//1.pth"]) == {"a/1.pth": "a/1.pth", "./a//1.pth": "a/1.pth"}
    paths = ["/w/a/seed0/1.pth", "/w/b/seed0/1.pth", "seed0/1.pth", "/w/a/seed0/1.pth"]
    names = ["a/seed0/1.pth", "b/seed0/1.pth", "seed0/1.pth"]
    assert short_names(paths) == dict(zip(paths[:3], names, strict=True))
