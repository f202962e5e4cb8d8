"""Processes of a study: what is started, skipped, resumed, recorded and stopped."""

import errno
import fcntl
import itertools
import json
import os
import signal
import threading
import time
import zipfile
from pathlib import Path

import pytest
from mmengine.registry import MODELS
from noise_study import CONFIG, STUDY
from torch import nn

from pconv_seg.engine import PreflightError
from pconv_seg.files import write_json
from pconv_seg.parallel import cores
from pconv_seg.study import training
from pconv_seg.study.training import Interrupted, read_state, train_runs

TOOL = "study"
STUB = Path(__file__).with_name("train_stub.py")


@MODELS.register_module(force=True)
class OwnForward(nn.Conv2d):
    def forward(self, x):
        return super().forward(x)


@MODELS.register_module(force=True)
class Same(nn.Module):
    def forward(self, x):
        return [x]


@pytest.fixture(autouse=True)
def _poll_fast(monkeypatch):
    monkeypatch.setattr(training, "_POLL", 0.02)


def calls(run):
    path = run.folder / "calls.json"
    return json.loads(path.read_text()) if path.exists() else []


def statuses(study):
    return {run.name: read_state(run)["status"] for run in study.runs}


def wait_until_begun(run):
    """Until a run has a checkpoint, from which the next call goes on."""
    while not (run.folder / "last_checkpoint").exists():
        time.sleep(0.02)


