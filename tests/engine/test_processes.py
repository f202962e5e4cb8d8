"""Two processes on the CPU, against one."""

import json
from pathlib import Path

import pytest
import tiny_run
import torch

OPTIONS = ["randomness.diff_rank_seed=True"]


@pytest.fixture(scope="module")
def trained(tiny_config: str, tmp_path_factory: pytest.TempPathFactory) -> tiny_run.Train:
    """A run of two processes with random numbers of their own."""
    train = tiny_run.Train(tiny_config, tmp_path_factory.mktemp("two"), *OPTIONS, processes=2)
    train.state = train.end()
    return train


def _scores(folder: Path) -> dict[str, float]:
    """What `tools/test.py` wrote."""
    (file,) = folder.glob("*/*.json")
    # Every process writes this file, and the rest of a longer text may stick out behind a shorter.
    scores, _ = json.JSONDecoder().raw_decode(file.read_text())
    return {name: value for name, value in scores.items() if "time" not in name}


def test_evaluation_has_the_scores_of_one_process(
    tiny_config: str, tmp_path: Path, trained: tiny_run.Train
):
    checkpoint = str(trained.work_dir / "iter_12.pth")
    scores = []
    for processes, launcher in ((1, "pytorch"), (2, "pytorch"), (2, "mpi")):
        folder = tmp_path / f"{launcher}{processes}"
        arguments = [tiny_config, checkpoint, "--work-dir", str(folder)]
        log = tmp_path / "log"
        ended = tiny_run.run("test", arguments, log, processes, launcher=launcher)
        assert ended == [0] * processes, log.read_text()[-3000:]
        scores.append(_scores(folder))
    assert scores[0] == scores[1] == scores[2]
    assert {"mIoU", "border/border_mIoU_0.5"} < scores[0].keys()
    # Validation in training is of the weights and statistics that are in the checkpoint.
    log = next(trained.work_dir.glob("*/vis_data/scalars.json")).read_text().splitlines()
    validated = json.loads(log[-1])
    assert {name: validated[name] for name in scores[0]} == scores[0]


def test_batch_statistics_of_each_process_are_announced(trained: tiny_run.Train) -> None:
    assert trained.log.read_text().count("No GPU: 2 SyncBN of the config became BN") == 1


def test_processes_see_the_samples_of_one(tiny_config: str, tmp_path: Path) -> None:
    """Without what depends on the split of a batch, weights differ by rounding alone."""
    states = []
    for processes, batch_size in ((1, 4), (2, 2)):
        folder = tmp_path / str(processes)
        options = [
            f"train_dataloader.batch_size={batch_size}",
            "model.decode_head.dropout_ratio=0",
            "model.backbone.norm_eval=True",
            "model.decode_head.norm_cfg=None",
        ]
        train = tiny_run.Train(tiny_config, folder, *options, processes=processes)
        states.append(train.end()["state_dict"])
    for name, value in states[0].items():
        if value.is_floating_point():
            torch.testing.assert_close(states[1][name], value, rtol=1e-4, atol=1e-5)


def test_a_signal_to_one_process_stops_all_at_the_same_iteration(
    tiny_config: str, tmp_path: Path, trained: tiny_run.Train
) -> None:
    train = tiny_run.Train(tiny_config, tmp_path, *OPTIONS, processes=2)
    train.stop()
    assert (train.work_dir / "iter_5.pth").is_file()
    tiny_run.assert_same(train.end(), trained.state)


def test_a_signal_in_a_validation_of_which_one_process_has_more_batches(
    tiny_config: str, tmp_path: Path, trained: tiny_run.Train
) -> None:
    options = [*OPTIONS, "val_dataloader.sampler.round_up=False"]
    train = tiny_run.Train(tiny_config, tmp_path, *options, processes=2)
    train.stop("predict", 1)
    assert (train.work_dir / "iter_4.pth").is_file()
    tiny_run.assert_same(train.end(), trained.state)


def test_another_number_of_processes_goes_on_with_the_same_samples(
    tiny_config: str, tmp_path: Path
) -> None:
    train = tiny_run.Train(tiny_config, tmp_path, processes=2)
    train.stop()
    alone = tiny_run.Train(tiny_config, tmp_path, "train_dataloader.batch_size=4")
    alone.end()
    log = alone.log.read_text()
    assert "The data go on after 20 samples" in log
    assert "random number generators for 2 processes, and this run has 1: dropout" in log
