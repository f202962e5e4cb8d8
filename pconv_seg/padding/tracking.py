"""Padding that makes a batch of images of different size is missing data, in the whole network.

mmseg pads images at the bottom and on the right to one size. The real area of each image is then
a rectangle at the top left, and so is that of every feature map computed from it: its height and
width, the extent, say all there is to know. :class:`track_extents` follows extents through an
unchanged model and lets every operation compute, inside the real area, what it computes for the
image alone:

- Convolutions see nothing outside the real area: zeros for ``F.conv2d``, missing data for
  ``partial_conv2d``. :func:`~pconv_seg.layers.extents.conv2d_within` says how Eq. 3 is read.
- Position-wise operations (activations, additions, dropout, concatenation of channels, linear
  maps of channels, ...) run as they are. What they leave outside the real area is never read.
  While gradients are recorded, padding is replaced by 1 before those that are singular at 0
  (division, powers, roots, logarithm), whose gradients it could make NaN otherwise.
- Pooling, interpolation, ``F.pad``, transposed convolution, group and instance norm, and what
  reduces over positions run on the real area of one sample after the other.
- Batch norm in training takes its statistics over the real positions of the whole batch. In
  evaluation it is position-wise.
- Interpolation to a ``size`` read from the shape of another map goes to the extents of that map,
  and to the size of the padded images, to the extents of the images. Numbers of other origin must
  mean the same extents whether they stand for a factor or for the size of earlier maps. (mmseg's
  ``Upsample`` is known to mean its factor.) A constant size in the model is taken for a factor.
- What is computed with a number from the shape of a map, other than a size to interpolate, to pool,
  to pad or to reshape to or the end of a slice, raises: it would be another number for the image
  alone. So does a comparison of it that some of the images alone would decide otherwise; a plain
  number that equals the size of the padded images counts as theirs, as labels have it. Python
  does not tell of ``int(height)``, ``range(height)``, a ``float`` on the left (``0.5 * height``),
  ``math.log(height)``, ``table[height]``, ``f"{height}"``, ``x.shape.numel()`` and numbers that
  numpy or a compiled extension takes: those are the padded size.
- A tensor that no padding reached is real all over. One that is made with numbers from the shape
  of a map is refused, and so is one of floats in three dimensions or more that is as large as
  padded maps.
- Decisions (comparisons, indices, counts) are followed where position-wise operations make them.
  Others are free to become metrics, but cannot come back into the network.
- Slices count positions from the top left. A slice of nothing but real positions is an ordinary
  tensor from then on. So is what a loss module of mmseg (it has a ``loss_name``) is called with:
  in the padding, labels are ``ignore_index``. (``DiceLoss`` counts predictions there all the same.)

Everything else raises NotImplementedError naming operation and module: attention over flattened
positions, sampling grids, compiled extensions, gradient checkpointing, slide inference, ... (What
a compiled extension does last in the model is noticed only where a loss module of mmseg gets it.)

Cost: a padded convolution copies its input once with the padding blanked and, if partial,
multiplies its output once, in evaluation too; the operations named above loop over the samples;
every operation costs some microseconds of Python. Batches without padding cost nothing.
"""

import operator
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as global_hooks
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint
from torch.utils._pytree import tree_map

from pconv_seg.layers import partial_conv2d
from pconv_seg.layers.compiling import is_compiling
from pconv_seg.layers.extents import Extents, conv2d_within

# Where functions run that are called under gradient checkpointing of either kind.
_CHECKPOINT = vars(checkpoint)


class _Area(NamedTuple):
    """Where the real values of a tensor are."""

    extents: Extents
    dims: tuple[int, int] = (2, 3)  # of the tensor, that the extents are about

    def size(self, tensor: Tensor) -> tuple[int, int]:
        return tuple(tensor.shape[dim] for dim in self.dims)

    def crops(self, tensor: Tensor) -> list[Tensor]:
        return [
            tensor[i : i + 1].narrow(self.dims[0], 0, height).narrow(self.dims[1], 0, width)
            for i, (height, width) in enumerate(self.extents)
        ]


