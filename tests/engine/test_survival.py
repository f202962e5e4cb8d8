"""Runs that are killed, stopped, cut off from the disk, and go on."""

import itertools
import json
import os
import random
import re
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_run
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.optim import CosineAnnealingLR, PolyLR, ReduceOnPlateauLR
from mmengine.runner import Runner

from pconv_seg.engine import PreflightError, ResumableCheckpointHook
from pconv_seg.engine.checkpoint_hook import _changes, _resume_from
from pconv_seg.work_dir import damage, newest_checkpoint


@pytest.fixture(scope="module")
def uninterrupted(tiny_config: str, tmp_path_factory: pytest.TempPathFactory) -> dict:
    return tiny_run.Train(tiny_config, tmp_path_factory.mktemp("uninterrupted")).end()


def _assert_stopping_changes_nothing(
    config: str, folder: Path, *options: str, call: tuple[str, int] = ("loss", 5), saved: int = 5
) -> dict:
    """Training ends alike, and so, without a break and with one after iteration ``saved``."""
    whole = tiny_run.Train(config, folder / "whole", *options).end()
    train = tiny_run.Train(config, folder / "stopped", *options)
    train.stop(*call)
    assert newest_checkpoint(train.work_dir)[0].name == f"iter_{saved}.pth"
    tiny_run.assert_same(train.end(), whole)
    return whole


def test_the_end_depends_on_what_is_restored(uninterrupted: dict, tiny_config: str, tmp_path: Path):
    """The comparison notices other random numbers."""
    other = tiny_run.Train(tiny_config, tmp_path, "randomness.seed=4").end()
    with pytest.raises(AssertionError):
        tiny_run.assert_same(other, uninterrupted)


def _check_files(work_dir: Path, before: int) -> int:
    """All checkpoints are whole, one is at least as new as before, and the best is kept."""
    files = list(work_dir.glob("*.pth"))
    assert {path.name: damage(path) for path in files if damage(path)} == {}
    newest, skipped = newest_checkpoint(work_dir)
    assert skipped == []
    if newest is None:
        assert before == 0
        return 0
    content = torch.load(newest, weights_only=False)
    assert content["meta"]["iter"] >= before
    best = content["message_hub"]["runtime_info"].get("best_ckpt")
    assert best is None or any(path.name.startswith("best") for path in files)
    return content["meta"]["iter"]


def _kill_often(config: str, folder: Path, kills: int, seed: int) -> tuple[dict, list[bool]]:
    """Train to the end through many deaths.

    Returns:
        The final state, and for each death whether it was in the middle of writing a file.
    """
    choose = random.Random(seed)
    train = tiny_run.Train(config, folder)
    saved, deaths = 0, []
    while len(deaths) < kills:
        if choose.random() < 0.5:
            (status,) = train.run(tiny_run.die_at, choose.randint(1, 16), choose.random() < 0.5)
        else:
            processes = train.start()
            processes[0].join(choose.uniform(0.5, 4))
            processes[0].kill()
            (status,) = tiny_run.finish(processes)
        if status == 0:
            break
        assert status == -signal.SIGKILL
        deaths.append(any(train.work_dir.glob(".*")))
        saved = _check_files(train.work_dir, saved)
    return train.end(), deaths


def test_killed_runs_end_with_the_same_weights(
    tiny_config: str, tmp_path: Path, uninterrupted: dict
) -> None:
    train = tiny_run.Train(tiny_config, tmp_path)
    # From a first iteration and in the middle of a first file, to the removal of an old one.
    saved = 0
    for event, cut in ((1, False), (3, True), (6, True), (9, False), (10, False), (19, False)):
        assert train.run(tiny_run.die_at, event, cut) == [-signal.SIGKILL]
        saved = _check_files(train.work_dir, saved)
    assert saved > 2
    tiny_run.assert_same(train.end(), uninterrupted)
    names = sorted(path.name for path in train.work_dir.iterdir() if path.is_file())
    assert [name for name in names if not name.startswith("best")] == [
        "iter_12.pth",
        "last_checkpoint",
        "tiny.py",
    ]
    assert len(names) == 4
    assert not list(train.work_dir.glob(".*"))


