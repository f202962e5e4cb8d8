"""Are all weights that a config names available?"""

import os.path as osp
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import urlopen

import torch
from mmengine.runner import checkpoint

from pconv_seg.checkpoints.loading import REMOTE_REFUSED
from pconv_seg.config_tree import entries

from .problems import Problem

_CONNECT_TIMEOUT = 5  # seconds

# By file name.
_WEIGHT_SOURCES = {
    "wider_resnet38.pth.tar": (
        "WideResNet38's ImageNet weights: wider_resnet38.pth.tar, linked in the README of "
        "https://github.com/NVIDIA/semantic-segmentation/tree/sdcnet",
    ),
}


def weight_problems(tree: dict) -> Iterator[Problem]:
    """The weights that a part of a config names and that cannot be had."""
    for key, location in _pretrained(tree):
        if missing := unavailable(location):
            source = _WEIGHT_SOURCES.get(osp.basename(str(location)), ())
            without = f"Train without these weights: --cfg-options {key}=None"
            remedies = (without, *missing.remedies, *source)
            yield Problem(f"{key}: {missing.what}", remedies)


def _pretrained(tree: dict) -> Iterator[tuple[str, str]]:
    """Dotted key and location of all weights that a config names."""
    for key, name, value in entries(tree):
        if name == "init_cfg":
            for init in value if isinstance(value, (list, tuple)) else [value]:
                if init and "checkpoint" in init:
                    yield key, init["checkpoint"]
        elif name in ("pretrained", "load_from") and isinstance(value, str):
            yield key, value


def unavailable(location: str) -> Problem | None:
    """Why weights cannot be had, and for a URL what to do about it; None if they can be had."""
    if not isinstance(location, str):
        return Problem(f"{location!r} is no file", ())
    scheme, separator, name = location.partition("://")
    if not separator:
        path = osp.abspath(osp.expanduser(location))
        return None if osp.isfile(path) else Problem(f"no file {path}", ())
    url = location
    if scheme in ("torchvision", "modelzoo", "open-mmlab", "openmmlab", "mmcls"):
        try:
            url = _named_urls(scheme)[name]
        except ImportError:
            needs = "needs torchvision, which is not installed (pip install torchvision)"
            return Problem(f"{location} {needs}", ())
        except KeyError:
            return Problem(f"{location} is not a name that mmengine knows", ())
    if not url.startswith(("http://", "https://")):
        if url == location:
            return Problem(f"{location}: {REMOTE_REFUSED}", ())
        # MMENGINE_HOME/open_mmlab.json may name a file there.
        return unavailable(osp.join(checkpoint._get_mmengine_home(), url))
    cached = Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(url).path).name)
    if cached.is_file():
        return None
    try:
        urlopen(url, timeout=_CONNECT_TIMEOUT).close()
    except (OSError, HTTPException) as error:
        return Problem(
            f"{url} cannot be reached ({error}), and there is no {cached}",
            (f"Or download {url} where there is a network; put it at {cached}",),
        )
    return None


def _named_urls(scheme: str) -> dict[str, str]:
    if scheme in ("torchvision", "modelzoo"):
        return checkpoint.get_torchvision_models()
    if scheme == "mmcls":
        return checkpoint.get_mmcls_models()
    urls = checkpoint.get_external_models()
    renamed = checkpoint.get_deprecated_model_names()
    return urls | {old: urls[new] for old, new in renamed.items() if new in urls}
