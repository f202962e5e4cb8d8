"""Configs of runs from command line flags; the flags are those of mmsegmentation's tools."""

import os
import os.path as osp
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction
from mmseg.datasets import CityscapesDataset
from mmseg.registry import DATASETS

from pconv_seg.checkpoints import use_safe_loading
from pconv_seg.padding import SCHEMES, add_padding

from .config_parts import leaf_datasets, metric_configs, registered, scope_of, type_name
from .preflight import check_parts
from .problems import PreflightError

# For these mmengine takes None to mean "without"; for hooks that only a config has, it does not.
_STOCK_HOOKS = {"runtime_info", "timer", "sampler_seed", "logger", "param_scheduler", "checkpoint"}


def add_run_arguments(parser: ArgumentParser) -> None:
    """Add the arguments that every run takes: config, work dir, overrides, launcher."""
    parser.add_argument("config", help="config file")
    parser.add_argument(
        "--work-dir",
        metavar="DIR",
        help="where logs, scores and checkpoints go (default: the config's work_dir, else "
        "work_dirs/CONFIG_NAME)",
    )
    parser.add_argument(
        "--padding",
        choices=SCHEMES,
        help="padding of all convolutions, whatever the config builds (default: the config's)",
    )
    add_config_options(parser, "train_cfg.max_iters=300 model.backbone.init_cfg=None")
    parser.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm", "mpi"],
        default="none",
        help="how several processes were started, e.g. pytorch under torchrun "
        "(default: %(default)s, one process)",
    )
    parser.add_argument(
        "--local_rank",
        "--local-rank",
        type=int,
        default=0,
        help="set by torch.distributed.launch; nobody passes it by hand",
    )


class _Options(DictAction):
    """mmengine's, but values keep their spaces, and bad ones are refused in one line."""

    def __call__(
        self,
        parser: ArgumentParser,
        namespace: Namespace,
        values: list[str],
        option_string: str | None = None,
    ) -> None:
        for option in values:
            if option.find("=") < 1:
                parser.error(f"--cfg-options {option}: expected KEY=VALUE")
        try:
            super().__call__(parser, namespace, values, option_string)
        except AssertionError as error:  # brackets of a list that do not match
            parser.error(f"--cfg-options: {error}")
        except RecursionError:  # brackets with a comma inside, and something beside them
            parser.error(
                f"--cfg-options {' '.join(values)}: write nested lists as key=[(a,b),(c,d)], and "
                "set the keys of a dict one by one, as key.name=value"
            )

    @staticmethod
    def _parse_iterable(val: str) -> Any:
        text = val.strip(" '\"")
        is_list = "," in text or text[:1] + text[-1:] in ("()", "[]")
        # mmengine removes all spaces, but names of folders may have some.
        return text if " " in text and not is_list else DictAction._parse_iterable(val)


def add_config_options(parser: ArgumentParser, example: str) -> None:
    """Add ``--cfg-options``, which overrides config values; ``example`` is for its help."""
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=_Options,
        metavar="KEY=VALUE",
        help=f"override config values, e.g. {example}; "
        'lists as key=a,b or key="[a,b]", nested ones as key="[(a,b),(c,d)]" without spaces',
    )


def read_config(
    config: str, cfg_options: dict[str, Any] | None = None, parts: Sequence[str] = ()
) -> Config:
    """A config file with the values of ``--cfg-options``.

    Args:
        config: Config file.
        cfg_options: Dotted keys and values that override the config's.
        parts: Keys that the config must have.

    Raises:
        PreflightError: No such config file, it cannot be run, it cannot take one of the options, or
            it lacks a part.
    """
    try:
        cfg = Config.fromfile(config)
    except OSError as error:  # no such file, here or in _base_, or not a config file
        raise PreflightError(f"config {osp.abspath(config)}: {error}") from error
    except Exception as error:  # it is a program, and imports others
        reason = error.__cause__ or error
        raise PreflightError(
            f"config {osp.abspath(config)}: {type(reason).__name__}: {reason}"
        ) from error
    try:
        cfg.merge_from_dict(cfg_options or {})
    except (AttributeError, KeyError, TypeError) as error:
        options = " ".join(f"{key}={value}" for key, value in cfg_options.items())
        reason = error.args[0]
        if isinstance(error, AttributeError):  # mmengine takes each item of a list for a dict
            reason = (
                "no item of a list can be replaced: set its keys, as KEY.0.NAME=VALUE, or the "
                "whole list"
            )
        message = f"--cfg-options {options}: {reason}, says {osp.abspath(config)}"
        raise PreflightError(message) from error
    check_parts(cfg, parts)
    return cfg


