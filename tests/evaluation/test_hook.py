import json
import logging
import os
from pathlib import Path
from types import SimpleNamespace

import known_segmentor  # noqa: F401, registers the segmentor in every process
import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.registry import HOOKS, MODELS, init_default_scope
from mmengine.runner import Runner
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from two_processes import in_two_processes

from pconv_seg.engine import PreflightError
from pconv_seg.evaluation import EvaluationPlan, PaddingEvalHook, evaluate
from pconv_seg.evaluation.confusion import class_areas, class_iou, mean_present, pixel_accuracy

PLAN = {"tile": (16, 20), "leave_outs": ["1/2"]}
HOOK = {"type": "PaddingEvalHook", **PLAN}
SCORES = ("mIoU", "aAcc", "mAcc", "border_mIoU_0.5")
NAMES = [f"{mode}/{score}" for mode in ("regular", "tile", "tile_overlap") for score in SCORES]


@pytest.fixture
def make_runner(make_config, request):
    """Trains nothing for 4 iterations and validates after each."""

    def make(hook=HOOK, *others, pad=None, config=None, **options):
        config = config or make_config()
        config.experiment_name = request.node.name
        # Without an end, at which mmengine would pause for seconds.
        config.train_dataloader.sampler = {"type": "InfiniteSampler", "shuffle": False}
        config.custom_hooks = [hook, *others]
        config.model.data_preprocessor.test_cfg = pad
        config.log_processor = {"by_epoch": False}
        config.visualizer = {
            "type": "Visualizer",
            "vis_backends": [{"type": "LocalVisBackend"}, {"type": "TensorboardVisBackend"}],
        }
        config.default_hooks = {
            "logger": {"type": "LoggerHook", "log_metric_by_epoch": False},
            "checkpoint": {"type": "CheckpointHook", "by_epoch": False, **options},
        }
        return Runner.from_cfg(config)

    return make


def curves(runner):
    [events] = Path(runner.work_dir).rglob("events.*")
    reader = EventAccumulator(str(events)).Reload()
    return {name: reader.Scalars(name) for name in reader.Tags()["scalars"]}


def expected_scores(runner, **plan):
    plan = EvaluationPlan(**PLAN, **plan)
    evaluation = evaluate([runner.model], runner.val_dataloader, plan, progress=False)
    areas = class_areas(sum(evaluation.counts)[0])
    right, label, _ = np.moveaxis(areas, 2, 0)
    miou = mean_present(class_iou(areas))
    scores = [miou[:, 0], pixel_accuracy(areas[:, 0]), (right / label)[:, 0].mean(-1), miou[:, 1]]
    return dict(zip(NAMES, 100 * np.stack(scores, axis=1).ravel(), strict=True))


def test_scores_reach_log_backends_and_checkpoint_hook(make_runner):
    runner = make_runner(save_best="tile/mIoU", interval=4)
    runner.train()
    scores = expected_scores(runner)
    # Overlapping tiles repair all seams, but not the image's own border.
    assert 0 < scores["tile/mIoU"] < scores["regular/mIoU"] == scores["tile_overlap/mIoU"] < 100
    assert scores["tile/mIoU"] != scores["tile/border_mIoU_0.5"]

    logged = curves(runner)
    assert set(NAMES) <= set(logged)
    for name, score in scores.items():
        assert [event.step for event in logged[name]] == [1, 2, 3, 4]
        assert logged[name][-1].value == pytest.approx(score, rel=1e-6)
    assert "mIoU" in logged  # mmseg's own
    [log] = Path(runner.work_dir).rglob("*.log")
    assert f"tile/mIoU: {scores['tile/mIoU']:.4f}" in log.read_text()
    [local] = Path(runner.work_dir).rglob("scalars.json")
    assert "tile_overlap/border_mIoU_0.5" in local.read_text()

    [best] = Path(runner.work_dir).glob("best_*.pth")
    assert best.name == "best_tile_mIoU_iter_1.pth"
    hub = torch.load(best, weights_only=False)["message_hub"]["runtime_info"]
    assert hub["best_score"] == pytest.approx(scores["tile/mIoU"])


@HOOKS.register_module(force=True)
class NegateOnce(Hook):
    """Makes the trained weights wrong after the first average of them was taken."""

    priority = "VERY_LOW"

    def after_train_iter(self, runner, *args, **kwargs):
        if runner.iter == 0:
            runner.model.decode_head.conv_seg.weight.data.neg_()


def test_scores_are_those_of_the_weights_that_are_validated_and_saved(make_runner):
    runner = make_runner(HOOK, {"type": "EMAHook"}, {"type": "NegateOnce"}, save_best="tile/mIoU")
    expected = expected_scores(runner)
    runner.train()
    assert expected_scores(runner)["tile/mIoU"] < 20 < expected["tile/mIoU"]
    logged = curves(runner)
    for name, score in expected.items():
        assert [event.value for event in logged[name]] == pytest.approx([score] * 4, rel=1e-6)
    [best] = Path(runner.work_dir).glob("best_*.pth")
    runner.model.load_state_dict(torch.load(best, weights_only=False)["state_dict"])
    assert expected_scores(runner) == expected


def test_interval_counts_validations(make_runner):
    runner = make_runner(hook={**HOOK, "interval": 2}, save_best="tile/mIoU")
    runner.train()
    assert [event.step for event in curves(runner)["tile/mIoU"]] == [1, 3, 4]  # and the last


