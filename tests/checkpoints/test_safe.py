import codecs
import json
import os
import pickle
import tarfile
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._dynamo
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler import MultiStepLR, OneCycleLR, PolyLR
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from mmengine.runner import CheckpointLoader, checkpoint
from safetensors.torch import save_file
from torch import nn

from pconv_seg.checkpoints import (
    CheckpointError,
    UnsafeCheckpointError,
    load_checkpoint,
    load_file,
    use_safe_loading,
)


class Touch:
    """Unpickling it makes a folder, as any other command could be run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


class Calls:
    """Unpickling it calls a function."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.call


def with_attributes(**attributes: object) -> torch.Tensor:
    tensor = torch.arange(6.0)[::2]
    vars(tensor).update(attributes)
    return tensor


# A tuple of twice a tuple of twice a tuple ...
NESTED = b")" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(60))


def before_torch_1_6(steps: bytes, keys: tuple[str, ...] = ()) -> bytes:
    """A file whose object these steps of a pickle make, up to the bytes of its storages."""
    head = [torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {}]
    pickles = [pickle.dumps(part, 2) for part in head]
    return b"".join([*pickles, b"\x80\x02", steps, b".", pickle.dumps(list(keys), 2)])


FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before_torch_1.6"])


@pytest.fixture
def file(tmp_path):
    return tmp_path / "file.pth"


def save(content: object, path: Path, zipped: bool = True) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)


@FORMATS
def test_nothing_in_a_malicious_file_runs(file, tmp_path, zipped):
    trap = tmp_path / "trap"
    save({"state_dict": {}, "meta": {"hook": Touch(trap)}}, file, zipped)
    message = rf"file\.pth: refused, nothing was run\. It needs {os.mkdir.__module__}\.mkdir"
    with pytest.raises(UnsafeCheckpointError, match=message):
        load_file(file)
    assert not trap.exists()
    torch.load(file, weights_only=False)
    assert trap.exists()  # the trap works


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (Calls(getattr, OrderedDict, "fromkeys"), r"getattr\(.*OrderedDict.*fromkeys"),
        (Calls(np.dtype, "O"), r"numpy\.dtype\('O'\)"),
        (Calls(HistoryBuffer, [1], [1]), "a call of .*HistoryBuffer"),
        (Calls(getattr, OneCycleParamScheduler, "step"), r"getattr\(.*OneCycle.*, 'step'\)"),
        (Calls(codecs.encode, "a", "rot13"), r"_codecs\.encode\(\.\.\., 'rot13'\)"),
        (np.arange(3, dtype=">i4"), r"a changed numpy\."),
        (np.array([Touch(Path("x"))]), r"numpy\.dtype\('O8?'\)"),
        (
            Calls(torch._tensor._rebuild_from_type_v2, OrderedDict, torch.Tensor, (), {}),
            r"a tensor of class 'torch\.Tensor' made by OrderedDict",
        ),
        (with_attributes(mine=1), "a tensor with attributes"),
        (nn.Linear(1, 1), r"torch\.nn\.modules\.linear\.Linear"),
        (Path("x"), r"pathlib.*Path"),
    ],
)
def test_what_is_refused_is_named(file, content, named):
    save({"meta": content}, file)
    with pytest.raises(UnsafeCheckpointError, match=named):
        load_file(file)


