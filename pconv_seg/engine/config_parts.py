"""Parts of mmengine's configs, in all the forms that its runner takes."""

from collections.abc import Iterator
from typing import Any

from mmengine.config import Config
from mmengine.registry import Registry
from mmseg.evaluation import IoUMetric
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import METRICS, MODELS


def leaf_datasets(cfg: dict, key: str) -> Iterator[tuple[str, dict]]:
    """The config of each data set inside wrappers such as DrawnDataset or ConcatDataset.

    Args:
        cfg: Config of a data set or of a wrapper.
        key: Where it stands in the whole config, e.g. `train_dataloader.dataset`.

    Yields:
        The dotted key, as `--cfg-options` takes it, and the config of each innermost data set.
    """
    if "dataset" in cfg:
        yield from leaf_datasets(cfg["dataset"], f"{key}.dataset")
        if cfg.get("coarse"):  # of DrawnDataset
            yield f"{key}.coarse", {**cfg["dataset"], **cfg["coarse"]}
    elif "datasets" in cfg:
        for index, item in enumerate(cfg["datasets"]):
            yield from leaf_datasets(item, f"{key}.datasets.{index}")
    else:
        yield key, cfg


def metric_configs(evaluator: dict | list | None) -> list[dict]:
    """The config of each metric in any form that mmengine's runner takes for an evaluator."""
    metrics = evaluator or []
    if isinstance(metrics, dict) and "metrics" in metrics:  # of an Evaluator
        metrics = metrics["metrics"]
    return list(metrics) if isinstance(metrics, (list, tuple)) else [metrics]


def iou_metrics(cfg: Config, key: str) -> list[dict]:
    """The configs of those metrics of an evaluator that are mmseg's ``IoUMetric``, or extend it."""
    found = []
    for metric in metric_configs(cfg.get(key)):
        cls = registered(METRICS, metric, scope_of(cfg)) if isinstance(metric, dict) else None
        if isinstance(cls, type) and issubclass(cls, IoUMetric):
            found.append(metric)
    return found


def class_counts(cfg: Config) -> dict[str, int]:
    """``num_classes`` of those heads of a network that tell the classes of labels apart, by key."""
    model = cfg.get("model") or {}
    model = model.get("module", model)  # of test-time augmentation
    counts = {}
    for name in ("decode_head", "auxiliary_head"):
        heads = model.get(name) or {}
        keyed = {f"model.{name}": heads}
        if isinstance(heads, (list, tuple)):
            keyed = {f"model.{name}.{index}": head for index, head in enumerate(heads)}
        for key, head in keyed.items():
            loss = getattr(registered(MODELS, head, scope_of(cfg)), "loss_by_feat", None)
            # With a loss of its own an auxiliary head may learn something else (STDCHead: edges).
            if name == "decode_head" or loss is BaseDecodeHead.loss_by_feat:
                counts[f"{key}.num_classes"] = head.get("num_classes")
    # One logit may tell two classes apart.
    return {key: number for key, number in counts.items() if number not in (None, 1)}


def scope_of(cfg: Config) -> str:
    """The registry scope of a config; mmseg's for Python-style ones, which name none."""
    return cfg.get("default_scope") or "mmseg"


def type_name(config: dict) -> str:
    """The name of what a config builds, without scope; its ``type`` is a name or a class."""
    kind = config.get("type", "")
    return kind.rpartition(".")[2] if isinstance(kind, str) else kind.__name__


def registered(registry: Registry, cfg: dict, scope: str) -> Any:
    """What a config builds, by its ``type``, a name or a class; None if no such name is known."""
    cls = cfg.get("type") or None
    if isinstance(cls, str):
        with registry.switch_scope_and_registry(cfg.get("_scope_", scope)) as scoped:
            return scoped.get(cls)
    return cls
