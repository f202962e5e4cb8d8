"""Evaluate all finished runs of a study, one after the other."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config

from pconv_seg.engine import PreflightError, build_test_config, check_testing
from pconv_seg.evaluation import EvaluationPlan
from pconv_seg.evaluation.compare import evaluate_checkpoints
from pconv_seg.evaluation.record import Record, Tested, reading_counts
from pconv_seg.evaluation.report import Report, write_json
from pconv_seg.evaluation.runs import finished_run
from pconv_seg.evaluation.shift import ShiftRecord, shift_checkpoints
from pconv_seg.files import atomic_path
from pconv_seg.geometry import ShiftRegions

from .plan import Study, StudyRun
from .training import read_state

SHIFT = "shift"
_SHIFT_COUNTS = ("pixels", "agreeing", "areas")


def evaluate_runs(study: Study) -> None:
    """Evaluate what is not evaluated yet.

    Every finished run is evaluated as it was trained, in all modes and regions of each plan, and
    under every padding of the study on whole images and in tiles of the first plan; a shift test
    follows if the study has one. Counts by image go to ``evaluation/NAME.npz`` in the run's folder,
    scores to ``NAME.json``. A later checkpoint, another plan or a new padding in the study file, or
    counts that cannot be read evaluate again.

    Runs are evaluated and saved one by one: stopped, this loses what one run has counted. A run
    that cannot be evaluated does not keep the others from it.

    Args:
        study: What to evaluate.

    Raises:
        PreflightError: If data are missing, or the folder's runs were trained with another config.
        ValueError: At the end, if a checkpoint cannot be read, naming it, or networks, data and
            plan do not fit together.
    """
    study.check_folder()
    found = {run: finished_run(run.folder) for run in study.runs}
    errors = [
        ValueError(f"{run.folder}: its last checkpoint is damaged or gone; first --only train")
        for run, finished in found.items()
        if finished is None and read_state(run)["status"] == "finished"
    ]
    checkpoints = {run: finished.checkpoint for run, finished in found.items() if finished}
    for name, plan, paddings in evaluations(study):

        def count(
            config: Config, checkpoint: str, path: Path, plan=plan, paddings=paddings
        ) -> None:
            record = evaluate_checkpoints(config, [checkpoint], plan, paddings=paddings)
            write_json(Report(record).as_dict(), path.with_suffix(".json"))
            record.save(path)  # last: it says that both are there

        def is_current(path: Path, plan=plan, paddings=paddings) -> bool:
            return has_all(Record.load(path), plan, paddings)

        errors += _evaluate_each(study, checkpoints, name, is_current, count)
    if study.shift is not None:

        def shift(config: Config, checkpoint: str, path: Path) -> None:
            (record,) = shift_checkpoints(config, [checkpoint], **study.shift)
            write_json(record.as_dict(), path.with_suffix(".json"))
            save_shift(record, study.shift, path)

        def has_options(path: Path) -> bool:
            return same_options(load_shift(path)[1], study.shift)

        errors += _evaluate_each(study, checkpoints, SHIFT, has_options, shift)
    if errors:
        raise ValueError("\n".join(dict.fromkeys(map(str, errors)))) from errors[0]


def evaluations(study: Study) -> list[tuple[str, EvaluationPlan, Sequence[str | None]]]:
    """Name, plan and tested paddings of each evaluation (None is the padding of the training).

    The last one tests under every padding, without ``'tile_overlap'``; it is left out where the
    first plan has no other mode.
    """
    own = [(f"tile{_text(plan.tile)}", plan, (None,)) for plan in study.plans]
    modes = [mode for mode in study.plans[0].modes if mode != "tile_overlap"]
    if not modes:
        return own
    cross = replace(study.plans[0], modes=tuple(modes), leave_outs=(0,), bands=())
    return [*own, ("cross", cross, study.paddings)]


def read_record(run: StudyRun, name: str) -> Record | None:
    """What :func:`evaluate_runs` counted for a run; None if it has not been there.

    Raises:
        PreflightError: If the file cannot be read.
    """
    return _read(_path(run, name), Record.load)


def read_shift(run: StudyRun) -> tuple[ShiftRecord, dict] | None:
    """The shift test of a run and the options that it was made with; None if there is none.

    Raises:
        PreflightError: If the file cannot be read.
    """
    return _read(_path(run, SHIFT), load_shift)


def _read(path: Path, load: Callable[[Path], Any]) -> Any:
    if not path.is_file():
        return None
    try:
        return load(path)
    except ValueError as error:
        raise PreflightError(f"{error}, with --only evaluate") from error


def save_shift(record: ShiftRecord, options: dict, path: Path) -> None:
    """Write the counts of a shift test as ``.npz``, with the options that it was made with."""
    about = {
        "tested": record.tested._asdict(),
        "regions": asdict(record.regions),
        "images": record.images,
        "options": options,
    }
    counts = {name: getattr(record, name) for name in _SHIFT_COUNTS}
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, about=json.dumps(about), **counts)


def load_shift(path: Path) -> tuple[ShiftRecord, dict]:
    """Read what :func:`save_shift` wrote: the counts and the options.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: Naming the file, if it holds something else, or is damaged.
    """
    with reading_counts(path), np.load(path, allow_pickle=False) as file:
        about = json.loads(str(file["about"]))
        regions = about["regions"]
        record = ShiftRecord(
            Tested(**about["tested"]),
            ShiftRegions(**{**regions, "tile": tuple(regions["tile"])}),
            tuple(about["images"]),
            *(file[name] for name in _SHIFT_COUNTS),
        )
        return record, about["options"]


def _path(run: StudyRun, name: str) -> Path:
    return run.folder / "evaluation" / f"{name}.npz"


def _evaluate_each(
    study: Study,
    checkpoints: dict[StudyRun, Path],
    name: str,
    is_current: Callable[[Path], bool],
    evaluate: Callable[[Config, str, Path], None],
) -> list[ValueError]:
    """Evaluate runs without current counts; returns the errors of those that could not be."""
    waiting = []
    for run, checkpoint in checkpoints.items():
        path, newest = _path(run, name), checkpoint.stat().st_mtime
        try:
            current = path.is_file() and path.stat().st_mtime >= newest and is_current(path)
        except ValueError as error:
            print(f"{error}: that follows")
            current = False
        if not current:
            waiting.append(run)
    if not waiting:
        return []
    config = build_test_config(str(study.file), str(checkpoints[waiting[0]]))
    check_testing(config)
    errors = []
    for number, run in enumerate(waiting, 1):
        print(f"{name}: {run.name}, {number} of {len(waiting)}")
        try:
            evaluate(config, str(checkpoints[run]), _path(run, name))
        except ValueError as error:
            errors.append(error)
    return errors


def has_all(record: Record, plan: EvaluationPlan, paddings: Sequence[str | None]) -> bool:
    """Whether a record counts what the plan does, under all these paddings; others may be there."""
    tested = {network.padding for network in record.tested}
    return _identity(record.plan) == _identity(plan) and set(paddings) - {None} <= tested


def same_options(found: dict, wanted: dict) -> bool:
    """Whether a shift test was made with the wanted options."""
    return found == json.loads(json.dumps(wanted))  # files hold lists in place of tuples


def _identity(plan: EvaluationPlan) -> str:
    # Files hold text in place of fractions; the data set settles `ignore_index`.
    options = {k: v for k, v in asdict(plan).items() if k != "ignore_index"}
    return json.dumps(options, default=str)


def _text(tile: int | tuple[int, int]) -> str:
    return str(tile) if isinstance(tile, int) else "x".join(map(str, tile))
