"""Which checkpoint is taken, and which is found out to be damaged."""

import hashlib
import os
import random
import zipfile
from pathlib import Path

import pytest
import torch

from pconv_seg.work_dir import checkpoints, damage, newest_checkpoint, progress, write_sealed


def save(path: Path, age: int = 0, sealed: bool = True) -> Path:
    torch.save({"weights": torch.arange(300.0), "meta": {"iter": 1}}, path)
    if sealed:
        write_sealed(path, path.read_bytes())
    seconds = path.stat().st_mtime - age
    os.utime(path, (seconds, seconds))
    return path


def names(work_dir: Path) -> list[str]:
    return [path.name for path in checkpoints(work_dir)]


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "iter_1.pth"
    assert damage(path) == "there is no such file"
    path.touch()
    assert damage(path) == "it is empty"
    path.write_bytes(b"something else")
    assert damage(path).startswith("it is cut off or changed")
    assert damage(save(path)) is None


@pytest.mark.parametrize("sealed", [True, False])
def test_no_beginning_of_a_checkpoint_passes(tmp_path: Path, sealed: bool) -> None:
    path = save(tmp_path / "iter_1.pth", sealed=sealed)
    content = path.read_bytes()
    # Without the last 71 bytes, the checksum, the archive is whole.
    end = len(content) - 71 * sealed
    for length in [*range(0, end, 97), *range(end - 40, end)]:
        path.write_bytes(content[:length])
        assert damage(path), length


def test_every_changed_bit_is_noticed(tmp_path: Path) -> None:
    path = save(tmp_path / "iter_1.pth")
    content = path.read_bytes()
    choose = random.Random(0)
    # Without the word sha256 the archive below it still counts, and that is unchanged.
    positions = [i for i in range(len(content)) if not -71 <= i - len(content) < -64]
    for position in choose.sample(positions[:-66], 200) + positions[-66:]:
        changed = bytearray(content)
        changed[position] ^= 1 << choose.randrange(8)
        path.write_bytes(changed)
        assert damage(path), position


def test_all_of_a_large_file_counts(tmp_path: Path) -> None:
    """It is read in parts of a MiB."""
    path = tmp_path / "iter_1.pth"
    torch.save({"weights": torch.arange(700_000.0)}, path)
    write_sealed(path, path.read_bytes())
    assert damage(path) is None
    content = path.read_bytes()
    for position in (100, 1 << 20, 2 << 20, len(content) - 72):
        path.write_bytes(
            content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]
        )
        assert damage(path) == "its bytes are not those that were written (SHA-256)"


def test_changed_records_of_plain_checkpoints_are_named(tmp_path: Path) -> None:
    path = save(tmp_path / "iter_1.pth", sealed=False)
    content = path.read_bytes()
    position = content.index(torch.arange(300.0).numpy().tobytes())
    path.write_bytes(content[:position] + b"?" + content[position + 1 :])
    assert damage(path) == "its record iter_1/data/0 is changed (CRC-32)"


@pytest.mark.parametrize("new", [True, False])
def test_sealed_files_are_read_as_others(tmp_path: Path, new: bool) -> None:
    path, weights = tmp_path / "iter_1.pth", torch.arange(300.0).flip(0)  # ends with bytes of 0
    torch.save({"weights": weights}, path, _use_new_zipfile_serialization=new)
    plain = path.read_bytes()
    write_sealed(path, plain)
    assert torch.equal(torch.load(path)["weights"], weights)
    if new:
        assert torch.equal(torch.load(str(path), mmap=True)["weights"], weights)
        with zipfile.ZipFile(path) as archive:
            digest = hashlib.sha256(plain[:-2] + b"G\0").hexdigest()
            assert archive.comment.decode() == f"sha256={digest}"
    else:
        assert path.read_bytes() == plain
        chance = plain + b"PK\5\6" + bytes(16) + b"\1\1"  # no end of an archive
        write_sealed(path, chance)
        assert path.read_bytes() == chance


def test_the_pointer_decides_unless_its_process_died_before_changing_it(tmp_path: Path) -> None:
    save(tmp_path / "iter_9.pth", age=90)  # of an earlier run in the same folder
    save(tmp_path / "iter_2.pth", age=20)
    save(tmp_path / "iter_4.pth", age=10)
    for other in ("best_mIoU_iter_4.pth", "iter_4.pth.old.pth"):
        save(tmp_path / other)
    pointer = tmp_path / "last_checkpoint"
    assert names(tmp_path) == ["iter_4.pth", "iter_2.pth", "iter_9.pth"]
    pointer.write_text(f"{tmp_path}/iter_4.pth")
    assert names(tmp_path) == ["iter_4.pth", "iter_2.pth", "iter_9.pth"]
    pointer.write_text("/moved/from/iter_2.pth")
    assert names(tmp_path) == ["iter_4.pth", "iter_2.pth", "iter_9.pth"]
    # Copied without its time: still the one that the pointer names, or a higher number.
    save(tmp_path / "iter_2.pth")
    pointer.write_text(f"{tmp_path}/iter_4.pth\n")
    assert names(tmp_path) == ["iter_4.pth", "iter_2.pth", "iter_9.pth"]
    pointer.unlink()
    for path in checkpoints(tmp_path):
        os.utime(path, (0, 0))
    assert names(tmp_path) == ["iter_9.pth", "iter_4.pth", "iter_2.pth"]


def test_the_newest_whole_one_and_why_not_the_others(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) == (None, [])
    old = save(tmp_path / "iter_2.pth", age=20)
    new = save(tmp_path / "iter_4.pth", age=10)
    (tmp_path / "last_checkpoint").write_text(f"{tmp_path}/iter_6.pth")
    assert newest_checkpoint(tmp_path) == (new, [f"{tmp_path}/iter_6.pth: there is no such file"])
    (tmp_path / "last_checkpoint").write_bytes(b"\xff")  # no text
    assert newest_checkpoint(tmp_path) == (new, [])
    (tmp_path / "last_checkpoint").write_text(f"{tmp_path}/iter_6.pth")
    new.write_bytes(b"")
    os.utime(new, (old.stat().st_mtime + 1,) * 2)
    assert newest_checkpoint(tmp_path) == (
        old,
        [f"{tmp_path}/iter_6.pth: there is no such file", f"{new}: it is empty"],
    )
    old.unlink()
    with pytest.raises(ValueError, match=r"no whole checkpoint in .*iter_6.*iter_4"):
        newest_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("iter_300.pth", ("iter", 300)),
        ("epoch_12.pth", ("epoch", 12)),
        ("best_mIoU_epoch_12.pth", ("iter", 0)),
        ("iter_4.pth.tmp", ("iter", 0)),
    ],
)
def test_progress_is_told_by_the_name(name: str, expected: tuple[str, int]) -> None:
    assert progress(Path(name)) == expected


def test_a_pointer_to_another_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    elsewhere = save(tmp_path / "iter_3.pth")
    (tmp_path / "a/last_checkpoint").write_text(str(elsewhere))
    assert newest_checkpoint(tmp_path / "a") == (elsewhere, [])
    older = save(tmp_path / "iter_2.pth", age=10)
    elsewhere.write_bytes(b"")
    assert newest_checkpoint(tmp_path / "a") == (older, [f"{elsewhere}: it is empty"])
    # Of a copied run, the files beside the pointer are its own.
    own = save(tmp_path / "a/iter_3.pth", age=20)
    assert checkpoints(tmp_path / "a") == [own]
