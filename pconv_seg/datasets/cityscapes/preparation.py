"""Check a download of Cityscapes, and write its labels as training ids."""

import io
import json
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from pconv_seg.files import atomic_path, remove_leftovers, write_json
from pconv_seg.parallel import map_in_processes

from .cities import BLACK_FRAME, COARSE_CITIES, COARSE_IMAGES, FINE_IMAGES
from .labels import CITYSCAPES_LABEL_IDS

DOWNLOADS = "https://www.cityscapes-dataset.com/downloads/"
# Remembers by size and time of change which files were found to be good.
RECORD = "checked_files.json"
_SAVE_EVERY = 1000  # frames
_IGNORED = 255  # training id of all that belongs to none of the classes
_BROKEN_PNG = (OSError, SyntaxError, ValueError)  # what Pillow raises
_BROKEN_POLYGONS = (OSError, ValueError, LookupError, TypeError, AttributeError)


class Part(NamedTuple):
    """A folder of the data set as published.

    Attributes:
        name: Of the folder below ``leftImg8bit`` and below the folder of the labels.
        labels: Folder of the labels, None if they are not public.
        images: Number of images per city, None where only the sum is known.
        total: Number of images.
        archives: Those that hold the images and the labels.
        required: Whether training needs it.
    """

    name: str
    labels: str | None
    images: dict[str, int | None]
    total: int
    archives: tuple[str, str]
    required: bool


def _fine(name: str, labels: str | None, required: bool) -> Part:
    archives = ("leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip")
    images = FINE_IMAGES[name]
    return Part(name, labels, images, sum(images.values()), archives, required)


PARTS = (
    _fine("train", "gtFine", True),
    _fine("val", "gtFine", True),
    _fine("test", None, False),
    Part(
        "train_extra",
        "gtCoarse",
        dict.fromkeys(COARSE_CITIES),
        COARSE_IMAGES - 1,  # without the black one
        ("leftImg8bit_trainextra.zip", "gtCoarse.zip"),
        False,
    ),
)


class Problem(NamedTuple):
    """A file or folder, relative to the root, that is not as published; and where to get it."""

    path: str
    reason: str
    archive: str


@dataclass
class Preparation:
    """What :func:`prepare_cityscapes` found and did.

    Attributes:
        frames: Number of images per part, and the number published.
        absent: Parts that are not there, and that training with fine annotations does not need.
        problems: What is missing, unreadable or contradictory.
        checked: Number of frames whose files were read; the others have not changed since
            an earlier check.
        written: Number of label maps written.
    """

    frames: dict[str, tuple[int, int]] = field(default_factory=dict)
    absent: list[Part] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    checked: int = 0
    written: int = 0


class _Frame(NamedTuple):
    """One image with its labels; paths of files that do not exist are None."""

    key: str
    archives: tuple[str, str]
    image: Path | None
    polygons: Path | None
    label_ids: Path | None
    train_ids: Path | None  # where it belongs, whether it exists or not

    def state(self) -> list:
        """Size and time of change of each file."""
        return [_stat(path) for path in self[2:]]


