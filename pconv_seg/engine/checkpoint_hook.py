"""Checkpoints that are whole and hold all that a run needs to go on."""

import copy
import inspect
import logging
import reprlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.dist import all_gather_object, broadcast_object_list, is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook, EMAHook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner

from pconv_seg.files import atomic_path, remove_leftovers
from pconv_seg.work_dir import checkpoints, newest_checkpoint, write_sealed

from .problems import PreflightError
from .random_state import random_state, set_random_state

_BACKEND = "pconv_seg_durable"
# What schedulers count; all else in their states follows from the config.
_COUNTED = {
    *("last_step", "_global_step", "_last_value", "verbose"),
    *("best", "num_bad_epochs", "cooldown_counter"),  # of ReduceOnPlateauLR
}


class DurableBackend(LocalBackend):
    """Local files that are there as a whole or not at all, even after a power failure."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file.

        Raises:
            OSError: No room, for example; what was there before is untouched.
        """
        try:
            with atomic_path(filepath, durable=True) as path:
                write_sealed(path, obj)
        except OSError as error:
            raise OSError(
                error.errno,
                f"{error.strerror}: {filepath} was not written, and the checkpoints written before "
                "are as they were. When the cause is gone, go on from the newest with --resume",
            ) from error


register_backend(_BACKEND, DurableBackend, force=True)


