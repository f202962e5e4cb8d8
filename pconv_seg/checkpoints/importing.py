"""Published weights under the names of our networks, with an account of every key."""

import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from prettytable import PrettyTable
from safetensors.torch import save
from torch import Tensor, nn

from pconv_seg.files import atomic_path
from pconv_seg.version import __version__

from .formats import Format, State, recognize
from .loading import build_network, checked, state_dict_of
from .stored import stored_config

_SHOWN = 6
# Files from before torch 0.4.1 lack this counter, which only BN without momentum reads.
_OPTIONAL = ".num_batches_tracked"


@dataclass(frozen=True)
class ImportReport:
    """What became of every key.

    Attributes:
        source: The file.
        format: What it is.
        mapped: Key in the file: key in the network.
        dropped: Key in the file: why it is left out.
        missing: Key in the network that the file lacks: why it is not needed.
    """

    source: str
    format: str
    mapped: dict[str, str]
    dropped: dict[str, str]
    missing: dict[str, str]

    def __str__(self) -> str:
        rows = Counter()
        for theirs, ours in self.mapped.items():
            rows["mapped", _group(theirs), _group(ours), ""] += 1
        for theirs, why in self.dropped.items():
            rows["dropped", _group(theirs), "", why] += 1
        for ours, why in self.missing.items():
            rows["missing", "", _group(ours), why] += 1
        table = PrettyTable(["outcome", "key in the file", "key in the network", "why", "tensors"])
        table.align = "l"
        table.align["tensors"] = "r"
        table.add_rows([[*row, count] for row, count in rows.items()])
        return (
            f"{self.source} is {self.format}: {len(self.mapped)} tensors mapped, "
            f"{len(self.dropped)} dropped, {len(self.missing)} missing\n{table}"
        )


def _group(key: str) -> str:
    """Keys of one module, or of its counters, share a row."""
    parts = key.split(".")
    depth = 2 if parts[0] in ("backbone", "decode_head", "auxiliary_head") else 1
    return ".".join([*parts[:depth], "*"]) if len(parts) > depth else key


def import_weights(
    content: Any, model: nn.Module, format: str = "auto", source: str = "checkpoint"
) -> tuple[dict[str, Tensor], ImportReport]:
    """Give weights the names that a network has for them.

    Args:
        content: What the file holds, as for :func:`state_dict_of`.
        model: A segmentor of mmseg, or a backbone; a backbone takes the trunk out of a file of a
            whole network. Only the model's keys and shapes count: it may be on the meta device.
        format: Name of one of `FORMATS`, or ``'auto'``.
        source: What errors and the report call the file.

    Returns:
        The state dict for ``model``, lacking nothing but counters of batches, and the report.

    Raises:
        ValueError: The file has another format, or keys or shapes do not fit. The message names
            keys and shapes on both sides.
    """
    state = state_dict_of(content, source)
    known = recognize(state, format, source)
    expected = model.state_dict()
    given, dropped, problems = _assign(state, expected, known)
    missing, unfit = _compare(state, expected, given)
    problems += unfit
    if problems:
        more = len(problems) - _SHOWN
        lines = [
            f"{source} ({known.title}) does not fit {type(model).__name__}:",
            *problems[:_SHOWN],
            *([f"and {more} more"] if more > 0 else []),
            *(f"hint: {hint}" for hint in _hints(state, expected, given)),
        ]
        raise ValueError("\n  ".join(lines))
    mapped = {theirs: ours for ours, theirs in given.items()}
    report = ImportReport(source, known.title, mapped, dropped, missing)
    return {ours: state[theirs] for ours, theirs in given.items()}, report


def _assign(
    state: State, expected: State, known: Format
) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """For each key of the network the file's, why others are dropped, and what has no place."""
    whole = any(key.startswith("backbone.") for key in expected)
    given: dict[str, str] = {}
    dropped, problems = {}, []
    for theirs, value in state.items():
        ours, why = known.translate(theirs), known.why_dropped(theirs)
        if ours and not whole:
            if not ours.startswith("backbone."):
                why = "not part of the trunk"
            ours = ours.removeprefix("backbone.")
        elif ours and ours.startswith("auxiliary_head.") and ours not in expected:
            why = "only for training, and the network has none"
        if why:
            dropped[theirs] = why
        elif ours not in expected:
            problems.append(f"{theirs} {_shape(value)} has no place in the network")
        elif ours in given:
            problems.append(f"{given[ours]} and {theirs} are both for {ours}")
        else:
            given[ours] = theirs
    return given, dropped, problems