@pytest.mark.parametrize(
    ("steps", "named"),
    [
        (b"cmmengine.logging.history_buffer\nHistoryBuffer\n}b", "a changed builtins.type"),
        (b"ccollections\nOrderedDict\n)R}(X\x05\x00\x00\x00itemsNub", "OrderedDict"),
        (b"ccollections\nCounter\n)\x81", "an object of .*Counter"),
        (b"ccollections\nOrderedDict\nNa", "items in a type"),
        (b"ccollections\nOrderedDict\n(Ne", "items in a type"),
        (b"ccollections\nOrderedDict\nNNs", "items in a type"),
        (b"ccollections\nOrderedDict\n(NNu", "items in a type"),
        (b"cmmengine.logging.history_buffer\nHistoryBuffer\n(Nt\x81", "an object of .*History"),
        # The state of a dtype that has a field.
        (
            b"cnumpy\ndtype\n(X\x02\x00\x00\x00i4tR(K\x03X\x01\x00\x00\x00<N(X\x01\x00\x00\x00atNtb",
            r"a changed numpy\.",
        ),
        (b"(X\x06\x00\x00\x00moduleNNNNtQ", "a persistent object 'module'"),
        (b"(ccollections\nOrderedDict\no", "KeyError"),
        # Hashing or showing these would never end.
        (b"}" + NESTED + b"Ns", "a tuple as a key"),
        (b"}(" + NESTED + b"Nu", "a tuple as a key"),
        (b"cbuiltins\nset\n]" + NESTED + b"a\x85R", "a tuple as a key"),
        (b"ccollections\nOrderedDict\n](" + NESTED + b"Nta\x85R", "a tuple as a key"),
        (b"ccollections\nCounter\nK\x05\x85R", "Counter of a int"),
        (NESTED + b")R", "a call of a tuple"),
        (b"ctorch._utils\n_rebuild_tensor\n(NK\x00))tR", "a tensor in a NoneType"),
        (b"cnumpy\ndtype\n" + NESTED + b"\x85R", "numpy.dtype\\(a tuple\\)"),
        (b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n" + NESTED + b"NK\x01tQ", "by a tuple"),
        (b"cbuiltins\nbytes\n(J\xff\xff\xff\x7ftR", "TypeError"),
    ],
)
def test_steps_of_a_pickle_that_no_checkpoint_takes(file, steps, named):
    file.write_bytes(before_torch_1_6(steps))
    with pytest.raises(ValueError, match=named):
        load_file(file)


def _tensor(length: int, count: int) -> bytes:
    """Steps that make a vector of ``length`` in a storage of ``count`` numbers."""
    storage = (
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    )
    storage += b"J" + count.to_bytes(4, "little") + b"NtQ"
    sizes = b"K\x00J" + length.to_bytes(4, "little") + b"\x85K\x01\x85"
    hooks = b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + sizes + hooks + b"tR"


@pytest.mark.parametrize(
    ("length", "count", "keys", "named"),
    [
        (4, 4, (), "the file lacks the bytes of storages"),
        (5, 4, ("0",), "a tensor reaches out of its storage"),
        (4, 2**28, ("0",), f"storage 0 has {2**30} bytes, more than the file"),
    ],
)
def test_no_tensor_has_more_than_its_bytes_in_the_file(file, length, count, keys, named):
    """torch would let its storage grow, away from under others, or leave it as it found it."""
    values = np.arange(4, dtype=np.float32)
    content = (4).to_bytes(8, "little") + values.tobytes()
    file.write_bytes(before_torch_1_6(_tensor(4, 4), ("0",)) + content)
    assert load_file(file).tolist() == values.tolist()
    file.write_bytes(before_torch_1_6(_tensor(length, count), keys) + content)
    with pytest.raises(CheckpointError, match=rf"file\.pth is damaged.*{named}"):
        load_file(file)


@pytest.mark.skipif(
    not hasattr(checkpoint, "_safe_torch_load"), reason="the original mmengine reads it on its own"
)
def test_names_of_ones_own_files_are_read_safely_too(file, tmp_path, monkeypatch):
    trap = tmp_path / "trap"
    save(Touch(trap), file)
    (tmp_path / "open_mmlab.json").write_text(json.dumps({"mine": str(file)}))
    monkeypatch.setenv("MMENGINE_HOME", str(tmp_path))
    with pytest.raises(UnsafeCheckpointError, match="nothing was run"):
        load_checkpoint("open-mmlab://mine")
    assert not trap.exists()


def test_archives_hold_no_more_than_their_size(file, tmp_path):
    torch.save({"weight": torch.zeros(100_000)}, file)
    packed = tmp_path / "packed.pth"
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(CheckpointError, match=r"packed\.pth holds more than its size; torch saves"):
        load_file(packed)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("file/DATA/0", b"other")
    with pytest.raises(
        CheckpointError, match=r"file\.pth is damaged: .* several records of one na"
    ):
        load_file(file)


@FORMATS
def test_what_checkpoints_hold_comes_back(file, zipped):
    history = HistoryBuffer([0.5, 2.0], [1, 3])
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(torch.ones(1, 3, 2, 2)).sum().backward()
    optimizer.step()
    content = {
        "state_dict": model.state_dict(),
        "parameter": nn.Parameter(torch.arange(6.0).half().view(2, 3).T),
        "optimizer": optimizer.state_dict(),
        "meta": {"classes": ("a", "ä"), "none": None, "flags": [True, False], "big": 2**70},
        "containers": [
            Counter(a=2),
            {1, 2},
            {np.int64(3): 1, (None, "a"): 2},
            torch.Size([1, 2]),
            slice(1, 2),
            1 + 2j,
        ],
        "types": [torch.float32, torch.device("cpu")],
        "scalars": [np.float64(0.1), np.float32(2.5), np.int64(-3), np.bool_(True)],
        "arrays": [np.arange(6.0).reshape(2, 3).T, np.zeros((0, 2), np.uint32), np.array(3)],
    }
    save({**content, "history": history}, file, zipped)

    loaded = load_file(file)

    back = loaded.pop("history")
    np.testing.assert_array_equal(back.data, history.data)
    assert back.mean() == 2.5 / 4
    assert back.max_length == history.max_length
    assert loaded["state_dict"]._metadata == content["state_dict"]._metadata
    assert isinstance(loaded["parameter"], nn.Parameter)
    for name in ("scalars", "arrays"):
        for one, other in zip(loaded.pop(name), content.pop(name), strict=True):
            assert type(one) is type(other)
            np.testing.assert_array_equal(one, other, strict=True)
    for name in ("meta", "containers", "types"):
        assert loaded.pop(name) == content.pop(name)
    torch.testing.assert_close(loaded, content, rtol=0, atol=0)


@FORMATS
def test_tensors_that_a_compiler_marked_come_back_without_the_marks(file, zipped):
    """As compiled training leaves them in the optimizer on a CPU."""
    marked = with_attributes(_dynamo_static_input_type="guarded")
    torch._dynamo.mark_static_address(plain := torch.arange(3.0))
    assert vars(plain)
    save({"optimizer": {"state": {0: {"momentum_buffer": marked, "plain": plain}}}}, file, zipped)
    found = load_file(file)["optimizer"]["state"][0]
    torch.testing.assert_close(found["momentum_buffer"], torch.tensor([0.0, 2, 4]), rtol=0, atol=0)
    torch.testing.assert_close(found["plain"], torch.arange(3.0), rtol=0, atol=0)
    assert not any(map(vars, found.values()))


def test_what_old_versions_wrote_comes_back(file):
    storage = torch.arange(3.0)._typed_storage()
    tensor = Calls(torch._utils._rebuild_tensor, storage, 1, (2,), (1,))  # before torch 0.4
    save([tensor, np.arange(3.0), np.float64(0.5)], file, zipped=False)
    file.write_bytes(file.read_bytes().replace(b"cnumpy._core.", b"cnumpy.core."))  # numpy 1
    tensor, array, scalar = load_file(file)
    assert tensor.tolist() == [1, 2]
    assert array.tolist() == [0, 1, 2]
    assert scalar == 0.5


@pytest.mark.parametrize("error", [OSError, MemoryError])
def test_errors_of_the_machine_are_not_laid_on_the_file(file, monkeypatch, error):
    def load(*_, **__):
        raise error("of the machine")

    save({}, file)
    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(error, match=r"^of the machine$"):
        load_file(file)


@pytest.mark.parametrize(
    ("scheduler", "options"),
    [
        (OneCycleLR, dict(eta_max=1, total_steps=9)),
        (OneCycleLR, dict(eta_max=1, total_steps=9, anneal_strategy="linear")),
        (MultiStepLR, dict(milestones=[1, 2, 2])),
        (PolyLR, dict(end=9)),
    ],
)
def test_schedules_resume(file, scheduler, options):
    def build():
        return scheduler(torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1), **options)

    first, second = build(), build()
    for _ in range(2):
        first.step()
    save({"param_schedulers": [first.state_dict()]}, file)
    second.load_state_dict(load_file(file)["param_schedulers"][0])
    assert second.state_dict() == first.state_dict()


