"""Runners that load checkpoints as a whole or not at all."""

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import RUNNERS
from mmengine.runner import BaseLoop, Runner

from pconv_seg.checkpoints import load_weights
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


class WholeWeightsHook(Hook):
    """Refuse checkpoints of which only a part fits the network, in tests and in resumed training.

    mmengine loads what fits and logs the rest: a test then gives scores of random weights. A test
    does without the auxiliary head, see :func:`pconv_seg.checkpoints.load_weights`. Training that
    starts from a checkpoint may replace a part of it (``load_from``).
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Load the checkpoint, which mmengine does again right after this in its own way.

        Raises:
            CheckpointError: Keys or shapes are not those of the network.
        """
        if isinstance(runner._train_loop, BaseLoop) and not runner._resume:
            return
        source = runner._load_from or f"the newest checkpoint in {runner.work_dir}"
        load_weights(unwrapped(runner.model), checkpoint, source, runner._resume)