def prepare_cityscapes(root: str | Path, num_workers: int | None = None) -> Preparation:
    """Check a Cityscapes download and write ``*_labelTrainIds.png`` beside its labels.

    Images and published label maps are read as a whole (checksums of all PNG chunks), polygons
    are parsed, and sizes compared. Label maps of training ids are drawn from the polygons by
    cityscapesscripts; existing valid ones are kept, unless their polygons have changed since the
    last check. Each appears whole or not at all. ``checked_files.json`` in `root` remembers files
    that were good, so that another call only looks at sizes and times of change and continues
    where an interrupted one stopped.

    The fine parts ``train`` and ``val`` have to be there; ``test`` (images only, its labels are
    placeholders) and the coarse ``train_extra`` are checked if they are there.

    Args:
        root: Folder that holds ``leftImg8bit`` and ``gtFine``.
        num_workers: Processes; as many as processors if None.

    Raises:
        ImportError: There is no cityscapesscripts.
        NotADirectoryError: There is no such folder.
        OSError: A label map cannot be written.
        ValueError: ``checked_files.json`` is not such a record.
    """
    try:
        import cityscapesscripts  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "label maps are drawn by cityscapesscripts: pip install 'pconv-seg[cityscapes]'"
        ) from error
    root = Path(root)
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is not a folder")
    result = Preparation()
    frames: list[_Frame] = []
    for part in PARTS:
        if not part.required and not any(
            (root / kind / part.name).is_dir() for kind in _kinds(part)
        ):
            result.absent.append(part)
            continue
        of_part, problems = _list_frames(root, part)
        frames += of_part
        result.problems.extend(problems)
        found = sum(frame.image is not None for frame in of_part)
        result.frames[part.name] = (found, part.total)
    _remove_leftovers(root)

    record = _Record(root / RECORD)
    changed = [frame for frame in frames if record.state(frame) != frame.state()]
    jobs = [(frame, record.is_outdated(frame)) for frame in changed]
    try:
        results = map_in_processes(_check, jobs, num_workers, "Checking", "image")
        for frame, (problems, written) in zip(changed, results, strict=True):
            result.checked += 1
            result.written += written
            for path, reason in problems:
                archive = frame.archives[path != frame.image]
                result.problems.append(Problem(str(path.relative_to(root)), reason, archive))
            if not problems:
                record.add(frame)
            if result.checked % _SAVE_EVERY == 0:
                record.save()
    finally:
        record.save()
    return result


