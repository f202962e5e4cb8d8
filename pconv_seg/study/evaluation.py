"""Evaluate all finished runs of a study."""

import json
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from pconv_seg.engine import PreflightError, build_test_config, check_testing
from pconv_seg.evaluation import EvaluationPlan
from pconv_seg.evaluation.compare import evaluate_checkpoints
from pconv_seg.evaluation.record import Record, Tested, reading_counts
from pconv_seg.evaluation.report import Report
from pconv_seg.evaluation.runs import finished_run
from pconv_seg.evaluation.shift import shift_checkpoints, shift_regions
from pconv_seg.evaluation.shift_record import ShiftRecord
from pconv_seg.files import atomic_path, write_json
from pconv_seg.parallel import cores

from .plan import Study, StudyRun
from .training import exit_name, read_state, signals_raise

CROSS, SHIFT = "cross", "shift"
_SHIFT_COUNTS = ("pixels", "agreeing", "areas")


def evaluate_runs(study: Study, jobs: int = 1) -> list[str]:
    """Evaluate what is not evaluated yet.

    Every finished run is evaluated as it was trained, in all modes and regions of each plan, and
    under every padding of the study on whole images and in tiles of the first plan; a shift test
    follows if the study has one. Counts by image go to ``evaluation/NAME.npz`` in the run's folder,
    scores to ``NAME.json``, or the reason why there are none to ``NAME.txt``. A later checkpoint,
    another plan or a new padding in the study file, or unreadable counts lead to a new evaluation.

    Each evaluation is saved when it ends: a stop loses only what those under way have counted. A
    run that cannot be evaluated does not stop the others.

    Args:
        study: What to evaluate.
        jobs: Runs at a time, each in a process with an equal share of the cores. With one, this
            process does it.

    Returns:
        What could not be evaluated, and why: a checkpoint cannot be read, networks, data and plan
        do not fit together, or one of the processes died.

    Raises:
        PreflightError: If data are missing, or the folder's runs were trained with another config.
        ValueError: If the state of a run is damaged, naming its file.
        OSError: If something cannot be written or read, as on a full disk; then this ends it.
        Interrupted: With several jobs, by SIGINT or SIGTERM, when all processes have ended.
    """
    study.check_folder()
    checkpoints, damaged = {}, []
    for run in study.runs:
        try:
            finished = finished_run(run.folder)
        except PreflightError as error:  # of the config that mmengine left there
            damaged.append(str(error))
            continue
        if finished:
            checkpoints[run] = finished.checkpoint
        elif read_state(run)["status"] == "finished":
            damaged.append(
                f"{run.folder}: its last checkpoint is damaged or gone; first --only train"
            )
    tasks = [_Task(study, *item, name) for name in names(study) for item in checkpoints.items()]
    waiting = [task for task in tasks if not _is_current(task)]
    if waiting:
        checkpoint = str(waiting[0].checkpoint)
        check_testing(build_test_config(str(study.file), checkpoint), [checkpoint])
    for task in waiting:
        # Whatever stops its evaluation, the report must not take outdated counts for the run's.
        for suffix in (".npz", ".json", ".txt"):
            _path(task.run, task.name, suffix).unlink(missing_ok=True)
    numbered = [(f"{n} of {len(waiting)}", task) for n, task in enumerate(waiting, 1)]
    _evaluate_in_jobs(numbered, jobs) if jobs > 1 else _evaluate_each(numbered)
    return damaged + unevaluated(study)


def unevaluated(study: Study) -> list[str]:
    """What :func:`evaluate_runs` could not evaluate: one line per reason."""
    # Data or a plan that do not fit are the same reason for many evaluations.
    places: dict[str, list[str]] = {}
    for run in study.runs:
        for name, reason in read_reasons(study, run).items():
            places.setdefault(reason, []).append(f"{name} of {run.name}")
    return [f"{', '.join(where)}: {reason}" for reason, where in places.items()]


def evaluations(study: Study) -> dict[str, tuple[EvaluationPlan, Sequence[str | None]]]:
    """Plan and tested paddings of each evaluation by name (None is the padding of the training).

    The last one tests under every padding, without ``'tile_overlap'``; it is left out where the
    first plan has no other mode.
    """
    found = {f"tile{plan.tile_text}": (plan, (None,)) for plan in study.plans}
    modes = [mode for mode in study.plans[0].modes if mode != "tile_overlap"]
    if modes:
        cross = replace(study.plans[0], modes=tuple(modes), leave_outs=(0,), bands=())
        found[CROSS] = cross, study.paddings
    return found


def names(study: Study) -> list[str]:
    """Those of the evaluations, and of the shift test if the study has one."""
    return [*evaluations(study), *([] if study.shift is None else [SHIFT])]