def test_leftovers_are_removed_where_they_are_and_files_of_others_stay(
    tiny_config: str, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    train = tiny_run.Train(tiny_config, tmp_path, f"default_hooks.checkpoint.out_dir={elsewhere}")
    folders = {"iter_2.pth": elsewhere / "work", "last_checkpoint": train.work_dir}
    for name, folder in folders.items():
        (folder / f".{name}.abcd_123").mkdir(parents=True)
        (folder / f".{name}.Xa3bQ9").write_text("of rsync")
    assert train.run() == [0], train.log.read_text()[-3000:]
    for name, folder in folders.items():
        assert [path.name for path in folder.glob(".*")] == [f".{name}.Xa3bQ9"]


@pytest.mark.slow
def test_twenty_kills_at_random_moments(
    tiny_config: str, tmp_path: Path, uninterrupted: dict
) -> None:
    deaths: list[bool] = []
    for attempt in itertools.count():
        folder = tmp_path / str(attempt)
        state, further = _kill_often(tiny_config, folder, 20 - len(deaths), seed=attempt)
        tiny_run.assert_same(state, uninterrupted)
        deaths += further
        if len(deaths) >= 20:
            break
    assert sum(deaths) >= 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signal_saves_and_ends_with_the_documented_status(
    tiny_config: str, tmp_path: Path, uninterrupted: dict, number: int
) -> None:
    train = tiny_run.Train(tiny_config, tmp_path)
    train.stop(number=number)
    saved = train.work_dir / "iter_5.pth"
    assert damage(saved) is None
    assert (
        f"{number.name}: saved {saved} after iteration 5; the same command with --resume goes on "
        "from there. Exit status 75"
    ) in train.log.read_text()
    tiny_run.assert_same(train.end(), uninterrupted)


def test_signal_in_validation_repeats_it_on_resuming(
    tiny_config: str, tmp_path: Path, uninterrupted: dict
) -> None:
    by_iteration = "default_hooks.logger.log_metric_by_epoch=False"
    train = tiny_run.Train(tiny_config, tmp_path, by_iteration)
    # The second image of the second validation.
    train.stop("predict", 5)
    content = torch.load(train.work_dir / "iter_8.pth", weights_only=False)
    assert content["message_hub"]["runtime_info"]["last_validation"] == 4
    tiny_run.assert_same(train.end(), uninterrupted)
    logs = train.work_dir.glob("*/vis_data/scalars.json")
    records = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    assert sorted(record["step"] for record in records if "mIoU" in record) == [4, 8, 12]


def test_signal_in_validation_of_averaged_weights(tiny_config: str, tmp_path: Path) -> None:
    ema = ["default_hooks.ema.type=EMAHook", "default_hooks.ema.momentum=0.1"]
    options = dict(call=("predict", 2), saved=4)
    end = _assert_stopping_changes_nothing(tiny_config, tmp_path, *ema, **options)
    assert end["ema_state_dict"]


@pytest.mark.parametrize("save_best", ["border/mIoU", "[border/mIoU,mIoU]"])
def test_a_copied_run_removes_its_own_files_alone(
    tiny_config: str, tmp_path: Path, save_best: str
) -> None:
    option = f"default_hooks.checkpoint.save_best={save_best}"
    first = tiny_run.Train(tiny_config, tmp_path, option)
    first.stop()
    path = first.work_dir / "iter_5.pth"
    content = torch.load(path, weights_only=False)
    for key in content["message_hub"]["runtime_info"]:
        if key.startswith("best_score"):
            content["message_hub"]["runtime_info"][key] = -1.0
    torch.save(content, path)
    best = {file.name for file in first.work_dir.glob("best_*")}
    shutil.copytree(first.work_dir, tmp_path / "copy/work")

    copied = tiny_run.Train(tiny_config, tmp_path / "copy", option)
    copied.end()

    assert best == {file.name for file in first.work_dir.glob("best_*")}
    left = {file.name for file in copied.work_dir.glob("best_*")}
    assert len(left) == len(best)
    assert not left & best


def test_a_score_that_no_validation_gives_is_named() -> None:
    hook = ResumableCheckpointHook(save_best=["border/mIoU", "tile/mIoU"], rule="greater")
    runner = SimpleNamespace(message_hub=MessageHub("validation"), iter=3)
    with pytest.raises(PreflightError) as error:
        hook.after_val_epoch(runner, {"mIoU": 1.0, "border/mIoU": 2.0})
    assert str(error.value) == (
        "default_hooks.checkpoint.save_best: no score of the validation is called tile/mIoU; there "
        "are mIoU, border/mIoU. Name one of these, or add the hook or metric that gives it; then "
        "go on with --resume."
    )


def test_workers_outlive_the_signal_and_change_nothing(
    tiny_config: str, tmp_path: Path, uninterrupted: dict
) -> None:
    options = [
        f"{split}_dataloader.{option}"
        for split in ("train", "val")
        for option in ("num_workers=1", "persistent_workers=True")
    ]
    train = tiny_run.Train(tiny_config, tmp_path, *options)
    # The whole group gets it, as from a cluster.
    train.stop()
    tiny_run.assert_same(train.end(), uninterrupted)


@pytest.mark.slow
def test_workers_of_a_server_end_with_the_training(
    tiny_config: str, tmp_path: Path, uninterrupted: dict
) -> None:
    workers = "train_dataloader.num_workers=1", "train_dataloader.persistent_workers=True"
    train = tiny_run.Train(
        tiny_config, tmp_path, *workers, "env_cfg.mp_cfg.mp_start_method=forkserver"
    )
    tiny_run.assert_same(train.end(), uninterrupted)


def test_samplers_that_cannot_jump_draw_again(tiny_config: str, tmp_path: Path) -> None:
    """mmengine's sampler, with augmentation that draws from the process's generators."""
    text = Path(tiny_config).read_text()
    for ours, stock in (
        ("sampler=dict(type='ResumableSampler')", "sampler=dict(type='InfiniteSampler')"),
        ("dataset=dict(type='DrawnDataset', dataset=data(", "dataset=data("),
        ("dict(type='PhotoMetricDistortion')))", "dict(type='PhotoMetricDistortion'))"),
    ):
        assert ours in text
        text = text.replace(ours, stock)
    config = tmp_path / "stock.py"
    config.write_text(text)
    _assert_stopping_changes_nothing(str(config), tmp_path)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            "train_cfg.fast_forward_on_resume=True",
            "train_cfg.fast_forward_on_resume: ResumableTrainLoop",
        ),
        (
            "default_hooks.checkpoint.intervall=5",
            "default_hooks.checkpoint.intervall: there is no such option; there are interval, ",
        ),
    ],
)
def test_options_that_are_refused_at_the_start(
    tiny_config: str, tmp_path: Path, option: str, message: str
) -> None:
    train = tiny_run.Train(tiny_config, tmp_path, option)
    assert train.refused().startswith(f"train.py: {message}")


