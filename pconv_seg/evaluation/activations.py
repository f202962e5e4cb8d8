"""How strongly a network responds near the border of its maps.

A response is a mean of absolute activations. Its profile is a function of the distance to one
border: corners, where two borders meet, are left out.
"""

import copy
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from fnmatch import fnmatch
from functools import partial
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.models import BaseSegmentor
from torch import Tensor, nn

from pconv_seg.engine import scope_of
from pconv_seg.files import naming_files, short_names
from pconv_seg.geometry import edge_distance
from pconv_seg.inference import image_preprocessor, tile_predictor
from pconv_seg.padding.describe import is_padded_convolution

from .compare import load_tested
from .report import json_number

# Marked border responses exceed this quantile of the responses in the rest of the map.
_QUANTILE = 0.95


class Profile(NamedTuple):
    """The response of one layer by distance to the border.

    Attributes:
        layer: Its name.
        response: Mean absolute activation, ``float64[distances]``; distances in pixels of the
            layer's own map, from 0 at its border.
        interior: The same over the central half of the height and width.
    """

    layer: str
    response: np.ndarray
    interior: float

    @property
    def relative(self) -> np.ndarray:
        """The response in units of that in the interior; NaN where the interior is all zeros."""
        return self.response / (self.interior or np.nan)


class Activations(NamedTuple):
    """What :func:`activations_of_checkpoints` measures of one network.

    Attributes:
        name: Checkpoint and padding, and whether it is untrained.
        response: See :func:`last_response`.
        marked, marked_share: See :func:`border_responses`.
        profiles: See :func:`border_profiles`.
    """

    name: str
    response: np.ndarray
    marked: np.ndarray
    marked_share: float
    profiles: list[Profile]

    def as_dict(self) -> dict:
        """The numbers without the maps, ready for JSON: null for what is not finite."""
        return {
            "name": self.name,
            "marked_share": self.marked_share,
            "layers": [
                {
                    "layer": profile.layer,
                    "response": [json_number(value) for value in profile.response],
                    "interior": json_number(profile.interior),
                    "relative": [json_number(value) for value in profile.relative],
                }
                for profile in self.profiles
            ],
        }


def activations_of_checkpoints(
    config: Config,
    checkpoints: Sequence[str],
    images: Mapping[str, Tensor],
    *,
    layers: Sequence[str] = ("*",),
    padding: str | None = None,
    with_untrained: bool = False,
    seed: int = 0,
) -> list[Activations]:
    """Measure the responses of several networks to the same images.

    Args:
        config: Its ``model`` is for checkpoints that hold none, see :func:`load_segmentor`.
        checkpoints: Files or URLs.
        images: ``uint8 Tensor[3, H, W]`` each, BGR, by the names of their files. Profiles are over
            all of them; the last response is to the first.
        layers: See :func:`border_profiles`.
        padding: Run all under this scheme, see ``set_padding``; None keeps each network's own.
        with_untrained: Also measure each network with initial weights, after the trained ones.
        seed: Of the initial weights.

    Raises:
        ValueError: As :func:`border_profiles` and ``load_segmentor``; as :func:`border_responses`,
            naming the image.
        FileNotFoundError: If there is no such checkpoint.
    """
    init_default_scope(scope_of(config))
    models, tested = load_tested(config, checkpoints, None, [padding])
    short = short_names(checkpoints)
    names = [f"{short[network.checkpoint]} ({network.padding})" for network in tested]
    if with_untrained:
        models += [untrained(model, seed) for model in models]
        names += [f"{name}, untrained" for name in names]
    results = []
    first = next(iter(images))
    for name, model in zip(names, models, strict=True):
        with naming_files(first):
            response = last_response(model, images[first])
            marked, share = border_responses(response)
        profiles = border_profiles(model, images, layers)
        results.append(Activations(name, response, marked, share, profiles))
    return results


