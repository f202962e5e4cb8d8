"""Evaluate all finished runs of a study, reading each image once for all of them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from mmengine.config import Config

from pconv_seg.engine import build_test_config, check_testing
from pconv_seg.evaluation import EvaluationPlan
from pconv_seg.evaluation.compare import evaluate_checkpoints
from pconv_seg.evaluation.record import Record, Tested
from pconv_seg.evaluation.report import Report, write_json
from pconv_seg.evaluation.runs import finished_run
from pconv_seg.evaluation.shift import ShiftRecord, shift_checkpoints
from pconv_seg.files import atomic_path
from pconv_seg.geometry import ShiftRegions

from .plan import Study, StudyRun

SHIFT = "shift"
_SHIFT_COUNTS = ("pixels", "agreeing", "areas")


def evaluate_runs(study: Study) -> None:
    """Evaluate what is not evaluated yet.

    Every finished run is evaluated as it was trained, in all modes and regions of each plan, and
    under every padding of the study on whole images and in tiles of the first plan; a shift test
    follows if the study has one. Counts by image go to ``evaluation/NAME.npz`` in the run's folder,
    scores to ``NAME.json``. A later checkpoint, or another plan or a new padding in the study file,
    evaluates again.

    Args:
        study: What to evaluate.

    Raises:
        PreflightError: If data or a checkpoint is missing.
        ValueError: If networks, data and plan do not fit together.
    """
    for name, plan, paddings in evaluations(study):
        waiting = _waiting(
            study,
            name,
            lambda path, plan=plan, paddings=paddings: has_all(Record.load(path), plan, paddings),
        )
        if waiting:
            config = _test_config(study, waiting)
            record = evaluate_checkpoints(config, list(waiting), plan, paddings=paddings)
            for checkpoint, run in waiting.items():
                of_run = _of_checkpoint(record, checkpoint)
                path = _path(run, name)
                write_json(Report(of_run).as_dict(), path.with_suffix(".json"))
                of_run.save(path)  # last: it says that both are there
    if study.shift is not None:
        options = json.loads(json.dumps(study.shift))
        waiting = _waiting(study, SHIFT, lambda path: load_shift(path)[1] == options)
        if waiting:
            config = _test_config(study, waiting)
            records = shift_checkpoints(config, list(waiting), **study.shift)
            for record, run in zip(records, waiting.values(), strict=True):
                path = _path(run, SHIFT)
                write_json(record.as_dict(), path.with_suffix(".json"))
                save_shift(record, study.shift, path)


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
    """What :func:`evaluate_runs` counted for a run; None if it has not been there."""
    path = _path(run, name)
    return Record.load(path) if path.is_file() else None


def read_shift(run: StudyRun) -> ShiftRecord | None:
    """The shift test of a run; None if there is none."""
    path = _path(run, SHIFT)
    return load_shift(path)[0] if path.is_file() else None


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
    """Read what :func:`save_shift` wrote: the counts and the options."""
    with np.load(path, allow_pickle=False) as file:
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


def _waiting(study: Study, name: str, is_same: Callable[[Path], bool]) -> dict[str, StudyRun]:
    """Checkpoints of finished runs that are not evaluated, or were when something else held."""
    waiting = {}
    for run in study.runs:
        finished, path = finished_run(run.folder), _path(run, name)
        if finished is None:
            continue
        newest = finished.checkpoint.stat().st_mtime
        if not path.is_file() or path.stat().st_mtime < newest or not is_same(path):
            waiting[str(finished.checkpoint)] = run
    if waiting:
        print(f"{name}: {len(waiting)} runs")
    return waiting


def _test_config(study: Study, waiting: dict[str, StudyRun]) -> Config:
    config = build_test_config(str(study.file), next(iter(waiting)))
    check_testing(config)
    return config


def _of_checkpoint(record: Record, checkpoint: str) -> Record:
    mine = [network.checkpoint == checkpoint for network in record.tested]
    tested = (network for network in record.tested if network.checkpoint == checkpoint)
    return replace(record, tested=tuple(tested), counts=record.counts[:, mine])


def has_all(record: Record, plan: EvaluationPlan, paddings: Sequence[str | None]) -> bool:
    """Whether a record counts what the plan does, under all these paddings; others may be there."""
    tested = {network.padding for network in record.tested}
    return _identity(record.plan) == _identity(plan) and set(paddings) - {None} <= tested


def _identity(plan: EvaluationPlan) -> str:
    # Files hold text in place of fractions; the data set settles `ignore_index`.
    options = {k: v for k, v in asdict(plan).items() if k != "ignore_index"}
    return json.dumps(options, default=str)


def _text(tile: int | tuple[int, int]) -> str:
    return str(tile) if isinstance(tile, int) else "x".join(map(str, tile))