_PADDED_NUMBER = "a number is computed from the padded size"


class _Number:
    """A number computed from the shape of a map, which knows what it is for each sample alone."""

    plain: int | float
    of_samples: tuple[int | float, ...]
    error: Callable[[str, str], Exception] | None
    is_of_images = False  # a height or a width of the images themselves

    @property
    def varies(self) -> bool:
        return set(self.of_samples) != {self.plain}


class _Length(_Number, int):
    pass


class _Real(_Number, float):
    pass


def _number(value: Any, of_samples: Iterable[Any], error: Callable | None = None) -> Any:
    number = (_Real if isinstance(value, float) else _Length)(value)
    number.plain, number.of_samples, number.error = _plain(value), tuple(of_samples), error
    return number


def _plain(value: Any) -> Any:
    return value.plain if isinstance(value, _Number) else value


def _for_all(number: _Number, others: tuple, of_images: bool = False) -> list[tuple] | None:
    """Operands of an operation on ``number``, for each sample; None if not all are numbers."""
    if not all(isinstance(other, (int, float)) for other in others):
        return None
    columns = [
        other.of_samples
        if isinstance(other, _Number)
        # Of a tensor that is not followed, such as labels.
        else number.of_samples
        if of_images and number.is_of_images and other == number.plain
        else [other] * len(number.of_samples)
        for other in others
    ]
    return list(zip(number.of_samples, *columns, strict=True))


def _followed(operator: Callable[[Any, Any], Any]) -> Callable[[_Number, Any], Any]:
    def compute(number: _Number, other: Any) -> Any:
        operands = _for_all(number, (other,))
        if operands is None:
            return NotImplemented
        value = operator(number.plain, _plain(other))
        return _number(value, (operator(*pair) for pair in operands), number.error)

    return compute


def _decided(name: str, operator: Callable[..., bool]) -> Callable[..., bool]:
    def decide(number: _Number, *others: Any) -> bool:
        operands = _for_all(number, others, of_images=name in ("__eq__", "__ne__"))
        if operands is None:
            return NotImplemented
        answers = {operator(*operand) for operand in operands}
        if len(answers) > 1:
            raise number.error(name, "for some of the images alone it would be decided otherwise")
        return answers.pop()

    return decide


def _refused(name: str) -> Callable[..., Any]:
    def refuse(number: _Number, *others: Any) -> Any:
        if number.varies:
            raise number.error(name, _PADDED_NUMBER)
        return getattr(number.plain, name)(*map(_plain, others))

    return refuse


for _name in ("add", "floordiv", "mod", "mul", "sub"):
    _operator = getattr(operator, _name)
    setattr(_Number, f"__{_name}__", _followed(_operator))
    setattr(_Number, f"__r{_name}__", _followed(lambda a, b, _operator=_operator: _operator(b, a)))
for _name in ("eq", "ge", "gt", "le", "lt", "ne"):
    setattr(_Number, f"__{_name}__", _decided(f"__{_name}__", getattr(operator, _name)))
_Number.__bool__ = _decided("__bool__", bool)
_Number.__neg__ = lambda number: number * -1
# Not __int__: mmseg's resize compares sizes with it, and its Upsample computes sizes.
_UNFOLLOWED = """
    abs and ceil divmod float floor invert lshift or pos pow rand rdivmod rlshift ror round rpow
    rrshift rshift rtruediv rxor truediv trunc xor"""
for _name in _UNFOLLOWED.split():
    setattr(_Number, f"__{_name}__", _refused(f"__{_name}__"))


def _for_sample(value: Any, i: int | None) -> Any:
    """``value`` as it is for sample ``i`` alone, or for the padded batch."""
    if isinstance(value, _Number):
        return value.plain if i is None else value.of_samples[i]
    if isinstance(value, slice):
        return slice(*_for_sample((value.start, value.stop, value.step), i))
    if isinstance(value, (list, tuple)):
        return tuple(_for_sample(item, i) for item in value)
    if isinstance(value, dict):
        return {key: _for_sample(item, i) for key, item in value.items()}
    return value