@HOOKS.register_module()
class ResumableCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook`` for runs that are killed and go on.

    What is added:

    - A checkpoint, and the file ``last_checkpoint``, is written beside its place, flushed to disk
      and moved there. Only then are old checkpoints, and the previous best one, removed. The
      checksum is inside the file, see :mod:`pconv_seg.work_dir`.
    - Checkpoints hold the states of the random number generators of every process.
      ``ResumableTrainLoop`` goes on from them. After validation they are set back, so that it
      leaves no trace in training.
    - ``resume=True`` takes the newest whole checkpoint of the work dir and logs which newer ones it
      skipped and why. It takes ``load_from`` if that lies in the same folder, or if none of those
      is whole; otherwise ``load_from`` is only what the run once started from. The learning rate
      and its schedule are the checkpoint's; where its schedulers differ from the config's, the
      difference is logged.
    - Weights that are not finite are not written.

    Args:
        **kwargs: Those of ``CheckpointHook``. With a remote ``out_dir``, or with ``backend_args``,
            files are written as that backend writes them.

    Raises:
        PreflightError: If there is no such option; on resuming, if there are checkpoints but none
            is whole, or if the one to resume from holds no state of a training; if gradients are
            accumulated over n iterations and checkpoints do not fall on multiples of n.
        FloatingPointError: If weights are not finite.
    """

    def __init__(self, **kwargs: Any) -> None:
        known = list(inspect.signature(CheckpointHook).parameters)[:-1]
        unknown = [key for key in kwargs if key not in known]
        if unknown:
            # mmengine hands them on to a function that refuses them, at the first checkpoint.
            raise PreflightError(
                f"default_hooks.checkpoint.{unknown[0]}: there is no such option; there are "
                f"{', '.join(known)}"
            )
        super().__init__(**kwargs)
        self._before_validation: dict[str, Any] | None = None

    def before_run(self, runner: Runner) -> None:
        """Find the checkpoint to resume from."""
        if not runner._resume:
            return
        found: list[Any] = [None]
        if is_main_process():
            try:
                found = [_resume_from(runner._load_from, runner.work_dir)]
            except ValueError as error:
                found = [str(error)]
        # One process decides: another machine may see the shared folder a moment later.
        broadcast_object_list(found)
        if isinstance(found[0], str):
            raise PreflightError(
                f"--resume: {found[0]}. Put a checkpoint back, name one with --cfg-options "
                "load_from=FILE, or train anew without --resume"
            )
        path, skipped = found[0]
        for reason in skipped:
            print_log(f"Not resumed from {reason}", runner.logger, logging.WARNING)
        if path is None:
            runner.logger.info(f"Nothing to resume in {runner.work_dir}: training starts anew")
        runner._load_from = path and str(path)
        runner._resume = path is not None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """On resuming, refuse what training cannot go on from; log which settings do not count."""
        if not runner._resume:
            return
        needed = ["meta", "message_hub", "optimizer"]
        if runner.param_schedulers is not None:
            needed.append("param_schedulers")
        missing = [key for key in needed if key not in checkpoint]
        if missing:
            raise PreflightError(
                f"--resume: {runner._load_from} holds no {', '.join(missing)}, so training cannot "
                "go on from it (best checkpoints hold weights alone). Name a checkpoint "
                f"{self.filename_tmpl.format('N')} of the work dir with --cfg-options "
                "load_from=FILE, or leave out --resume to start a new training from these weights"
            )
        if isinstance(runner._train_loop, BaseLoop):  # else schedulers are not built yet
            for change in _changes(runner.param_schedulers, checkpoint.get("param_schedulers")):
                print_log(
                    f"--resume does not follow the config's learning rate and schedule: {change}",
                    runner.logger,
                    logging.WARNING,
                )

    def before_train(self, runner: Runner) -> None:
        """Check the intervals, and remove what killed processes left half written."""
        count = accumulated_iterations(runner)
        intervals = {"default_hooks.checkpoint.interval": self.interval}
        if self.save_best:
            intervals["train_cfg.val_interval"] = runner.val_interval
        for key, interval in intervals.items():
            if not self.by_epoch and interval > 0 and interval % count:
                raise PreflightError(
                    f"{key}={interval} is no multiple of optim_wrapper.accumulative_counts={count}:"
                    " gradients that are accumulated at that moment would not be in the checkpoint"
                )
        local = "://" not in str(self.out_dir or runner.work_dir)
        if local and self.backend_args is None and self.file_client_args is None:
            self.backend_args = {"backend": _BACKEND}
        super().before_train(runner)
        # The paths on record are those of the run that wrote the checkpoint.
        if self.save_best and len(self.key_indicators) == 1:
            self.best_ckpt_path = self._own(self.best_ckpt_path)
        elif self.save_best:
            for key, path in self.best_ckpt_path_dict.items():
                self.best_ckpt_path_dict[key] = self._own(path)
        if is_main_process():
            if local:
                remove_leftovers(self.out_dir, "*.pth")
            remove_leftovers(runner.work_dir, "last_checkpoint")

    def _own(self, path: str | None) -> str | None:
        """The file of that name among those of this run, whose work dir may be a copy."""
        own = path and self.file_backend.join_path(self.out_dir, Path(path).name)
        return own if own and self.file_backend.isfile(own) else None

    def before_val(self, runner: Runner) -> None:
        """Keep the random state of training."""
        self._before_validation = random_state()

    def after_val_epoch(self, runner: Runner, metrics: dict) -> None:
        """Note that this iteration has been validated, and save the best checkpoint."""
        runner.message_hub.update_info("last_validation", runner.iter)
        super().after_val_epoch(runner, metrics)

    def after_val(self, runner: Runner) -> None:
        """Go back to the random state of training."""
        set_random_state(self._before_validation)
        self._before_validation = None

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse weights that are not finite."""
        for name, value in checkpoint["state_dict"].items():
            if not value.isfinite().all():
                raise FloatingPointError(
                    f"{name} is not finite after iteration {checkpoint['meta']['iter']}: no "
                    "checkpoint was written, and those written before are as they were. Often the "
                    "learning rate is too high"
                )

    def save(self, runner: Runner, iteration: int) -> None:
        """Save a checkpoint now.

        Args:
            runner: The runner.
            iteration: Number of finished iterations.
        """
        # In a validation the model has the averages, and EMAHook the weights.
        validating = self._before_validation is not None
        averages = [hook for hook in runner.hooks if validating and isinstance(hook, EMAHook)]
        for hook in averages:
            hook.after_val_epoch(runner)
        self._save_checkpoint_with_step(
            runner, iteration, meta={"epoch": runner.epoch, "iter": iteration}
        )
        for hook in averages:
            hook.before_val_epoch(runner)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        states = all_gather_object(self._before_validation or random_state())
        runner.message_hub.update_info("random_states", states)
        kept = []
        if self.max_keep_ckpts > 0:
            kept = [*(other for other in self.keep_ckpt_ids if other != step), step]
            # With those about to be removed: if the process dies first, resuming removes them.
            runner.message_hub.update_info("keep_ckpt_ids", list(kept))
        name = self.filename_tmpl.format(step)
        path = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info("last_ckpt", path)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
        )
        self.last_ckpt = path
        outdated = kept[: -self.max_keep_ckpts]
        if is_main_process():
            pointer = Path(runner.work_dir) / "last_checkpoint"
            DurableBackend().put(path.encode(), pointer)
            for old in outdated:
                old_path = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(old))
                if self.file_backend.isfile(old_path):
                    self.file_backend.remove(old_path)
        if kept:
            self.keep_ckpt_ids = deque(kept[len(outdated) :], self.max_keep_ckpts)
            runner.message_hub.update_info("keep_ckpt_ids", list(self.keep_ckpt_ids))

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if self.save_best:
            if absent := [key for key in self.key_indicators if key not in (*metrics, "auto")]:
                raise PreflightError(
                    f"default_hooks.checkpoint.save_best: no score of the validation is called "
                    f"{', '.join(absent)}; there are {', '.join(metrics)}. Name one of these, or "
                    "add the hook or metric that gives it; then go on with --resume."
                )
            with self._removals_last():
                super()._save_best_checkpoint(runner, metrics)

    @contextmanager
    def _removals_last(self) -> Iterator[None]:
        """Put off removals through the backend to the end of the block; an error drops them."""
        backend, waiting = self.file_backend, []
        self.file_backend = copy.copy(backend)
        self.file_backend.remove = waiting.append
        try:
            yield
        finally:
            self.file_backend = backend
        for path in waiting:
            backend.remove(path)


