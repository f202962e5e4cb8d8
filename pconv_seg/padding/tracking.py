"""Padding that makes a batch of images of different size is missing data, in the whole network.

mmseg pads images at the bottom and on the right to one size. The real area of each image is then
a rectangle at the top left, and so is that of every feature map computed from it: its height and
width, the extent, say all there is to know. :class:`track_extents` follows extents through an
unchanged model and lets every operation compute, inside the real area, what it computes for the
image alone:

- Convolutions see nothing outside the real area: zeros for ``F.conv2d``, missing data for
  ``partial_conv2d``. Windows centred on the padding, which Eq. 3 of the paper counts as real where
  they see a real tap, are left out: a sample's result depends on that sample alone.
- Position-wise operations (activations, additions, dropout, concatenation of channels, linear
  maps of channels, ...) run as they are. What they leave outside the real area is never read.
  While gradients are recorded, padding is replaced by 1 before those that are singular at 0
  (division, powers, roots, logarithm), whose gradients it could make NaN otherwise.
- Pooling, interpolation, ``F.pad``, transposed convolution, group and instance norm, and
  reductions over positions run on the real area of one sample after the other.
- Batch norm in training takes its statistics over the real positions of the whole batch. In
  evaluation it is position-wise.
- Interpolation to a ``size`` read from the shape of another map goes to the extents of that map;
  interpolation to the size of the padded images, to those of the images. Other numbers must
  mean the same extents whether they stand for a factor or for the size of earlier maps. (mmseg's
  ``Upsample`` is known to mean its factor.) A constant size in the model is taken for a factor.
- A number from the shape of a map, also after ``+``, ``-``, ``*``, ``//`` or ``%``, may become a
  size to interpolate, to pool, to pad or to reshape to, or the end of a slice. Whatever else is
  computed with it raises: it would be another number for the image alone. So does a comparison of
  it that some of the images alone would decide otherwise; a plain number that equals the size of
  the padded images counts as theirs, as labels have it. Python does not tell of ``int(height)``,
  ``range(height)``, a ``float`` on the left (``0.5 * height``), ``math.log(height)``,
  ``table[height]``, ``f"{height}"``, ``x.shape.numel()`` and numbers that numpy or a compiled
  extension takes: those are the padded size.
- A tensor that no padding reached is real all over. One that is made with numbers from the shape
  of a map is refused, and so is one of floats in three dimensions or more that is as large as
  padded maps.
- Decisions (comparisons, indices, counts) are followed where position-wise operations make them.
  Others may become metrics, but cannot come back into the network.
- Slices count positions from the top left. A slice of nothing but real positions is an ordinary
  tensor from then on. So is what a loss module of mmseg (it has a ``loss_name``) is called with:
  in the padding, labels are ``ignore_index``. (``DiceLoss`` and ``HuasdorffDisstanceLoss`` count
  predictions there all the same; means over all pixels, as ``CrossEntropyLoss`` takes them without
  ``avg_non_ignore``, count those of the padding in the divisor.)

Everything else raises NotImplementedError naming operation and module: attention over flattened
positions, sampling grids, compiled extensions, gradient checkpointing, slide inference, ... (What
a compiled extension does last in the model is noticed only where a loss module of mmseg gets it.)

Cost: a padded convolution copies its input once with the padding blanked and, if partial,
multiplies its output once, in evaluation too; what runs on one sample after the other loops over
them; every operation costs some microseconds of Python. Batches without padding cost nothing.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as global_hooks
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint
from torch.utils._pytree import tree_map

from pconv_seg.layers.compiling import is_compiling
from pconv_seg.layers.extents import Extents

from .operations import Area, Call, Forward, features, follow, stack, tracked

# Where functions run that are called under gradient checkpointing of either kind.
_CHECKPOINT = vars(checkpoint)


def extents_of(tensor: Tensor) -> Extents | None:
    """(height, width) of the real area of every sample; None if the tensor is not followed."""
    area = getattr(tensor, "_real_area", None)
    return area and area.extents


class track_extents(TorchFunctionMode):  # noqa: N801 (a context, named as torch names its own)
    """Context in which ``model`` takes what lies outside the extent of each image as missing.

    No other thread may run the same model meanwhile.

    ```python
    with track_extents(model, images, [(480, 640), (512, 600)]):
        logits = model(images)
    extents_of(logits)
    ```

    Args:
        model: Any network. Compiled parts run uncompiled inside the context.
        images: ``Tensor[N, C, H, W]`` with every image at the top left, finite values around it.
        extents: (height, width) of every image, in pixels.

    Raises:
        ValueError: if ``extents`` do not fit ``images``.
        NotImplementedError: inside, at an operation that cannot be followed.
    """

    def __init__(
        self, model: nn.Module, images: Tensor, extents: Sequence[tuple[int, int]]
    ) -> None:
        super().__init__()
        if (
            images.dim() != 4
            or np.shape(extents) != (len(images), 2)
            or any(
                not 0 < n <= size or n != int(n)
                for e in extents
                for n, size in zip(e, images.shape[2:], strict=True)
            )
        ):
            raise ValueError(
                f"extents {extents} do not fit images of shape {tuple(images.shape)}: one "
                "(height, width) for every image is needed, in whole pixels and within the batch's"
            )
        area = Area(tuple((int(height), int(width)) for height, width in extents))
        self._forward = Forward(model, images, area)

    def __enter__(self) -> "track_extents":
        self._hooks = [
            global_hooks.register_module_forward_pre_hook(self._before_module),
            global_hooks.register_module_forward_hook(self._after_module),
        ]
        self._forward.mark(self._forward.images, self._forward.area)
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        for hook in self._hooks:
            hook.remove()
        del self._forward.images._real_area

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if is_compiling():
            raise self._forward.error("torch.compile", "compiled code hides its operations")
        kwargs = dict(kwargs or {})
        if "input" in kwargs:
            args = (kwargs.pop("input"), *args)
        followed = tracked(args, kwargs)
        if followed and (torch.is_grad_enabled() or any(t.requires_grad for t in followed)):
            # PyTorch says it in no other way before 2.8, and of one kind of checkpoint since then.
            frame = sys._getframe()
            while frame is not None:
                if frame.f_globals is _CHECKPOINT:
                    raise self._forward.error(
                        "gradient checkpointing (with_cp)",
                        "the backward pass would repeat it without extents",
                    )
                frame = frame.f_back
        return follow(Call(self._forward, func, args, kwargs, followed))

    # Some things can be seen only where modules are called.

    def _before_module(self, module: nn.Module, args: tuple) -> tuple | None:
        if module not in self._forward.names:
            return None
        self._forward.running.append((module, None))
        with torch._C.DisableTorchFunction():
            is_loss = hasattr(module, "loss_name")
            if not any(hasattr(running, "loss_name") for running, _ in self._forward.running[:-1]):
                # Labels come after what is predicted, and need not be followed.
                self._refuse_what_hides(args[:1] if is_loss else args)
            if is_loss:
                return tree_map(lambda x: x.view_as(x) if isinstance(x, Tensor) else x, args)
            # Here and not at F.batch_norm, which synchronised batch norm does not call.
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and tracked(args):
                ((x,), area) = args, args[0]._real_area
                if (module.training or module.running_mean is None) and area.dims == (2, 3):
                    self._forward.running[-1] = (module, (x.shape, area))
                    return torch.cat([c.flatten(2) for c in area.crops(x)], 2)[:, :, None]
        return None

    def _refuse_what_hides(self, args: tuple) -> None:
        # Not only after modules: mmseg calls the forward of heads without the call of a module.
        for tensor in features(args):
            size = tuple(tensor.shape[-2:])
            if (
                tensor.dim() > 2
                and not hasattr(tensor, "_real_area")
                and not hasattr(tensor, "_is_unfollowed")
                and any(
                    size != e
                    for known in self._forward.extents_of_size.get(size, ())
                    for e in known
                )
            ):
                raise self._forward.error("its input", "something before it hides from torch")

    def _after_module(self, module: nn.Module, args: tuple, output: Any) -> Tensor | None:
        if module not in self._forward.names:
            return None
        with torch._C.DisableTorchFunction():
            packed = self._forward.running[-1][1]
            if packed is None and tracked(args):
                for tensor in features(output):
                    if tensor.shape[2:].numel() > 1 and not tracked(tensor):
                        raise self._forward.error("its forward", "something there hides from torch")
            self._forward.running.pop()
            if packed is None:
                return None
            shape, area = packed
            parts = output[:, :, 0].split([height * width for height, width in area.extents], 2)
            pieces = [p.unflatten(2, e) for p, e in zip(parts, area.extents, strict=True)]
            return self._forward.mark(stack(pieces, shape), area)
