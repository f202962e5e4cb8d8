"""The padding of mmseg's data preprocessor as missing data."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import nn

from pconv_seg.wrappers import unwrapped

from .tracking import track_extents


def added_padding(sample: BaseDataElement) -> tuple[int, int, int, int]:
    """(left, right, top, bottom), in pixels, that a data preprocessor added to an image."""
    # As mmseg removes padding from predictions.
    return tuple(sample.get("img_padding_size", sample.get("padding_size", (0, 0, 0, 0))))


def take_test_padding_away(segmentor: nn.Module) -> None:
    """Let the data preprocessor of a segmentor of mmseg pad in training only.

    As missing data, padding gives what no padding gives, and in tests the images of a batch are of
    one size. (A network that takes only multiples of some size needs images that the pipeline has
    resized to one, instead of padding.) Unlike what follows padding through a forward, this also
    holds where a network is called in another way.
    """
    preprocessor = segmentor.data_preprocessor
    if getattr(preprocessor, "test_cfg", None):
        print_log(
            f"PaddedBatchHook: images are not padded in tests, so test_cfg={preprocessor.test_cfg} "
            "of the data preprocessor is left out. A network that takes only multiples of "
            "some size (as U-Net and DDRNet do) needs a pipeline that resizes images to one.",
            logger="current",
        )
    preprocessor.test_cfg = None


class _SegmentorHooks:
    """Forward hooks that put the forward of a segmentor into :class:`track_extents`."""

    def __init__(self) -> None:
        self.context: track_extents | None = None

    def before(self, segmentor: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        call = dict(zip(("inputs", "data_samples"), args, strict=False)) | kwargs
        extents = []
        for sample in call.get("data_samples") or ():
            padding = left, right, top, bottom = added_padding(sample)
            if left or top:
                raise ValueError(
                    f"padding (left, right, top, bottom) of {padding} on "
                    f"{sample.get('img_path', 'an image')}: padded batches are followed only "
                    "where all padding is on the right and at the bottom"
                )
            height, width = call["inputs"].shape[2:]
            extents.append((height - bottom, width - right))
        if any(extent != tuple(call["inputs"].shape[2:]) for extent in extents):
            self.context = track_extents(segmentor, call["inputs"], extents)
            self.context.__enter__()

    def after(self, *_: Any) -> None:
        context, self.context = self.context, None
        if context is not None:
            context.__exit__(None, None, None)


@HOOKS.register_module()
class PaddedBatchHook(Hook):
    """Treats the padding that ``SegDataPreProcessor`` adds to images as missing data.

    One line in any mmseg config: ``custom_hooks=[dict(type='PaddedBatchHook')]``. It needs no
    change to the model. In training, padding is followed through the network, which costs what
    :mod:`pconv_seg.padding.tracking` says. In validation and testing, also with test-time
    augmentation and in tiles, images are not padded in the first place: ``test_cfg`` of the data
    preprocessor is taken away, which is logged. A network that takes only multiples of some size
    then needs ``dict(type='ResizeToMultiple', ...)`` in its test pipeline. Padding by a transform
    of the data pipeline (``dict(type='Pad', ...)``) leaves no trace that could be read: let the
    data preprocessor pad.
    """

    def before_run(self, runner: Runner) -> None:
        """Add forward hooks to the segmentor of ``runner``, and take its padding in tests away."""
        model = unwrapped(runner.model)
        take_test_padding_away(model)
        hooks = _SegmentorHooks()
        self._handles = (
            model.register_forward_pre_hook(hooks.before, with_kwargs=True),
            model.register_forward_hook(hooks.after, always_call=True),
        )

    def after_run(self, runner: Runner) -> None:
        """Remove the forward hooks: a runner that trains and then tests runs twice."""
        for handle in self._handles:
            handle.remove()
