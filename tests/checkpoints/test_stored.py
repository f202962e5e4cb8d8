import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from pconv_seg.checkpoints import stored_config, use_safe_loading
from pconv_seg.checkpoints.stored import stored_classes

CONFIGS = Path(__file__).parents[2] / "configs"


# Their zero configs differ in conv_cfg alone.
@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*_pd_*.py")), ids=lambda path: path.stem)
def test_what_mmengine_stores_comes_back(path):
    config = Config.fromfile(path)
    meta = {"cfg": config.pretty_text}
    for whole in (False, True):
        assert stored_config(meta, "x.pth", whole).to_dict() == config.to_dict()


def test_every_kind_of_literal_comes_back():
    values = {
        "a": dict(none=None, numbers=[-1, 1e-5, 2.5], nested=dict(words=("x", "it's\n"))),
        "b": {"not an identifier": [dict(c=(dict(d=()),))], "3": True},
        "c": [(1, 2), [3], (4,)],
    }
    text = Config(values).pretty_text
    assert stored_config({"cfg": text}, "x.pth").to_dict() == values
    assert stored_config({"cfg": None}, "x.pth") is None


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("import os", "import os"),
        ("a = __import__('os').mkdir('{trap}')", "mkdir"),
        ("a = dict(b=[dict(c=open('{trap}', 'w'))])", "open"),
        ("a = [open('{trap}', 'w') for _ in (1,)]", "open"),
        ('a = f\'{{open("{trap}", "w")}}\'', "open"),
        ("a = dict(**b)", r"dict\(\*\*b\)"),
        ("a = {{**dict(b=1)}}", "b=1"),
        ("a = dict({{'3': 2}}, b=1)", "b=1"),
        ("open('{trap}', 'w')", "open"),
        ("a: int = 1", "a: int = 1"),
        ("a.b = 1", r"a\.b = 1"),
        ("a = {{[]: 1}}", ""),
    ],
)
def test_whatever_is_no_literal_is_refused_by_its_line(tmp_path, line, named):
    trap = tmp_path / "trap"
    text = "x = 1\n\n" + line.format(trap=trap)
    with pytest.raises(ValueError, match=rf"x\.pth: line 3 .* nothing was run: .*{named}"):
        stored_config({"cfg": text}, "x.pth")
    assert not trap.exists()


@pytest.mark.parametrize(
    "text",
    ["a = (", "a = '\0'", f"a = {'-' * 100_000}1", f"a = b{'.c' * 900}", "filename = 'a'"],
)
def test_text_that_is_no_config_is_refused(text):
    with pytest.raises(ValueError, match=r"x\.pth: its stored config cannot be read"):
        stored_config({"cfg": text}, "x.pth")


@pytest.mark.parametrize(
    "name", ["os.mkdir", "os.ResNet", "mmengine.dump", "mmseg.models.backbones.math.log", 3]
)
def test_types_that_mmengine_would_import_are_refused(name):
    text = f"model = dict(decode_head=[(dict(conv_cfg=dict(type={name!r})),)])"
    with pytest.raises(ValueError, match=rf"x\.pth: its stored config builds {name}, which is not"):
        stored_config({"cfg": text}, "x.pth")
    python_style = ("mmseg.models.backbones.ResNet", "mmengine.model.PretrainedInit")
    names = ("ResNet", "mmseg.ResNet", "mmseg.OHEMPixelSampler", "pconv_seg.PConv")
    for registered in (*names, *python_style):
        stored_config({"cfg": f"model = dict(type={registered!r})"}, "x.pth")


def test_no_module_is_imported_to_find_out_what_is_registered(tmp_path, monkeypatch):
    (tmp_path / "trap.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    # mmengine would import the last two as well.
    for config, named in (
        ("type='trap.Net'", r"builds trap\.Net, which is not registered"),
        ("type='trap'", "builds trap, which is not registered"),
        ("type='ResNet', _scope_='trap'", "names the scope trap, which is not registered"),
    ):
        with pytest.raises(ValueError, match=named):
            stored_config({"cfg": f"model = dict({config})"}, "x.pth")
    assert "trap" not in sys.modules


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ("test_pipeline = [dict(type='subprocess.getoutput', cmd='true')]", r"subprocess\.getou"),
        ("default_scope = 'trap'", "scope trap"),
    ],
)
def test_of_texts_that_mmengine_builds_from_all_is_checked(config, named):
    stored_config({"cfg": config}, "x.pth")  # of which the model alone is built
    use_safe_loading()
    # The norm is an option of clip_grad, and nothing that is built.
    text = "pipeline = [dict(type='PackSegInputs')]\nclip_grad = dict(type='norm')"
    Config.fromstring(f"default_scope = 'mmseg'\n{text}", ".py")
    with pytest.raises(ValueError, match=f"{named}.*, which is not registered"):
        Config.fromstring(config, ".py")


def test_classes_are_those_of_any_version_of_mmseg():
    old = {"CLASSES": ("a", "b"), "PALETTE": [[0, 0, 0], [1, 1, 1]]}
    assert stored_classes(old) == {"classes": ("a", "b"), "palette": [[0, 0, 0], [1, 1, 1]]}
    assert stored_classes({"CLASSES": ("a",)}) == {"classes": ("a",)}
    new = {"classes": ("c",)}
    assert stored_classes({**old, "dataset_meta": new}) == new
    assert stored_classes({"dataset_meta": None}) == {}
