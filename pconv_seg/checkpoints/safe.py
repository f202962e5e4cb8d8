"""Reading checkpoints without running code from them.

A pickle names functions and calls them. The unpickler here knows a closed list of names: what
torch needs to rebuild tensors, and the harmless objects that mmengine adds. It serves all versions
of torch alike: ``weights_only`` of torch 2.1 cannot be extended by mmengine's objects, and that of
every version before 2.6 could be made to run code (CVE-2025-32434).
"""

import os
import pickle
import tarfile
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from safetensors import SafetensorError
from safetensors.torch import load_file as load_safetensors

_SCALARS = (str, bytes, int, float, complex, np.generic, type(None))
_HISTORY_STATE = ("max_length", "_log_history", "_count_history")


class CheckpointError(ValueError):
    """A file is not a checkpoint that can be read; the message names it."""


class UnsafeCheckpointError(CheckpointError):
    """A file names something that is not on the list of what checkpoints hold."""


def load_file(path: str | Path, map_location: str | torch.device | None = "cpu") -> Any:
    """Read a checkpoint; no code from the file runs.

    Args:
        path: File of ``torch.save`` in its present format or the one before torch 1.6, or
            ``.safetensors``.
        map_location: Device of the tensors; ``None`` means the CPU.

    Returns:
        What was saved. For ``.safetensors`` this is the state dict.

    Raises:
        FileNotFoundError: No such file.
        UnsafeCheckpointError: The file names a function or class that is not on the list.
        CheckpointError: The file is damaged, is none of these formats, or may not be read.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint {path}")
    if not os.access(path, os.R_OK):
        raise CheckpointError(f"{path} cannot be read: permission denied")
    map_location = map_location or "cpu"
    if path.suffix == ".safetensors":
        try:
            return load_safetensors(path, device=str(map_location))
        except (SafetensorError, TypeError, RuntimeError) as error:  # sizes above 63 bits
            raise CheckpointError(f"{path} is damaged or no safetensors file: {error}") from error
    restricted = _pickle_module(_record_sizes(path), path.stat().st_size)
    try:
        return torch.load(path, map_location, pickle_module=restricted, weights_only=False)
    except _RefusedError as error:
        raise UnsafeCheckpointError(
            f"{path}: refused, nothing was run. It needs {error}, which is not among what "
            "checkpoints of torch and mmengine hold. If you trust where the file comes from, save "
            "only its weights there: torch.save({'state_dict': model.state_dict()}, FILE)"
        ) from None
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise CheckpointError(
            f"{path} is damaged, perhaps not completely copied, or no checkpoint: "
            f"{type(error).__name__}: {error}"
        ) from error


def _record_sizes(path: Path) -> dict[str, int] | None:
    """Bytes of each file in the archive; None for the format before torch 1.6.

    Refuses the formats that ``torch.load`` would hand to something other than the unpickler.
    """
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    if not is_zip:
        if tarfile.is_tarfile(path):
            raise CheckpointError(
                f"{path} has the tar format of torch 0.1, which cannot be read safely; load it "
                "with an old torch where you trust it and save it again"
            )
        return None
    try:
        records = torch._C.PyTorchFileReader(str(path)).get_all_records()
        with zipfile.ZipFile(path) as archive:
            sizes = {info.filename: info.file_size for info in archive.infolist()}
    except (RuntimeError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{path} is damaged, perhaps not completely copied: {error}"
        ) from error
    if len({name.casefold() for name in sizes}) < len(records):  # torch may find any of them
        raise CheckpointError(f"{path} is damaged: it has several records of one name")
    if sum(sizes.values()) > path.stat().st_size:  # compressed, or records that share bytes
        raise CheckpointError(f"{path} holds more than its size; torch saves without compression")
    if "constants.pkl" in records:
        raise UnsafeCheckpointError(
            f"{path} is a TorchScript program, not a checkpoint; save the state_dict of the model"
        )
    return {name.partition("/")[2]: size for name, size in sizes.items()}


class _RefusedError(pickle.UnpicklingError):
    """Its text is what was refused."""


def _shown(value: Any) -> str:
    """For messages: the repr of nested tuples may be astronomically long."""
    if isinstance(value, str):
        return repr(value[:100])
    return getattr(value, "__qualname__", None) or f"a {type(value).__qualname__}"


def _check_keys(keys: Iterable[Any]) -> None:
    """Hashing nested tuples may take forever, or overflow the stack."""
    for key in keys:
        if not isinstance(key, _SCALARS) and not (
            type(key) is tuple and all(isinstance(item, _SCALARS) for item in key)
        ):
            raise _RefusedError(f"a {type(key).__qualname__} as a key")


# The functions below stand in for the real ones, which take more than harmless arguments.


def _numeric_dtype(name: str, *_: bool) -> np.dtype:
    if not isinstance(name, str) or (dtype := np.dtype(name)).kind not in "biufc":
        raise _RefusedError(f"numpy.dtype({_shown(name)})")
    return dtype


def _empty_array(*_: Any) -> np.ndarray:
    return np.empty(0)


def _numpy_scalar(dtype: np.dtype, data: bytes) -> np.generic:
    return np.frombuffer(data, dtype)[0]


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise _RefusedError(f"_codecs.encode(..., {_shown(encoding)})")
    return text.encode("latin1")


def _check_content(kind: type, *content: Any) -> None:
    """Of a set, a dictionary or a counter: pairs, a mapping, keys, or nothing."""
    for items in content:
        if type(items) not in (list, tuple, dict, OrderedDict, set):
            raise _RefusedError(f"{kind.__name__} of a {type(items).__name__}")
        pairs = kind is OrderedDict and type(items) in (list, tuple)
        _check_keys([key for key, _ in items] if pairs else items)


def _bounded(rebuild: Callable) -> Callable:
    """Torch would let a resizable storage grow to any size, and move away from under its views."""

    def function(storage: Any, offset: int, size: Any, stride: Any, *rest: Any) -> Any:
        if type(storage) is not torch.storage.TypedStorage:
            raise _RefusedError(f"a tensor in a {type(storage).__name__}")
        reach = sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1
        needed = (offset + (reach if all(size) else 0)) * storage.dtype.itemsize
        if min(offset, *size, *stride, 0) < 0 or needed > storage._untyped_storage.nbytes():
            raise ValueError("a tensor reaches out of its storage")
        return rebuild(storage, offset, size, stride, *rest)

    return function


def _marked_tensor(rebuild: Any, kind: Any, arguments: Any, state: Any) -> Any:
    """What ``torch.compile`` marked by attributes is the same tensor without these."""
    if kind is not _TENSOR or not any(rebuild is known for known in _REBUILDS.values()):
        raise _RefusedError(f"a tensor of class {_shown(kind)} made by {_shown(rebuild)}")
    if type(state) is not dict or not all(str(key).startswith("_dynamo_") for key in state):
        raise _RefusedError("a tensor with attributes")
    return rebuild(*arguments)


def _method(owner: Any, name: str) -> Callable | str:
    if owner is HistoryBuffer:
        return name  # of a statistic, which the class has
    if owner is OneCycleParamScheduler and name in ("_annealing_cos", "_annealing_linear"):
        return getattr(OneCycleParamScheduler, name)
    raise _RefusedError(f"builtins.getattr({_shown(owner)}, {_shown(name)})")


_TENSOR = "torch.Tensor"
_REBUILDS = {
    f"torch._utils.{name}": _bounded(getattr(torch._utils, name))
    for name in ("_rebuild_tensor", "_rebuild_tensor_v2")
}
_FUNCTIONS: dict[str, Callable] = {
    "builtins.bytes": lambda: b"",  # only empty ones; others are encoded text
    "builtins.complex": complex,
    "builtins.getattr": _method,
    "builtins.set": set,
    "builtins.slice": slice,
    "_codecs.encode": _latin1,
    "collections.Counter": Counter,
    "collections.OrderedDict": OrderedDict,
    "numpy.dtype": _numeric_dtype,
    **{
        f"numpy.{core}.multiarray.{name}": function
        for core in ("core", "_core")
        for name, function in (("_reconstruct", _empty_array), ("scalar", _numpy_scalar))
    },
    "torch.Size": torch.Size,
    "torch.device": torch.device,
    "torch._tensor._rebuild_from_type_v2": _marked_tensor,
    "torch._utils._rebuild_parameter": torch._utils._rebuild_parameter,
    **_REBUILDS,
}
_CONSTANTS: dict[str, Any] = {
    "mmengine.logging.history_buffer.HistoryBuffer": HistoryBuffer,
    "mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler": OneCycleParamScheduler,
    "numpy.ndarray": "numpy.ndarray",
    _TENSOR: _TENSOR,
    **{str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)},
}
_ALLOWED = {**_FUNCTIONS, **_CONSTANTS}
# What pickle's protocol 2 needs; torch and mmengine write no other protocol.
_OPCODES = """
    PROTO STOP MARK POP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 BINFLOAT
    BINSTRING SHORT_BINSTRING BINUNICODE EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND
    APPENDS EMPTY_DICT SETITEM SETITEMS GLOBAL REDUCE NEWOBJ BUILD BINPERSID BINGET LONG_BINGET
    BINPUT LONG_BINPUT