def test_signals_are_not_for_runs_by_epochs(tiny_config: str, tmp_path: Path) -> None:
    config = tmp_path / "epochs.py"
    config.write_text(
        Path(tiny_config).read_text()
        + "train_cfg = dict(by_epoch=True, max_epochs=2)\n"
        + "train_dataloader['sampler'] = dict(type='DefaultSampler')\n"
    )
    train = tiny_run.Train(str(config), tmp_path)
    last = train.refused()
    assert last.startswith("train.py: StopOnSignalHook needs ")
    assert "max_iters" in last


def test_hooks_of_the_config_can_be_left_out(tiny_config: str, tmp_path: Path) -> None:
    options = [f"default_hooks.{name}=None" for name in ("stop", "finite_loss", "timer")]
    train = tiny_run.Train(tiny_config, tmp_path, *options)
    assert train.run(tiny_run.signal_in, "loss", 2, signal.SIGTERM) == [-signal.SIGTERM]


def test_checkpoints_without_the_state_of_training_are_not_resumed_from(
    tiny_config: str, tmp_path: Path
) -> None:
    train = tiny_run.Train(tiny_config, tmp_path)
    train.stop()
    (best,) = train.work_dir.glob("best_*.pth")
    assert tiny_run.Train(tiny_config, tmp_path, f"load_from={best}").refused() == (
        f"train.py: --resume: {best} holds no optimizer, param_schedulers, so training cannot go "
        "on from it (best checkpoints hold weights alone). Name a checkpoint iter_N.pth of the "
        "work dir with --cfg-options load_from=FILE, or leave out --resume to start a new training "
        "from these weights"
    )


