"""What is evaluated, when again, and what a run that cannot be evaluated leaves of the others."""

import json
import os
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from noise_study import CLASSES, CONFIG, STUDY

from pconv_seg.evaluation import record
from pconv_seg.evaluation.shift_record import ShiftRecord
from pconv_seg.geometry import ShiftRegions
from pconv_seg.study import evaluation
from pconv_seg.study.evaluation import evaluate_runs, unevaluated

TOOL = "study"


def finish(study):
    """Leave what a training leaves, without weights."""
    for run in study.runs:
        run.folder.mkdir(parents=True, exist_ok=True)
        (run.folder / "config.py").write_text("train_cfg = dict(max_iters=2)")
        (run.folder / "last_checkpoint").write_text(str(run.folder / "iter_2.pth"))
        if not (run.folder / "iter_2.pth").exists():
            torch.save({}, run.folder / "iter_2.pth")


@pytest.fixture
def error():
    """Holds what the evaluation of partial_seed0 raises, if anything."""
    return []


@pytest.fixture
def evaluated(monkeypatch, error):
    """Names of the runs whose evaluation was asked for, with the first tile and the paddings."""
    calls = []

    def evaluate(config, checkpoints, plan, progress, paddings):
        names = [path.split("/")[-2] for path in checkpoints]
        if "partial_seed0" in names and error:
            raise error[0]
        calls.append((names, plan.tile, paddings))
        tested = [
            record.Tested(path, padding or name.split("_")[0], name.split("_")[0])
            for path, name in zip(checkpoints, names, strict=True)
            for padding in paddings
        ]
        regions = len(plan.regions("regular").regions)
        counts = np.ones((1, len(tested), len(plan.modes), regions, 2, 2), np.int32)
        return record.Record("noise.py", CLASSES, tuple(tested), plan, ("0.png",), counts)

    monkeypatch.setattr(evaluation, "evaluate_checkpoints", evaluate)
    return calls


@pytest.fixture
def make(make_study):
    """Make a study of finished runs without a shift test."""

    def make(paddings=("zeros", "partial"), seeds=(0,)):
        study = replace(make_study(paddings, seeds), shift=None)
        finish(study)
        return study

    return make


def test_a_padding_that_was_added_is_tested_on_all_networks(make, evaluated):
    evaluate_runs(make())
    evaluated.clear()

    evaluate_runs(make(("zeros", "partial", "reflect")))

    runs = {}
    for names, tile, paddings in evaluated:
        runs.setdefault((tile, paddings), []).extend(names)
    assert runs == {
        (16, (None,)): ["reflect_seed0"],
        (24, (None,)): ["reflect_seed0"],
        (16, ("zeros", "partial", "reflect")): ["zeros_seed0", "partial_seed0", "reflect_seed0"],
    }


def test_one_padding_less_evaluates_nothing_again(make, evaluated):
    evaluate_runs(make())
    evaluated.clear()
    evaluate_runs(make(("partial",)))
    assert evaluated == []


def test_a_run_whose_config_is_damaged_is_named_when_the_others_are_evaluated(make, evaluated):
    study = make()
    config = study.runs[0].folder / "config.py"
    config.write_text("train_cfg = dict(max_it")
    (reason,) = evaluate_runs(study)
    assert reason.startswith(f"config {config}: SyntaxError: ")
    assert [names for names, _, _ in evaluated] == [["partial_seed0"]] * 3


def test_a_run_that_was_trained_anew_is_evaluated_again(make, evaluated):
    study = make()
    evaluate_runs(study)
    evaluated.clear()
    os.utime(study.runs[1].folder / "iter_2.pth", (2**32, 2**32))
    evaluate_runs(study)
    assert [names for names, _, _ in evaluated] == [["partial_seed0"]] * 3


