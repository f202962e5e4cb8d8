"""Every config in configs/: builds, loads data, trains one step, predicts; and the pairs."""

import argparse
from itertools import islice
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config, DictAction
from mmengine.dataset import Compose, pseudo_collate
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATA_SAMPLERS, init_default_scope
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.registry import DATASETS, MODELS
from mmseg.structures import SegDataSample
from torch import nn

from pconv_seg import PConv2d
from pconv_seg.datasets import Draw
from pconv_seg.datasets.cityscapes.cities import COARSE_CITIES, split_cities
from pconv_seg.engine.config_parts import leaf_datasets

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.py"))
PAIRS = [
    (path, path.with_name(path.name.replace("_zero_", "_pd_")))
    for path in CONFIGS
    if "_zero_" in path.name
]
SPLIT2 = [path for path in CONFIGS if path.stem.endswith("_split2")]
# Their zero configs differ in conv_cfg alone.
PARTIAL = [pd for _, pd in PAIRS]
by_pair = pytest.mark.parametrize(("zero", "pd"), PAIRS, ids=lambda path: path.stem)


def load(path: Path, *options: str) -> Config:
    """A config with ``--cfg-options`` as the tools read them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=DictAction)
    cfg = Config.fromfile(path)
    if options:
        cfg.merge_from_dict(parser.parse_args(["--cfg-options", *options]).cfg_options)
    init_default_scope(cfg.default_scope)
    return cfg


@pytest.fixture
def data(tmp_path, monkeypatch):
    """One image each for training and validation, or per city, as every data set lays them out."""
    rng = np.random.default_rng(0)

    def write(size: tuple[int, int], classes: int, image: str, labels: str) -> None:
        mmcv.imwrite(rng.integers(256, size=(*size, 3), dtype=np.uint8), str(tmp_path / image))
        mmcv.imwrite(rng.integers(classes, size=size, dtype=np.uint8), str(tmp_path / labels))

    write((256, 512), 19, "image.png", "labels.png")
    coarse = [("train_extra", city) for city in COARSE_CITIES]
    for split, city in split_cities(0, "train") + split_cities(0, "val") + coarse:
        labels = "gtCoarse" if split == "train_extra" else "gtFine"
        for source, kind, suffix in (
            ("image.png", "leftImg8bit", "leftImg8bit"),
            ("labels.png", labels, f"{labels}_labelTrainIds"),
        ):
            path = tmp_path / "demo" / kind / split / city / f"{city}_000000_000000_{suffix}.png"
            path.parent.mkdir(parents=True)
            path.hardlink_to(tmp_path / source)
    for split in ("train", "val"):
        write((360, 480), 12, f"camvid/{split}/0.png", f"camvid/{split}annot/0.png")
    monkeypatch.setenv("CITYSCAPES_DATASET", str(tmp_path / "demo"))
    monkeypatch.setenv("CAMVID_DATASET", str(tmp_path / "camvid"))
    return tmp_path


def data_name(path: Path) -> str:
    return path.stem.removesuffix("_split2").rpartition("_")[2]


def data_roots(path: Path) -> set[str]:
    cfg = load(path)
    return {
        dataset["data_root"]
        for split in ("train", "val", "test")
        for _, dataset in leaf_datasets(cfg[f"{split}_dataloader"].dataset, "")
    }


def test_there_are_pairs_and_nothing_else():
    assert len(PAIRS) == 6
    assert sorted(path for pair in PAIRS for path in pair) == CONFIGS


@by_pair
def test_pairs_differ_by_conv_cfg_alone(zero, pd):
    conv_cfg = {"type": "PConv"}
    zero_cfg, pd_cfg = load(zero).to_dict(), load(pd).to_dict()
    assert pd_cfg.pop("conv_cfg") == conv_cfg
    for part in ("backbone", "decode_head"):
        assert pd_cfg["model"][part].pop("conv_cfg") == conv_cfg
    assert zero_cfg == pd_cfg


@pytest.mark.parametrize("path", SPLIT2, ids=lambda path: path.stem)
def test_split2_differs_by_its_cities_alone(path):
    cfg = load(path).to_dict()
    for split in ("train", "val", "test"):
        dataset = cfg[f"{split}_dataloader"]["dataset"]
        dataset = dataset.get("dataset", dataset)
        assert dataset["split"] == 2
        dataset["split"] = 0
    assert cfg == load(path.with_name(f"{path.stem.removesuffix('_split2')}.py")).to_dict()


@by_pair
def test_every_padded_convolution_is_partial_in_one_of_them(zero, pd):
    with torch.device("meta"):
        zero_model, pd_model = (MODELS.build(load(path).model) for path in (zero, pd))
    assert not any(isinstance(m, PConv2d) for m in zero_model.modules())
    padded = [
        m
        for m in pd_model.modules()
        if isinstance(m, nn.modules.conv._ConvNd) and m.padding != (0, 0)
    ]
    assert len(padded) > 10
    assert all(isinstance(m, PConv2d) for m in padded)
    shapes = [
        {name: value.shape for name, value in model.state_dict().items()}
        for model in (zero_model, pd_model)
    ]
    assert shapes[0] == shapes[1]


def test_the_demo_pair_starts_from_the_same_weights():
    states = []
    for path in next(pair for pair in PAIRS if "demo" in pair[0].name):
        torch.manual_seed(0)
        model = MODELS.build(load(path).model)
        model.init_weights()
        states.append(model.state_dict())
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)


@pytest.mark.parametrize(("trunk", "parameters"), [("wrn38", 137_103_936), ("r50", 40_351_040)])
def test_number_of_parameters(trunk, parameters):
    path = next(path for path in CONFIGS if f"_{trunk}_" in path.name)
    with torch.device("meta"):
        model = MODELS.build(load(path).model)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_resnet50_has_output_stride_8_and_the_plain_stem():
    path = next(path for path in CONFIGS if "_r50_" in path.name)
    with torch.device("meta"):
        backbone = MODELS.build(load(path).model).backbone
        low, high = backbone(torch.empty(2, 3, 65, 129))
    assert backbone.conv1.kernel_size == (7, 7)
    assert low.shape == (2, 256, 17, 33)
    assert high.shape == (2, 2048, 9, 17)
    dilations = [layer[-1].conv2.dilation for layer in (backbone.layer3, backbone.layer4)]
    assert dilations == [(2, 2), (4, 4)]


@pytest.mark.parametrize(
    # The others differ in the data alone.
    "path",
    [path for path in PARTIAL if path not in SPLIT2],
    ids=lambda path: path.stem,
)
def test_one_training_step_and_a_prediction(path):
    # Pretrained weights are not at hand here: this is the documented way to go without.
    cfg = load(path, "model.backbone.init_cfg=None", "model.data_preprocessor.size=(49,65)")
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    model.init_weights()
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    reached = set()
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(
            lambda p, name=name: reached.add(name) if p.grad.isfinite().all() else None
        )
    classes = cfg.model.decode_head.num_classes

    def batch(n: int) -> dict:
        samples = [
            SegDataSample(
                metainfo={"ori_shape": (49, 65), "img_shape": (49, 65)},
                gt_sem_seg=PixelData(data=torch.randint(classes, (1, 49, 65))),
            )
            for _ in range(n)
        ]
        images = list(torch.randint(256, (n, 3, 49, 65), dtype=torch.uint8))
        return {"inputs": images, "data_samples": samples}

    losses = model.train().train_step(batch(2), optim_wrapper)
    assert losses["loss"].isfinite()
    assert reached == {name for name, _ in model.named_parameters()}

    with torch.no_grad():
        (prediction,) = model.eval().test_step(batch(1))
    assert prediction.seg_logits.data.shape == (classes, 49, 65)
    assert prediction.seg_logits.data.isfinite().all()


@pytest.mark.parametrize("path", PARTIAL, ids=lambda path: path.stem)
def test_pipelines(path, data, monkeypatch):
    monkeypatch.chdir(data)
    (data / "data").symlink_to(data)
    cfg = load(path)
    train, val = (DATASETS.build(cfg[f"{split}_dataloader"].dataset) for split in ("train", "val"))
    images = {"camvid": (1, 1), "demo": (18, 3), "cityscapes": (18, 3)}
    assert (len(train), len(val)) == images[data_name(path)]
    assert len(train.metainfo["classes"]) == cfg.model.decode_head.num_classes

    preprocess = MODELS.build(cfg.model.data_preprocessor)
    draws = DATA_SAMPLERS.build(
        cfg.train_dataloader.sampler, default_args=dict(dataset=train, seed=0)
    )
    batch = preprocess(pseudo_collate([train[draw] for draw in islice(draws, 2)]), training=True)
    crops = {"r50": (896, 896), "wrn38": (736, 736), "camvid": (192, 192), "demo": (192, 192)}
    expected = next(crop for name, crop in crops.items() if f"_{name}" in path.stem)
    assert batch["inputs"].shape == (2, 3, *expected)
    assert all(s.gt_sem_seg.data.shape == (1, *expected) for s in batch["data_samples"])

    whole = val[0]
    height, width = whole["data_samples"].ori_shape
    assert whole["inputs"].shape == (3, height, width)
    assert whole["data_samples"].gt_sem_seg.data.shape == (1, height, width)
    augmented = Compose(cfg.tta_pipeline)(val.get_data_info(0))
    assert len(augmented["inputs"]) == 12


def sampled_data(path: Path, *options: str):
    """The training data of a config and how many draws of each epoch are coarse images."""
    cfg = load(path, *options)
    data = DATASETS.build(cfg.train_dataloader.dataset)
    sampler = DATA_SAMPLERS.build(
        cfg.train_dataloader.sampler, default_args=dict(dataset=data, seed=0)
    )
    return data, [(sampler.plan(epoch)[:, 0] >= len(sampler)).sum() for epoch in range(160)]


def test_coarse_images_come_up_for_rare_classes_until_the_last_epochs(data):
    path = next(path for path in CONFIGS if "wrn38" in path.name)
    train, coarse = sampled_data(path)
    assert len(train) == 18
    assert not any(coarse)
    # The documented way to take them.
    train, coarse = sampled_data(path, "train_dataloader.dataset.coarse.annotations=coarse")
    assert 0 < sum(coarse[:143]) < 143 * 9 * 7 / 19
    assert not any(coarse[143:])
    sample = train[Draw(18, 0, (100, 100))]["data_samples"]
    assert sample.seg_map_path.endswith("_gtCoarse_labelTrainIds.png")


def test_one_variable_moves_a_data_set(monkeypatch):
    monkeypatch.setenv("CITYSCAPES_DATASET", "/elsewhere/cityscapes")
    monkeypatch.setenv("CAMVID_DATASET", "/elsewhere/camvid")
    for path in CONFIGS:
        name = data_name(path)
        expected = "data/demo" if name == "demo" else f"/elsewhere/{name}"
        assert data_roots(path) == {expected}, path.stem


def test_default_data_roots(monkeypatch):
    monkeypatch.delenv("CITYSCAPES_DATASET", raising=False)
    monkeypatch.delenv("CAMVID_DATASET", raising=False)
    for path in CONFIGS:
        assert data_roots(path) == {f"data/{data_name(path)}"}, path.stem


def test_the_demo_runs_under_mmengine(data, monkeypatch):
    """Hooks, schedule, loops, evaluator and checkpoints fit together."""
    monkeypatch.chdir(data)
    (data / "data").symlink_to(data)
    cfg = load(
        next(path for path in CONFIGS if "pd_demo" in path.name),
        "train_cfg.max_iters=2",
        "train_cfg.val_interval=2",
        "default_hooks.checkpoint.interval=2",
        "train_dataloader.batch_size=2",
        *(
            f"{split}_dataloader.{option}"
            for split in ("train", "val")
            for option in ("num_workers=0", "persistent_workers=False")
        ),
        f"work_dir={data / 'work'}",
    )
    Runner.from_cfg(cfg).train()
    assert (data / "work" / "iter_2.pth").is_file()
    assert (data / "work" / "best_mIoU_iter_2.pth").is_file()
