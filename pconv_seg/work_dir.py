"""Which checkpoint in a work dir is the newest whole one.

A checkpoint carries its own checksum, since one in a second file could not be renamed together with
it. ``torch.save`` writes a zip archive, which may end in a comment: this holds the SHA-256 of all
bytes before it. torch, zip tools and mmengine read such files like any other. The CRC-32 that a zip
archive has of every record would not do: nothing protects the directory that says where the records
are, and some changed bits there make torch load other numbers without an error.
"""

import hashlib
import re
import zipfile
from pathlib import Path

_NAME = re.compile(r"(iter|epoch)_(\d+)\.pth")
_SEAL = re.compile(rb"sha256=(.{64})", re.DOTALL)
_SEAL_SIZE = 71
_CHUNK = 1 << 20


def write_sealed(path: Path, content: bytes) -> None:
    """Write a checkpoint with its checksum.

    Args:
        path: The file.
        content: What ``torch.save`` wrote; in the format before torch 1.6 it gets no checksum.
    """
    with path.open("wb") as file:
        if content[-22:-18] == b"PK\5\6" and content[-2:] == b"\0\0":
            # The archive's last two bytes are the length of its comment.
            body, length = memoryview(content)[:-2], _SEAL_SIZE.to_bytes(2, "little")
            digest = hashlib.sha256(body)
            digest.update(length)
            for part in (body, length, b"sha256=", digest.hexdigest().encode()):
                file.write(part)
        else:
            file.write(content)


def damage(checkpoint: str | Path) -> str | None:
    """What is wrong with a checkpoint file, or None. Reads all of it, but does not unpickle it.

    Args:
        checkpoint: File of :func:`write_sealed`; or of ``torch.save``, whose records' CRC-32 is
            checked.
    """
    path = Path(checkpoint)
    if not path.is_file():
        return "there is no such file"
    size = path.stat().st_size
    if size == 0:
        return "it is empty"
    with path.open("rb") as file:
        file.seek(max(0, size - _SEAL_SIZE))
        seal = _SEAL.fullmatch(file.read())
        if seal:
            file.seek(0)
            digest, sealed = hashlib.sha256(), size - _SEAL_SIZE
            for begin in range(0, sealed, _CHUNK):
                digest.update(file.read(min(_CHUNK, sealed - begin)))
            same = digest.hexdigest().encode() == seal[1]
            return None if same else "its bytes are not those that were written (SHA-256)"
    try:
        with zipfile.ZipFile(path) as archive:
            record = archive.testzip()
    except Exception as error:  # a changed directory may raise anything
        return f"it is cut off or changed ({error or type(error).__name__})"
    return f"its record {record} is changed (CRC-32)" if record else None


def progress(checkpoint: Path) -> tuple[str, int]:
    """How far a run had come, from a checkpoint's name: ``("iter", 300)`` for ``iter_300.pth``.

    ``("iter", 0)`` if the name, such as that of a best checkpoint, does not say.
    """
    match = _NAME.fullmatch(checkpoint.name)
    return (match[1], int(match[2])) if match else ("iter", 0)


def checkpoints(work_dir: str | Path) -> list[Path]:
    """Checkpoints of a run, ``iter_N.pth`` and ``epoch_N.pth``, newest first, whole or not.

    They lie in the work dir, or beside the one that ``last_checkpoint`` names (``out_dir`` of the
    checkpoint hook). Only those that have a higher number and were written later come before that
    one: their process died before it could change ``last_checkpoint``. The others follow by time
    of writing. Work dirs are moved, so of the path in ``last_checkpoint`` only the name counts,
    unless the work dir has no such file and the path still exists.
    """
    work_dir = Path(work_dir)
    named = _named(work_dir)
    files = {named} if named else set()
    for folder in {work_dir, *(path.parent for path in files)}:
        files.update(path for path in folder.glob("*.pth") if _NAME.fullmatch(path.name))
    newest_first = sorted(files, key=lambda path: (_written(path), progress(path)[1]), reverse=True)
    if named is None:
        return newest_first
    ahead = newest_first[: newest_first.index(named)]
    later = [path for path in ahead if progress(path)[1] > progress(named)[1]]
    return [*later, named, *(path for path in newest_first if path not in (*later, named))]


def newest_checkpoint(work_dir: str | Path) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint of a run, and a sentence about each newer one.

    Returns:
        The checkpoint is None if the run has left none.

    Raises:
        ValueError: If there are checkpoints, or ``last_checkpoint`` names one, but none is whole.
    """
    skipped = []
    for path in checkpoints(work_dir):
        reason = damage(path)
        if reason is None:
            return path, skipped
        skipped.append(f"{path}: {reason}")
    if skipped:
        raise ValueError(f"no whole checkpoint in {work_dir}: " + "; ".join(skipped))
    return None, []


def _named(work_dir: Path) -> Path | None:
    pointer = work_dir / "last_checkpoint"
    text = pointer.read_text(errors="replace").strip() if pointer.is_file() else ""
    if not text:
        return None
    beside = work_dir / Path(text).name
    return Path(text) if Path(text).is_file() and not beside.is_file() else beside


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns if path.is_file() else 0
