"""mmengine reads checkpoints through `load_file`."""

import os
import os.path as osp
from collections.abc import Mapping
from textwrap import shorten
from typing import Any, NoReturn
from urllib.parse import urlparse

import torch
from mmengine.config import Config
from mmengine.dist import barrier
from mmengine.logging import print_log
from mmengine.registry import MODELS
from mmengine.runner import CheckpointLoader, checkpoint
from torch import Tensor, hub, nn

from .safe import CheckpointError, load_file
from .stored import stored_config, unregistered_types

REMOTE_REFUSED = "only files and http(s) addresses are read safely; download it first"
_SHOWN = 8  # lines of what does not fit
_AUXILIARY = "auxiliary_head."
_read_config_text = Config.fromstring


def use_safe_loading() -> None:
    """Make mmengine's ``CheckpointLoader`` read files and URLs through `load_file`.

    This holds for the whole process: ``load_from``, ``resume``, ``init_cfg`` and every
    ``load_checkpoint``. mmengine itself unpickles whatever a file holds: always before torch 2.6,
    as a fallback since then; with torch 2.6 or later the original mmengine cannot resume at all.

    ``Config.fromstring``, with which mmengine runs a checkpoint's config text when it resumes or
    builds an inferencer, then reads Python texts as `stored_config` does.
    """
    CheckpointLoader.register_scheme("", load_file, force=True)
    CheckpointLoader.register_scheme(("http://", "https://"), _load_url, force=True)
    # Named weights (torchvision://, open-mmlab://, mmcls://) call this function.
    checkpoint.load_from_http = _load_url
    # Where MMENGINE_HOME/open_mmlab.json names a local file.
    checkpoint._safe_torch_load = lambda file, map_location=None, **_: load_file(file, map_location)
    remote = ("pavi://", r"(\S+\:)?s3://", r"(\S+\:)?petrel://")
    CheckpointLoader.register_scheme(remote, _refuse_remote, force=True)
    Config.fromstring = staticmethod(_config_of_text)


def load_checkpoint(location: str | os.PathLike, map_location: Any = "cpu") -> Mapping[str, Any]:
    """Read a file, a URL or one of mmengine's named weights; no code from it runs.

    Calls `use_safe_loading`. See `load_file` for what is raised.

    Returns:
        A state dict, or a dict that holds one; its ``meta``, and the ``dataset_meta`` in that, are
        dicts if present.

    Raises:
        CheckpointError: The content is something else.
    """
    use_safe_loading()
    content = CheckpointLoader.load_checkpoint(str(location), map_location, logger="silent")
    return checked(content, str(location))


def checked(content: Any, source: str) -> Mapping[str, Any]:
    """What a file holds, if it is a checkpoint as :func:`load_checkpoint` returns it.

    Args:
        content: Of the file.
        source: What errors call the checkpoint.

    Raises:
        CheckpointError: It is something else.
    """
    part, name = content, "it"
    for inner in ("meta", "dataset_meta", None):
        if not isinstance(part, Mapping):
            raise CheckpointError(
                f"{source} is no checkpoint: {name} is a {type(part).__name__} instead of a dict"
            )
        if part.get(inner) is None:
            break
        part, name = part[inner], f"its {inner}"
    return content


def state_dict_of(content: Any, source: str) -> dict[str, Tensor]:
    """The weights in a checkpoint, without the prefix of a parallel wrapper.

    Args:
        content: A state dict, or a dict that holds one under ``state_dict`` or, as the training
            scripts of torchvision write it, ``model``.
        source: What errors call the checkpoint.

    Raises:
        CheckpointError: There are no weights, or something else among them.
    """
    if isinstance(content, Mapping):
        content = content.get("state_dict", content.get("model", content))
    if not (isinstance(content, Mapping) and content):
        raise CheckpointError(f"{source} holds no weights")
    others = [
        key
        for key, value in content.items()
        if not (isinstance(key, str) and isinstance(value, Tensor))
    ]
    if others:
        raise CheckpointError(f"{source} holds no state dict: {others[0]!r} is no tensor")
    return {key.removeprefix("module."): value for key, value in content.items()}


def build_network(config: dict, source: str) -> nn.Module:
    """Build a network from what a config says of it.

    Args:
        config: Of the network.
        source: What errors call the file that this is from.

    Raises:
        ValueError: It names a type that nobody registered, or a value that its type does not know.
    """
    try:
        return MODELS.build(config)
    except (KeyError, TypeError) as error:  # a KeyError's own text would be in quotes
        hint = ""
        if "registry" in f"{error.args[0]}":
            names = ", ".join(unregistered_types(config, "model"))
            hint = (f" ({names})" if names else "") + ". Give a config that imports it"
        raise ValueError(f"{source}: {error.args[0]}{hint}") from error


def load_weights(model: nn.Module, content: Any, source: str, resume: bool = False) -> None:
    """Load all weights of a checkpoint into a network that has no others.

    An auxiliary head, which only training uses, may be missing on one side; the log says so.

    Args:
        model: The network.
        content: As for `state_dict_of`.
        source: What errors call the checkpoint.
        resume: Whether a training goes on from it: no head may be missing then.

    Raises:
        CheckpointError: As `state_dict_of`, or keys or shapes are not those of the network.
    """
    weights, own = state_dict_of(content, source), model.state_dict()
    theirs, ours = (
        [key for key in state if key.startswith(_AUXILIARY)] for state in (weights, own)
    )
    if not resume and bool(theirs) != bool(ours):
        for key in theirs:
            del weights[key]
        weights.update((key, own[key]) for key in ours)
        print_log(
            f"{source}: only {'it' if theirs else 'the config'} has an auxiliary head, which is "
            "for training and not used",
            logger="current",
        )
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        # One line for all missing keys, and one for each shape that differs.
        lines = [shorten(line, 300, placeholder=" ...") for line in str(error).splitlines()]
        more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
        text = "\n  ".join([*lines[:_SHOWN], *more])
        raise CheckpointError(f"{source} does not fit the config: {text}") from error


def _load_url(url: str, map_location: Any = None, model_dir: str | None = None, **_: Any) -> Any:
    """Download once, to where mmengine and `torch.hub` keep their downloads, then read."""
    folder = model_dir or osp.join(hub.get_dir(), "checkpoints")
    path = osp.join(folder, osp.basename(urlparse(url).path))
    if os.environ.get("LOCAL_RANK", "0") == "0" and not osp.isfile(path):
        os.makedirs(folder, exist_ok=True)
        hub.download_url_to_file(url, path)
    barrier()
    return load_file(path, map_location)


def _refuse_remote(url: str, map_location: str | torch.device | None = None) -> NoReturn:
    raise CheckpointError(f"{url}: {REMOTE_REFUSED}")


def _config_of_text(cfg_str: str, file_format: str) -> Config:
    if file_format != ".py":
        return _read_config_text(cfg_str, file_format)
    return stored_config({"cfg": cfg_str}, "the checkpoint", whole=True)
