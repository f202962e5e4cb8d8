"""Runners that load checkpoints as a whole or not at all."""

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import RUNNERS
from mmengine.runner import BaseLoop, Runner

from ..checkpoints import load_weights
from ..wrappers import unwrapped


def build_runner(cfg: Config) -> Runner:
    """The runner of a config, with a :class:`WholeWeightsHook`."""
    runner = RUNNERS.build(cfg)
    if isinstance(runner, Runner):  # The strategies of a FlexibleRunner load pieces of weights.
        # After hooks that exchange weights (EMA).
        runner.register_hook(WholeWeightsHook(), priority="VERY_LOW")
    return runner


class WholeWeightsHook(Hook):
    """Refuse checkpoints of which only a part fits the network, in tests and in resumed training.

    mmengine loads what fits and logs the rest: a test then gives scores of random weights. Training
    that starts from a checkpoint may replace a part of it (``load_from``).
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Load it, which mmengine does right after this in its own way.

        Raises:
            CheckpointError: Keys or shapes are not those of the network.
        """
        if isinstance(runner._train_loop, BaseLoop) and not runner._resume:
            return
        source = runner._load_from or f"the newest checkpoint in {runner.work_dir}"
        load_weights(unwrapped(runner.model), checkpoint, source)