def build_training_config(
    config: str,
    *,
    work_dir: str | None = None,
    padding: str | None = None,
    resume: bool = False,
    amp: bool = False,
    seed: int | None = None,
    cfg_options: dict[str, Any] | None = None,
    launcher: str = "none",
    local_rank: int = 0,
) -> Config:
    """The config of a training run, ready for `build_runner`.

    Args:
        config: Config file.
        work_dir: Where logs and checkpoints go; None keeps the config's, or makes it
            `work_dirs/CONFIG_NAME`.
        padding: Scheme of all convolutions, see `set_padding`; None keeps the config's. Either
            way a `PaddingHook` keeps track of it.
        resume: Continue from the newest checkpoint in the work dir; start anew if it has none.
        amp: Train with automatic mixed precision.
        seed: Seed of all random number generators; None keeps the config's.
        cfg_options: Dotted keys and values that override the config's.
        launcher: How several processes were started: none, pytorch, slurm or mpi.
        local_rank: Rank of this process on its machine, unless the launcher says it in the
            environment.

    Raises:
        PreflightError: No such config file, or it cannot take one of the arguments.
    """
    cfg = _base_config(config, work_dir, padding, cfg_options, launcher, local_rank)
    if resume:
        cfg.resume = True
    if seed is not None:
        cfg.randomness = {**cfg.get("randomness", {}), "seed": seed}
    if amp:
        _require(cfg, "optim_wrapper", "--amp")
        wrapper = type_name(cfg.optim_wrapper)
        if wrapper not in ("", "OptimWrapper", "AmpOptimWrapper"):
            raise PreflightError(
                "--amp: replaces optim_wrapper.type='OptimWrapper' only, but the config has "
                f"{wrapper!r}; set mixed precision in that wrapper instead"
            )
        if wrapper != "AmpOptimWrapper":
            cfg.optim_wrapper.update(type="AmpOptimWrapper", loss_scale="dynamic")
    return cfg


def build_test_config(
    config: str,
    checkpoint: str,
    *,
    work_dir: str | None = None,
    padding: str | None = None,
    out: str | Path | None = None,
    format_only: bool = False,
    show: bool = False,
    show_dir: str | Path | None = None,
    wait_time: float = 2.0,
    tta: bool = False,
    cfg_options: dict[str, Any] | None = None,
    launcher: str = "none",
    local_rank: int = 0,
) -> Config:
    """The config of a test run, ready for `build_runner`.

    Args:
        config: Config file.
        checkpoint: Checkpoint file or URL.
        work_dir: Where logs and scores go; None as in `build_training_config`.
        padding: As in `build_training_config`.
        out: Folder for the predicted label maps, as the evaluator writes them.
        format_only: Write files for the Cityscapes server (label ids, not training ids) into
            `out` and compute no score; no labels are read.
        show: Show each prediction in a window.
        show_dir: Folder for pictures of predictions.
        wait_time: Seconds that a window stays.
        tta: Use the config's test-time augmentation.
        cfg_options: As in `build_training_config`.
        launcher: As in `build_training_config`.
        local_rank: As in `build_training_config`.

    Raises:
        PreflightError: No such config file, or it cannot take one of the arguments.
    """
    cfg = _base_config(config, work_dir, padding, cfg_options, launcher, local_rank)
    cfg.load_from = checkpoint
    # A training run's `resume` would make the runner read the optimizer's state too.
    cfg.resume = False

    if show or show_dir:
        _require(cfg, "default_hooks.visualization", "--show and --show-dir")
        cfg.default_hooks.visualization.update(draw=True, show=show, wait_time=wait_time)
        if show_dir:
            _require(cfg, "visualizer", "--show-dir")
            cfg.visualizer.save_dir = str(show_dir)
    if tta:
        for key in ("tta_pipeline", "tta_model", "model", "test_dataloader"):
            _require(cfg, key, "--tta")
        for _, dataset in leaf_datasets(cfg.test_dataloader.dataset, ""):
            dataset.pipeline = cfg.tta_pipeline
        cfg.model = {**cfg.tta_model, "module": cfg.model}
    if format_only:
        _format_only(cfg, out)
    elif out:
        _require(cfg, "test_evaluator", "--out")
        for metric in metric_configs(cfg.test_evaluator):
            metric.output_dir = str(out)
            if type_name(metric) == "CityscapesMetric":
                metric.keep_results = True  # it deletes its files otherwise
    return cfg