class _Record:
    """States of frames whose files were all good, in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._states: dict[str, list] = {}
        self._saved = True
        if path.exists():
            try:
                self._states = dict(json.loads(path.read_text()))
            except (ValueError, TypeError) as error:
                raise ValueError(
                    f"{path} is not a record of checked files ({error}): delete it, and all files "
                    "are checked again"
                ) from error

    def state(self, frame: _Frame) -> list | None:
        return self._states.get(frame.key)

    def is_outdated(self, frame: _Frame) -> bool:
        """Whether the label map was drawn from polygons that have changed since."""
        state = self.state(frame)
        return state is not None and state[1] != _stat(frame.polygons)

    def add(self, frame: _Frame) -> None:
        self._states[frame.key] = frame.state()
        self._saved = False

    def save(self) -> None:
        if self._saved:
            return
        try:
            write_json(self._states, self._path)
            self._saved = True
        except OSError as error:  # a read-only data set that is complete is still fine
            warnings.warn(
                f"{self._path} cannot be written ({error}): the next call checks all files again",
                stacklevel=3,
            )


def _stat(path: Path | None) -> list[int] | None:
    try:
        stat = path.stat() if path else None
    except FileNotFoundError:
        return None
    return stat and [stat.st_size, stat.st_mtime_ns]


def _kinds(part: Part) -> dict[str, tuple[str, ...]]:
    """Folders of a part, with the endings of the published files that are checked there."""
    kinds = {"leftImg8bit": ("_leftImg8bit.png",)}
    if part.labels:
        kinds[part.labels] = (f"_{part.labels}_polygons.json", f"_{part.labels}_labelIds.png")
    return kinds


def _list_frames(root: Path, part: Part) -> tuple[list[_Frame], list[Problem]]:
    """All images and labels of a part, and what is missing among them."""
    problems = []
    # By kind, ending and archive, then by city and name.
    files: dict[tuple[str, str, str], dict[tuple[str, str], Path]] = {}
    for archive, (kind, suffixes) in zip(part.archives, _kinds(part).items(), strict=False):
        folder = root / kind / part.name
        if not folder.is_dir():
            problems.append(Problem(f"{kind}/{part.name}", "no such folder", archive))
        for suffix in suffixes:
            place = kind, suffix, archive
            files[place] = {
                (path.parent.name, path.name.removesuffix(suffix)): path
                for path in folder.glob(f"*/*{suffix}")
                # macOS puts hidden files beside others.
                if not path.name.startswith((BLACK_FRAME, "."))
            }
            if folder.is_dir():
                problems.extend(_count(part, Counter(city for city, _ in files[place]), *place))
    names = sorted(set().union(*files.values()))
    for (kind, suffix, archive), found in files.items():
        cities = {city for city, _ in found}
        problems.extend(
            Problem(f"{kind}/{part.name}/{city}/{name}{suffix}", "missing", archive)
            for city, name in names
            if (city, name) not in found and city in cities  # else the count has said so
        )
    frames = []
    for city, name in names:
        paths = [found.get((city, name)) for found in files.values()]
        train_ids = None
        if part.labels:
            folder = root / part.labels / part.name / city
            train_ids = folder / f"{name}_{part.labels}_labelTrainIds.png"
        paths += [None] * (3 - len(paths))
        frames.append(_Frame(f"{part.name}/{city}/{name}", part.archives, *paths, train_ids))
    return frames, problems


def _count(part: Part, found: Counter, kind: str, suffix: str, archive: str) -> Iterator[Problem]:
    """Cities, or the whole part, with another number of files than published."""
    folder = f"{kind}/{part.name}"
    for city in sorted(found.keys() | part.images.keys()):
        expected = part.images.get(city, 0)
        if expected is None and found[city]:
            continue
        if found[city] != expected:
            published = "some" if expected is None else expected
            yield Problem(
                f"{folder}/{city}",
                f"{found[city]} files *{suffix}, published: {published}",
                archive,
            )
    if None in part.images.values() and found.total() != part.total:
        yield Problem(folder, f"{found.total()} files *{suffix}, published: {part.total}", archive)


def _remove_leftovers(root: Path) -> None:
    """Remove unfinished files that a killed run left behind."""
    remove_leftovers(root, RECORD)
    for part in PARTS:
        if part.labels:
            for city in root.glob(f"{part.labels}/{part.name}/*"):
                remove_leftovers(city, "*_labelTrainIds.png")


def _check(job: tuple[_Frame, bool]) -> tuple[list[tuple[Path, str]], bool]:
    """Read the files of a frame, and write its training ids unless they are there.

    Returns:
        What is wrong with which files, and whether training ids were written.
    """
    frame, outdated = job
    problems: list[tuple[Path, str]] = []
    sizes = {}
    for path in (frame.image, frame.label_ids):
        if path:
            try:
                sizes[path] = _verified_size(path)
            except _BROKEN_PNG as error:
                problems.append((path, f"not a complete PNG file ({error})"))
    written = False
    if frame.polygons:
        try:
            annotation = _read_polygons(frame.polygons)
            sizes[frame.polygons] = size = (annotation.imgWidth, annotation.imgHeight)
            if outdated or not _is_valid(frame.train_ids, size):
                labels = _draw(annotation)
                written = True
        except _BROKEN_POLYGONS as error:
            problems.append((frame.polygons, f"not polygons of Cityscapes ({error!r})"))
    if written:
        with atomic_path(frame.train_ids) as temporary:
            labels.save(temporary)
    first = next(iter(sizes), None)
    for path, size in sizes.items():
        if size != sizes[first]:
            problems.append(
                (path, f"{size[0]}x{size[1]}, but {first.name} {sizes[first][0]}x{sizes[first][1]}")
            )
    return problems, written


def _verified_size(path: Path) -> tuple[int, int]:
    with Image.open(path, formats=["PNG"]) as image:
        image.verify()
        return image.size


def _is_valid(train_ids: Path, size: tuple[int, int]) -> bool:
    """Whether there is a whole label map of this size with training ids alone."""
    try:
        if _verified_size(train_ids) != size:
            return False
        with Image.open(train_ids) as image:
            return image.mode == "L" and not any(
                image.histogram()[len(CITYSCAPES_LABEL_IDS) : _IGNORED]
            )
    except _BROKEN_PNG:
        return False


def _read_polygons(path: Path):
    from cityscapesscripts.helpers.annotation import Annotation

    annotation = Annotation()
    annotation.fromJsonFile(str(path))
    return annotation


def _draw(annotation) -> Image.Image:
    from cityscapesscripts.preparation.json2labelImg import createLabelImage

    # It prints what is wrong, and exits where a label is unknown.
    with redirect_stdout(io.StringIO()) as said:
        try:
            return createLabelImage(annotation, "trainIds")
        except SystemExit as error:
            raise ValueError(said.getvalue().partition("\n")[0]) from error
