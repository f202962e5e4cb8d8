"""Border and tile evaluation during training."""

import traceback
from dataclasses import replace
from typing import Any

import numpy as np
from mmengine.dist import all_gather_object, broadcast_object_list, collect_results, is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from pconv_seg.engine import PreflightError
from pconv_seg.geometry import BorderRegions

from .confusion import class_accuracy, class_areas, class_iou, mean_present, pixel_accuracy
from .evaluator import EvaluationPlan, evaluate
from .metric import border_key, refuse_one_name
from .samples import counted_ignore_index


@HOOKS.register_module()
class PaddingEvalHook(Hook):
    """Evaluates whole images, tiles and overlapping tiles after validation and testing.

    Scores in percent such as ``tile/mIoU``, ``tile/aAcc`` and ``tile/border_mIoU_0.5`` go to the
    runner's log, to every visualizer backend, and into the metrics of the validation, so that
    ``save_best='tile/mIoU'`` works. After a validation that it skips, the metrics alone repeat the
    last scores: repeats are never better, so nothing is saved for them.

    The weights are those that were validated: with ``EMAHook`` the averages, as in checkpoints.

    An error in the evaluation is logged with its traceback and training goes on.

    Args:
        interval: Evaluate after the first validation, every ``interval``-th after it, and the last.
        **plan: Options of :class:`EvaluationPlan`: ``modes``, ``tile``, ``overlap``,
            ``leave_outs``, ``proportion``, ``region``, ``ignore_index``, ``batch_size``.

    Raises:
        ValueError: If an option is out of range, there are ``bands``, whose scores it does not log,
            or two leave-outs would have scores of one name.
    """

    # After the hook that collects the scores to log (it would repeat ours after each validation
    # that we skip), before EMAHook takes away the weights that were validated, and before the hooks
    # that act on the metrics.
    priority = "ABOVE_NORMAL"

    def __init__(self, interval: int = 1, **plan: Any):
        if interval < 1:
            raise ValueError(f"interval must be at least 1, got {interval}")
        self.interval = interval
        self.plan = EvaluationPlan(**plan)
        if self.plan.bands:
            raise ValueError("PaddingEvalHook logs leave-outs only, not bands; use border_eval.py")
        leave_outs = BorderRegions((0, *self.plan.leave_outs)).leave_outs
        refuse_one_name(leave_outs)
        borders = [border_key("mIoU", leave_out) for leave_out in leave_outs if leave_out]
        scores = "mIoU", "aAcc", "mAcc", *borders
        self._names = [f"{mode}/{score}" for mode in self.plan.modes for score in scores]

    def before_run(self, runner: Runner) -> None:
        """Refuse models that cannot be evaluated before any work is done.

        Raises:
            PreflightError: If the model is no segmentor of mmseg.
        """
        if not hasattr(_unwrap(runner.model), "encode_decode"):
            raise PreflightError(
                f"PaddingEvalHook needs an mmseg EncoderDecoder, got {type(runner.model).__name__}"
                "; leave out --tta if given, or take the hook out of custom_hooks"
            )

    def after_val_epoch(self, runner: Runner, metrics: dict) -> None:
        """Evaluate on the validation set if it is time, and add the scores to ``metrics``."""
        # Checkpoints hold this: a resumed run keeps the interval and the last scores.
        info, key = runner.message_hub.runtime_info, f"padding_evaluation {self.plan}"
        validations, scores = info.get(key, (0, dict.fromkeys(self._names)))
        if validations % self.interval == 0 or runner.iter >= runner.max_iters:
            scores = self._evaluate(runner, runner.val_loop.dataloader, "val") or scores
        runner.message_hub.update_info(key, [validations + 1, scores])
        metrics.update(scores)

    def after_test_epoch(self, runner: Runner, metrics: dict) -> None:
        """Evaluate on the test set, and add the scores to ``metrics``."""
        scores = self._evaluate(runner, runner.test_loop.dataloader, "test")
        metrics.update(scores or dict.fromkeys(self._names))

    def _evaluate(
        self, runner: Runner, dataloader: DataLoader, split: str
    ) -> dict[str, float] | None:
        """Scores by name; None after an error."""
        model, plan, error, counts = _unwrap(runner.model), self.plan, None, []
        try:
            if plan.ignore_index is None:
                ignored = counted_ignore_index(runner.cfg, dataloader.dataset, split)
                plan = replace(plan, ignore_index=ignored)
            # Areas, not whole matrices: small enough to keep one per image for many classes.
            counts = evaluate(
                [model], dataloader, plan, keep=class_areas, progress=is_main_process()
            ).counts
        except Exception:
            error = traceback.format_exc()
        # All processes must agree to go on, or those without an error would wait forever.
        errors = [text for text in all_gather_object(error) if text]
        if errors:
            runner.logger.error(
                "PaddingEvalHook failed; training goes on without its scores:\n" + "\n".join(errors)
            )
            return None
        # One result per image: drops the images that a sampler repeats to fill up a process.
        results = collect_results(counts, len(dataloader.dataset))
        found = [self._score(sum(results)[0]) if is_main_process() else None]
        broadcast_object_list(found)
        (scores,) = found
        runner.logger.info(
            "Padding evaluation: " + "  ".join(f"{k}: {v:.4f}" for k, v in scores.items())
        )
        # Asking the runner for its iteration would build a training loop where there is none.
        step = runner.iter if isinstance(runner._train_loop, BaseLoop) else 0
        runner.visualizer.add_scalars(scores, step=step)
        return scores

    def _score(self, areas: np.ndarray) -> dict[str, float]:
        """Percentages in the order of the names, from ``int64[modes, leave-outs, 3, C]``."""
        miou = mean_present(class_iou(areas))
        macc = mean_present(class_accuracy(areas[:, 0]))
        scores = [miou[:, 0], pixel_accuracy(areas[:, 0]), macc, *miou[:, 1:].T]
        values = 100 * np.stack(scores, axis=1).ravel()
        return dict(zip(self._names, values.tolist(), strict=True))


def _unwrap(model: nn.Module) -> nn.Module:
    # Test-time augmentation stays: its predictions belong to none of the modes.
    return model.module if is_model_wrapper(model) else model