def test_a_run_that_started_from_a_checkpoint_of_another_goes_on_from_its_own(
    tiny_config: str, tmp_path: Path
) -> None:
    first = tiny_run.Train(tiny_config, tmp_path / "first")
    first.end()
    states = []
    for name in ("whole", "stopped"):
        start = f"load_from={first.work_dir / 'iter_12.pth'}"
        train = tiny_run.Train(tiny_config, tmp_path / name, start)
        resumed, train.arguments = train.arguments, [a for a in train.arguments if a != "--resume"]
        if name == "stopped":
            train.stop()
            train.arguments = resumed
        states.append(train.end())
    assert "the run that started from it has come to" in train.log.read_text()
    tiny_run.assert_same(states[1], states[0])


def test_gradients_are_never_lost_between_accumulated_iterations(
    tiny_config: str, tmp_path: Path
) -> None:
    accumulating = "optim_wrapper.accumulative_counts=2"
    _assert_stopping_changes_nothing(tiny_config, tmp_path, accumulating, saved=6)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ([], "default_hooks.checkpoint.interval=2"),
        # Of the best checkpoints.
        (
            ["default_hooks.checkpoint.interval=-1", "train_cfg.val_interval=6"],
            "train_cfg.val_interval=6",
        ),
    ],
)
def test_checkpoints_between_accumulated_iterations_are_refused(
    tiny_config: str, tmp_path: Path, options: list[str], named: str
) -> None:
    accumulating = "optim_wrapper.accumulative_counts=4"
    train = tiny_run.Train(tiny_config, tmp_path, accumulating, *options)
    assert train.run() == [1]
    assert f"train.py: {named} is no multiple of {accumulating}: " in train.log.read_text()


def test_full_disk_keeps_what_was_written(
    tiny_config: str, tmp_path: Path, uninterrupted: dict
) -> None:
    train = tiny_run.Train(tiny_config, tmp_path)
    # Of iteration 4 a checkpoint, the best one, and the first again with the best score.
    for write, file in ((2, "iter_4.pth"), (2, "best_border_mIoU_iter_4.pth")):
        assert train.run(tiny_run.fill_disk_at, write) == [1]
        message = (
            rf"\ntrain\.py: .*No space left on device: {train.work_dir / file} was not written.*"
        )
        assert re.search(rf"{message} \(work dir .*--resume goes on\)\n$", train.log.read_text())
        assert damage(train.work_dir / (train.work_dir / "last_checkpoint").read_text()) is None
        assert not list(train.work_dir.glob(".*"))
    tiny_run.assert_same(train.end(), uninterrupted)


def test_full_disk_keeps_the_best_checkpoint_so_far(tiny_config: str, tmp_path: Path) -> None:
    train = tiny_run.Train(tiny_config, tmp_path, "randomness.seed=5")
    # Checkpoints 2, 4, the best one, 4 with its score, 6, 8, and a better one.
    assert train.run(tiny_run.fill_disk_at, 7) == [1]
    better = train.work_dir / "best_border_mIoU_iter_8.pth"
    assert f"{better} was not written" in train.log.read_text()
    assert damage(train.work_dir / "best_border_mIoU_iter_4.pth") is None


