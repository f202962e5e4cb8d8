"""Runs of one seed start alike, whatever their padding; and the whole way of a study."""

import json
import os
import runpy
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.registry import RUNNERS
from torch import nn

from pconv_seg.engine import build_training_config
from pconv_seg.evaluation.record import Record
from pconv_seg.evaluation.report import Report
from pconv_seg.study.start import StartDigestHook, read_start
from pconv_seg.study.training import Interrupted, read_state

TOOL = "study"


def test_the_padding_changes_neither_weights_nor_batches(make_study, unformatted, tmp_path):
    study = make_study()

    def start(padding: str, seed: int) -> dict:
        folder = tmp_path / f"{padding}{seed}"
        cfg = build_training_config(
            str(study.file),
            work_dir=str(folder),
            padding=padding,
            seed=seed,
            cfg_options={"default_hooks.start.type": "StartDigestHook"},
        )
        # mmengine keeps one logger per experiment.
        cfg.experiment_name = folder.name
        RUNNERS.build(cfg).train()
        return read_start(folder)

    expected = start("zeros", 0)
    assert set(expected) == {"weights", "batches", "number_of_batches"}
    assert expected["number_of_batches"] == 2
    for scheme in ("partial", "reflect", "distribution"):
        assert start(scheme, 0) == expected
    other = start("zeros", 1)
    assert other["weights"] != expected["weights"]
    assert other["batches"] != expected["batches"]


def _digest(folder, images, labels, begin=0):
    """What is in the file after a training with one batch of each image and label."""
    runner = SimpleNamespace(max_iters=begin + len(images), work_dir=folder, model=nn.Identity())
    runner.iter = begin
    hook = StartDigestHook()
    hook.before_train(runner)
    for image, label in zip(images, labels, strict=True):
        sample = SimpleNamespace(gt_sem_seg=SimpleNamespace(data=torch.full((1, 2, 2), label)))
        batch = {"inputs": [torch.full((3, 2, 2), image)], "data_samples": [sample]}
        hook.before_train_iter(runner, 0, batch)
        runner.iter += 1
    return read_start(folder)


def test_batches_that_differ_in_images_or_labels_alone_have_other_digests(tmp_path):
    first = _digest(tmp_path, [0], [0])
    assert _digest(tmp_path, [0], [0]) == first
    assert _digest(tmp_path, [1], [0])["batches"] != first["batches"]
    assert _digest(tmp_path, [0], [1])["batches"] != first["batches"]


def test_the_first_ten_batches_count_and_a_resumed_run_leaves_them(tmp_path):
    first = _digest(tmp_path, range(12), range(12))
    assert first["number_of_batches"] == 10
    assert _digest(tmp_path, range(5), range(5), begin=5) == first


def test_digests_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        _digest(tmp_path, range(2), range(2))
    assert list(tmp_path.iterdir()) == []


def test_libraries_of_the_report_are_missed_before_training(monkeypatch):
    monkeypatch.setitem(sys.modules, "markdown", None)
    monkeypatch.delitem(sys.modules, "pconv_seg.study.report", raising=False)
    # Loaded anew, where the library is missing: the other steps must not need it.
    main = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "study.py"))["main"]
    with pytest.raises(SystemExit, match=r"study\.py: .* pip install 'pconv-seg\[study\]'"):
        main(["absent.py", "--work-dir", "absent"])
    with pytest.raises(SystemExit, match=r"absent\.py"):
        main(["absent.py", "--work-dir", "absent", "--only", "train"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_exit_code_of_a_study_that_was_stopped_tells_the_signal(
    main, make_study, monkeypatch, number
):
    def interrupted(*_):
        raise Interrupted(number) if number == signal.SIGTERM else KeyboardInterrupt

    monkeypatch.setitem(main.__globals__, "train_runs", interrupted)
    study = make_study()
    with pytest.raises(SystemExit) as error:
        main([str(study.file), "--work-dir", str(study.folder)])
    assert error.value.code == 128 + number


def test_jobs_are_at_least_one(main, capsys):
    with pytest.raises(SystemExit):
        main(["absent.py", "--work-dir", "absent", "--jobs", "0"])
    assert "--jobs: '0' is not a whole number of at least 1" in capsys.readouterr().err


@pytest.mark.slow
def test_one_command_trains_evaluates_and_reports_and_does_nothing_twice(
    main, make_study, capsys, monkeypatch
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    study = make_study(("zeros", "partial"), (0, 1))
    arguments = [str(study.file), "--work-dir", str(study.folder), "--jobs", "2"]

    main(arguments)

    assert {read_state(run)["status"] for run in study.runs} == {"finished"}
    starts = {run.seed: read_start(run.folder) for run in study.runs}
    for run in study.runs:
        assert read_start(run.folder) == starts[run.seed]
        for name in ("tile16", "tile24", "cross"):
            path = run.folder / "evaluation" / f"{name}.npz"
            scores = json.loads(path.with_suffix(".json").read_text())
            assert scores == Report(Record.load(path)).as_dict()
    text = (study.folder / "report" / "report.md").read_text()
    assert "4 of 4 runs finished." in text
    assert "within every seed it is the same for all paddings" in text

    kept = {
        path: path.stat().st_mtime_ns
        for path in study.folder.rglob("*")
        if path.is_file() and "report" not in path.parts and path.name != ".lock"
    }
    main(arguments)
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    assert (study.folder / "report" / "report.md").read_text() == text
