"""Packages import what docs/development.md says, and geometry no torch."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = {path.parent.name for path in (ROOT / "pconv_seg").glob("*/__init__.py")}
ROW = re.compile(r"\| \[`(\w+)`\].*\| ([^|]+) \|")


def imported(package: str) -> set[str]:
    """Full names of the modules that a package imports, anywhere."""
    names = set()
    for file in (ROOT / "pconv_seg" / package).rglob("*.py"):
        place = file.relative_to(ROOT).parts[:-1]
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = place[: len(place) + 1 - node.level] if node.level else ()
                names.add(".".join([*base, *filter(None, [node.module])]))
    return names


def test_packages_import_what_the_documents_say():
    rows = dict(ROW.findall((ROOT / "docs/development.md").read_text()))
    said = {
        package: set() if text.startswith("nothing") else PACKAGES & set(re.findall(r"\w+", text))
        for package, text in rows.items()
    }
    found = {
        package: {n.split(".")[1] for n in imported(package) if n.startswith("pconv_seg.")}
        & PACKAGES - {package}
        for package in PACKAGES
    }
    assert found == said
    order = []
    while rest := found.keys() - set(order):
        order += [next(p for p in sorted(rest) if found[p] <= set(order))]  # none in a circle


def test_geometry_needs_no_torch():
    assert not {name.partition(".")[0] for name in imported("geometry")} & {
        "torch",
        "mmcv",
        "mmengine",
    }
