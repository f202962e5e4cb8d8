import os
import re

import pytest
import torch
from known_segmentor import CLASSES
from mmengine.config import Config

from pconv_seg.engine import PreflightError
from pconv_seg.evaluation.runs import finished_run, latest_run, load_segmentor
from pconv_seg.padding import scheme_of


def write_run(folder, step=4, max_iters=4, age=0):
    """What mmengine leaves of a run, trained at another place."""
    folder.mkdir(parents=True)
    (folder / "net.py").write_text(f"train_cfg = dict(max_iters={max_iters})\n")
    (folder / "last_checkpoint").write_text(f"/elsewhere/work_dirs/x/iter_{step}.pth")
    checkpoint = folder / f"iter_{step}.pth"
    torch.save({}, checkpoint)
    seconds = checkpoint.stat().st_mtime - age
    os.utime(checkpoint, (seconds, seconds))
    return checkpoint


def test_the_newest_finished_run_is_found(tmp_path):
    write_run(tmp_path / "a/old", age=30)
    os.utime(tmp_path / "a/old/net.py", (4e9, 4e9))  # what counts is the checkpoint
    newest = write_run(tmp_path / "b/deep/new", age=20)
    unfinished = write_run(tmp_path / "c", step=2)
    assert latest_run(tmp_path) == (newest.parent / "net.py", newest)
    newest.unlink()
    assert latest_run(tmp_path).checkpoint.parent.name == "old"
    (tmp_path / "a/old/iter_4.pth").unlink()
    with pytest.raises(FileNotFoundError, match=f"have not finished: {re.escape(str(unfinished))}"):
        latest_run(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no finished training run below .*nowhere"):
        latest_run(tmp_path / "nowhere")


def test_checkpoints_may_lie_in_another_folder(tmp_path):
    checkpoint = write_run(tmp_path / "work/a")
    (tmp_path / "out").mkdir()
    moved = checkpoint.rename(tmp_path / "out/iter_4.pth")
    (tmp_path / "work/a/last_checkpoint").write_text(str(moved))
    run = (tmp_path / "work/a/net.py", moved)
    assert finished_run(tmp_path / "work/a") == latest_run(tmp_path / "work") == run


def test_a_run_has_the_newest_config_of_its_own_folder(tmp_path):
    config = write_run(tmp_path / "a/b").with_name("net.py")
    older = [config.with_name(f"{name}.py") for name in "az"]
    for path in older:
        path.write_text("model = None\n")
        os.utime(path, (0, 0))
    assert latest_run(tmp_path).config == config
    assert finished_run(tmp_path / "a") is None
    config.unlink()
    assert finished_run(tmp_path / "a/b") is None  # of a config that does not train
    for path in older:
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"no finished training run below [^;]*Train first"):
        latest_run(tmp_path)


def test_a_pointer_that_was_cut_off_does_not_hide_the_run(tmp_path):
    checkpoint = write_run(tmp_path / "a")
    (tmp_path / "a/last_checkpoint").write_text("")
    assert latest_run(tmp_path).checkpoint == checkpoint


def test_a_damaged_checkpoint_is_named_instead_of_taking_an_older_run(tmp_path):
    write_run(tmp_path / "old", age=30)
    checkpoint = write_run(tmp_path / "new")
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"{re.escape(str(checkpoint))}: it is cut off or changed"):
        latest_run(tmp_path)


def test_a_config_that_was_cut_off_is_named(tmp_path):
    config = write_run(tmp_path / "a").with_name("net.py")
    config.write_text("train_cfg = dict(")
    with pytest.raises(PreflightError, match=f"config {re.escape(str(config))}: SyntaxError"):
        latest_run(tmp_path)


def test_a_run_whose_last_checkpoint_is_damaged_is_not_finished(tmp_path):
    checkpoint = write_run(tmp_path / "a")
    assert finished_run(tmp_path / "a") == (tmp_path / "a/net.py", checkpoint)
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    assert finished_run(tmp_path / "a") is None


def test_a_run_that_counts_otherwise_than_its_checkpoint_is_not_finished(tmp_path):
    checkpoint = write_run(tmp_path / "a", step=300)
    checkpoint.with_name("net.py").write_text("train_cfg = dict(max_epochs=50)\n")
    assert finished_run(tmp_path / "a") is None
    with pytest.raises(FileNotFoundError, match=r"have not finished: .*iter_300\.pth"):
        latest_run(tmp_path)


@pytest.fixture
def save(make_config, make_segmentor, tmp_path):
    def save(meta=None, width=1, **content):
        config = make_config(images=1)
        config.model.backbone.width = width
        meta = {"cfg": config.pretty_text, "dataset_meta": {"classes": CLASSES}, **(meta or {})}
        path = str(tmp_path / "iter_1.pth")
        weights = make_segmentor(config).state_dict()
        torch.save({"meta": meta, "state_dict": weights, **content}, path)
        return path

    return save


def test_the_network_is_that_of_the_checkpoint(make_config, save):
    model = load_segmentor(save(width=3), make_config(images=1), CLASSES, "cpu")
    assert model.backbone.width == 3
    assert not model.training
    assert torch.equal(model.decode_head.conv_seg.weight.sum((0, 2, 3)), torch.ones(3))


