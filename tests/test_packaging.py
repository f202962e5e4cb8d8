"""What the wheel carries, and that it works where there is no checkout."""

import subprocess
import sys
from importlib.metadata import Distribution
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
MM_PACKAGES = {"mmcv", "mmcv-lite", "mmengine", "mmsegmentation", "openmim"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the installed wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    python = [sys.executable, "-m"]
    build = ["build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run([*python, *build], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    install = ["pip", "install", "--quiet", "--no-deps", "--no-index", "--target"]
    subprocess.run([*python, *install, str(folder / "site"), str(wheel)], check=True)
    return folder / "site"


def test_mim_folder_holds_all_configs_and_tools(site: Path) -> None:
    mim = site / "pconv_seg" / ".mim"
    for folder in ("configs", "tools"):
        names = {path.relative_to(ROOT) for path in (ROOT / folder).rglob("*.py")}
        assert names == {path.relative_to(mim) for path in (mim / folder).rglob("*.py")}
    assert (site / "pconv_seg" / "py.typed").is_file()


def test_model_index_leads_to_configs_and_marks_the_papers_figures(site: Path) -> None:
    mim = site / "pconv_seg" / ".mim"
    (metafile,) = yaml.safe_load((mim / "model-index.yml").read_text())["Import"]
    index = yaml.safe_load((mim / metafile).read_text())
    (collection,) = index["Collections"]
    assert collection["Paper"]["URL"].endswith("1811.11718")
    assert sorted(model["Config"] for model in index["Models"]) == sorted(
        f"configs/{path.name}" for path in (mim / "configs").glob("*.py")
    )
    for model in index["Models"]:
        assert Path(model["Config"]).stem == model["Name"]
        assert model["In Collection"] == collection["Name"]
        assert "Weights" not in model
        for result in model["Results"]:
            assert all("paper" in metric for metric in result["Metrics"])


def test_mm_packages_are_required_by_the_extra_only(site: Path) -> None:
    (metadata,) = site.glob("pconv_seg-*.dist-info")
    requirements = [Requirement(text) for text in Distribution.at(metadata).requires]
    families = {r.name: r for r in requirements if r.name.removeprefix("onedl-") in MM_PACKAGES}
    assert set(families) == {"onedl-mmengine", "onedl-mmcv", "onedl-mmsegmentation"}
    for requirement in families.values():
        assert not requirement.marker.evaluate({"extra": ""})
        assert requirement.marker.evaluate({"extra": "onedl"})


def test_installed_tool_builds_an_installed_config_outside_a_checkout(
    site: Path, tmp_path: Path
) -> None:
    mim = site / "pconv_seg" / ".mim"
    result = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            str(mim / "tools" / "train.py"),
            str(mim / "configs" / "deeplabv3plus_wrn38_pd_cityscapes.py"),
        ],
        cwd=tmp_path,
        env={"PYTHONPATH": str(site), "PATH": ""},
        capture_output=True,
        text=True,
    )
    # It gets as far as one can without data.
    assert result.returncode == 1
    assert result.stderr.startswith("train.py: cannot start:\n")
    assert f"no folder {tmp_path}/data/cityscapes\n" in result.stderr
    assert "Traceback" not in result.stderr
