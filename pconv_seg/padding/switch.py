"""Switch the padding of all convolutions of a built model, in place."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache

from prettytable import PrettyTable
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from pconv_seg.layers.axes import axes_of_layer, flat_padding

from .describe import FORMS, PLAIN, padding_of, plain_class, why_not_convertible

SCHEMES = ("zeros", "partial", "reflect", "replicate", "circular", "distribution")
"""What :func:`set_padding` knows."""
_NOT_SELECTED = "not selected by `where`"
Where = str | Sequence[str] | Callable[[str, nn.Module], bool]


@dataclass(frozen=True)
class PaddedLayer:
    """One padded layer: its padding before and after, and why it was left as it is, if it was."""

    name: str
    layer: str
    before: str
    after: str
    reason: str = ""


@dataclass(frozen=True)
class PaddingReport:
    """What :func:`set_padding` found; ``str()`` of it is a table."""

    rows: tuple[PaddedLayer, ...]

    @property
    def converted(self) -> tuple[PaddedLayer, ...]:
        """Layers that follow the scheme now."""
        return tuple(row for row in self.rows if not row.reason)

    @property
    def kept(self) -> tuple[PaddedLayer, ...]:
        """Layers that keep the padding they had, each with its ``reason``."""
        return tuple(row for row in self.rows if row.reason)

    def __str__(self) -> str:
        table = PrettyTable(["name", "layer", "before", "after", "why not"], align="l")
        table.add_rows([[r.name, r.layer, r.before, r.after, r.reason] for r in self.rows])
        return f"{table}\n{len(self.converted)} of {len(self.rows)} padded layers follow the scheme"


def set_padding(model: nn.Module, scheme: str, *, where: Where | None = None) -> PaddingReport:
    """Give all padded convolutions of ``model`` another padding scheme, in place.

    Modules and parameters stay the same objects: only the class of a convolution (``__class__``)
    and its ``padding_mode`` change. So optimizers, EMA, DDP, hooks, parametrizations and other
    references stay valid, state-dict keys stay what they are, and ``set_padding(model, 'zeros')``
    gives back the network as it was built. Switch before compiling, tracing or exporting: some of
    the results keep the scheme they were made with, others follow a later switch.

    Reached are ``nn.Conv1d``, ``nn.Conv2d``, ``nn.Conv3d``, their subclasses that compute nothing
    else, mmcv's wrappers of them and mmcv's ``Conv2dAdaptivePadding``. Everything else that pads
    is left as it is and listed with the reason.

    Args:
        model: Any module, also a wrapped one.
        scheme: ``'zeros'``; ``'partial'`` (:func:`partial_conv2d`); ``'reflect'``,
            ``'replicate'`` or ``'circular'`` (``F.pad``); ``'distribution'``
            (:func:`distribution_pad`). Convolutions built with a ``padding_mode`` of their own
            follow it too, so ``'zeros'`` makes them pad with zeros.
        where: Only layers whose name matches this pattern, or one of these patterns (``*``, ``?``
            and ``[...]`` as in a shell, on names as in ``named_modules()``), or for which
            ``where(name, module)`` is true.

    Returns:
        A report with one row per layer that pads.

    Raises:
        ValueError: if the scheme is unknown, or ``where`` selects no padded convolution that can
            follow.
    """
    check_scheme(scheme)
    selects = _selector(where)
    rows = []
    for name, module in model.named_modules():
        before = padding_of(module)
        if before is None:
            continue
        reason = why_not_convertible(module)
        if not reason and not selects(name, module):
            reason = _NOT_SELECTED
        if not reason:
            _switch(module, scheme, name)
        layer = plain_class(module).__name__
        rows.append(PaddedLayer(name, layer, before, padding_of(module), reason))
    report = PaddingReport(tuple(rows))
    if where is not None and not report.converted:
        names = [row.name for row in report.rows if row.reason == _NOT_SELECTED] or ["none"]
        raise ValueError(
            f"where={where!r} selects no padded convolution that can follow; those that can are "
            f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}. What is reported without "
            "`where` says why others cannot"
        )
    return report


def check_scheme(scheme: str) -> None:
    """Raise a ValueError for a scheme that :func:`set_padding` does not know."""
    if scheme not in SCHEMES:
        raise ValueError(f"unknown padding scheme {scheme!r}: choose one of {', '.join(SCHEMES)}")


def _selector(where: Where | None) -> Callable[[str, nn.Module], bool]:
    if where is None:
        return lambda name, module: True
    if callable(where):
        return where
    patterns = [where] if isinstance(where, str) else where
    return lambda name, module: any(fnmatchcase(name, pattern) for pattern in patterns)


def _switch(module: _ConvNd, scheme: str, name: str) -> None:
    plain = plain_class(module)
    partial, padded = _forms(plain)
    vars(module).pop("layer_name", None)
    module.padding_mode = "zeros"
    if scheme == "zeros":
        cls = plain
    elif scheme == "partial":
        cls = partial
    else:
        cls = padded
        module.padding_mode, module.layer_name = scheme, name or "convolution"
        # Wrong where a model changes `padding` after construction (MobileNetV3 does).
        module._reversed_padding_repeated_twice = flat_padding(axes_of_layer(module))
    if parametrize.is_parametrized(module):
        # The parametrizations are properties of a class of the module's own.
        cls = type(f"Parametrized{cls.__name__}", (cls,), dict(vars(type(module))))
    module.__class__ = cls


@cache
def _forms(plain: type) -> tuple[type, type]:
    """The partial form of a convolution's class, and the one with padding made from the input."""
    if plain in FORMS:
        return FORMS[plain]
    # The nearest one: Conv2dAdaptivePadding is a subclass of nn.Conv2d, too.
    base = next(base for base in plain.__mro__ if base in FORMS)
    # Whatever else the subclass has stays. `base` stands among the direct bases because mmengine's
    # weight initialisation asks for these.
    own = {"__reduce_ex__": _reduce}
    forms = tuple(type(form.__name__, (form, plain, base), own) for form in FORMS[base])
    PLAIN.update(dict.fromkeys(forms, plain))
    return forms


def _reduce(module: _ConvNd, protocol: int) -> tuple:
    # No module has the class under a name, so pickles hold what it is made of.
    plain = plain_class(module)
    state = object.__reduce_ex__(module, protocol)[2]
    return _instance, (plain, _forms(plain).index(type(module))), state


def _instance(plain: type, form: int) -> _ConvNd:
    cls = _forms(plain)[form]
    return cls.__new__(cls)
