"""Study files on noise, and counts that no network made."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from noise_study import CLASSES, CONFIG, STUDY
from PIL import Image

from pconv_seg.evaluation.record import Record, Tested
from pconv_seg.evaluation.shift_record import ShiftRecord
from pconv_seg.geometry import ShiftRegions
from pconv_seg.study.evaluation import evaluations, save_shift
from pconv_seg.study.plan import Study


@pytest.fixture
def make_study(tmp_path: Path) -> Callable[..., Study]:
    """A function that writes images, labels and a study file, and reads the latter."""

    def make(
        paddings: tuple[str, ...] = ("zeros", "partial"),
        seeds: tuple[int, ...] = (0, 1),
        config: str = CONFIG,
        study: str = STUDY,
    ) -> Study:
        rng = np.random.default_rng(0)
        for folder, high in (("images", 256), ("labels", 2)):
            (tmp_path / "data" / folder).mkdir(parents=True, exist_ok=True)
            for i in range(3):
                size = (32, 48, 3) if folder == "images" else (32, 48)
                pixels = rng.integers(high, size=size, dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / folder / f"{i}.png")
        text = config.replace("@DATA@", str(tmp_path / "data"))
        text += study.replace("@PADDINGS@", repr(paddings)).replace("@SEEDS@", repr(seeds))
        file = tmp_path / "noise.py"
        file.write_text(text)
        return Study.load(file, tmp_path / "work")

    return make


@pytest.fixture
def evaluate_at_random() -> Callable[..., Study]:
    """A function that leaves random counts of six images as the evaluation of a study's runs."""

    def evaluate(study: Study, skip: tuple[str, ...] = ()) -> Study:
        runs = [run for run in study.runs if run.name not in skip]
        rng = np.random.default_rng(0)
        for name, (plan, paddings) in evaluations(study).items():
            regions = len(plan.regions("regular").regions)
            for run in runs:
                tested = [run.padding if p is None else p for p in paddings]
                counts = rng.integers(50, size=(6, len(tested), len(plan.modes), regions, 2, 2))
                # Nested regions hold less and less; a matrix of zeros would have no mIoU.
                counts += 10 * np.eye(2, dtype=int)
                record = Record(
                    config="noise.py",
                    classes=CLASSES,
                    tested=tuple(Tested(f"{run.name}/iter_2.pth", p, run.padding) for p in tested),
                    plan=plan,
                    images=tuple(f"{i}.png" for i in range(6)),
                    counts=counts.astype(np.int32),
                )
                record.save(run.folder / "evaluation" / f"{name}.npz")
        for run in runs:
            areas = np.sort(rng.integers(1, 50, size=(2, 6, 2, 3, 2)), axis=3)  # two bins
            pixels = rng.integers(50, 100, size=(6, 2))
            record = ShiftRecord(
                Tested(f"{run.name}/iter_2.pth", run.padding, run.padding),
                ShiftRegions((16, 16), 2),
                tuple(f"{i}.png" for i in range(6)),
                pixels,
                pixels - rng.integers(0, 50, size=(6, 2)),
                areas,
            )
            save_shift(record, study.shift, run.folder / "evaluation" / "shift.npz")
        return study

    return evaluate


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps a report from writing its figures, which takes most of its time."""
    monkeypatch.setattr("pconv_seg.study.report.save_figure", lambda *_: None)


@pytest.fixture(params=["cut", "changed", "older"])
def damage(request: pytest.FixtureRequest) -> Callable[[Path], None]:
    """A function that leaves of a file of counts what cannot be read."""

    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        if request.param == "cut":
            path.write_bytes(content[: len(content) // 2])
        elif request.param == "changed":
            # No deflate stream, which begins behind a header of 30 bytes, a name and extra fields.
            content[30 + int.from_bytes(content[26:28], "little") + content[28]] = 0xFF
            path.write_bytes(content)
        else:
            with np.load(path) as file:
                arrays = dict(file)
            about = json.loads(str(arrays.pop("about")))
            del about["tested"]
            np.savez_compressed(path, about=json.dumps(about), **arrays)

    return damage