@torch.no_grad()
def border_profiles(
    model: BaseSegmentor, images: Mapping[str, Tensor], layers: Sequence[str] = ("*",)
) -> list[Profile]:
    """Profiles of a network's padded convolutions, in the order in which they run.

    Args:
        model: In evaluation mode.
        images: ``uint8 Tensor[3, H, W]`` each, BGR, of any sizes, by the names of their files.
        layers: Names of layers, with ``*`` and ``?`` as in file names.

    Returns:
        One profile per layer, over all images, of its own output: before normalisation and
        activation, which are other layers.

    Raises:
        ValueError: If no padded 2-d convolution of such a name runs, or (naming the image) the
            network refuses an image.
    """
    sums: dict[str, list[tuple[np.ndarray, ...]]] = {}

    def observe(name: str, _: nn.Module, __: tuple, output: Tensor) -> None:
        sums.setdefault(name, []).append(_profile_sums(_magnitude(output)))

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if (
                isinstance(module, nn.Conv2d)
                and is_padded_convolution(module)
                and any(fnmatch(name, pattern) for pattern in layers)
            ):
                hooks.enter_context(module.register_forward_hook(partial(observe, name)))
        for name, pixels in images.items():
            with naming_files(name):
                _run(model, pixels)
    if not sums:
        raise ValueError(f"no padded convolution of the network is called {' or '.join(layers)}")
    profiles = []
    for name, of_images in sums.items():
        # One image may reach farther from the border than another.
        total, count, interior = (
            np.sum(list(zip_longest(*parts, fillvalue=0)), axis=1)
            for parts in zip(*of_images, strict=True)
        )
        profiles.append(Profile(name, total / count, float(interior[0] / interior[1])))
    return profiles


@torch.no_grad()
def last_response(model: BaseSegmentor, pixels: Tensor) -> np.ndarray:
    """Mean absolute activation over the channels of the backbone's last map, ``float64[h, w]``.

    Args:
        model: In evaluation mode.
        pixels: ``uint8 Tensor[3, H, W]``, BGR.
    """
    response = []

    def observe(_: nn.Module, __: tuple, output: Tensor | Sequence[Tensor]) -> None:
        response.append(_magnitude(output if isinstance(output, Tensor) else output[-1]))

    with model.backbone.register_forward_hook(observe):
        _run(model, pixels)
    return response[-1]


def border_responses(response: np.ndarray) -> tuple[np.ndarray, float]:
    """Where the border of a map responds more strongly than nearly all of the rest.

    The border is an eighth of the shorter side wide, one pixel at least.

    Args:
        response: ``float[h, w]``.

    Returns:
        ``bool[h, w]``, the places on the border whose response exceeds the 95 % quantile of
        the rest of the map; and their share of the border, 0.05 where the border is like the rest.

    Raises:
        ValueError: If the map is so small that all of it is border.
    """
    width = max(1, min(response.shape) // 8)
    on_border = np.minimum.outer(*(edge_distance(n, (0, n)) for n in response.shape)) < width
    if on_border.all():
        raise ValueError(f"a map of {response.shape} is all border: take a larger image")
    marked = on_border & (response > np.quantile(response[~on_border], _QUANTILE))
    return marked, float(marked.sum() / on_border.sum())


def untrained(model: nn.Module, seed: int = 0) -> nn.Module:
    """A copy with PyTorch's initial weights: what padding does before any training.

    Every layer that has a ``reset_parameters`` is reset; parameters of other modules stay.

    Args:
        model: Left as it is.
        seed: Networks that differ only in padding get the same weights for the same seed.
    """
    model = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in model.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    return model


def _run(model: BaseSegmentor, pixels: Tensor) -> None:
    tile_predictor(model)(image_preprocessor(model)(pixels)[None])


def _magnitude(output: Tensor) -> np.ndarray:
    return output.float().abs().mean((0, 1)).cpu().double().numpy()


def _profile_sums(response: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums and counts by distance, and (sum, count) of the interior."""
    distances = (min(response.shape) + 1) // 2
    total, count = np.zeros(distances), np.zeros(distances)
    for along in (response, response.T):
        strip = along[:, _centre(along.shape[1])]
        for side in (strip[:distances], strip[::-1][:distances]):
            total += side.sum(1)
            count += side.shape[1]
    interior = response[tuple(_centre(n) for n in response.shape)]
    return total, count, np.array([interior.sum(), interior.size])


def _centre(size: int) -> slice:
    return slice(size // 4, size - size // 4)
