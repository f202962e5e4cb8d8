"""`import pconv_seg` in environments where something is missing or broken."""

import shutil
import subprocess
import sys
from pathlib import Path

import mmengine.registry
import mmseg.registry
import pytest

import pconv_seg

PACKAGE = Path(__file__).parents[1] / "pconv_seg"
TOOLS = sorted((PACKAGE.parent / "tools").glob("*.py"))

BUILD_SCOPED = """
from mmengine.registry import MODELS
MODELS.build(dict(type='pconv_seg.PConv', in_channels=1, out_channels=1, kernel_size=3))
"""


def _run(code: str, path: Path) -> str:
    """Run code in a fresh interpreter that finds the package in `path`; its stderr if it fails."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=path,
        env={"PYTHONPATH": str(path), "PATH": ""},
        capture_output=True,
        text=True,
    )
    return result.stderr if result.returncode else ""


@pytest.mark.parametrize(
    ("missing", "code"),
    [
        ("mmengine", "import pconv_seg"),
        ("mmcv", "import pconv_seg"),
        ("mmseg", "import pconv_seg"),
        ("mmseg", BUILD_SCOPED),
        *(("mmengine", f"import runpy; runpy.run_path({str(tool)!r})") for tool in TOOLS),
    ],
)
def test_missing_mm_package_names_both_ways_out(missing: str, code: str) -> None:
    error = _run(f"import sys; sys.modules['{missing}'] = None\n{code}", PACKAGE.parent)

    last = error.strip().splitlines()[-1]
    assert last.startswith("ImportError: pconv_seg needs mmsegmentation")
    assert f"there is no {missing}." in last
    assert "'pconv-seg[onedl]'" in last
    assert "mmsegmentation==1.2.2 mmcv==2.1.0 mmengine==0.10.7" in last


def test_scoped_name_needs_no_custom_imports() -> None:
    assert _run(BUILD_SCOPED, PACKAGE.parent) == ""


def test_names_are_found_in_the_packages_own_scope_too() -> None:
    root = mmengine.registry.MODELS
    with root.switch_scope_and_registry("pconv_seg") as scoped:
        assert scoped.scope == "pconv_seg"
        for name in ("PConv", "pconv_seg.PConv"):
            assert scoped.get(name) is root.get("PConv") is pconv_seg.PConv2d


def test_all_that_configs_can_name_is_at_the_top() -> None:
    registries = [*vars(mmengine.registry).values(), *vars(mmseg.registry).values()]
    parts = {
        part
        for registry in registries
        if isinstance(registry, mmengine.registry.Registry)
        for part in registry.module_dict.values()
        if part.__module__.startswith("pconv_seg.")
    }
    assert pconv_seg.PConv2d in parts
    assert parts <= {getattr(pconv_seg, name) for name in pconv_seg.__all__}


def test_broken_module_is_not_reported_as_unregistered(tmp_path: Path) -> None:
    copy = tmp_path / "pconv_seg"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    with (copy / "layers" / "__init__.py").open("a") as stream:
        stream.write("\nfrom pconv_seg.version import no_such_name\n")

    error = _run(BUILD_SCOPED, tmp_path)

    last = error.strip().splitlines()[-1]
    assert last.startswith("ImportError: cannot import name 'no_such_name'")


def test_other_missing_package_is_reported_as_itself() -> None:
    error = _run("import sys; sys.modules['torch'] = None; import pconv_seg", PACKAGE.parent)
    last = error.strip().splitlines()[-1]
    assert last.startswith("ModuleNotFoundError")
    assert "torch" in last
