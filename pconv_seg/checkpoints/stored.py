"""What mmengine stores in checkpoints besides weights, read without running it."""

import ast
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

from mmengine import registry
from mmengine.config import Config
from mmengine.registry import MODELS, TASK_UTILS, WEIGHT_INITIALIZERS, Registry
from mmengine.utils import get_object_from_string

from pconv_seg.config_tree import entries

from .safe import CheckpointError, UnsafeCheckpointError

_OF_MODELS = (MODELS, TASK_UTILS, WEIGHT_INITIALIZERS)
_ALL = tuple(item for item in vars(registry).values() if isinstance(item, Registry))


def stored_config(meta: Mapping[str, Any], source: str, whole: bool = False) -> Config | None:
    """The config of a checkpoint's ``meta``, without what it asks to import.

    mmengine dumps configs as lines ``key = value`` of literals and ``dict(...)``. Nothing else is
    accepted: ``Config.fromstring`` would run it. A ``type`` in the model may only be a registered
    name, the dotted name of a registered class (as in Python-style configs), or a plain word that
    names no module; a scope has to be registered. mmengine imports whatever else they name, and
    calls what ``type`` names.

    Args:
        meta: Of the checkpoint.
        source: What errors call the checkpoint.
        whole: Whether more than the model is to be built: then this holds for all of the config.

    Returns:
        The config, or None if there is none.

    Raises:
        UnsafeCheckpointError: Something else is in it; the message names the line, type or scope.
        CheckpointError: The text cannot be read as a config.
    """
    text = meta.get("cfg")
    if not isinstance(text, str):
        return None
    try:
        config = Config(_parse(text, source))
    # Config keeps some names for itself; naming what is refused may recurse as well.
    except (KeyError, RecursionError) as error:
        why = error.args[0]
        raise CheckpointError(f"{source}: its stored config cannot be read: {why}") from error
    scopes, registered = _registered(_ALL if whole else _OF_MODELS)
    for _, key, name in entries(config._cfg_dict if whole else config.get("model")):
        # What mmengine looks up, and imports if it does not find it.
        if key not in ("type", "_scope_", "default_scope"):
            continue
        if key != "type" and name not in [None, *scopes]:
            raise UnsafeCheckpointError(
                f"{source}: its stored config names the scope {name}, which is not registered"
            )
        if key == "type" and not _is_registered(name, scopes, registered):
            raise UnsafeCheckpointError(
                f"{source}: its stored config builds {name}, which is not registered. If you trust "
                "it, register it: import its package in custom_imports of the config you give"
            )
    return config


def unregistered_types(config: Any, key: str = "") -> Iterator[str]:
    """The types in a config that nobody registered.

    For errors of mmengine's builders, which do not say where a name stands, or not even which.

    Args:
        config: A config or a part of one.
        key: Of this part in the whole config.

    Yields:
        Each as ``KEY.type='NAME'``.
    """
    scopes, registered = _registered(_ALL)
    for path, name, kind in entries(config, key):
        if name == "type" and isinstance(kind, str):
            module = kind.rpartition(".")[0]
            # A class may stand there by its module, too.
            of_module = module in sys.modules and module not in scopes
            if not of_module and not _has_name(kind, scopes, registered):
                yield f"{path}={kind!r}"


def stored_classes(meta: Mapping[str, Any]) -> dict[str, Any]:
    """``classes`` and ``palette`` of a checkpoint's ``meta``, as far as it has them.

    mmseg before 1.0, which made most of its published checkpoints, has them under other names.
    """
    old = {key.lower(): meta[key] for key in ("CLASSES", "PALETTE") if key in meta}
    return meta.get("dataset_meta") or old


def _parse(text: str, source: str) -> dict[str, Any]:
    values = {}
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, MemoryError) as error:
        raise CheckpointError(f"{source}: its stored config cannot be read: {error}") from error
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                values[name] = _value(value, source)
            case _:
                raise _refusal(statement, source)
    return values


def _value(node: ast.expr, source: str) -> Any:
    match node:
        case ast.Call(func=ast.Name(id="dict"), args=[ast.Dict() as mapping], keywords=[]):
            return _value(mapping, source)  # has keys that are not identifiers
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=pairs) if all(
            pair.arg for pair in pairs
        ):
            return {pair.arg: _value(pair.value, source) for pair in pairs}
        case ast.Dict(keys=keys, values=values) if all(isinstance(k, ast.Constant) for k in keys):
            return {k.value: _value(v, source) for k, v in zip(keys, values, strict=True)}
        case ast.List(elts=items):
            return [_value(item, source) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_value(item, source) for item in items)
        case _:
            try:
                return ast.literal_eval(node)
            except (ValueError, TypeError):
                raise _refusal(node, source) from None


def _refusal(node: ast.AST, source: str) -> UnsafeCheckpointError:
    return UnsafeCheckpointError(
        f"{source}: line {node.lineno} of its stored config is refused, nothing was run: "
        f"{ast.unparse(node)}. mmengine stores only lines 'key = value' of literals and dict(...)"
    )


def _registered(roots: tuple[Registry, ...]) -> tuple[set[str], dict[str, list[Any]]]:
    """Scopes, and by name all that is registered in any of them."""
    nodes = [node for root in roots for node in (root, *root.children.values())]
    registered: dict[str, list[Any]] = {}
    for node in nodes:
        # mmseg registers when it is asked for the first time. Another package may be broken.
        with suppress(ImportError):
            node.import_from_location()
    for node in nodes:
        for name, cls in node.module_dict.items():
            registered.setdefault(name, []).append(cls)
    return {node.scope for node in nodes}, registered


def _has_name(name: str, scopes: set[str], registered: dict[str, list[Any]]) -> bool:
    """Whether something is registered by this name, which may begin with a scope."""
    scope, dot, key = name.partition(".")
    return (key if dot and scope in scopes else name) in registered


def _is_registered(name: Any, scopes: set[str], registered: dict[str, list[Any]]) -> bool:
    if not isinstance(name, str):
        return False
    if _has_name(name, scopes, registered):
        return True
    if name.isidentifier():
        # Not for mmengine to build, or found nowhere, unless a module has this name.
        return name not in sys.modules and find_spec(name) is None
    if name.rpartition(".")[0] not in sys.modules:
        return False  # finding it would import, which runs code
    found = get_object_from_string(name)
    return any(found is cls for classes in registered.values() for cls in classes)