def test_each_run_gets_its_padding_seed_folder_and_share_of_cores(make_study):
    study = make_study(("zeros", "partial"), (0, 7))
    train_runs(study, STUB, jobs=2)
    for run in study.runs:
        (call,) = calls(run)
        assert call["arguments"] == [
            str(study.file),
            *("--work-dir", str(run.folder), "--padding", run.padding, "--seed", str(run.seed)),
            *("--resume", "--cfg-options", "default_hooks.start.type=StartDigestHook"),
            "default_hooks.checkpoint.type=ResumableCheckpointHook",
        ]
        assert call["threads"] == str(max(1, cores() // 2))
        state = read_state(run)
        assert state["status"] == "finished"
        (attempt,) = state["attempts"]
        assert attempt["exit_code"] == 0
        assert attempt["from_iteration"] == 0
        assert attempt["seconds"] > 0
        assert state["machine"]["jobs"] == 2
        assert state["machine"]["cpu"]
        assert "torch" in state["machine"]["versions"]


def test_finished_runs_are_left_alone(make_study):
    study = make_study(("zeros", "partial"), (0,))
    train_runs(study, STUB)
    train_runs(make_study(("zeros", "partial"), (0, 1)), STUB)
    assert [len(calls(run)) for run in study.runs] == [1, 1]
    assert statuses(make_study(("zeros", "partial"), (0, 1))) == {
        "zeros_seed0": "finished",
        "partial_seed0": "finished",
        "zeros_seed1": "finished",
        "partial_seed1": "finished",
    }


def test_a_failed_run_is_recorded_and_the_others_go_on(make_study):
    study = make_study(("reflect", "zeros"), (0, 1))
    train_runs(study, STUB)
    assert statuses(study) == {
        "reflect_seed0": "failed",
        "zeros_seed0": "finished",
        "reflect_seed1": "failed",
        "zeros_seed1": "finished",
    }
    first, second = (read_state(run) for run in study.runs if run.padding == "reflect")
    assert first["attempts"][0]["exit_code"] == 3
    assert first["log_tail"] == ["about to fail \ufffd"]
    assert second["log_tail"] == ["about to fail \ufffd", "no such thing"]
    # The next call tries again, and keeps the first attempt, and of the log the last 20 lines.
    lines = [f"line {i}" for i in range(30)]
    (study.runs[0].folder / "train.log").write_text("\n".join([*lines, ""]))
    train_runs(study, STUB)
    first = read_state(study.runs[0])
    assert len(first["attempts"]) == 2
    assert first["log_tail"] == [*lines[-19:], "about to fail \ufffd"]


def test_the_tool_reports_the_other_runs_and_ends_with_status_1(
    main, make_study, evaluate_at_random, no_figures, monkeypatch
):
    study = make_study(("zeros", "reflect"), (0, 1))
    failed = ("reflect_seed0", "reflect_seed1")

    def evaluate(study, jobs):
        evaluate_at_random(study, skip=failed)
        return []

    monkeypatch.setitem(main.__globals__, "train_runs", lambda s, _, n: train_runs(s, STUB, n))
    monkeypatch.setitem(main.__globals__, "evaluate_runs", evaluate)
    message = r"^study\.py: 2 of 4 runs failed: reflect_seed0, reflect_seed1; their logs say why, "
    with pytest.raises(SystemExit, match=message):
        main([str(study.file), "--work-dir", str(study.folder)])
    text = (study.folder / "report" / "report.md").read_text()
    assert "2 of 4 runs finished. **Not finished: reflect_seed0 (failed), refl" in text


def test_a_run_that_failed_after_its_last_checkpoint_is_tried_again(make_study):
    study = make_study(("distribution",), (0,))
    assert train_runs(study, STUB) == study.runs
    assert statuses(study) == {"distribution_seed0": "failed"}
    assert train_runs(study, STUB) == []
    assert statuses(study) == {"distribution_seed0": "finished"}
    (run,) = study.runs
    attempts = [(a["from_iteration"], a["exit_code"]) for a in read_state(run)["attempts"]]
    assert attempts == [(0, 1), (2, 0)]
    assert "log_tail" not in read_state(run)
    train_runs(study, STUB)
    assert len(calls(run)) == 2


def test_a_run_whose_end_nobody_recorded_is_started_once_more(make_study):
    study = make_study(("zeros",), (0,))
    train_runs(study, STUB)
    (run,) = study.runs
    # As if the study had been killed, and the training had gone on without it.
    state = read_state(run)
    state["status"] = "running"
    state["attempts"][0].update(seconds=None, exit_code=None)
    (run.folder / "run.json").write_text(json.dumps(state))
    train_runs(study, STUB)
    state = read_state(run)
    assert state["status"] == "finished"
    assert [a["exit_code"] for a in state["attempts"]] == [None, 0]


def test_a_signal_ends_all_processes_and_the_next_call_resumes(make_study, monkeypatch):
    study = make_study(("zeros", "replicate", "partial"), (0,))
    stop = training._Process.stop

    def stop_impatiently(process) -> None:
        os.kill(os.getpid(), signal.SIGTERM)  # once more
        stop(process)

    monkeypatch.setattr(training._Process, "stop", stop_impatiently)

    def end_when_begun() -> None:
        wait_until_begun(study.runs[1])
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=end_when_begun)
    thread.start()
    with pytest.raises(Interrupted, match="SIGTERM") as error:
        train_runs(study, STUB)
    thread.join()

    assert error.value.signal == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before
    assert statuses(study) == {
        "zeros_seed0": "finished",
        "replicate_seed0": "interrupted",
        "partial_seed0": "not started",
    }
    assert read_state(study.runs[1])["attempts"][0]["exit_code"] == -signal.SIGTERM

    train_runs(study, STUB)

    assert statuses(study)["replicate_seed0"] == "finished"
    assert [a["from_iteration"] for a in read_state(study.runs[1])["attempts"]] == [0, 1]
    assert len(calls(study.runs[0])) == 1


def test_a_full_disk_ends_all_processes_and_the_next_call_resumes(main, make_study, monkeypatch):
    study = make_study(("zeros", "replicate"), (0, 1))
    writes = itertools.count(1)

    def write(*arguments):
        if next(writes) > len(study.runs):  # those of the starts
            for run in study.runs:
                wait_until_begun(run)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_json(*arguments)

    monkeypatch.setitem(main.__globals__, "train_runs", lambda s, _, n: train_runs(s, STUB, n))
    with monkeypatch.context() as full:
        full.setattr(training, "write_json", write)
        message = r"^study\.py: \[Errno 28\] No space left on device; when the cause is gone, the "
        with pytest.raises(SystemExit, match=message):
            main([str(study.file), "--work-dir", str(study.folder), "--jobs", "4"])
    # A process that is still there would have the lock.
    assert train_runs(study, STUB) == []
    assert set(statuses(study).values()) == {"finished"}


@pytest.mark.parametrize("whole", [1, 0])
def test_a_damaged_checkpoint_does_not_count(make_study, whole):
    study = make_study(("zeros",), (0,))
    (run,) = study.runs
    run.folder.mkdir(parents=True)
    # Otherwise a finished run.
    (run.folder / "config.py").write_text("train_cfg = dict(max_iters=2)")
    (run.folder / "run.json").write_text(json.dumps({"status": "finished", "attempts": []}))
    if whole:
        zipfile.ZipFile(run.folder / "iter_1.pth", "w").close()
    (run.folder / "iter_2.pth").touch()
    (run.folder / "last_checkpoint").write_text(str(run.folder / "iter_2.pth"))
    train_runs(study, STUB)
    (attempt,) = read_state(run)["attempts"]
    assert (attempt["from_iteration"], attempt["exit_code"]) == (whole, 0)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("run.json", "", "run.json is damaged"),
        ("run.json", "[]", "run.json is damaged"),
        ("run.json", "{}", "run.json is damaged"),
        ("start.json", "{}", "start.json is damaged"),
        ("now/vis_data/scalars.json", '{"step": 1}\n{"ste\n', "scalars.json, line 2, is damaged"),
    ],
)
def test_a_damaged_file_of_a_run_is_named_before_the_first_starts(make_study, file, content, words):
    study = make_study(("zeros", "partial"), (0,))
    path = study.runs[1].folder / file
    path.parent.mkdir(parents=True)
    path.write_text(content)
    refused = pytest.raises(ValueError, match=rf"{study.runs[1].folder}.*/{words} \(.*\): delete ")
    with refused:
        train_runs(study, STUB)
    assert [calls(run) for run in study.runs] == [[], []]
    path.unlink()
    train_runs(study, STUB)
    assert set(statuses(study).values()) == {"finished"}
    # Of a finished run, too: the report reads it after all other trainings.
    path.write_text(content)
    more = make_study(("zeros", "partial"), (0, 1))
    with refused:
        train_runs(more, STUB)
    assert [calls(run) for run in more.runs[2:]] == [[], []]