def extents_of(tensor: Tensor) -> Extents | None:
    """(height, width) of the real area of every sample; None if the tensor is not followed."""
    area = getattr(tensor, "_real_area", None)
    return area and area.extents


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _leaves(item)
    elif isinstance(value, slice):
        yield from (value.start, value.stop, value.step)
    else:
        yield value


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in _leaves(value) if isinstance(leaf, Tensor)]


def _numbers(*values: Any) -> list[_Number]:
    return [leaf for leaf in _leaves(values) if isinstance(leaf, _Number)]


def _tracked(*values: Any) -> list[Tensor]:
    return [tensor for tensor in _tensors(values) if hasattr(tensor, "_real_area")]


def _features(value: Any) -> list[Tensor]:
    """The tensors in ``value`` that are not decisions, indices or counts."""
    return [t for t in _tensors(value) if t.is_floating_point() or t.is_complex()]


def _stack(pieces: list[Tensor], shape: Sequence[int], value: float = 0) -> Tensor:
    """Samples of different size as a batch of ``shape``, ``value`` below and to the right."""
    dims = range(len(shape) - 1, 0, -1)
    pads = ([n for dim in dims for n in (0, shape[dim] - x.shape[dim])] for x in pieces)
    return torch.cat([F.pad(x, pad, value=value) for x, pad in zip(pieces, pads, strict=True)])


def _scaled(size: Sequence[int], factor: Any) -> tuple[int, ...]:
    factors = factor if isinstance(factor, (list, tuple)) else [factor] * len(size)
    return tuple(int(n * f) for n, f in zip(size, factors, strict=True))


class _Call(NamedTuple):
    """An operation with at least one argument that has a real area."""

    func: Callable
    args: tuple
    kwargs: dict[str, Any]
    tracked: list[Tensor]

    @property
    def name(self) -> str:
        # Attributes such as `data` come as the __get__ of a descriptor.
        is_attribute = self.func.__name__ == "__get__"
        return self.func.__self__.__name__ if is_attribute else self.func.__name__

    @property
    def area(self) -> _Area:
        return self.tracked[0]._real_area

    @property
    def is_vector(self) -> bool:
        """Whether only tensors of one position depend on the images, which no padding can be in."""
        return {tensor._real_area.size(tensor) for tensor in self.tracked} == {(1, 1)}

    def run(self) -> Any:
        return self.func(*self.args, **self.kwargs)

    def bound(self, *names: str) -> dict[str, Any]:
        """Arguments by name, of a function whose parameters start with ``names``."""
        return dict(zip(names, self.args, strict=False)) | self.kwargs

    def argument(self, name: str, position: int) -> Any:
        return self.kwargs.get(name, self.args[position] if position < len(self.args) else None)

    def dims(self, position: int, default: Any = None) -> set[int]:
        rank = self.tracked[0].dim()
        dims = self.kwargs["axis"] if "axis" in self.kwargs else self.argument("dim", position)
        # A boolean is an argument of `std` and `var`, in whose place there are dims in others.
        dims = default if dims is None or isinstance(dims, bool) else dims
        dims = range(rank) if dims is None else [dims] if isinstance(dims, int) else dims
        return {dim % rank for dim in dims}


