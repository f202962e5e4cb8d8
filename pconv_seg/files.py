"""Writing files so that a reader never sees half of one, and naming them in few words."""

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | Path, durable: bool = False) -> Iterator[Path]:
    """A temporary path with the same suffix beside ``path``, renamed to it at the end.

    The folder is created if needed. If the block raises, ``path`` stays as it was.

    Args:
        path: The file to write.
        durable: Wait until the disk holds the file before it replaces the old one, and until it
            holds the new name, so that a power failure leaves one of the two whole.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        yield temporary
        if durable:
            _to_disk(temporary)
        os.replace(temporary, path)
        if durable:
            _to_disk(path.parent)


def remove_leftovers(folder: str | Path, pattern: str) -> None:
    """Remove what :func:`atomic_path` leaves in a folder when its process is killed.

    Args:
        folder: Where the files were to be.
        pattern: Of their names, e.g. ``*.pth``.
    """
    for leftover in Path(folder).glob(f".{pattern}.????????"):
        name = leftover.name[1:-9]
        if leftover.is_dir() and {path.name for path in leftover.iterdir()} <= {name}:
            shutil.rmtree(leftover)


def short_names(checkpoints: Iterable[str]) -> dict[str, str]:
    """By checkpoint: its file and the folder it is in, and more of its path until all differ."""
    parts = {checkpoint: Path(checkpoint).parts for checkpoint in checkpoints}
    depth = 2
    while len({path[-depth:] for path in parts.values()}) < len(set(parts.values())):
        depth += 1
    return {checkpoint: Path(*path[-depth:]).as_posix() for checkpoint, path in parts.items()}


def _to_disk(path: Path) -> None:
    if os.name != "posix":  # Windows neither flushes folders nor what is open for reading
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