def test_without_a_stored_config_the_network_is_that_of_the_config(make_config, save):
    model = load_segmentor(save({"cfg": None}, width=3), make_config(images=1), CLASSES, "cpu")
    assert model.backbone.width == 1


def test_what_does_not_fit_is_named(make_config, save, tmp_path):
    config = make_config(images=1)
    with pytest.raises(
        ValueError, match=r"iter_1\.pth was trained for the classes sky, tree, road"
    ):
        load_segmentor(save(), config, ("a", "b", "c"), "cpu")
    old = {"dataset_meta": None, "CLASSES": CLASSES}  # of mmseg before 1.0
    with pytest.raises(ValueError, match=r"was trained for the classes sky, tree, road"):
        load_segmentor(save(old), config, ("a", "b", "c"), "cpu")
    with pytest.raises(ValueError, match=r"iter_1\.pth has 3 classes, but the data 2"):
        load_segmentor(save({"dataset_meta": None}), config, ("a", "b"), "cpu")
    with pytest.raises(ValueError, match=r"(?s)iter_1\.pth does not fit the config: .*conv_seg"):
        load_segmentor(save(state_dict={"a": torch.ones(1)}), config, CLASSES, "cpu")
    with pytest.raises(FileNotFoundError, match=r"missing\.pth"):
        load_segmentor(str(tmp_path / "missing.pth"), config, CLASSES, "cpu")
    backbone = Config({"model": {"type": "BorderBlind"}})
    with pytest.raises(ValueError, match="BorderBlind is no mmseg EncoderDecoder"):
        load_segmentor(save({"cfg": None}), backbone, CLASSES, "cpu")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "is no checkpoint: it is a list instead of a dict"),
        (torch.zeros(2), "is no checkpoint: it is a Tensor instead of a dict"),
        ({"meta": torch.zeros(2)}, "is no checkpoint: its meta is a Tensor instead of a dict"),
        (
            {"meta": {"dataset_meta": ["a"]}},
            "is no checkpoint: its dataset_meta is a list instead of a dict",
        ),
        ({"meta": {"cfg": "a = 1"}}, ": its stored config has no model that could take"),
        ({"meta": {}}, r": config .*data\.py has no model that could take the weights"),
        (
            {"meta": {"cfg": "model = dict(type='Nobody')"}},
            ": Nobody is not in the .* Give a config that imports it",
        ),
        (
            {"meta": {"cfg": "model = dict(type='ResNet', depth=18, conv_cfg=dict(type='Pc'))"}},
            r": Cannot find .* \(model\.conv_cfg\.type='Pc'\)\. Give a config that imports it",
        ),
    ],
)
def test_what_is_no_checkpoint_of_a_network_is_named(tmp_path, content, message):
    torch.save(content, tmp_path / "x.pth")
    (tmp_path / "data.py").write_text("test_dataloader = dict()")
    config = Config.fromfile(tmp_path / "data.py")
    with pytest.raises(ValueError, match=rf"(?s)x\.pth ?{message}"):
        load_segmentor(str(tmp_path / "x.pth"), config, CLASSES, "cpu")


def test_no_code_from_a_checkpoint_runs(make_config, save, tmp_path):
    trap = tmp_path / "trap"
    for config, named in (
        (f"__import__('os').mkdir({str(trap)!r})", "line 1 of its stored config is refused"),
        (f"model = dict(type='os.mkdir', path={str(trap)!r})", "builds os.mkdir, which is not"),
    ):
        with pytest.raises(ValueError, match=rf"iter_1\.pth: .*{named}"):
            load_segmentor(save({"cfg": config}), make_config(images=1), CLASSES, "cpu")
    with pytest.raises(ValueError, match=r"iter_1\.pth: refused, nothing was run\. .*Path"):
        load_segmentor(save({"hook": tmp_path}), make_config(images=1), CLASSES, "cpu")
    assert not trap.exists()


def test_padding_is_what_the_network_was_trained_with(make_config, make_segmentor, tmp_path):
    config = make_config(images=1)
    config.model.decode_head.update(type="FCNHead", in_channels=3, channels=3, num_convs=1)
    weights = make_segmentor(config).state_dict()
    config.custom_hooks = [dict(type="PaddingHook", scheme="partial")]
    path = str(tmp_path / "iter_1.pth")
    torch.save({"meta": {"cfg": config.pretty_text}, "state_dict": weights}, path)
    assert scheme_of(load_segmentor(path, make_config(images=1), CLASSES, "cpu")) == "partial"
    config.model.data_preprocessor.test_cfg = {"size_divisor": 16}
    for hooks in ([], [dict(type="PaddedBatchHook")]):
        config.custom_hooks = hooks
        torch.save({"meta": {"cfg": config.pretty_text}, "state_dict": weights}, path)
        model = load_segmentor(path, make_config(images=1), CLASSES, "cpu")
        assert (model.data_preprocessor.test_cfg is None) == bool(hooks)
    # Imported checkpoints have no config.
    config.custom_hooks = []
    for said, expected in (("reflect", "reflect"), ("partial+zeros", "zeros"), (None, "zeros")):
        torch.save({"meta": {"padding": said}, "state_dict": weights}, path)
        assert scheme_of(load_segmentor(path, config, CLASSES, "cpu")) == expected
