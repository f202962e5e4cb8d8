"""Configs, models and data loaders of the segmentor whose answer is known."""

import numpy as np
import pytest
import torch
from known_segmentor import CLASSES, SIZE
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from PIL import Image


@pytest.fixture(autouse=True)
def _unformatted(unformatted):
    pass


@pytest.fixture
def make_config(tmp_path):
    """A function that writes images and returns a config; the same for the same arguments."""

    def make(images=3, size=SIZE, classes=CLASSES, ignored=0.1, ignore_index=255):
        rng = np.random.default_rng(0)
        root = tmp_path / "data"
        for folder in ("images", "labels"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(images):
            label = rng.integers(0, 3, size)
            # mmcv reads channels in the order BGR.
            image = 255 * (label[..., None] == [2, 1, 0])
            Image.fromarray(image.astype(np.uint8)).save(root / f"images/{i}.png")
            label[rng.random(size) < ignored] = ignore_index
            Image.fromarray(label.astype(np.uint8)).save(root / f"labels/{i}.png")
        pipeline = [
            {"type": "LoadImageFromFile"},
            {"type": "LoadAnnotations"},
            {"type": "PackSegInputs"},
        ]
        loader = {
            "batch_size": 1,
            "num_workers": 0,
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "dataset": {
                "type": "BaseSegDataset",
                "data_root": str(root),
                "data_prefix": {"img_path": "images", "seg_map_path": "labels"},
                "img_suffix": ".png",
                "seg_map_suffix": ".png",
                "ignore_index": ignore_index,
                "metainfo": {"classes": classes, "palette": [[i] * 3 for i in range(len(classes))]},
                "pipeline": pipeline,
            },
        }
        return Config(
            {
                "default_scope": "mmseg",
                "work_dir": str(tmp_path / "work_dir"),
                "model": {
                    "type": "EncoderDecoder",
                    "data_preprocessor": {"type": "SegDataPreProcessor", "size": size},
                    "backbone": {"type": "BorderBlind"},
                    "decode_head": {
                        "type": "ColourHead",
                        "in_index": 0,
                        "num_classes": len(classes),
                    },
                    "train_cfg": {},
                    "test_cfg": {"mode": "whole"},
                },
                "train_dataloader": loader,
                "val_dataloader": loader,
                "test_dataloader": loader,
                "val_evaluator": {"type": "IoUMetric"},
                "test_evaluator": {"type": "IoUMetric"},
                "train_cfg": {"type": "IterBasedTrainLoop", "max_iters": 4, "val_interval": 1},
                "val_cfg": {"type": "ValLoop"},
                "test_cfg": {"type": "TestLoop"},
                # Trains nothing, so that the answer stays known.
                "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.0}},
            }
        )

    return make


@pytest.fixture
def make_segmentor():
    def make(config):
        init_default_scope("mmseg")
        return MODELS.build(config.model)

    return make


@pytest.fixture
def make_checkpoint(make_segmentor):
    """A function that writes the checkpoint of a network whose backbone has the options given."""

    def make(config, path, **backbone):
        config.model.backbone.update(backbone)
        path.parent.mkdir(parents=True, exist_ok=True)
        meta = {"cfg": config.pretty_text, "dataset_meta": {"classes": CLASSES}}
        torch.save({"meta": meta, "state_dict": make_segmentor(config).state_dict()}, path)
        return str(path)

    return make


@pytest.fixture
def make_loader():
    def make(config):
        init_default_scope("mmseg")
        return Runner.build_dataloader(config.test_dataloader)

    return make