def _resume_from(load_from: str | None, work_dir: str) -> tuple[str | Path | None, list[str]]:
    """A checkpoint, if there is any, and a sentence about each one that was not taken.

    Raises:
        ValueError: As :func:`newest_checkpoint`.
    """
    if load_from:
        own = {Path(work_dir), *(path.parent for path in checkpoints(work_dir))}
        if Path(load_from).resolve().parent in {folder.resolve() for folder in own}:
            return load_from, []
    try:
        path, skipped = newest_checkpoint(work_dir)
    except ValueError as error:
        if load_from:
            return load_from, [str(error)]
        raise
    if load_from and path:
        skipped.append(f"{load_from}: the run that started from it has come to {path}")
    return path or load_from, skipped


def _changes(schedulers: Any, states: Any, key: str = "param_scheduler") -> Iterator[str]:
    """Where schedulers differ between config and checkpoint; mmengine takes the latter's values.

    Args:
        schedulers: Of the runner: a list, or one for each of several optimizers, or None.
        states: Those in the checkpoint.
        key: Where they stand in the config.
    """
    if schedulers is None:  # mmengine itself warns that it leaves out the checkpoint's
        return
    if isinstance(schedulers, dict):
        for name, some in schedulers.items():
            yield from _changes(some, states[name], f"{key}.{name}")
        return
    if len(schedulers) != len(states):
        yield (
            f"{key}: the checkpoint has {len(states)} schedulers, the config {len(schedulers)}; "
            "one that only the checkpoint has is left out, one that it lacks begins anew"
        )
    for number, (scheduler, theirs) in enumerate(zip(schedulers, states, strict=False)):
        ours = scheduler.state_dict()
        if ours.keys() != theirs.keys():
            theirs_alone, ours_alone = theirs.keys() - ours.keys(), ours.keys() - theirs.keys()
            yield (
                f"{key}.{number}: the checkpoint's is another kind of scheduler: it has "
                f"{_names(theirs_alone)}, not {_names(ours_alone)}; the kind is the config's, "
                "all values that both have are the checkpoint's"
            )
        for name in sorted((ours.keys() & theirs.keys()) - _COUNTED):
            if ours[name] != theirs[name]:
                yield (
                    f"{key}.{number}: {name} is {reprlib.repr(theirs[name])}, not the config's "
                    f"{reprlib.repr(ours[name])}"
                )


def _names(keys: set[str]) -> str:
    return ", ".join(sorted(keys)) or "nothing else"


def accumulated_iterations(runner: Runner) -> int:
    """Over how many iterations gradients are summed before the weights change."""
    return getattr(runner.optim_wrapper, "_accumulative_counts", 1)