def test_an_evaluation_that_was_stopped_goes_on_where_it_stopped(make, evaluated, error):
    study = make(("zeros", "partial", "reflect"))
    error.append(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        evaluate_runs(study)
    assert [names for names, _, _ in evaluated] == [["zeros_seed0"]]
    error.clear()
    evaluate_runs(study)
    first_plan = [names for names, tile, paddings in evaluated if (tile, paddings) == (16, (None,))]
    assert first_plan == [["zeros_seed0"], ["partial_seed0"], ["reflect_seed0"]]
    assert len(evaluated) == 3 * 3


def test_counts_that_cannot_be_read_are_made_again(make, evaluated, damage, capsys):
    study = make()
    evaluate_runs(study)
    evaluated.clear()
    path = study.runs[1].folder / "evaluation" / "tile24.npz"
    before = np.load(path)["counts"]
    damage(path)
    capsys.readouterr()

    evaluate_runs(study)

    assert evaluated == [(["partial_seed0"], 24, (None,))]
    assert f"{path} is damaged, or not from an evaluation by this" in capsys.readouterr().out
    assert np.array_equal(np.load(path)["counts"], before)
    evaluate_runs(study)
    assert len(evaluated) == 1


def test_a_shift_test_that_cannot_be_read_is_made_again(
    make, evaluated, damage, monkeypatch, capsys
):
    calls = []

    def shift(config, checkpoints, tile, bin_width, progress):
        assert (tile, bin_width) == (16, 2)
        calls.append(checkpoints)
        tested = record.Tested(checkpoints[0], "zeros", "zeros")
        pixels, areas = np.ones((1, 2), int), np.ones((2, 1, 2, 3, 2), int)
        regions = ShiftRegions((16, 16), 2)
        return [ShiftRecord(tested, regions, ("0.png",), pixels, pixels, areas)]

    monkeypatch.setattr(evaluation, "shift_checkpoints", shift)
    study = replace(make(), shift={"tile": 16, "bin_width": 2})
    evaluate_runs(study)
    assert len(calls) == 2
    path = study.runs[0].folder / "evaluation" / "shift.npz"
    damage(path)
    evaluate_runs(study)
    assert calls[2:] == [[str(study.runs[0].folder / "iter_2.pth")]]
    assert f"{path} is damaged, or not from an evaluation by this" in capsys.readouterr().out


def test_what_cannot_be_evaluated_is_named_once_per_reason_after_the_others(make, evaluated, error):
    study = make(("zeros", "partial", "reflect"))
    error.append(ValueError("no weights"))
    assert evaluate_runs(study) == [
        "tile16 of partial_seed0, tile24 of partial_seed0, cross of partial_seed0: no weights"
    ]
    assert len(evaluated) == 2 * 3
    for run in study.runs:
        files = {path.name for path in run.folder.glob("evaluation/*.npz")}
        names = {"tile16.npz", "tile24.npz", "cross.npz"}
        assert files == (set() if run.padding == "partial" else names)
    error.clear()
    assert evaluate_runs(study) == unevaluated(study) == []


def test_a_finished_run_whose_checkpoint_is_damaged_is_named_after_the_others(make, evaluated):
    study = make(("zeros", "partial", "reflect"))
    shutil.rmtree(study.runs[2].folder)  # not trained, which is no damage
    run = study.runs[0]
    (run.folder / "iter_2.pth").write_bytes(b"cut")
    (run.folder / "run.json").write_text(json.dumps({"status": "finished", "attempts": []}))
    (problem,) = evaluate_runs(study)
    assert re.search(r"zeros_seed0.*damaged.*--only train", problem)
    assert [names for names, _, _ in evaluated] == [["partial_seed0"]] * 3


def test_the_report_is_written_without_what_could_not_be_evaluated(
    main, make_study, evaluated, error, no_figures, monkeypatch
):
    study = make_study(seeds=(0,), study=STUDY.partition(",\n    shift=")[0] + ")")
    finish(study)
    evaluate_runs(study)
    # Trained anew, so that the scores there are no longer the run's.
    os.utime(study.runs[1].folder / "iter_2.pth", (2**32, 2**32))
    error.append(ValueError("no weights"))
    monkeypatch.setitem(main.__globals__, "train_runs", lambda *_: [])
    with pytest.raises(SystemExit, match=r"^study\.py: tile16 of partial_seed0, .*: no weights$"):
        main([str(study.file), "--work-dir", str(study.folder)])
    text = (study.folder / "report" / "report.md").read_text()
    assert not list(study.runs[1].folder.glob("evaluation/*.json"))
    assert "**Not fully evaluated: partial_seed0**" in text
    places = [f"{name} of partial_seed0" for name in ("tile16", "tile24", "cross")]
    assert f"### Not evaluated\n\n```text\n{', '.join(places)}: no weights\n```\n" in text
    content = json.loads((study.folder / "report" / "report.json").read_text())
    reasons = [run["not_evaluated"] for run in content["runs"]]
    assert reasons == [{}, {"tile16": "no weights", "tile24": "no weights", "cross": "no weights"}]


@pytest.mark.slow
def test_jobs_report_every_checkpoint_that_cannot_be_read(make):
    study = make()  # their checkpoints are without weights
    problems = "".join(evaluate_runs(study, jobs=2))
    for run in study.runs:
        assert f"{run.folder / 'iter_2.pth'}" in problems


@pytest.mark.slow
def test_a_job_that_dies_is_reported(make_study):
    # Without an import statement, which mmengine takes for another style of config.
    dies = '__import__("multiprocessing").parent_process() and __import__("os")._exit(9)\n'
    study = make_study(("zeros", "partial"), (0,), config=dies + CONFIG)
    finish(study)
    for run in study.runs:
        outdated = run.folder / "evaluation" / "tile24.npz"
        outdated.parent.mkdir()
        outdated.touch()
        os.utime(outdated, (0, 0))
    (problem,) = evaluate_runs(study, jobs=2)
    places = "tile16 of zeros_seed0, tile16 of partial_seed0"
    assert re.search(rf"{places}: .* ended with code 9; .* fewer --jobs", problem)
    assert not list(study.folder.rglob("*.npz"))


@pytest.mark.slow
def test_a_disk_that_is_full_for_a_job_is_the_studys_error(make_study):
    # What the jobs write may have no byte; why their checkpoints cannot be read would be written.
    full = (
        '__import__("multiprocessing").parent_process() and '
        '__import__("resource").setrlimit(__import__("resource").RLIMIT_FSIZE, (0, 0))\n'
    )
    study = make_study(("zeros", "partial"), (0,), config=full + CONFIG)
    finish(study)
    with pytest.raises(OSError, match="File too large"):
        evaluate_runs(study, jobs=2)
    assert not list(study.folder.glob("runs/*/evaluation/*"))