class track_extents(TorchFunctionMode):  # noqa: N801 (a context, named as torch names its own)
    """Context in which ``model`` takes what lies outside the extent of each image as missing.

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
        self._area = _Area(tuple((int(height), int(width)) for height, width in extents))
        if (
            images.dim() != 4
            or len(extents) != len(images)
            or any(
                not 0 < n <= size
                for e in extents
                for n, size in zip(e, images.shape[2:], strict=True)
            )
        ):
            raise ValueError(
                f"extents {list(extents)} do not fit images of shape {tuple(images.shape)}: one "
                "(height, width) for every image is needed, positive and within the batch's"
            )
        self._images = images
        self._names = {
            module: f"{name} ({type(module).__name__})"
            for name, module in model.named_modules()
            if name
        }
        # Modules being run, each with shape and area of what was packed for it.
        self._modules: list[tuple[nn.Module, tuple[torch.Size, _Area] | None]] = []
        self._extents_of_size: dict[tuple[int, int], set[Extents]] = {}

    def __enter__(self) -> "track_extents":
        self._hooks = [
            global_hooks.register_module_forward_pre_hook(self._before_module),
            global_hooks.register_module_forward_hook(self._after_module),
        ]
        self._mark(self._images, self._area)
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        for hook in self._hooks:
            hook.remove()
        del self._images._real_area

    def _mark(self, result: Any, area: _Area) -> Any:
        for tensor in _tensors(result):
            tensor._real_area = area
            self._extents_of_size.setdefault(area.size(tensor), set()).add(area.extents)
        return result

    def _error(self, operation: str, why: str) -> NotImplementedError:
        module = self._names[self._modules[-1][0]] if self._modules else "the model itself"
        return NotImplementedError(
            f"cannot follow the real area of padded images through {operation} in {module}: {why}. "
            "Give the model images that need no padding, or let padding be ordinary data "
            "(without PaddedBatchHook or track_extents)."
        )

    # Some things can be seen only where modules are called.

    def _before_module(self, module: nn.Module, args: tuple) -> tuple | None:
        if module not in self._names:
            return None
        self._modules.append((module, None))
        with torch._C.DisableTorchFunction():
            is_loss = hasattr(module, "loss_name")
            if not any(hasattr(running, "loss_name") for running, _ in self._modules[:-1]):
                # Labels come after what is predicted, and need not be followed.
                self._refuse_what_hides(args[:1] if is_loss else args)
            if is_loss:
                return tree_map(lambda x: x.view_as(x) if isinstance(x, Tensor) else x, args)
            # Here and not at F.batch_norm, which synchronised batch norm does not call.
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and _tracked(args):
                ((x,), area) = args, args[0]._real_area
                if (module.training or module.running_mean is None) and area.dims == (2, 3):
                    self._modules[-1] = (module, (x.shape, area))
                    return torch.cat([c.flatten(2) for c in area.crops(x)], 2)[:, :, None]
        return None

    def _refuse_what_hides(self, args: tuple) -> None:
        # Not only after modules: mmseg calls the forward of heads without the call of a module.
        for tensor in _features(args):
            size = tuple(tensor.shape[-2:])
            if (
                tensor.dim() > 2
                and not hasattr(tensor, "_real_area")
                and not hasattr(tensor, "_is_unfollowed")
                and any(size != e for known in self._extents_of_size.get(size, ()) for e in known)
            ):
                raise self._error("its input", "something before it hides from torch")

    def _after_module(self, module: nn.Module, args: tuple, output: Any) -> Tensor | None:
        if module not in self._names:
            return None
        with torch._C.DisableTorchFunction():
            packed = self._modules[-1][1]
            if packed is None and _tracked(args):
                for tensor in _features(output):
                    if tensor.shape[2:].numel() > 1 and not _tracked(tensor):
                        raise self._error("its forward", "something there hides from torch")
            self._modules.pop()
            if packed is None:
                return None
            shape, area = packed
            parts = output[:, :, 0].split([height * width for height, width in area.extents], 2)
            pieces = [p.unflatten(2, e) for p, e in zip(parts, area.extents, strict=True)]
            return self._mark(_stack(pieces, shape), area)

    # What each operation does to the real area.

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if is_compiling():
            raise self._error("torch.compile", "compiled code hides its operations")
        kwargs = dict(kwargs or {})
        tracked, numbers = _tracked(args, kwargs), _numbers(args, kwargs)
        if "input" in kwargs:
            args = (kwargs.pop("input"), *args)
        call = _Call(func, args, kwargs, tracked)
        if tracked and (torch.is_grad_enabled() or any(tensor.requires_grad for tensor in tracked)):
            # PyTorch says it in no other way before 2.8, and of one kind of checkpoint since then.
            frame = sys._getframe()
            while frame is not None:
                if frame.f_globals is _CHECKPOINT:
                    raise self._error(
                        "gradient checkpointing (with_cp)",
                        "the backward pass would repeat it without extents",
                    )
                frame = frame.f_back
        rule = _RULES.get(call.name.strip("_"), track_extents._other)
        if any(hasattr(tensor, "_is_unfollowed") for tensor in _tensors((args, kwargs))):
            rule = track_extents._unfollowed
        elif tracked and not _features(tracked) and rule not in _FOLLOW_DECISIONS:
            rule = track_extents._other
        elif not tracked and not numbers:
            return call.run()
        if call.name in _TO_PYTHON and not call.is_vector:
            raise self._error(call.name, "it would also tell of padding")
        if any(number.varies for number in numbers):
            if rule not in _FOLLOW_NUMBERS or not tracked:
                raise self._error(call.name, _PADDED_NUMBER)
        elif not tracked and rule is not track_extents._unfollowed:
            return call.run()
        return rule(self, call)

    def _convolve(self, call: _Call) -> Tensor:
        names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups", "mask")
        own = dict(bias=None, stride=1, padding=0, dilation=1, groups=1) | call.bound(*names)
        own = _for_sample(own, None)
        if (
            len(call.tracked) > 1
            or not hasattr(own["input"], "_real_area")
            or own.pop("mask", None) is not None
        ):
            raise self._error(call.name, "its weight or mask depends on the images")
        if call.area.dims != (2, 3):
            raise self._error(call.name, "the channels are not in dimension 1")
        is_partial = call.func is partial_conv2d
        output, extents = conv2d_within(**own, extents=call.area.extents, partial=is_partial)
        if any(n < 1 for extent in extents for n in extent):
            raise self._error(call.name, "an image is smaller than its window")
        return self._mark(output, _Area(extents))

    def _positionwise(self, call: _Call) -> Any:
        result = call.run()
        maps = _tensors(result)
        if not maps:
            return result
        areas = {
            tensor._real_area
            for tensor in call.tracked
            if tensor.dim() == maps[0].dim()
            and tensor._real_area.size(tensor) == tensor._real_area.size(maps[0])
        }
        if len(areas) != 1:
            raise self._error(call.name, f"its operands have {len(areas)} different real areas")
        area = areas.pop()
        for other in _features((call.args, call.kwargs)):
            # What has as many positions as the padded maps would not fit an image alone. Weights
            # have fewer dimensions.
            missing = maps[0].dim() - other.dim()
            if (
                other.dim() > 2
                and not hasattr(other, "_real_area")
                and any(
                    other.shape[dim - missing] not in (1, e[i])
                    for e in area.extents
                    for i, dim in enumerate(area.dims)
                    if dim >= missing
                )
            ):
                raise self._error(call.name, "something of the padded size hides where it is real")
        return self._mark(result, area)

    def _singular(self, call: _Call) -> Any:
        if not torch.is_grad_enabled():
            return self._positionwise(call)
        # At 0, which is what the padding often is, results or gradients are infinite or NaN. So
        # would be the gradients of weights, which are sums over all positions: 0 * NaN is NaN.
        name = call.name.strip("_")
        in_place = call.name == f"{name}_"
        first = 1 if name in ("div", "divide", "true_divide") else 0
        args = list(call.args)
        for i, operand in enumerate(args[first:], first):
            area = getattr(operand, "_real_area", None)
            if area and set(area.extents) != {area.size(operand)}:
                nonzero = _stack(area.crops(operand), operand.shape, 1)
                args[i] = operand.copy_(nonzero) if in_place and i == 0 else nonzero
                self._mark(args[i], area)
        call = call._replace(args=tuple(args))
        return self._positionwise(call._replace(tracked=_tracked(call.args, call.kwargs)))

    def _constant(self, call: _Call) -> Tensor:
        return call.run()

    def _batch_norm(self, call: _Call) -> Tensor:
        return self._other(call) if call.argument("training", 5) else self._positionwise(call)

    def _over_last_dims(self, call: _Call) -> Tensor:
        count = 1 if call.name == "linear" else len(call.argument("normalized_shape", 1))
        in_map = max(call.area.dims) >= call.tracked[0].dim() - count
        return self._other(call) if in_map else self._positionwise(call)

    def _over_channels(self, call: _Call) -> Any:
        position = 1 if call.name.startswith("cat") else 2
        if not call.dims(position, 0).isdisjoint({0, *call.area.dims}):
            raise self._error(call.name, "it is along the batch or along positions")
        return self._positionwise(call)

    def _over_dims(self, call: _Call) -> Any:
        if call.name in ("max", "min") and isinstance(call.argument("other", 1), Tensor):
            return self._positionwise(call)
        default = {"topk": -1, "normalize": 1}.get(call.name)
        dims = call.dims(2 if call.name in ("norm", "normalize", "topk") else 1, default)
        if 0 in dims:
            raise self._error(call.name, "it mixes samples")
        if not dims.isdisjoint(call.area.dims):
            return self._per_sample(call, gone=dims)
        result = call.run()
        return self._mark(result, self._without(dims, call, _features(result)[0]))

    @staticmethod
    def _without(dims: set[int], call: _Call, result: Tensor) -> _Area:
        """The area after removal of ``dims``, unless ``result`` keeps them."""
        gone = dims if result.dim() < call.tracked[0].dim() else ()
        places = tuple(place - sum(dim < place for dim in gone) for place in call.area.dims)
        return _Area(call.area.extents, places)

    def _per_sample(self, call: _Call, gone: set[int] = frozenset()) -> Tensor:
        x, *rest = call.args
        if len(call.tracked) > 1 or call.tracked[0] is not x:
            raise self._error(call.name, "more than its first argument depends on the images")
        pieces = [
            call.func(crop, *_for_sample(rest, i), **_for_sample(call.kwargs, i))
            for i, crop in enumerate(call.area.crops(x))
        ]
        if not isinstance(pieces[0], Tensor):
            raise self._error(call.name, "it has more than one result")
        if pieces[0].dim() < x.dim():
            if not gone.issuperset(call.area.dims):
                raise self._error(call.name, "it leaves one dimension of the map")
            return torch.cat(pieces)
        on_meta = tree_map(
            lambda v: v.to("meta") if isinstance(v, Tensor) else _plain(v), tuple(call[1:3])
        )
        shape = call.func(*on_meta[0], **on_meta[1]).shape
        if any(n > size for piece in pieces for n, size in zip(piece.shape, shape, strict=True)):
            raise self._error(call.name, "an image alone gets a larger map than the padded batch")
        extents = tuple(call.area.size(piece) for piece in pieces)
        return self._mark(_stack(pieces, shape), _Area(extents, call.area.dims))

    def _interpolate(self, call: _Call) -> Tensor:
        own = call.bound("input", "size", "scale_factor", "mode", "align_corners")
        size = own.get("size")
        if size is not None:
            size = (size, size) if isinstance(size, int) else tuple(size)
            if not all(isinstance(length, _Number) for length in size):
                size = _for_sample(size, None)
                columns = zip(*self._extents_at(size, call), strict=True)
                size = tuple(map(_number, size, columns))
            own["size"] = size
        return self._per_sample(call._replace(args=(own.pop("input"),), kwargs=own))

    def _extents_at(self, size: tuple[int, int], call: _Call) -> Extents:
        own_size = call.area.size(call.tracked[0])
        module = self._modules[-1][0] if self._modules else None
        if type(module).__name__ == "Upsample" and module.scale_factor:
            # mmseg's, which turns its factor into a size.
            factor = module.scale_factor
            return tuple(_scaled(extent, factor) for extent in call.area.extents)
        if size == tuple(self._images.shape[2:]):
            return self._area.extents
        ratios = [Fraction(new, old) for new, old in zip(size, own_size, strict=True)]
        by_ratio = tuple(_scaled(extent, ratios) for extent in call.area.extents)
        candidates = {by_ratio, *self._extents_of_size.get(size, ())}
        if len(candidates) > 1 or 0 in {n for extent in by_ratio for n in extent}:
            raise self._error(
                f"{call.name} to {size}",
                f"it is not known which of {sorted(candidates)} that is for the images alone",
            )
        return by_ratio

    def _shape(self, call: _Call) -> torch.Size | int:
        lengths = list(call.tracked[0].shape)
        columns = zip(*call.area.extents, strict=True)
        of_images = list(
            zip(self._images.shape[2:], zip(*self._area.extents, strict=True), strict=True)
        )
        for dim, of_samples in zip(call.area.dims, columns, strict=True):
            lengths[dim] = _number(lengths[dim], of_samples, self._error)
            lengths[dim].is_of_images = (lengths[dim].plain, of_samples) in of_images
        dim = call.argument("dim", 1) if call.name == "size" else None
        return torch.Size(lengths) if dim is None else lengths[dim]

    def _numel(self, call: _Call) -> int:
        (x,) = call.tracked
        return _number(call.run(), (crop.numel() for crop in call.area.crops(x)), self._error)

    def _slice(self, call: _Call) -> Tensor:
        x, index = call.args
        index = list(index) if isinstance(index, tuple) else [index]
        if not all(isinstance(i, (slice, int)) or i is Ellipsis for i in index):
            raise self._error("indexing", "only slices and channel numbers are followed")
        at = index.index(Ellipsis) if Ellipsis in index else len(index)
        missing = x.dim() - len(index[:at] + index[at + 1 :])
        index[at : at + 1] = [slice(None)] * missing
        alone = [_for_sample(index, i) for i in range(len(call.area.extents))]
        index = _for_sample(index, None)
        places = [index[dim] for dim in call.area.dims]
        if not all(
            isinstance(i, slice) and (i.start or 0) >= 0 and (i.stop or 0) >= 0
            for own in (index, *alone)
            for i in (own[0], *(own[dim] for dim in call.area.dims))
        ):
            raise self._error("indexing", "positions and samples need slices that count from 0")
        # Only where a slice of positions ends may be another number for each sample.
        if any(
            i != j if dim not in call.area.dims else (i.start, i.step) != (j.start, j.step)
            for own in alone
            for dim, (i, j) in enumerate(zip(own, index, strict=True))
        ):
            raise self._error("indexing", "it starts at a number from the padded size")
        result = call.run()
        area = self._without({d for d, i in enumerate(index) if isinstance(i, int)}, call, result)
        area = area._replace(
            extents=tuple(
                tuple(len(range(n)[own[d]]) for n, d in zip(extent, call.area.dims, strict=True))
                for extent, own in list(zip(area.extents, alone, strict=True))[index[0]]
            )
        )
        size = area.size(result)
        if any(n > most for own in area.extents for n, most in zip(own, size, strict=True)):
            raise self._error("indexing", "an image alone gets a larger map than the padded batch")
        if 0 in (n for extent in area.extents for n in extent):
            raise self._error("indexing", "nothing of the slice is real")
        if places != [slice(None)] * 2 and {size} == set(area.extents):
            return result
        return self._mark(result, area)

    def _permute(self, call: _Call) -> Tensor:
        if call.is_vector:
            return call.run()
        # On a tensor in which the size of a dimension tells which one it is.
        kept = {0, *call.area.dims}
        sizes = [10 + d if d in kept or n > 1 else 1 for d, n in enumerate(call.args[0].shape)]
        numbered = torch.empty(sizes, device="meta")
        order = call._replace(args=(numbered, *call.args[1:])).run().shape
        if order[0] != 10:
            raise self._error(call.name, "the batch is not in dimension 0 afterwards")
        result = call.run()
        if result.dim() != len(order):
            raise self._error(call.name, "it leaves one dimension of the map")
        dims = tuple(order.index(10 + dim) for dim in call.area.dims)
        return self._mark(result, _Area(call.area.extents, dims))

    def _reshape(self, call: _Call) -> Tensor:
        x, result = call.args[0], call.run()
        ends = (0, -2, -1)
        if (
            call.area.dims == (x.dim() - 2, x.dim() - 1)
            and result.dim() > 2
            and all(x.shape[end] == result.shape[end] for end in ends)
        ):
            dims = (result.dim() - 2, result.dim() - 1)
            return self._mark(result, _Area(call.area.extents, dims))
        return self._other(call)

    def _other(self, call: _Call) -> Any:
        result = call.run()
        # A globally pooled vector has no padding that could reach anything.
        if call.is_vector:
            return result
        if _features(result) or (call.name == "__setitem__" and _features(call.tracked)):
            raise self._error(call.name, "what it does to the real area is not known")
        return self._stop_following(call, result)

    def _unfollowed(self, call: _Call) -> Any:
        if _features(call.tracked) or any(isinstance(t, nn.Parameter) for t in _tensors(call[1:3])):
            raise self._error(call.name, "it depends on decisions that could not be followed")
        return self._stop_following(call, call.run())

    @staticmethod
    def _stop_following(call: _Call, result: Any) -> Any:
        """Let decisions go to metrics, as long as they do not come back into the network."""
        for tensor in _tensors(call.args[0] if call.name == "__setitem__" else result):
            tensor.__dict__.pop("_real_area", None)
            tensor._is_unfollowed = True
        return result


# By the names of functions and methods, without the underscores around them.
_RULES: dict[str, Callable[[track_extents, _Call], Any]] = {
    name: rule
    for rule, names in {
        track_extents._convolve: "conv2d partial_conv2d",
        track_extents._positionwise: """
            abs add addcmul alpha_dropout and bfloat16 bitwise_and bitwise_not bitwise_or
            bitwise_xor bool celu clamp clamp_max clamp_min clip clone contiguous cpu cuda data
            detach double dropout dropout1d dropout2d dropout3d elu eq exp
            feature_alpha_dropout feature_dropout float ge gelu gt half hardsigmoid hardswish
            hardtanh iand int invert ior isfinite isinf isnan ixor le leaky_relu lerp
            logical_and logical_not logical_or logical_xor logsigmoid long lt masked_fill maximum
            minimum mish mul multiply ne neg negative or prelu relu relu6 requires_grad
            rpow rrelu rsub selu sigmoid silu softplus softsign square sub subtract tanh to type
            type_as where xor""",
        track_extents._singular: "div divide log pow rdiv reciprocal rsqrt sqrt true_divide",
        track_extents._batch_norm: "batch_norm",
        track_extents._over_last_dims: "layer_norm linear",
        track_extents._over_channels: "cat chunk split tensor_split",
        track_extents._over_dims: """
            amax amin log_softmax logsumexp max mean min norm normalize softmax std sum topk var""",
        track_extents._per_sample: """
            adaptive_avg_pool2d adaptive_max_pool2d avg_pool2d conv_transpose2d distribution_pad
            group_norm instance_norm lp_pool2d max_pool2d pad pixel_shuffle pixel_unshuffle""",
        track_extents._interpolate: "interpolate",
        track_extents._slice: "getitem",
        track_extents._permute: "movedim permute squeeze swapaxes transpose unsqueeze",
        track_extents._reshape: "flatten reshape unflatten view",
        track_extents._shape: "shape size",
        track_extents._numel: "numel nelement",
        track_extents._constant: """
            empty full new_empty new_full new_ones new_zeros ones rand randn zeros""",
    }.items()
    for name in names.split()
}

# The rules that take a number from a shape for what it is for each sample.
_FOLLOW_NUMBERS = {
    track_extents._per_sample,
    track_extents._interpolate,
    track_extents._slice,
    track_extents._reshape,
}

_FOLLOW_DECISIONS = {
    track_extents._positionwise,
    track_extents._singular,
    track_extents._constant,
    track_extents._shape,
    track_extents._numel,
}

# Methods that give no tensor but what is in it.
_TO_PYTHON = {
    "__array__",
    "__bool__",
    "__complex__",
    "__contains__",
    "__float__",
    "__index__",
    "__int__",
    "allclose",
    "equal",
    "is_nonzero",
    "item",
    "numpy",
    "tolist",
}
