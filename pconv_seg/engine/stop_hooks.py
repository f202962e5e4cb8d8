"""Reasons to stop training early: a signal, and a loss that is not finite."""

import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from multiprocessing import parent_process
from typing import Any

import torch
from mmengine.dist import all_gather_object, all_reduce, barrier
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner

from .checkpoint_hook import ResumableCheckpointHook, accumulated_iterations
from .problems import PreflightError

STOPPED = 75
"""Exit status of a run that a signal stopped: EX_TEMPFAIL of sysexits.h, nothing is wrong."""

# Windows has no SIGUSR1.
_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]


@HOOKS.register_module()
class StopOnSignalHook(Hook):
    """SIGTERM or SIGUSR1 to any process saves a checkpoint and ends the run with exit status 75.

    This happens after the current iteration, of training or of validation; where gradients are
    accumulated, after the iteration that applies them. All processes of a run stop at the same
    iteration. Data workers ignore the signal, because clusters send it to every process. The same
    signal a second time ends the process at once.

    Needs ``ResumableCheckpointHook``.
    """

    # After the parameter schedulers and before the checkpoint hook, which it calls itself.
    priority = 80

    def __init__(self) -> None:
        self._signal = 0
        self._previous: dict[int, Any] = {}
        self._common_batches = 0

    def before_train(self, runner: Runner) -> None:
        """Listen.

        Raises:
            PreflightError: If the config has no ``ResumableCheckpointHook`` that counts iterations,
                or its train loop counts epochs.
        """
        hooks = [hook for hook in runner.hooks if isinstance(hook, ResumableCheckpointHook)]
        by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        if not hooks or hooks[0].by_epoch or by_epoch:
            raise PreflightError(
                "StopOnSignalHook needs default_hooks.checkpoint=dict("
                "type='ResumableCheckpointHook', by_epoch=False) and a train_cfg with max_iters, "
                "since it stops within epochs, and a run by epochs would begin that one again"
            )
        self._checkpoints = hooks[0]
        loops = [runner.train_loop, *([runner.val_loop] if runner.val_loop else [])]
        for loader in (loop.dataloader for loop in loops):
            loader.worker_init_fn = partial(_outlive_signals, loader.worker_init_fn)
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in _SIGNALS}

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Stop if a signal came."""
        self._stop_if_asked(runner, runner.iter + 1)

    def before_val_epoch(self, runner: Runner) -> None:
        """Agree on how many batches of validation all processes have: not all samplers round up."""
        if self._previous:
            batches = torch.tensor(len(runner.val_loop.dataloader))
            all_reduce(batches, "min")
            self._common_batches = int(batches)

    def after_val_iter(self, runner: Runner, batch_idx: int, *args: Any, **kwargs: Any) -> None:
        """Stop if a signal came; the next start repeats the validation."""
        if self._previous and batch_idx < self._common_batches:
            self._stop_if_asked(runner, runner.iter)

    def after_train(self, runner: Runner) -> None:
        """Stop listening."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _note(self, number: int, frame: Any) -> None:
        self._signal = number
        signal.signal(number, signal.SIG_DFL)

    def _stop_if_asked(self, runner: Runner, iteration: int) -> None:
        # Every process asks at every iteration, so that the answer is the same for all.
        number = torch.tensor(self._signal)
        all_reduce(number, "max")
        if not number or iteration % accumulated_iterations(runner):
            return
        self._checkpoints.save(runner, iteration)
        runner.logger.info(
            f"{signal.Signals(number.item()).name}: saved {self._checkpoints.last_ckpt} after "
            f"iteration {iteration}; the same command with --resume goes on from there. Exit "
            f"status {STOPPED}"
        )
        runner.call_hook("after_run")
        # A launcher ends all processes when one has ended, and rank 0 may still be writing.
        barrier()
        raise SystemExit(STOPPED)


def _outlive_signals(init: Callable[[int], None] | None, worker: int) -> None:
    if init is not None:
        init(worker)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS and Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        threading.Thread(target=_obey_parent, daemon=True).start()


def _obey_parent() -> None:
    # A loader ends its workers by SIGTERM if nothing else helps. torch's handler for that would
    # also end them when the cluster sends it, and the loader's process with them.
    # Not os.getppid(): with forkserver that is the server that starts the workers.
    while signal.sigwaitinfo(_SIGNALS).si_pid != parent_process().pid:
        pass
    os._exit(0)


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """A loss that is NaN or infinite ends training, before a checkpoint is written.

    The error names the iteration, the terms, and the images of the batch.

    Raises:
        FloatingPointError: In all processes, when it happens in one.
    """

    # Before any hook that keeps losses or weights.
    priority = "VERY_HIGH"

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Check all loss terms."""
        bad = {
            name: float(value)
            for name, value in outputs.items()
            if "loss" in name and not torch.as_tensor(value).isfinite()
        }
        anywhere = torch.tensor(int(bool(bad)))
        all_reduce(anywhere, "max")
        if not anywhere:
            return
        images = [sample.img_path for sample in data_batch["data_samples"]]
        found = [entry for entry in all_gather_object((bad, images)) if entry[0]]
        details = "; ".join(
            ", ".join(f"{name} is {value}" for name, value in terms.items())
            + f" for the images {', '.join(map(str, paths))}"
            for terms, paths in found
        )
        raise FloatingPointError(
            f"iteration {runner.iter + 1}: {details}. No checkpoint was written after it; the last "
            "one is from before. Often the learning rate is too high, or a label is wrong"
        )