def _base_config(
    config: str,
    work_dir: str | None,
    padding: str | None,
    cfg_options: dict[str, Any] | None,
    launcher: str,
    local_rank: int,
) -> Config:
    use_safe_loading()
    cfg = read_config(config, cfg_options)
    cfg.launcher = launcher
    for name, hook in [*(cfg.get("default_hooks") or {}).items()]:
        if hook is None and name not in _STOCK_HOOKS:
            del cfg.default_hooks[name]
    add_padding(cfg, padding)
    if work_dir or not cfg.get("work_dir"):
        cfg.work_dir = work_dir or osp.join("work_dirs", osp.splitext(osp.basename(config))[0])
    os.environ.setdefault("LOCAL_RANK", str(local_rank))
    if launcher == "mpi" and "OMPI_COMM_WORLD_LOCAL_RANK" in os.environ:
        # mmengine sets the GPU by Open MPI's variable, but wraps the model by LOCAL_RANK.
        os.environ["LOCAL_RANK"] = os.environ["OMPI_COMM_WORLD_LOCAL_RANK"]
    return cfg


def _require(cfg: Config, key: str, flag: str) -> None:
    node = cfg
    for name in key.split("."):
        node = node.get(name)
        if not node:
            raise PreflightError(f"{flag}: the config has no {key}")


def _format_only(cfg: Config, out: str | Path | None) -> None:
    if not out:
        raise PreflightError("--format-only: also give --out DIR, where the files go")
    _require(cfg, "test_dataloader", "--format-only")
    for key, dataset in leaf_datasets(cfg.test_dataloader.dataset, "test_dataloader.dataset"):
        cls = registered(DATASETS, dataset, scope_of(cfg))
        if cls is None or not issubclass(cls, CityscapesDataset):
            raise PreflightError(
                f"--format-only: writes files for the Cityscapes server, but {key} is "
                f"{type_name(dataset)}; use --out alone for the label maps of other data sets"
            )
        # The labels of the test split are not public.
        dataset.get("data_prefix", {}).pop("seg_map_path", None)
        dataset.pipeline = _without_labels(dataset.pipeline)
    cfg.test_evaluator = dict(type="BorderIoUMetric", format_only=True, output_dir=str(out))


def _without_labels(pipeline: list) -> list:
    """The pipeline without steps that load labels, inside test-time augmentation too."""
    kept = []
    for step in pipeline:
        if isinstance(step, list):  # alternatives of one augmentation
            alternatives = _without_labels(step)
            if alternatives:
                kept.append(alternatives)
        elif type_name(step) != "LoadAnnotations":
            nested = step.get("transforms")
            kept.append(dict(step, transforms=_without_labels(nested)) if nested else step)
    return kept
