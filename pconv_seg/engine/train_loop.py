"""Training by iterations that goes on exactly where it was interrupted."""

import logging
from typing import Any

import torch
from mmengine.dist import broadcast
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.registry import LOOPS
from mmengine.runner import IterBasedTrainLoop, Runner
from mmengine.runner.loops import _InfiniteDataloaderIterator
from torch.utils.data import DataLoader

from .problems import PreflightError
from .random_state import set_random_state


@LOOPS.register_module()
class ResumableTrainLoop(IterBasedTrainLoop):
    """mmengine's ``IterBasedTrainLoop``, with all its arguments but one, made to resume exactly.

    An interrupted and an uninterrupted run with the same seed see the same samples in the same
    order, and reach the same weights bit for bit where torch computes the same twice (on the CPU it
    does). This needs checkpoints of ``ResumableCheckpointHook``, and either

    - a sampler with ``start_at(samples)``, which jumps to where the sampler was after that many
      samples of all processes together, and a data set that draws its augmentation from numbers
      seeded per sample, so that nothing that was seen is loaded again; or
    - any other sampler and ``num_workers=0``: all batches before the interruption are drawn once
      more, as in mmengine.

    A validation that was interrupted is repeated. Before each validation the buffers (running
    statistics) of the first process, which are those in checkpoints, are copied to all.

    Changing the number of processes or the batch size between the parts of a run is allowed; then
    batches differ, and dropout draws other numbers.

    Raises:
        PreflightError: If ``fast_forward_on_resume`` is asked for, which would not resume exactly.
    """

    def __init__(self, runner: Runner, dataloader: DataLoader | dict, **kwargs: Any) -> None:
        if kwargs.get("fast_forward_on_resume"):
            raise PreflightError(
                "train_cfg.fast_forward_on_resume: ResumableTrainLoop resumes exactly, so it does "
                "not leave out the batches that were trained on. Leave this option out; a sampler "
                "with start_at, such as ResumableSampler, loads none of them again"
            )
        super().__init__(runner, dataloader, **kwargs)
        self._dataloader_cfg = dataloader
        self._seed = runner.seed
        # mmengine 0.10.7 starts the workers here: before a sampler is told where to begin, and
        # before hooks have prepared the loader.
        self.dataloader_iterator = self.dataloader._iterator = None

    def run(self) -> torch.nn.Module:
        """Train.

        Returns:
            The runner's model.
        """
        self._follow_seed()
        self.runner.call_hook("before_train")
        self.runner.call_hook("before_train_epoch")
        if self._iter > 0:
            self._resume()
        else:
            self._start_loading()
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(self.dataloader_iterator))
            self._validate_if_due()
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")
        return self.runner.model

    def _follow_seed(self) -> None:
        """Take over the checkpoint's seed, which the runner read after this loop was built."""
        runner = self.runner
        if runner.seed != self._seed and isinstance(self._dataloader_cfg, dict):
            self.dataloader = runner.build_dataloader(
                self._dataloader_cfg,
                seed=runner.seed,
                diff_rank_seed=runner._randomness_cfg.get("diff_rank_seed", False),
            )

    def _resume(self) -> None:
        runner = self.runner
        batches = self.dataloader.batch_sampler
        if hasattr(batches.sampler, "start_at"):
            samples = self._iter * batches.batch_size * runner.world_size
            batches.sampler.start_at(samples)
            print_log(f"The data go on after {samples} samples", runner.logger)
            self._start_loading()
        else:
            self._start_loading()
            self._draw_again(self._iter)
        self._restore_random_states()
        if runner.message_hub.runtime_info.get("last_validation") != self._iter:
            self._validate_if_due()

    def _start_loading(self) -> None:
        self.dataloader_iterator = _InfiniteDataloaderIterator(self.dataloader)

    def _draw_again(self, batches: int) -> None:
        print_log(f"Drawing the {batches} batches again that were trained on", self.runner.logger)
        if hasattr(self.dataloader_iterator, "skip_iter"):
            self.dataloader_iterator.skip_iter(batches)
        else:  # mmengine 0.10.7
            for _ in range(batches):
                next(self.dataloader_iterator)

    def _restore_random_states(self) -> None:
        # A loader draws a random number when it starts.
        getattr(self.dataloader_iterator, "_ensure_iterator", lambda: None)()
        states = self.runner.message_hub.runtime_info.get("random_states", ())
        if len(states) == self.runner.world_size:
            set_random_state(states[self.runner.rank])
        else:
            print_log(
                f"The checkpoint has states of random number generators for {len(states)} "
                f"processes, and this run has {self.runner.world_size}: dropout, and augmentation "
                "that is not seeded per sample, draw other numbers than without the interruption",
                self.runner.logger,
                logging.WARNING,
            )

    def _validate_if_due(self) -> None:
        self._decide_current_val_interval()
        loop = self.runner.val_loop
        if loop is None or self._iter < self.val_begin:
            return
        if self._iter % self.val_interval == 0 or self._iter == self._max_iters:
            model = self.runner.model
            if is_model_wrapper(model):
                for buffer in model.module.buffers():
                    broadcast(buffer)
            loop.run()
