"""Padding as one line of a config, kept in checkpoints."""

from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from pconv_seg.config_tree import entries
from pconv_seg.layers import PConv2d
from pconv_seg.wrappers import unwrapped

from .batch import PaddedBatchHook, take_test_padding_away
from .describe import (
    first_of,
    is_padded_convolution,
    padding_of,
    scheme_of,
    why_not_convertible,
)
from .switch import SCHEMES, Where, check_scheme, set_padding


@HOOKS.register_module()
class PaddingHook(Hook):
    """Switch the padding of the runner's model, and keep track of it in checkpoints.

    ``custom_hooks=[dict(type='pconv_seg.PaddingHook', scheme='partial')]`` works in any config. The
    scheme that the model has is written into ``checkpoint['meta']['padding']``, and testing a
    checkpoint, or going on with its training, under another scheme than it was trained with gives
    one warning. So does training with ``conv_cfg=dict(type='PConv')`` somewhere in the config's
    ``model`` if that leaves convolutions with zeros.

    Args:
        scheme: See :func:`set_padding`; None leaves the model as it was built and only records
            and compares.
        where: See :func:`set_padding`.

    Raises:
        ValueError: If the scheme is unknown.
    """

    # Before hooks that copy the model in their own `before_run` (EMA).
    priority = "VERY_HIGH"

    def __init__(self, scheme: str | None = None, where: Where | None = None) -> None:
        if scheme is not None:
            check_scheme(scheme)  # before data are read for a run
        self.scheme = scheme
        self.where = where
        self._loaded: dict[str, Any] | None = None

    def before_run(self, runner: Runner) -> None:
        """Switch; earlier than weight initialisation, checkpoints and compilation."""
        if self.scheme is None:
            return
        report = set_padding(unwrapped(runner.model), self.scheme, where=self.where)
        kept = "".join(f"\n  {row.name}: {row.after} ({row.reason})" for row in report.kept)
        runner.logger.info(
            f"{self.scheme} padding in {len(report.converted)} convolutions"
            + (f"; {len(report.kept)} padded layers keep theirs:{kept}" if kept else "")
        )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Write the scheme into the checkpoint's meta."""
        checkpoint["meta"]["padding"] = scheme_of(unwrapped(runner.model))

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep what the checkpoint says."""
        self._loaded = checkpoint.get("meta", {})

    def before_train(self, runner: Runner) -> None:
        """Compare on resuming; from here on the weights belong to the scheme of this run."""
        if runner._resume:
            self._compare(runner, "Going on to train")
        self._loaded = None
        if self.scheme is None:
            _warn_of_zeros(runner)

    def before_test(self, runner: Runner) -> None:
        """Compare."""
        self._compare(runner, "Testing")

    def _compare(self, runner: Runner, doing: str) -> None:
        if self._loaded is None:
            return
        present, trained = scheme_of(unwrapped(runner.model)), self._loaded.get("padding")
        if trained is None and present not in ("zeros", "none"):
            runner.logger.warning(
                f"{doing} with {present} padding, but the checkpoint does not say which padding it "
                "was trained with. If that was another (zeros, most often), expect worse scores."
            )
        elif trained not in (None, present):
            hook = f"dict(type='pconv_seg.PaddingHook', scheme={trained!r}) in custom_hooks"
            runner.logger.warning(
                f"{doing} with {present} padding a checkpoint that was trained with {trained} "
                f"padding: expect worse scores than with {hook if trained in SCHEMES else 'that'}."
            )


def _warn_of_zeros(runner: Runner) -> None:
    """Say which convolutions still pad with zeros in spite of a ``conv_cfg``."""
    types = [kind for _, name, kind in entries(runner.cfg.get("model")) if name == "type"]
    if not any(kind in types for kind in ("PConv", "pconv_seg.PConv", PConv2d)):
        return
    model = unwrapped(runner.model)
    padded = {name: m for name, m in model.named_modules() if is_padded_convolution(m)}
    zeros = [
        name
        for name, m in padded.items()
        if padding_of(m) == "zeros" and not why_not_convertible(m)
    ]
    if zeros:
        runner.logger.warning(
            f"conv_cfg=dict(type='PConv') is in the config, but {len(zeros)} of {len(padded)} "
            f"padded convolutions pad with zeros ({first_of(zeros)}): no conv_cfg reached them. "
            "--padding partial, or dict(type='pconv_seg.PaddingHook', scheme='partial') in "
            "custom_hooks, switches them."
        )


def add_padding(cfg: Config, scheme: str | None = None) -> None:
    """Put a :class:`PaddingHook` into a config, replacing one that is there.

    Args:
        cfg: Any mmengine config.
        scheme: See :class:`PaddingHook`; with None, a hook that is there stays.
    """
    hooks = cfg.get("custom_hooks") or []
    others = [hook for hook in hooks if not _is_hook(hook, PaddingHook)]
    if scheme is not None or len(others) == len(hooks):
        # With the package's name mmengine imports it: the written config runs under any tool.
        cfg.custom_hooks = [*others, dict(type="pconv_seg.PaddingHook", scheme=scheme)]


def apply_padding(model: nn.Module, cfg: Config) -> None:
    """Pad as the :class:`PaddingHook` and :class:`PaddedBatchHook` of a model's config do in tests.

    For whatever builds a model from a config without a runner.

    Args:
        model: Built from ``cfg.model``.
        cfg: With or without such hooks.
    """
    for hook in cfg.get("custom_hooks") or []:
        if _is_hook(hook, PaddingHook):
            options = hook if isinstance(hook, dict) else vars(hook)
            if options.get("scheme") is not None:
                set_padding(model, options["scheme"], where=options.get("where"))
        if _is_hook(hook, PaddedBatchHook):
            take_test_padding_away(model)


def trained_padding(checkpoint: dict[str, Any]) -> str | None:
    """What :class:`PaddingHook` wrote into a checkpoint, for ``set_padding``.

    Args:
        checkpoint: Content of the file.

    Returns:
        The scheme that all convolutions were trained with; None if it is not known, or if they had
        several.
    """
    scheme = (checkpoint.get("meta") or {}).get("padding")
    return scheme if scheme in SCHEMES else None


def _is_hook(hook: dict | Hook, cls: type[Hook]) -> bool:
    kind = hook.get("type") if isinstance(hook, dict) else type(hook)
    return kind in (cls.__name__, f"pconv_seg.{cls.__name__}", cls)
