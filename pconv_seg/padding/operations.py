"""What each operation does to the real areas of padded images, see :mod:`.tracking`."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from pconv_seg.geometry import pair
from pconv_seg.layers import partial_conv2d
from pconv_seg.layers.extents import Extents, conv2d_within

from .sizes import PADDED_NUMBER, Number, for_sample, leaves, number


class Area(NamedTuple):
    """Where the values of a tensor are real, which its attribute ``_real_area`` says."""

    extents: Extents
    dims: tuple[int, int] = (2, 3)  # of the tensor, that the extents are about

    def size(self, tensor: Tensor) -> tuple[int, int]:
        return tuple(tensor.shape[dim] for dim in self.dims)

    def crops(self, tensor: Tensor) -> list[Tensor]:
        return [
            tensor[i : i + 1].narrow(self.dims[0], 0, height).narrow(self.dims[1], 0, width)
            for i, (height, width) in enumerate(self.extents)
        ]


def tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in leaves(value) if isinstance(leaf, Tensor)]


def tracked(*values: Any) -> list[Tensor]:
    return [tensor for tensor in tensors(values) if hasattr(tensor, "_real_area")]


def features(value: Any) -> list[Tensor]:
    """The tensors in ``value`` that are not decisions, indices or counts."""
    return [t for t in tensors(value) if t.is_floating_point() or t.is_complex()]


def stack(pieces: list[Tensor], shape: Sequence[int], value: float = 0) -> Tensor:
    """Samples of different size as a batch of ``shape``, ``value`` below and to the right."""
    dims = range(len(shape) - 1, 0, -1)
    pads = ([n for dim in dims for n in (0, shape[dim] - x.shape[dim])] for x in pieces)
    return torch.cat([F.pad(x, pad, value=value) for x, pad in zip(pieces, pads, strict=True)])


class Forward:
    """What is known while a model runs on padded images.

    Attributes:
        images: The padded images.
        area: Where they are real.
        names: Of the model's modules, for errors.
        running: Modules that run, the innermost last, each with shape and area of what was packed
            for it.
        extents_of_size: By (height, width) of maps, all extents that maps of this size had.
    """

    def __init__(self, model: nn.Module, images: Tensor, area: Area) -> None:
        self.images, self.area = images, area
        self.names = {
            module: f"{name} ({type(module).__name__})"
            for name, module in model.named_modules()
            if name
        }
        self.running: list[tuple[nn.Module, tuple[torch.Size, Area] | None]] = []
        self.extents_of_size: dict[tuple[int, int], set[Extents]] = {}

    def mark(self, result: Any, area: Area) -> Any:
        for tensor in tensors(result):
            tensor._real_area = area
            self.extents_of_size.setdefault(area.size(tensor), set()).add(area.extents)
        return result

    def error(self, operation: str, why: str) -> NotImplementedError:
        module = self.names[self.running[-1][0]] if self.running else "the model itself"
        return NotImplementedError(
            f"cannot follow the real area of padded images through {operation} in {module}: {why}. "
            "Give the model images that need no padding, or let padding be ordinary data "
            "(without PaddedBatchHook or track_extents)."
        )


class Call(NamedTuple):
    """An operation, and those of its arguments that have a real area."""

    forward: Forward
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
    def area(self) -> Area:
        return self.tracked[0]._real_area

    @property
    def is_vector(self) -> bool:
        """Whether only tensors of one position depend on the images, which no padding can be in."""
        return {tensor._real_area.size(tensor) for tensor in self.tracked} == {(1, 1)}

    def error(self, why: str) -> NotImplementedError:
        return self.forward.error(self.name, why)

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


def follow(call: Call) -> Any:
    """Run an operation inside the real areas of its arguments, and mark that of its result.

    Raises:
        NotImplementedError: if it cannot be followed.
    """
    found = list(leaves((call.args, call.kwargs)))
    numbers = [leaf for leaf in found if isinstance(leaf, Number)]
    is_unfollowed = any(hasattr(leaf, "_is_unfollowed") for leaf in found)
    if not (call.tracked or numbers or is_unfollowed):
        return call.run()
    rule = _RULES.get(call.name) or _RULES.get(call.name.strip("_"), _other)
    if call.name in _READ and not call.is_vector:
        raise call.error("it would also tell of padding")
    if is_unfollowed:
        rule = _unfollowed
    elif call.tracked and not features(call.tracked) and rule not in _FOLLOW_DECISIONS:
        rule = _other
    if any(number.varies for number in numbers) and not (call.tracked and rule in _FOLLOW_NUMBERS):
        raise call.error(PADDED_NUMBER)
    return rule(call) if call.tracked or is_unfollowed else call.run()


def _convolve(call: Call) -> Tensor:
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups", "mask")
    own = dict(bias=None, stride=1, padding=0, dilation=1, groups=1) | call.bound(*names)
    if (
        len(call.tracked) > 1
        or not hasattr(own["input"], "_real_area")
        or own.pop("mask", None) is not None
    ):
        raise call.error("its weight or mask depends on the images")
    if call.area.dims != (2, 3):
        raise call.error("the channels are not in dimension 1")
    is_partial = call.func is partial_conv2d
    output, extents = conv2d_within(**own, extents=call.area.extents, partial=is_partial)
    if any(n < 1 for extent in extents for n in extent):
        raise call.error("an image is smaller than its window")
    return call.forward.mark(output, Area(extents))


def _positionwise(call: Call) -> Any:
    result = call.run()
    maps = tensors(result)
    if not maps:
        return result
    areas = {
        tensor._real_area
        for tensor in call.tracked
        if tensor.dim() == maps[0].dim()
        and tensor._real_area.size(tensor) == tensor._real_area.size(maps[0])
    }
    if len(areas) != 1:
        raise call.error(f"its operands have {len(areas)} different real areas")
    area = areas.pop()
    for other in features((call.args, call.kwargs)):
        # What has as many positions as the padded maps would not fit an image alone. Weights have
        # fewer dimensions.
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
            raise call.error("something of the padded size hides where it is real")
    return call.forward.mark(result, area)


def _singular(call: Call) -> Any:
    if not torch.is_grad_enabled():
        return _positionwise(call)
    # At 0, which is what the padding often is, results or gradients are infinite or NaN. So would
    # be the gradients of weights, which are sums over all positions: 0 * NaN is NaN.
    name = call.name.strip("_")
    in_place = call.name == f"{name}_"
    first = 1 if name in ("div", "divide", "true_divide") else 0
    args = list(call.args)
    for i, operand in enumerate(args[first:], first):
        area = getattr(operand, "_real_area", None)
        if area and set(area.extents) != {area.size(operand)}:
            nonzero = stack(area.crops(operand), operand.shape, 1)
            args[i] = operand.copy_(nonzero) if in_place and i == 0 else nonzero
            call.forward.mark(args[i], area)
    return _positionwise(call._replace(args=tuple(args), tracked=tracked(args, call.kwargs)))


def _batch_norm(call: Call) -> Tensor:
    return _other(call) if call.argument("training", 5) else _positionwise(call)


def _over_last_dims(call: Call) -> Tensor:
    count = 1 if call.name == "linear" else len(call.argument("normalized_shape", 1))
    in_map = max(call.area.dims) >= call.tracked[0].dim() - count
    return _other(call) if in_map else _positionwise(call)


def _over_channels(call: Call) -> Any:
    position = 1 if call.name.startswith("cat") else 2
    if not call.dims(position, 0).isdisjoint({0, *call.area.dims}):
        raise call.error("it is along the batch or along positions")
    return _positionwise(call)


def _over_dims(call: Call) -> Any:
    if isinstance(call.argument("other", 1), Tensor):  # `max` and `min` of two
        return _positionwise(call)
    dims = call.dims(2, -1) if call.name == "topk" else call.dims(1)
    if 0 in dims:
        raise call.error("it mixes samples")
    if not dims.isdisjoint(call.area.dims):
        return _per_sample(call, gone=dims)
    result = call.run()
    return call.forward.mark(result, _without(dims, call, features(result)[0]))


def _without(dims: set[int], call: Call, result: Tensor) -> Area:
    """The area after removal of ``dims``, unless ``result`` keeps them."""
    gone = dims if result.dim() < call.tracked[0].dim() else ()
    places = tuple(place - sum(dim < place for dim in gone) for place in call.area.dims)
    return Area(call.area.extents, places)


def _per_sample(call: Call, gone: set[int] = frozenset()) -> Tensor:
    x, *rest = call.args
    if len(call.tracked) > 1 or call.tracked[0] is not x:
        raise call.error("more than its first argument depends on the images")
    pieces = [
        call.func(crop, *for_sample(rest, i), **for_sample(call.kwargs, i))
        for i, crop in enumerate(call.area.crops(x))
    ]
    if not isinstance(pieces[0], Tensor):
        raise call.error("it has more than one result")
    if pieces[0].dim() < x.dim():
        if not gone.issuperset(call.area.dims):
            raise call.error("it leaves one dimension of the map")
        return torch.cat(pieces)
    args, kwargs = tree_map(
        lambda value: value.to("meta") if isinstance(value, Tensor) else value,
        for_sample((call.args, call.kwargs), None),
    )
    shape = call.func(*args, **kwargs).shape
    if any(n > size for piece in pieces for n, size in zip(piece.shape, shape, strict=True)):
        raise call.error("an image alone gets a larger map than the padded batch")
    extents = tuple(call.area.size(piece) for piece in pieces)
    return call.forward.mark(stack(pieces, shape), Area(extents, call.area.dims))


def _interpolate(call: Call) -> Tensor:
    own = call.bound("input", "size", "scale_factor", "mode", "align_corners")
    size = own.get("size")
    if size is not None:
        size = pair(size, "size")
        if not all(isinstance(length, Number) for length in size):
            plain = for_sample(size, None)
            by_ratio = map(number, plain, zip(*_extents_at(plain, call), strict=True))
            # What is known of one length is not to be guessed because the other is a plain number.
            size = tuple(
                length if isinstance(length, Number) else guess
                for length, guess in zip(size, by_ratio, strict=True)
            )
        own["size"] = size
    return _per_sample(call._replace(args=(own.pop("input"),), kwargs=own))


def _extents_at(size: tuple[int, int], call: Call) -> Extents:
    forward, extents = call.forward, call.area.extents
    module = forward.running[-1][0] if forward.running else None
    if type(module).__name__ == "Upsample" and module.scale_factor:
        # mmseg's, which turns its factor into a size.
        return _scaled(extents, pair(module.scale_factor, "scale_factor"))
    if size == tuple(forward.images.shape[2:]):
        return forward.area.extents
    own_size = call.area.size(call.tracked[0])
    ratios = [Fraction(new, old) for new, old in zip(size, own_size, strict=True)]
    by_ratio = _scaled(extents, ratios)
    candidates = {by_ratio, *forward.extents_of_size.get(size, ())}
    if len(candidates) > 1 or 0 in {n for extent in by_ratio for n in extent}:
        raise forward.error(
            f"{call.name} to {size}",
            f"it is not known which of {sorted(candidates)} that is for the images alone",
        )
    return by_ratio


def _scaled(extents: Extents, factors: Sequence[float | Fraction]) -> Extents:
    return tuple(
        tuple(int(n * factor) for n, factor in zip(extent, factors, strict=True))
        for extent in extents
    )


def _shape(call: Call) -> torch.Size | int:
    forward, lengths = call.forward, list(call.tracked[0].shape)
    rows, columns = zip(*forward.area.extents, strict=True)
    of_images = list(zip(forward.images.shape[2:], (rows, columns), strict=True))
    for dim, of_samples in zip(call.area.dims, zip(*call.area.extents, strict=True), strict=True):
        is_of_images = (lengths[dim], of_samples) in of_images
        lengths[dim] = number(lengths[dim], of_samples, forward.error)
        lengths[dim].is_of_images = is_of_images
    dim = call.argument("dim", 1)
    return torch.Size(lengths) if dim is None else lengths[dim]


def _numel(call: Call) -> int:
    (x,) = call.tracked
    of_samples = (crop.numel() for crop in call.area.crops(x))
    return number(call.run(), of_samples, call.forward.error)


def _slice(call: Call) -> Tensor:
    x, index = call.args
    index = list(index) if isinstance(index, tuple) else [index]
    if not all(isinstance(i, (slice, int)) or i is Ellipsis for i in index):
        raise call.error("only slices and channel numbers are followed")
    at = index.index(Ellipsis) if Ellipsis in index else len(index)
    missing = x.dim() - len(index[:at] + index[at + 1 :])
    index[at : at + 1] = [slice(None)] * missing
    alone = [for_sample(index, i) for i in range(len(call.area.extents))]
    index = for_sample(index, None)
    places = [index[dim] for dim in call.area.dims]
    if not all(
        isinstance(i, slice) and (i.start or 0) >= 0
        for own in (index, *alone)
        for i in (own[0], *(own[dim] for dim in call.area.dims))
    ):
        raise call.error("positions and samples need slices whose start counts from 0")
    # Only where a slice of positions ends may be another number for each sample.
    if any(
        i != j if dim not in call.area.dims else (i.start, i.step) != (j.start, j.step)
        for own in alone
        for dim, (i, j) in enumerate(zip(own, index, strict=True))
    ):
        raise call.error("it starts at a number from the padded size")
    result = call.run()
    area = _without({d for d, i in enumerate(index) if isinstance(i, int)}, call, result)
    extents = tuple(
        tuple(len(range(n)[own[dim]]) for n, dim in zip(extent, call.area.dims, strict=True))
        for extent, own in list(zip(area.extents, alone, strict=True))[index[0]]
    )
    size = area.size(result)
    if any(n > most for extent in extents for n, most in zip(extent, size, strict=True)):
        raise call.error("an image alone gets a larger map than the padded batch")
    if 0 in (n for extent in extents for n in extent):
        raise call.error("nothing of the slice is real")
    if places != [slice(None)] * 2 and {size} == set(extents):
        return result
    return call.forward.mark(result, area._replace(extents=extents))


def _permute(call: Call) -> Tensor:
    if call.is_vector:
        return call.run()
    # On a tensor in which the size of a dimension tells which one it is.
    kept = {0, *call.area.dims}
    sizes = [10 + d if d in kept or n > 1 else 1 for d, n in enumerate(call.args[0].shape)]
    numbered = torch.empty(sizes, device="meta")
    order = call._replace(args=(numbered, *call.args[1:])).run().shape
    if order[0] != 10:
        raise call.error("the batch is not in dimension 0 afterwards")
    result = call.run()
    if result.dim() != len(order):
        raise call.error("it leaves one dimension of the map")
    dims = tuple(order.index(10 + dim) for dim in call.area.dims)
    return call.forward.mark(result, Area(call.area.extents, dims))


def _reshape(call: Call) -> Tensor:
    x, result = call.args[0], call.run()
    ends = (0, -2, -1)
    if (
        call.area.dims == (x.dim() - 2, x.dim() - 1)
        and result.dim() > 2
        and all(x.shape[end] == result.shape[end] for end in ends)
    ):
        dims = (result.dim() - 2, result.dim() - 1)
        return call.forward.mark(result, Area(call.area.extents, dims))
    return _other(call)


def _other(call: Call) -> Any:
    result = call.run()
    # A globally pooled vector has no padding that could reach anything.
    if call.is_vector:
        return result
    if features(result) or (call.name == "__setitem__" and features(call.tracked)):
        raise call.error("what it does to the real area is not known")
    return _stop_following(call, result)


def _unfollowed(call: Call) -> Any:
    arguments = tensors((call.args, call.kwargs))
    if features(call.tracked) or any(isinstance(tensor, nn.Parameter) for tensor in arguments):
        raise call.error("it depends on decisions that could not be followed")
    return _stop_following(call, call.run())


def _stop_following(call: Call, result: Any) -> Any:
    """Let decisions go to metrics, as long as they do not come back into the network."""
    for tensor in tensors(call.args[0] if call.name == "__setitem__" else result):
        tensor.__dict__.pop("_real_area", None)
        tensor._is_unfollowed = True
    return result


# By the names of functions and methods, most without the underscores around them.
_RULES: dict[str, Callable[[Call], Any]] = {
    name: rule
    for rule, names in {
        _convolve: "conv2d partial_conv2d",
        _positionwise: """
            abs add addcmul alpha_dropout and bfloat16 bitwise_and bitwise_not bitwise_or
            bitwise_xor bool celu clamp clamp_max clamp_min clip clone contiguous cpu cuda data
            detach double dropout dropout1d dropout2d dropout3d elu eq exp
            feature_alpha_dropout feature_dropout float ge gelu gt half hardsigmoid hardswish
            hardtanh iand int invert ior isfinite isinf isnan ixor le leaky_relu lerp
            logical_and logical_not logical_or logical_xor logsigmoid long lt masked_fill maximum
            minimum mish mul multiply ne neg negative or prelu relu relu6 requires_grad
            rpow rrelu rsub selu sigmoid silu softplus softsign square sub subtract tanh to type
            type_as where xor""",
        _singular: "div divide log pow rdiv reciprocal rsqrt sqrt true_divide",
        _batch_norm: "batch_norm",
        _over_last_dims: "layer_norm linear",
        _over_channels: "cat chunk split tensor_split",
        _over_dims: """
            amax amin log_softmax logsumexp max mean min norm normalize softmax std sum topk var""",
        _per_sample: """
            adaptive_avg_pool2d adaptive_max_pool2d avg_pool2d checked_pad conv_transpose2d
            distribution_pad group_norm instance_norm lp_pool2d max_pool2d pad pixel_shuffle
            pixel_unshuffle""",
        _interpolate: "interpolate",
        _slice: "getitem",
        _permute: "movedim permute squeeze swapaxes transpose unsqueeze",
        _reshape: "flatten reshape unflatten view",
        _shape: "shape size",
        _numel: "numel nelement",
        # What these make is real all over.
        Call.run: "new_empty new_full new_ones new_zeros",
    }.items()
    for name in names.split()
}

# What gives no tensor that could be followed.
_READ = {
    *("__array__", "__bool__", "__complex__", "__contains__", "__float__", "__index__", "__int__"),
    *("allclose", "equal", "is_nonzero", "item", "numpy", "tolist"),
}

# The rules that take a number from a shape for what it is for each sample.
_FOLLOW_NUMBERS = {_per_sample, _interpolate, _slice, _reshape}

_FOLLOW_DECISIONS = {_positionwise, _singular, Call.run, _shape, _numel}