def test_another_training_config_is_refused_and_another_plan_is_not(make_study):
    train_runs(make_study(("zeros",), (0,)), STUB)
    changed = make_study(("zeros",), (0,), config=CONFIG.replace("lr=0.01", "lr=0.02"))
    with pytest.raises(PreflightError, match=r"(?s)noise.py.*lr=0\.01.*lr=0\.02"):
        train_runs(changed, STUB)
    plan = "study = dict(paddings=('zeros',), seeds=(0,), evaluation=(dict(tile=8),))"
    train_runs(make_study(study=plan), STUB)


def test_two_studies_in_one_folder_are_refused(make_study):
    study = make_study(("zeros",), (0,))
    study.folder.mkdir()
    with open(study.folder / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(PreflightError, match="another process"):
            train_runs(study, STUB)
    assert calls(study.runs[0]) == []


def test_a_training_that_outlives_its_study_keeps_others_away(make_study):
    study = make_study(("replicate",), (0,))
    with training._lock(study.folder / ".lock") as lock:
        child = training._Process(study, study.runs[0], STUB, {"threads": 1}, lock)
    # This process has let go of the lock, as if it had been killed.
    try:
        with pytest.raises(PreflightError, match="another process"):
            train_runs(study, STUB)
        assert not child.ended()
    finally:
        child.stop()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (CONFIG.replace("img_path='images'", "img_path='nothing'"), "nothing"),
        (f"{CONFIG}test_dataloader = None\n", r"test_dataloader: config .*noise\.py has none"),
    ],
    ids=["training", "test"],
)
def test_missing_data_stop_the_study_before_its_first_run(make_study, config, words):
    study = make_study(config=config)
    with pytest.raises(PreflightError, match=words):
        train_runs(study, STUB)
    assert not study.folder.exists()


def test_a_network_that_cannot_be_switched_stops_the_study_before_its_first_run(make_study):
    own = CONFIG.replace("num_convs=1,", "num_convs=1, conv_cfg=dict(type='OwnForward'),")
    study = make_study(config=own)
    reason = r"\(OwnForward has a forward of its own\)"
    layers = rf"decode_head\.convs\.0\.conv {reason}, decode_head\.conv_cat\.conv {reason}"
    with pytest.raises(PreflightError, match=rf"noise.py: .* to partial .* cannot: {layers}\. "):
        train_runs(study, STUB)
    assert not study.kept_config.exists()
    assert statuses(study) == {run.name: "not started" for run in study.runs}
    train_runs(make_study(("zeros",), (0,), config=own), STUB)  # what such layers have anyway


def test_a_network_of_unknown_parts_stops_the_study_before_its_first_run(make_study):
    study = make_study(config=CONFIG.replace("type='FCNHead'", "type='UnknownHead'"))
    with pytest.raises(
        ValueError, match=r"noise\.py: UnknownHead is not in the mmseg::model registry"
    ):
        train_runs(study, STUB)
    assert not study.kept_config.exists()


@pytest.mark.parametrize(
    ("old", "new", "key", "size", "map_size"),
    [
        ("shift=dict(tile=16", "shift=dict(tile=8", "shift", "8 x 8", "1x1"),
        ("dict(tile=16", "dict(tile=(16, 8)", "evaluation", "16 x 8", "2x1"),
    ],
)
def test_tiles_that_are_too_small_for_a_padding_stop_the_study_before_its_first_run(
    make_study, old, new, key, size, map_size
):
    # At output stride 8 they are maps of a pixel, and reflection leaves out the border pixel.
    plan = STUDY.replace(old, new, 1)
    words = rf"noise.py: .*study\.{key}, {size} pixels, with reflect padding: backbone\.layer\d"
    study = make_study(("zeros", "reflect"), (0,), study=plan)
    with pytest.raises(PreflightError, match=rf"{words}.*: a map of {map_size} is too small"):
        train_runs(study, STUB)
    assert not study.kept_config.exists()
    train_runs(make_study(("zeros", "partial"), (0,), study=plan), STUB)


def test_a_network_without_padding_stops_the_study_too(make_study):
    head = "type='FCNHead', in_channels=3, channels=3, num_classes=2, num_convs=0"
    model = CONFIG.index("backbone=dict("), CONFIG.index("test_cfg=dict(mode=")
    config = CONFIG[: model[0]] + f"backbone=dict(type='Same'), decode_head=dict({head}, "
    config += "in_index=0, concat_input=False)," + CONFIG[model[1] :]
    with pytest.raises(PreflightError, match=r"to zeros for a study, but it has none\."):
        train_runs(make_study(config=config), STUB)
