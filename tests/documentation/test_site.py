"""The site builds without warnings and has what it promises."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
REFERENCES = sorted((ROOT / "docs" / "reference").glob("*.md"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    folder = tmp_path_factory.mktemp("site")
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return folder


def test_the_home_page_is_the_readme(site: Path) -> None:
    home = (site / "index.html").read_text()
    for title in re.findall(r"^## (.+)$", (ROOT / "README.md").read_text(), re.MULTILINE):
        assert f">{title}<" in home
    assert 'href="border_evaluation.html"' in home


def test_every_package_has_a_reference() -> None:
    packages = {path.parent.name for path in ROOT.glob("pconv_seg/*/__init__.py")}
    assert {path.stem for path in REFERENCES} == packages


@pytest.mark.parametrize("package", [path.stem for path in REFERENCES])
def test_the_reference_has_all_public_names(site: Path, package: str) -> None:
    entries = set(
        re.findall(r'id="([\w.]+)"', (site / "reference" / f"{package}.html").read_text())
    )
    for name in importlib.import_module(f"pconv_seg.{package}").__all__:
        assert f"pconv_seg.{package}.{name}" in entries, name


def test_no_sphinx_markup_is_left(site: Path) -> None:
    for path in site.glob("reference/*.html"):
        left = re.search(
            r":(?:class|func|meth|mod|data|attr):<code>.*|&gt;</code>_", path.read_text()
        )
        assert left is None, f"{path.name}: {left[0]}"


def test_every_page_is_in_the_navigation() -> None:
    def pages(entries: list) -> set[str]:
        found = set()
        for entry in entries:
            for value in entry.values():
                found |= pages(value) if isinstance(value, list) else {value}
        return found

    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    files = {str(path.relative_to(ROOT / "docs")) for path in ROOT.glob("docs/**/*.md")}
    assert pages(nav) == files | {"index.md"}


def test_links_of_the_readme_lead_to_files() -> None:
    targets = re.findall(r"\]\((?!https?://)([^)#]+)", (ROOT / "README.md").read_text())
    assert len(targets) > 10
    assert [target for target in targets if not (ROOT / target).is_file()] == []
