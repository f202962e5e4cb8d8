"""Command line arguments that name what a tool will write: checked at its start."""

import os
import tempfile
from argparse import ArgumentTypeError
from pathlib import Path


def output_file(text: str) -> Path:
    """A command line argument that names a file to write, as argparse's ``type``.

    A check at the start costs nothing; an error after hours of work costs the work.

    Raises:
        ArgumentTypeError: If the file could not be written; the message says why.
    """
    path = Path(text)
    if path.is_dir():
        raise ArgumentTypeError(f"{path} is a folder; name a file")
    output_folder(path.parent)
    return path


def output_folder(text: str | Path) -> Path:
    """The same for a folder in which files are to be written; it need not exist yet.

    Raises:
        ArgumentTypeError: If nothing could be written there; the message says why.
    """
    path = nearest = Path(text)
    try:
        while not os.path.lexists(nearest):
            nearest = nearest.parent
        with tempfile.TemporaryDirectory(dir=nearest):
            pass
    except OSError as error:
        raise ArgumentTypeError(
            f"nothing can be written in the folder {path} ({nearest}: {error.strerror}); "
            "name another place"
        ) from error
    return path