@FORMATS
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_named(file, zipped, share):
    save({"state_dict": {"weight": torch.rand(1000)}}, file, zipped)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"file\.pth is damaged, perhaps not completely copied"):
        load_file(file)


@pytest.mark.parametrize(
    ("number", "size"),
    [(b"M\x40\x9c", 160000), (b"K\x03", 12)],  # 40000 of two bytes, 3 of one
)
def test_a_storage_of_another_size_than_in_the_file_is_refused(file, tmp_path, number, size):
    save({"weight": torch.zeros(4)}, tmp_path / "whole.pth")
    with zipfile.ZipFile(tmp_path / "whole.pth") as whole, zipfile.ZipFile(file, "w") as changed:
        for name in whole.namelist():
            changed.writestr(name, whole.read(name).replace(b"K\x04", number))
    with pytest.raises(ValueError, match=f"storage 0 has 16 bytes instead of {size}"):
        load_file(file)


def test_other_files_are_refused_by_what_they_are(file, tmp_path):
    with tarfile.open(file, "w") as tar:
        tar.add(__file__, "pickle")
    with pytest.raises(ValueError, match=r"file\.pth has the tar format of torch 0\.1"):
        load_file(file)
    torch.save({}, file, pickle_protocol=3)
    with pytest.raises(UnsafeCheckpointError, match=r"file\.pth: refused.* pickle protocol 3"):
        load_file(file)
    torch.jit.script(nn.ReLU()).save(file)
    with pytest.raises(UnsafeCheckpointError, match=r"file\.pth is a TorchScript program"):
        load_file(file)
    file.write_text("<html>404</html>")
    with pytest.raises(ValueError, match=r"file\.pth is damaged.*or no checkpoint"):
        load_file(file)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*none\.pth"):
        load_file(tmp_path / "none.pth")