def test_a_resumed_run_keeps_the_interval_and_the_last_scores(make_runner, monkeypatch):
    hook = {**HOOK, "modes": ["tile"], "interval": 3}
    sparse = {**HOOK, "modes": ["regular"], "interval": 4}
    first = make_runner(hook, sparse, interval=1)
    first.train()
    rest = make_runner(hook, sparse, save_best="tile/mIoU")
    rest.resume(f"{first.work_dir}/iter_2.pth")
    evaluated, original = [], PaddingEvalHook._evaluate
    monkeypatch.setattr(
        PaddingEvalHook,
        "_evaluate",
        lambda self, runner, *others: (
            evaluated.append((self.interval, runner.iter)) or original(self, runner, *others)
        ),
    )
    seen = []
    monkeypatch.setattr(
        rest.hooks[-1], "after_val_epoch", lambda runner, metrics: seen.append(metrics["tile/mIoU"])
    )
    rest.train()
    # Of the validations 3 and 4; the first three of that run are those of iterations 1, 2 and 3.
    assert evaluated == [(3, 4), (4, 4)]
    assert seen == [expected_scores(rest)["tile/mIoU"]] * 2


def test_scores_after_testing(make_runner):
    runner = make_runner()
    metrics = runner.test()
    assert expected_scores(runner).items() <= metrics.items()
    assert [event.step for event in curves(runner)["tile/mIoU"]] == [0]


def test_what_is_ignored_is_what_the_metric_of_the_split_ignores(make_runner, make_config):
    config = make_config(ignored=0)
    config.val_evaluator = {"type": "IoUMetric", "ignore_index": 0}
    config.test_evaluator = {"type": "IoUMetric", "ignore_index": 1}
    runner = make_runner(config=config)
    expected = [expected_scores(runner, ignore_index=label)["tile/aAcc"] for label in (0, 1)]
    assert expected_scores(runner)["tile/aAcc"] not in expected
    assert runner.val()["tile/aAcc"] == expected[0]
    assert runner.test()["tile/aAcc"] == expected[1]


def test_padding_that_counts_as_missing_is_not_there(make_runner):
    pad = {"size_divisor": 16}
    expected = make_runner().test()
    assert make_runner(pad=pad).test()["tile/mIoU"] != expected["tile/mIoU"]
    assert make_runner(HOOK, {"type": "PaddedBatchHook"}, pad=pad).test() == expected


def test_a_failing_evaluation_does_not_stop_training(make_runner, caplog):
    runner = make_runner(
        hook={**HOOK, "tile": None, "overlap": 32}, save_best="tile/mIoU", interval=1
    )
    runner.train()
    assert runner.iter == 4
    assert (Path(runner.work_dir) / "iter_4.pth").is_file()
    [log] = Path(runner.work_dir).rglob("*.log")
    text = log.read_text()
    assert text.count("PaddingEvalHook failed; training goes on without its scores") == 4
    assert "ValueError: overlap of 32 pixels must be smaller than the tile (24)" in text
    assert "mIoU" in curves(runner)
    assert "tile/mIoU" not in curves(runner)


def _validate_share(rank, folder, config):
    os.chdir(folder)  # where mmengine's processes exchange results
    init_default_scope("mmseg")
    model = MODELS.build(config.model)
    loader = Runner.build_dataloader(config.val_dataloader)
    runner = SimpleNamespace(
        cfg=config,
        model=model,
        val_loop=SimpleNamespace(dataloader=loader),
        _train_loop=None,
        logger=logging.getLogger(f"process {rank}"),
        visualizer=SimpleNamespace(add_scalars=lambda scores, step: None),
    )
    metrics = [{}, {}]
    runner.message_hub = MessageHub("whole")
    PaddingEvalHook(**PLAN).after_val_epoch(runner, metrics[0])
    if rank == 1:  # the only one that reads this file
        Path(config.val_dataloader.dataset.data_root, "labels/1.png").unlink()
    runner.message_hub = MessageHub("failing")
    PaddingEvalHook(**PLAN).after_val_epoch(runner, metrics[1])
    (folder / f"{rank}.json").write_text(json.dumps(metrics))


def test_processes_share_images_and_errors(make_config, tmp_path):
    config = make_config(images=3)
    init_default_scope("mmseg")
    expected = expected_scores(
        SimpleNamespace(
            model=MODELS.build(config.model),
            val_dataloader=Runner.build_dataloader(config.val_dataloader),
        )
    )
    in_two_processes(_validate_share, tmp_path, config)
    for rank in range(2):
        scores, failed = json.loads((tmp_path / f"{rank}.json").read_text())
        assert {name: scores[name] for name in expected} == pytest.approx(expected)
        assert failed == dict.fromkeys(NAMES)


def test_bad_options_and_models_are_refused_at_once(make_runner):
    for options, message in [
        ({"interval": 0}, "interval must be at least 1"),
        ({"modes": ["all"]}, "modes must be some of"),
        ({"bands": [8]}, "not bands"),
        ({"leave_outs": ["1/3", 0.33333]}, "33333/100000 and 1/3 would both be called border_mIoU"),
    ]:
        with pytest.raises(ValueError, match=message):
            HOOKS.build({"type": "PaddingEvalHook", **options})
    runner = make_runner()
    runner.model = torch.nn.Identity()
    with pytest.raises(PreflightError, match="needs an mmseg EncoderDecoder, got Identity"):
        PaddingEvalHook().before_run(runner)
