"""Decoded images on disk: reading one costs a memory map instead of a PNG decoder."""

import hashlib
import json
import logging
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from mmengine.logging import print_log

from pconv_seg.files import atomic_path


class DecodedCache:
    """Arrays of decoded files, memory-mapped, in a folder that all workers and processes share.

    An entry belongs to the file's path, size and time of change and to how it was read, so a
    changed file is decoded anew. Entries are written whole or not at all and end in a checksum,
    which each process compares on its first use of an entry; after that only the pages that a crop
    touches are read. A damaged entry is reported and replaced.

    Nothing is ever thrown out, since every image comes up once per epoch: when the folder is full,
    the remaining images are decoded as without the cache. To start anew, delete the folder. A
    process that is killed may leave an unfinished entry there, in a hidden folder that nobody
    reads.

    Args:
        folder: Where the entries are kept; a local disk.
        max_gb: No entry is added that would make them exceed this many GB (1e9 bytes). Processes
            that write at the same moment may exceed it by one entry each. Cityscapes' 2975 fine
            images and labels take 25.

    Raises:
        ValueError: ``max_gb`` is not above 0.
        OSError: The folder cannot be made.
    """

    def __init__(self, folder: str | Path, max_gb: float) -> None:
        if max_gb <= 0:
            raise ValueError(f"max_gb of a decoded cache is a size above 0, not {max_gb}")
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                f"decoded images cannot be kept: {error}: name another place with --cfg-options "
                "train_dataloader.dataset.decoded_cache.folder=DIR"
            ) from error
        self.max_bytes = max_gb * 1e9
        self._verified: set[str] = set()
        self._full = False

    def load(self, path: str, reader: str, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """The array of a file, from the cache or else from ``decode``, which fills the cache.

        Args:
            path: The file; local.
            reader: Everything besides the file that decides the array.
            decode: Reads the file.

        Returns:
            The array. Changes to it stay in memory.
        """
        stat = os.stat(path)
        key = json.dumps([os.path.abspath(path), stat.st_size, stat.st_mtime_ns, reader])
        entry = self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"
        try:
            return self._open(entry)
        except FileNotFoundError:
            pass
        except Exception as error:  # a changed header may raise anything
            print_log(
                f"decoded cache: {entry} ({path}): {error}; it is replaced",
                logger="current",
                level=logging.WARNING,
            )
        array = decode()
        self._store(entry, array)
        return array

    def _open(self, entry: Path) -> np.ndarray:
        # Copy on write: transforms may write into their input.
        array = np.load(entry, mmap_mode="c", allow_pickle=False)
        if entry.name not in self._verified:
            with open(entry, "rb") as file:
                file.seek(array.offset + array.nbytes)
                checksum = file.read()
            if checksum != _checksum(array):
                raise ValueError("the checksum does not fit")
            self._verified.add(entry.name)
        return array

    def _store(self, entry: Path, array: np.ndarray) -> None:
        if self._full:
            return
        try:
            # Only finished entries: other processes' temporary folders may vanish at any moment.
            used = sum(other.stat().st_size for other in self.folder.glob("*.npy"))
            if used + array.nbytes > self.max_bytes:
                self._stop(f"{self.folder} holds {used / 1e9:.3g} of {self.max_bytes / 1e9:g} GB")
                return
            array = np.ascontiguousarray(array)
            with atomic_path(entry) as path, open(path, "wb") as file:
                np.save(file, array)
                file.write(_checksum(array))
        except OSError as error:
            self._stop(f"{self.folder}: {error}")

    def _stop(self, reason: str) -> None:
        self._full = True
        print_log(
            f"decoded cache: {reason}; further images are decoded each time",
            logger="current",
            level=logging.WARNING,
        )


def _checksum(array: np.ndarray) -> bytes:
    return zlib.crc32(array).to_bytes(4, "little")
