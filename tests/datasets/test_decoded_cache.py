import errno
from pathlib import Path

import numpy as np
import pytest

from pconv_seg.datasets.sampling import DecodedCache, cache


@pytest.fixture
def sources(tmp_path):
    """Files of one byte each, which `decode` turns into arrays of 1000 of it."""
    paths = []
    for i in range(4):
        paths.append(str(tmp_path / f"{i}.raw"))
        (tmp_path / f"{i}.raw").write_bytes(bytes([i]))
    return paths


class Decoder:
    def __init__(self, path):
        self.path = path
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return np.full((10, 100), Path(self.path).read_bytes()[0], np.uint8)


def load(store, path, reader="r"):
    decoder = Decoder(path)
    array = store.load(path, reader, decoder)
    np.testing.assert_array_equal(array, Decoder(path)())
    return decoder.calls, array


def test_a_second_process_maps_what_the_first_decoded(sources, tmp_path):
    store = DecodedCache(tmp_path / "cache", 1)
    assert [load(store, path)[0] for path in sources] == [1] * 4
    for other in (store, DecodedCache(tmp_path / "cache", 1)):
        for path in sources:
            calls, array = load(other, path)
            assert calls == 0
            assert isinstance(array, np.memmap)
    assert load(store, sources[0], reader="other")[0] == 1


def test_changes_to_the_array_stay_in_memory(sources, tmp_path):
    store = DecodedCache(tmp_path / "cache", 1)
    load(store, sources[1])
    _, array = load(store, sources[1])
    array[:] = 9
    calls, again = load(store, sources[1])
    assert calls == 0
    assert (again == 1).all()


def test_a_changed_file_is_decoded_anew(sources, tmp_path):
    store = DecodedCache(tmp_path / "cache", 1)
    load(store, sources[0])
    Path(sources[0]).write_bytes(bytes([7, 7]))
    assert load(store, sources[0])[0] == 1


@pytest.mark.parametrize(
    "damage", ["flip", "cut", "checksum cut", "header", "brace of the header", "empty"]
)
def test_a_damaged_entry_is_replaced(sources, tmp_path, damage):
    load(DecodedCache(tmp_path / "cache", 1), sources[0])
    (entry,) = (tmp_path / "cache").iterdir()
    content = bytearray(entry.read_bytes())
    if damage == "flip":
        content[-100] ^= 1
    if damage == "cut":
        del content[600:]
    if damage == "checksum cut":
        del content[-2:]
    if damage == "header":
        content[:10] = b"0123456789"
    if damage == "brace of the header":
        content[content.index(b"}")] = ord(" ")
    if damage == "empty":
        content.clear()
    entry.write_bytes(content)
    for calls in (1, 0):
        assert load(DecodedCache(tmp_path / "cache", 1), sources[0])[0] == calls


def test_the_size_is_bounded(sources, tmp_path):
    folder = tmp_path / "cache"
    store = DecodedCache(folder, 3000e-9)
    for path in sources:
        load(store, path)
    # Each entry is 1000 bytes, a header and a checksum.
    assert sum(entry.stat().st_size for entry in folder.iterdir()) <= 3000
    assert [load(store, path)[0] for path in sources] == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="not 0"):
        DecodedCache(folder, 0)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot be kept: .*/file.*decoded_cache\.folder=DIR"):
        DecodedCache(tmp_path / "file", 1)


def test_folders_that_vanish_do_no_harm(sources, tmp_path):
    """A temporary folder of another process that is listed and then gone: here a dangling link."""
    store = DecodedCache(tmp_path / "cache", 1)
    (tmp_path / "cache" / ".entry.npy.a1b2c3d4").symlink_to("gone")
    assert [load(store, sources[0])[0] for _ in range(2)] == [1, 0]


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EACCES])
def test_a_folder_that_takes_no_more_is_no_error(sources, tmp_path, monkeypatch, reason):
    """The images can be read, only not kept; and nothing is left half written. It says so once."""

    def full(file, array):
        file.write(b"half")
        raise OSError(reason, "no")

    folder = tmp_path / "cache"
    store = DecodedCache(folder, 1)
    log = []
    monkeypatch.setattr(cache.np, "save", full)
    monkeypatch.setattr(cache, "print_log", lambda line, **_: log.append(line))
    assert [load(store, path)[0] for path in sources * 2] == [1] * 8
    assert len(log) == 1
    assert log[0].startswith(f"decoded cache: {folder}: ")
    assert not list(folder.iterdir())