def test_resume_skips_damaged_checkpoints_and_says_so(
    tiny_config: str, tmp_path: Path, uninterrupted: dict
) -> None:
    train = tiny_run.Train(tiny_config, tmp_path, "default_hooks.checkpoint.max_keep_ckpts=3")
    train.stop("loss", 11)
    assert len(list(train.work_dir.glob("iter_*.pth"))) == 3
    cut, changed = (train.work_dir / f"iter_{n}.pth" for n in (11, 10))
    cut.write_bytes(cut.read_bytes()[:-1000])
    content = bytearray(changed.read_bytes())
    content[len(content) // 2] ^= 1
    changed.write_bytes(content)
    (train.work_dir / "last_checkpoint").unlink()
    train.log.unlink()

    tiny_run.assert_same(train.end(), uninterrupted)
    log = train.log.read_text()
    assert f"Not resumed from {cut}: it is cut off or changed" in log
    assert f"Not resumed from {changed}: its bytes are not those that were written" in log
    assert f"Load checkpoint from {train.work_dir / 'iter_8.pth'}" in log


def test_a_schedule_that_resuming_does_not_follow_is_named(
    tiny_config: str, tmp_path: Path, uninterrupted: dict
) -> None:
    train = tiny_run.Train(tiny_config, tmp_path)
    train.stop()
    train.log.unlink()
    train.arguments += ["--cfg-options", "param_scheduler.1.end=99", "optim_wrapper.optimizer.lr=1"]
    tiny_run.assert_same(train.end(), uninterrupted)
    found = re.findall(r"--resume does not follow .*: (param_scheduler.*)", train.log.read_text())
    assert found == [
        "param_scheduler.0: base_values is [0.05], not the config's [1]",
        "param_scheduler.1: base_values is [0.05], not the config's [1]",
        "param_scheduler.1: end is 12, not the config's 99",
        "param_scheduler.1: total_iters is 7, not the config's 94",
    ]

    train.arguments = train.arguments[:-3]
    train.log.unlink()
    train.end()
    assert "does not follow" not in train.log.read_text()


def test_other_kinds_and_numbers_of_schedulers_are_named() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    poly = PolyLR(optimizer, end=100, by_epoch=False)
    cosine = CosineAnnealingLR(optimizer, end=100, by_epoch=False)
    assert list(_changes([poly], [poly.state_dict()])) == []
    (other,) = _changes([cosine], [poly.state_dict()])
    assert "param_scheduler.0: the checkpoint's is another kind of scheduler" in other
    assert "it has power, total_iters, not T_max" in other
    (named,) = _changes({"generator": [cosine]}, {"generator": [poly.state_dict()]})
    assert named == other.replace("param_scheduler.0", "param_scheduler.generator.0")
    powerless = {name: value for name, value in poly.state_dict().items() if name != "power"}
    (lacking,) = _changes([poly], [powerless])
    assert "it has nothing else, not power" in lacking
    plateau = ReduceOnPlateauLR(optimizer, monitor="loss")
    counted = {"best": 0.5, "num_bad_epochs": 1, "cooldown_counter": 1}
    assert list(_changes([plateau], [{**plateau.state_dict(), **counted}])) == []
    for ours, theirs in (([poly, cosine], [poly]), ([poly], [poly, cosine])):
        (number,) = _changes(ours, [scheduler.state_dict() for scheduler in theirs])
        assert f"has {len(theirs)} schedulers, the config {len(ours)}" in number
    assert list(_changes(None, None)) == list(_changes(None, [poly.state_dict()])) == []


def test_load_from_counts_where_the_run_has_nothing_of_its_own(tmp_path: Path) -> None:
    start, work_dir = str(tmp_path / "start.pth"), tmp_path / "work"
    work_dir.mkdir()
    assert _resume_from(start, str(work_dir)) == (start, [])
    (work_dir / "iter_3.pth").touch()
    damaged = f"{work_dir / 'iter_3.pth'}: it is empty"
    none = f"no whole checkpoint in {work_dir}: {damaged}"
    assert _resume_from(start, str(work_dir)) == (start, [none])
    whole = work_dir / "iter_1.pth"
    torch.save({}, whole)
    os.utime(whole, (0, 0))
    assert _resume_from(None, str(work_dir)) == (whole, [damaged])
    assert _resume_from(start, str(work_dir)) == (
        whole,
        [damaged, f"{start}: the run that started from it has come to {whole}"],
    )
    (tmp_path / "link").symlink_to(work_dir)
    for own, folder in ((tmp_path / "link/iter_1.pth", work_dir), (whole, tmp_path / "link")):
        assert _resume_from(str(own), str(folder)) == (str(own), [])
    # With out_dir the run's own are elsewhere.
    work_dir.joinpath("last_checkpoint").write_text(str(tmp_path / "out/iter_5.pth"))
    (tmp_path / "out").mkdir()
    torch.save({}, tmp_path / "out/iter_5.pth")
    own = str(tmp_path / "out/iter_2.pth")
    assert _resume_from(own, str(work_dir)) == (own, [])


def test_only_damaged_checkpoints_are_an_error(tiny_config: str, tmp_path: Path) -> None:
    train = tiny_run.Train(tiny_config, tmp_path)
    train.work_dir.mkdir()
    (train.work_dir / "iter_3.pth").write_bytes(b"")
    assert train.refused().startswith(
        f"train.py: --resume: no whole checkpoint in {train.work_dir}: "
        f"{train.work_dir}/iter_3.pth: it is empty"
    )


def test_the_seed_is_that_of_the_checkpoint(tiny_config: str, tmp_path: Path) -> None:
    """Without any in the config."""
    train = tiny_run.Train(tiny_config, tmp_path, "randomness.seed=None")
    train.stop()
    seed = torch.load(train.work_dir / "iter_5.pth", weights_only=False)["meta"]["seed"]
    resumed = train.end()
    whole = tiny_run.Train(tiny_config, tmp_path / "whole", f"randomness.seed={seed}").end()
    tiny_run.assert_same(resumed, whole)


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        ("FiniteLossHook", "FloatingPointError: iteration 2: "),
        # One that has nothing to do here.
        ("DistSamplerSeedHook", " is not finite after iteration 2: no checkpoint was written"),
    ],
)
def test_weights_that_are_no_numbers_are_not_saved(
    tiny_config: str, tmp_path: Path, hook: str, message: str
) -> None:
    options = ["optim_wrapper.optimizer.lr=1e36", f"default_hooks.finite_loss.type={hook}"]
    train = tiny_run.Train(tiny_config, tmp_path, *options)
    assert train.run() == [1]
    log = train.log.read_text()
    assert message in log
    if hook == "FiniteLossHook":
        assert "decode.loss_ce is nan" in log
        assert f"for the images {Path(tiny_config).parent}/train/images/" in log
    assert not list(train.work_dir.glob("*.pth"))