def _compare(
    state: State, expected: State, given: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """Why the file need not hold what it lacks, and what is missing or has another shape."""
    missing, problems = {}, []
    for ours, parameter in expected.items():
        if ours in given:
            value = state[given[ours]]
            if value.shape != parameter.shape:
                problems.append(
                    f"{given[ours]} {_shape(value)} does not fit {ours} {_shape(parameter)}"
                )
        elif ours.endswith(_OPTIONAL):
            missing[ours] = "counter, starts at 0"
        else:
            problems.append(f"nothing in the file for {ours} {_shape(parameter)}")
    return missing, problems


def _shape(value: Tensor) -> str:
    return f"({', '.join(map(str, value.shape))})"


def _hints(state: State, expected: State, given: Mapping[str, str]) -> Iterator[str]:
    """What people most often have to change in their config."""

    def only_in(here: State, part: str, there: State) -> bool:
        return any(part in key for key in here) and not any(part in key for key in there)

    if only_in(expected, "decode_head.", state) and all(k.startswith("backbone.") for k in given):
        yield "the file holds a trunk only; name it in init_cfg of model.backbone"
    if only_in(state, "stem.0.", expected):
        yield "the file has the stem of three 3x3 convolutions; use type='ResNetV1c'"
    if only_in(expected, "stem.0.", state):
        yield "the file has a 7x7 stem; use type='ResNet'"
    if only_in(state, "sep_bottleneck.", expected):
        yield (
            "the file has mmseg's separable head; use "
            "type='PaddingAwareDepthwiseSeparableASPPHead', or take its trunk alone in init_cfg of "
            "model.backbone"
        )


def network_of(
    content: Any, config: Config | None = None, format: str = "auto", source: str = "checkpoint"
) -> nn.Module:
    """The network that a file is for, on the meta device.

    Args:
        content: What the file holds.
        config: Its ``model`` is built, or the backbone of that if the file holds only a trunk.
            Without a config, keys and shapes of the file, or the config stored in it, tell which
            network it is.
        format: Name of one of `FORMATS`, or ``'auto'``.
        source: What errors call the file.

    Raises:
        ValueError: Another format, nothing tells which network it is, or it cannot be built.
    """
    state = state_dict_of(content, source)
    checked(content, source)
    known, whose = recognize(state, format, source), source
    if config is not None:
        trunk_only = all(
            (known.translate(key) or "backbone.").startswith("backbone.") for key in state
        )
        network, whose = config.model, f"config {config.filename}"
        if trunk_only and not (network := network.get("backbone")):
            raise ValueError(f"{source} holds a trunk, but the model of {whose} has no backbone")
    elif known.network:
        try:
            network = known.network(state)
        except (LookupError, ValueError) as error:
            raise ValueError(f"{source} is {known.title}, but not complete: {error}") from error
    else:
        config = stored_config(content.get("meta") or {}, source)
        if config is None:
            raise ValueError(f"{source} is {known.title}, but stores no config: give one")
        if "model" not in config:
            raise ValueError(f"{source}: its stored config has no model; give a config")
        network = config.model
    with torch.device("meta"):
        return build_network(network, whose)


def save_weights(
    state: Mapping[str, Tensor], path: str | Path, source: str | Path, meta: Mapping[str, Any]
) -> None:
    """Write a state dict, whole or not at all.

    Args:
        state: Names and tensors.
        path: ``.safetensors``, or ``.pth`` with ``state_dict`` and ``meta``.
        source: The file that they are from; its name and SHA-256 are kept with them.
        meta: What else a ``.pth`` file keeps of the source.

    Raises:
        ValueError: Another suffix.
        OSError: No room, for example; what was there before is untouched.
    """
    path = Path(path)
    digest = hashlib.sha256()
    with Path(source).expanduser().open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    origin = {
        "source": Path(source).name,
        "source_sha256": digest.hexdigest(),
        "imported_by": f"pconv_seg {__version__}",
    }
    tensors = {key: value.detach().clone().contiguous() for key, value in state.items()}
    # To memory first: if the disk is full, torch says only that positions differ.
    if path.suffix == ".safetensors":
        written = save(tensors, metadata={"format": "pt", **origin})
    elif path.suffix == ".pth":
        buffer = io.BytesIO()
        torch.save({"meta": {**meta, **origin}, "state_dict": tensors}, buffer)
        written = buffer.getbuffer()
    else:
        raise ValueError(f"{path}: the suffix must be .pth or .safetensors")
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(written)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}: {path} was not written") from error