@pytest.mark.parametrize("name", ["file.pth", "file.safetensors"])
def test_files_without_permission_are_named(tmp_path, monkeypatch, name):
    (tmp_path / name).touch()
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.R_OK)  # as root may all
    with pytest.raises(CheckpointError, match=rf"{name} cannot be read: permission denied"):
        load_file(tmp_path / name)


def test_safetensors(tmp_path):
    path = tmp_path / "file.safetensors"
    state = {"weight": torch.rand(2, 3), "steps": torch.tensor(3)}
    save_file(state, path)
    for device in ("cpu", None):
        torch.testing.assert_close(load_file(path, device), state, rtol=0, atol=0)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"file\.safetensors is damaged"):
        load_file(path)


class TestThroughMmengine:
    @pytest.fixture(autouse=True)
    def _safe(self, monkeypatch, tmp_path):
        monkeypatch.setattr(CheckpointLoader, "_schemes", dict(CheckpointLoader._schemes))
        monkeypatch.setattr(checkpoint, "load_from_http", checkpoint.load_from_http)
        monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
        monkeypatch.setattr(Config, "fromstring", staticmethod(Config.fromstring))
        use_safe_loading()

    def test_files(self, file, tmp_path):
        save({"hook": Touch(tmp_path / "trap")}, file)
        with pytest.raises(UnsafeCheckpointError, match="mkdir"):
            CheckpointLoader.load_checkpoint(str(file), logger="silent")
        save({"state_dict": {"a": torch.ones(1)}}, file)
        loaded = CheckpointLoader.load_checkpoint(str(file), "cpu", "silent")
        assert torch.equal(loaded["state_dict"]["a"], torch.ones(1))
        assert load_checkpoint(file).keys() == {"state_dict"}  # a Path

    @pytest.mark.parametrize("address", ["https://x.org/a/net.pth?v=1", "open-mmlab://some_net"])
    def test_downloads(self, file, tmp_path, monkeypatch, address):
        downloads = []

        def download(url, path):
            downloads.append(url)
            save({"a": torch.ones(1)}, path)

        named = {"some_net": "https://x.org/a/net.pth?v=1"}
        monkeypatch.setattr(checkpoint, "get_external_models", lambda: named)
        monkeypatch.setattr(torch.hub, "download_url_to_file", download)
        for _ in range(2):
            loaded = CheckpointLoader.load_checkpoint(address, logger="silent")
            assert torch.equal(loaded["a"], torch.ones(1))
        assert downloads == ["https://x.org/a/net.pth?v=1"]
        path = tmp_path / "hub/checkpoints/net.pth"
        save({"hook": Touch(tmp_path / "trap")}, path)
        with pytest.raises(UnsafeCheckpointError, match="mkdir"):
            CheckpointLoader.load_checkpoint(address, logger="silent")

    @pytest.mark.parametrize("address", ["s3://a/b.pth", "open-mmlab:s3://a/b.pth", "pavi://a"])
    def test_other_storage_is_refused(self, address):
        with pytest.raises(ValueError, match="download it first"):
            CheckpointLoader.load_checkpoint(address, logger="silent")

    def test_texts_of_configs_are_read_and_not_run(self, tmp_path):
        text = f"gpu_ids = [0, 1]\n__import__('os').mkdir({str(tmp_path / 'trap')!r})"
        with pytest.raises(UnsafeCheckpointError, match="the checkpoint: line 2 of its stored"):
            Config.fromstring(text, ".py")
        assert not (tmp_path / "trap").exists()
        assert Config.fromstring("gpu_ids = [0, 1]", ".py").gpu_ids == [0, 1]
        assert Config.fromstring('{"gpu_ids": [0]}', ".json").gpu_ids == [0]