def test_validation_leaves_no_trace_in_training(
    tiny_config: str, tmp_path: Path, uninterrupted: dict
) -> None:
    """Its loader draws a seed from torch's generator each time."""
    loop = ("val_interval=5", "val_begin=10", "dynamic_intervals=[(11,1)]")
    options = [f"train_cfg.{option}" for option in loop]
    train = tiny_run.Train(
        tiny_config, tmp_path, *options, "default_hooks.logger.log_metric_by_epoch=False"
    )
    end = train.end()
    for part in ("state_dict", "optimizer", "random"):
        tiny_run.assert_same(end[part], uninterrupted[part])
    (log,) = train.work_dir.glob("*/vis_data/scalars.json")
    records = map(json.loads, log.read_text().splitlines())
    assert [record["step"] for record in records if "mIoU" in record] == [10, 11, 12]


def test_training_ends_early_where_a_hook_says_so(tiny_config: str, tmp_path: Path) -> None:
    hook = ("type=EarlyStoppingHook", "monitor=mIoU", "stopping_threshold=0")
    train = tiny_run.Train(tiny_config, tmp_path, *(f"default_hooks.early.{o}" for o in hook))
    assert train.run() == [0]
    assert newest_checkpoint(train.work_dir)[0].name == "iter_4.pth"


def test_a_test_of_a_config_that_resumes_compares_no_schedule(
    tiny_config: str, tmp_path: Path
) -> None:
    train = tiny_run.Train(tiny_config, tmp_path)
    train.stop()
    cfg = Config.fromfile(tiny_config)
    cfg.update(resume=True, work_dir=str(train.work_dir), launcher="none")
    cfg.update(test_dataloader=cfg.val_dataloader, test_evaluator=cfg.val_evaluator)
    cfg.test_cfg = dict(type="TestLoop")
    assert Runner.from_cfg(cfg).test()