def read_reasons(study: Study, run: StudyRun) -> dict[str, str]:
    """Why :func:`evaluate_runs` could not evaluate a run, by the name of the evaluation."""
    paths = {name: _path(run, name, ".txt") for name in names(study)}
    return {name: path.read_text() for name, path in paths.items() if path.is_file()}


def read_record(run: StudyRun, name: str) -> Record | None:
    """What :func:`evaluate_runs` counted for a run; None if nothing yet.

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
        record = ShiftRecord(
            Tested(**about["tested"]),
            shift_regions(**about["regions"]),
            tuple(about["images"]),
            *(file[name] for name in _SHIFT_COUNTS),
        )
        return record, about["options"]


def _path(run: StudyRun, name: str, suffix: str = ".npz") -> Path:
    return run.folder / "evaluation" / f"{name}{suffix}"


class _Task(NamedTuple):
    """One evaluation of one run."""

    study: Study
    run: StudyRun
    checkpoint: Path
    name: str


def _is_current(task: _Task) -> bool:
    study, run, checkpoint, name = task
    path = _path(run, name)
    if not path.is_file() or path.stat().st_mtime < checkpoint.stat().st_mtime:
        return False
    try:
        if name == SHIFT:
            return load_shift(path)[1] == study.shift
        plan, paddings = evaluations(study)[name]
        return has_all(Record.load(path), plan, paddings)
    except ValueError as error:
        print(f"{error}: that follows")
        return False


def _evaluate_in_jobs(tasks: Sequence[tuple[str, _Task]], jobs: int) -> None:
    context = get_context("spawn")  # threads of PyTorch do not survive a fork
    threads = max(1, cores() // jobs)
    processes, errors = [], context.SimpleQueue()
    with signals_raise():
        try:
            for number in range(min(jobs, len(tasks))):
                own = tasks[number::jobs]
                process = context.Process(target=_job, args=(own, threads, errors))
                process.start()
                processes.append((process, own))
            for process, own in processes:
                process.join()
                if not errors.empty():
                    raise errors.get()
                left = [task for _, task in own if not _is_through(task)]
                if left:
                    reason = (
                        f"a process ended with code {exit_name(process.exitcode)}; the same "
                        "command goes on, and fewer --jobs take less memory"
                    )
                    _keep_reason(left[0], reason)
        finally:
            for process, _ in processes:
                process.terminate()
                process.join()


def _job(tasks: Sequence[tuple[str, _Task]], threads: int, errors: SimpleQueue) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its jobs,
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # which clean up after themselves
    torch.set_num_threads(threads)
    try:
        _evaluate_each(tasks, progress=False)
    except OSError as error:  # a full disk, for example: the parent raises it
        errors.put(error)


def _evaluate_each(tasks: Sequence[tuple[str, _Task]], progress: bool = True) -> None:
    for number, task in tasks:
        print(f"{task.name}: {task.run.name}, {number}", flush=True)
        try:
            _evaluate(task, progress)
        except ValueError as error:
            _keep_reason(task, str(error))


def _is_through(task: _Task) -> bool:
    return any(_path(task.run, task.name, suffix).is_file() for suffix in (".npz", ".txt"))


def _keep_reason(task: _Task, reason: str) -> None:
    # In a file, since the report may be written by a later command.
    with atomic_path(_path(task.run, task.name, ".txt")) as path:
        path.write_text(reason)


def _evaluate(task: _Task, progress: bool) -> None:
    study, run, checkpoint, name = task
    path, scores = _path(run, name), _path(run, name, ".json")
    config = build_test_config(str(study.file), str(checkpoint))
    if name == SHIFT:
        (record,) = shift_checkpoints(config, [str(checkpoint)], **study.shift, progress=progress)
        write_json(record.as_dict(), scores)
        save_shift(record, study.shift, path)
    else:
        plan, paddings = evaluations(study)[name]
        record = evaluate_checkpoints(
            config, [str(checkpoint)], plan, progress=progress, paddings=paddings
        )
        write_json(Report(record).as_dict(), scores)
        record.save(path)  # last: that it is there says that both are


def has_all(record: Record, plan: EvaluationPlan, paddings: Sequence[str | None]) -> bool:
    """Whether a record counts what the plan does, under all these paddings; others may be there."""
    tested = {network.padding for network in record.tested}
    return _identity(record.plan) == _identity(plan) and set(paddings) - {None} <= tested


def _identity(plan: EvaluationPlan) -> str:
    # Files hold text in place of fractions; the data set settles `ignore_index`.
    options = {k: v for k, v in asdict(plan).items() if k != "ignore_index"}
    return json.dumps(options, default=str)