"""


class _Unpickler(pickle._Unpickler):
    """Python's own unpickler in its Python form, whose single steps can be restricted."""

    record_sizes: dict[str, int] | None = None
    file_size: int
    storages: set[str | int]  # of the format before torch 1.6

    dispatch = {
        code: pickle._Unpickler.dispatch[code]
        for code in (getattr(pickle, name)[0] for name in _OPCODES.split())
    }

    def find_class(self, module: str, name: str) -> Any:
        key = f"{module.replace('__builtin__', 'builtins')}.{name}"
        if key not in _ALLOWED:
            raise _RefusedError(key)
        return _ALLOWED[key]

    def _protocol(self) -> None:
        (protocol,) = self.read(1)
        if protocol > 2:
            raise _RefusedError(f"pickle protocol {protocol}")

    def _reduce(self) -> None:
        if not any(self.stack[-2] is function for function in _FUNCTIONS.values()):
            raise _RefusedError(f"a call of {_shown(self.stack[-2])}")
        function, arguments = self.stack[-2:]
        if function in (set, Counter, OrderedDict):
            _check_content(function, *arguments)
        self.load_reduce()

    def _new_object(self) -> None:
        cls, arguments = self.stack[-2:]
        if cls is not HistoryBuffer or arguments:
            raise _RefusedError(f"an object of {_shown(cls)}")
        self.load_newobj()

    def _build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        kind = type(target)
        if kind is HistoryBuffer:
            # The rest are functions of the class.
            target.__setstate__({key: state[key] for key in _HISTORY_STATE})
        elif kind is OrderedDict and type(state) is dict and set(state) <= {"_metadata"}:
            vars(target).update(state)  # torch keeps the versions of modules there
        elif kind is np.ndarray:
            target.__setstate__(state)  # numbers only: there is no other dtype here
        elif isinstance(target, np.dtype) and state[1] in "<|=" and not any(state[2:5]):
            pass  # little-endian, as the name alone says
        else:
            raise _RefusedError(f"a changed {kind.__module__}.{kind.__qualname__}")

    def _append(self) -> None:
        self._check_target(self.stack[-2], list)
        self.load_append()

    def _appends(self) -> None:
        self._check_target(self.metastack[-1][-1], list)
        self.load_appends()

    def _set_item(self) -> None:
        self._check_target(self.stack[-3], dict, OrderedDict, Counter)
        _check_keys(self.stack[-2:-1])
        self.load_setitem()

    def _set_items(self) -> None:
        self._check_target(self.metastack[-1][-1], dict, OrderedDict, Counter)
        _check_keys(self.stack[::2])
        self.load_setitems()

    def _storage(self) -> None:
        kind, dtype, key, _, count, *view = self.stack[-1]
        if kind != "storage":
            raise _RefusedError(f"a persistent object {_shown(kind)}")
        viewed = view[0][:1] if view and view[0] else ()  # before torch 1.6
        for name in (key, *viewed):
            if type(name) not in (str, int):
                raise _RefusedError(f"a storage named by a {type(name).__name__}")
        size = count * dtype.dtype.itemsize
        if self.record_sizes is None:
            if size > self.file_size:
                raise ValueError(f"storage {key} has {size} bytes, more than the file")
            self.storages.add(key)
        else:
            # Before 2.10, torch reads past the end of a record that is too small.
            actual = self.record_sizes.get(f"data/{key}")
            if size != actual:
                raise ValueError(f"storage {key} has {actual} bytes instead of {size}")
        self.load_binpersid()

    @staticmethod
    def _check_target(target: Any, *kinds: type) -> None:
        if type(target) not in kinds:
            raise _RefusedError(f"items in a {type(target).__name__}")

    dispatch |= {
        pickle.PROTO[0]: _protocol,
        pickle.REDUCE[0]: _reduce,
        pickle.NEWOBJ[0]: _new_object,
        pickle.BUILD[0]: _build,
        pickle.APPEND[0]: _append,
        pickle.APPENDS[0]: _appends,
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
        pickle.BINPERSID[0]: _storage,
    }


def _pickle_module(record_sizes: dict[str, int] | None, file_size: int) -> SimpleNamespace:
    """What ``torch.load`` takes for the module ``pickle``."""
    storages = set()
    own = {"record_sizes": record_sizes, "file_size": file_size, "storages": storages}
    unpickler = type("Unpickler", (_Unpickler,), own)

    def load(file: BinaryIO, **options: Any) -> Any:
        content = unpickler(file, **options).load()
        if storages:
            # Before torch 1.6 their names and bytes followed the object that they are in.
            _check_keys(content)
            if storages - set(content):
                raise ValueError("the file lacks the bytes of storages")
        return content

    return SimpleNamespace(__name__=__name__, Unpickler=unpickler, load=load)
