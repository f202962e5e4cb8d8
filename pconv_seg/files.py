"""Files: writing them whole or not at all, errors that name them, and short names for them."""

import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: str | Path, durable: bool = False) -> Iterator[Path]:
    """A temporary path with the same suffix beside ``path``, renamed to it at the end.

    The folder is created if needed. If the block raises, ``path`` stays as it was.

    Args:
        path: The file to write.
        durable: Wait until the disk holds the file before it replaces the old one, and until it
            holds the new name, so that a power failure leaves one of the two whole.

    Raises:
        OSError: Of the block; one of the system that names no file gets the name of this one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        try:
            yield temporary
        except OSError as error:
            if error.errno and error.filename is None:  # as on a full disk
                error.filename = str(path)
            raise
        if durable:
            _to_disk(temporary)
        os.replace(temporary, path)
        if durable:
            _to_disk(path.parent)


def remove_leftovers(folder: str | Path, pattern: str) -> None:
    """Remove what :func:`atomic_path` leaves in a folder when its process is killed.

    Args:
        folder: Where the files were to be.
        pattern: Pattern of their names, e.g. ``*.pth``.
    """
    for leftover in Path(folder).glob(f".{pattern}.????????"):
        name = leftover.name[1:-9]
        if leftover.is_dir() and {path.name for path in leftover.iterdir()} <= {name}:
            shutil.rmtree(leftover)


def write_json(content: Any, path: str | Path) -> None:
    """Write JSON, whole or not at all.

    Raises:
        ValueError: If it holds NaN or infinity, which are not JSON.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


@contextmanager
def naming_files(*files: str) -> Iterator[None]:
    """Put these files at the start of the message of any ValueError raised inside."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{', '.join(files)}: {error}") from error


def parse_json(text: bytes, place: object, keys: Collection[str], remedy: str) -> dict:
    """The JSON object that a file, or a line of one, holds.

    Args:
        text: What is there.
        place: Where that is, for the error.
        keys: What the object must have.
        remedy: What to do if it is damaged, for the error.

    Raises:
        ValueError: Naming the place and the remedy, if the text is anything else.
    """
    try:
        content = json.loads(text)
    except ValueError as error:  # also for bytes that are not text
        raise ValueError(f"{place} is damaged ({error}): {remedy}") from error
    if not isinstance(content, dict) or not content.keys() >= set(keys):
        wanted = ", ".join(keys)
        raise ValueError(f"{place} is damaged (it is no object with {wanted}): {remedy}")
    return content


def short_names(checkpoints: Iterable[str]) -> dict[str, str]:
    """Name each checkpoint by its file and folder, and by more of its path until all differ."""
    parts = {checkpoint: Path(checkpoint).parts for checkpoint in checkpoints}
    depth = 2
    while len({path[-depth:] for path in parts.values()}) < len(set(parts.values())):
        depth += 1
    return {checkpoint: Path(*path[-depth:]).as_posix() for checkpoint, path in parts.items()}


def _to_disk(path: Path) -> None:
    if os.name != "posix":  # Windows flushes neither folders nor what is open for reading
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
