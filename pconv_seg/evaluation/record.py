"""What an evaluation leaves behind: counts per image, from which everything else is computed."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile, is_zipfile

import numpy as np

from pconv_seg.files import atomic_path

from .confusion import class_areas
from .evaluator import EvaluationPlan


class Tested(NamedTuple):
    """A network that was evaluated: its checkpoint, its padding, and its padding in training."""

    checkpoint: str
    padding: str
    trained_padding: str


@dataclass(frozen=True)
class Record:
    """Counts of one evaluation.

    Attributes:
        config: Config file that the data came from.
        classes: Names of the C classes.
        tested: The networks.
        plan: What was evaluated, with tile size and ``ignore_index`` settled.
        images: One path per image.
        counts: ``int32[images, networks, modes, regions, C, C]``, in the order of ``tested``,
            ``plan.modes`` and ``plan.regions(mode).regions``; rows are labels. Where ``reduced``,
            ``int64[images, networks, modes, regions, 3, C]`` (:func:`class_areas`).
        reduced: Whether the counts are areas: all that scores need, 6 / C of the bytes.
    """

    config: str
    classes: tuple[str, ...]
    tested: tuple[Tested, ...]
    plan: EvaluationPlan
    images: tuple[str, ...]
    counts: np.ndarray
    reduced: bool = False

    def areas(self) -> np.ndarray:
        """Areas of each image, ``int64[images, networks, modes, regions, 3, C]``."""
        return self.counts if self.reduced else class_areas(self.counts)

    def save(self, path: str | Path) -> None:
        """Write the record as one compressed ``.npz``: ``counts`` and the rest as JSON text."""
        about = {
            "config": self.config,
            "classes": self.classes,
            "tested": [network._asdict() for network in self.tested],
            "plan": asdict(self.plan),
            "images": self.images,
            "reduced": self.reduced,
        }
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, counts=self.counts, about=json.dumps(about, default=str))

    @classmethod
    def load(cls, path: str | Path) -> "Record":
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: Naming the file, if it holds something else, or is damaged.
        """
        with reading_counts(path):
            with np.load(path, allow_pickle=False) as file:
                about, counts = json.loads(str(file["about"])), file["counts"]
            return cls(
                about["config"],
                tuple(about["classes"]),
                tuple(Tested(**network) for network in about["tested"]),
                EvaluationPlan(**about["plan"]),
                tuple(about["images"]),
                counts,
                about["reduced"],
            )


@contextmanager
def reading_counts(path: str | Path) -> Iterator[None]:
    """Turn whatever else reading a file of counts raises into one error.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: Naming the file, if it is damaged, of another version, or something else.
    """
    try:
        # For other files numpy's error would say how to unpickle them.
        if Path(path).is_file() and not is_zipfile(path):
            raise BadZipFile("no .npz archive")
        yield
    except FileNotFoundError:
        raise
    except Exception as error:  # a changed archive may raise anything
        raise ValueError(
            f"{path} is damaged, or not from an evaluation by this version "
            f"({type(error).__name__}: {error}); evaluate again"
        ) from error
