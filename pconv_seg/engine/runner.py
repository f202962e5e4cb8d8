"""Runners that load checkpoints as a whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import RUNNERS
from mmengine.runner import BaseLoop, Runner
from torch import nn

from pconv_seg.checkpoints import CheckpointError, load_weights, unregistered_types
from pconv_seg.wrappers import unwrapped

from .problems import PreflightError


def build_runner(cfg: Config, test: bool = False) -> Runner:
    """The runner of a config, with a :class:`WholeWeightsHook`.

    Args:
        cfg: Of :func:`build_training_config` or :func:`build_test_config`.
        test: Write no config into the work dir. A training's config may lie there under the same
            name, and says what its checkpoints are; the test's config is in the log.

    Raises:
        PreflightError: If there is no such ``runner_type``.
    """
    name = cfg.get("runner_type", "Runner")
    runner_type = RUNNERS.get(name) if isinstance(name, str) else name
    if runner_type is None:
        raise PreflightError(f"runner_type: there is no runner {name!r}")
    if test:
        runner_type = type(runner_type.__name__, (runner_type,), {"dump_config": lambda self: None})
    runner = runner_type.from_cfg(cfg)
    if isinstance(runner, Runner):  # The strategies of a FlexibleRunner load pieces of weights.
        # After hooks that swap weights (EMA).
        runner.register_hook(WholeWeightsHook(), priority="VERY_LOW")
    return runner


@contextmanager
def naming_types(cfg: Config) -> Iterator[None]:
    """Say which key of a config names a type that mmengine does not find.

    Raises:
        PreflightError: In place of mmengine's error, if types of the config are not registered, or
            one takes no ``conv_cfg``.
    """
    try:
        yield
    except (KeyError, TypeError) as error:
        if "unexpected keyword argument 'conv_cfg'" in str(error):
            raise PreflightError(
                f"config {cfg.filename}: {error}. Take the conv_cfg out there; --padding partial "
                "switches convolutions that no conv_cfg reaches."
            ) from error
        # The last is what onedl's mmengine says of an optimizer.
        not_found = any(text in str(error) for text in ("registry", "None is not a callable"))
        names = [*unregistered_types(cfg._cfg_dict)] if not_found else []
        if not names:
            raise
        raise PreflightError(
            f"config {cfg.filename}: nobody registered {', '.join(names)}. Correct the name, or "
            "import the package that registers it in custom_imports."
        ) from error


class WholeWeightsHook(Hook):
    """Refuse checkpoints of which only a part fits the network, in tests and in resumed training.

    mmengine loads what fits and logs the rest: a test then gives scores of random weights. A test
    does without the auxiliary head, see :func:`pconv_seg.checkpoints.load_weights`. Training that
    starts from a checkpoint may replace a part of it (``load_from``), but not all.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Load the checkpoint, which mmengine does again right after this in its own way.

        Raises:
            CheckpointError: Keys or shapes are not those of the network.
        """
        model = unwrapped(runner.model)
        source = runner._load_from or f"the newest checkpoint in {runner.work_dir}"
        if isinstance(runner._train_loop, BaseLoop) and not runner._resume:
            _refuse_strangers(model, checkpoint, source)
        else:
            load_weights(model, checkpoint, source, runner._resume)


def _refuse_strangers(model: nn.Module, checkpoint: dict, source: str) -> None:
    """Refuse a checkpoint of which mmengine would load nothing at all."""
    # As mmengine reads it.
    weights = checkpoint.get("state_dict", checkpoint)
    own = {key: value.shape for key, value in model.state_dict().items()}
    theirs = {str(key).removeprefix("module."): value for key, value in weights.items()}
    if not any(
        key in own and getattr(value, "shape", None) == own[key] for key, value in theirs.items()
    ):
        raise CheckpointError(
            f"{source}: nothing in it has the name and the shape of a weight of the network (it "
            f"has {', '.join([*theirs][:2])}, ..., the network {', '.join([*own][:2])}, ...). "
            "Weights of a backbone alone belong into model.backbone.init_cfg."
        )
