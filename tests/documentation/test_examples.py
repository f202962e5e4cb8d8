"""Commands, configs and code in the README and the pages: names exist, arguments parse."""

import ast
import importlib
import re
import runpy
import subprocess
import sys
import textwrap
from argparse import ArgumentParser
from itertools import product
from pathlib import Path

import mmseg.registry
import pytest
from mmengine.registry import Registry

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
# Bash calls this for every command, because no program can be found.
RECORD = """
PATH=/nowhere
command_not_found_handle() { printf '%s\\0' "$@" $'\\n'; }
"""


def blocks(page: Path, language: str) -> list[str]:
    """Fenced code, in lists too."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```$", page.read_text(), re.M | re.S)
    return [textwrap.dedent(code) for _, code in found]


def calls(script: str, folder: Path) -> list[list[str]]:
    """The programs that a script would start, with their arguments, in all loops."""
    bash = ["/bin/bash", "--norc", "-c", RECORD + script]
    output = subprocess.run(bash, cwd=folder, env={}, capture_output=True, text=True).stdout
    return [line.split("\0") for line in output.split("\0\n\0") if line]


def examples(language: str) -> list:
    """All blocks of code of a language, as parameters."""
    return [
        pytest.param(block, id=f"{page.stem}-{number}")
        for page in PAGES
        for number, block in enumerate(blocks(page, language))
    ]


class _ParsedError(Exception):
    """Ends a tool as soon as its arguments are parsed."""


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch):
    original = ArgumentParser.parse_args

    def parse_args(self, *args, **kwargs):
        original(self, *args, **kwargs)
        raise _ParsedError

    def run(script: str, arguments: list[str]) -> None:
        assert (ROOT / script).is_file(), script
        monkeypatch.setattr(ArgumentParser, "parse_args", parse_args)
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        monkeypatch.syspath_prepend((ROOT / script).parent)
        with pytest.raises(_ParsedError):
            runpy.run_path(str(ROOT / script), run_name="__main__")

    return run


@pytest.mark.parametrize("script", examples("sh"))
def test_commands_parse(script: str, parse, tmp_path: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    found = calls(script, tmp_path)
    assert found
    for program, *arguments in found:
        if program == "make":
            assert {word for word in arguments if "=" not in word} <= targets
        elif program in ("bash", "python", "torchrun", "mpirun"):
            if program == "bash":
                arguments = _launched(arguments, tmp_path)
            scripts = [i for i, word in enumerate(arguments) if word.endswith(".py")]
            assert scripts or program == "python"
            if scripts and not arguments[0].startswith("-c"):
                parse(arguments[scripts[0]], arguments[scripts[0] + 1 :])
            named = [word for word in arguments if word.startswith("configs/")]
            assert [word for word in named if not (ROOT / word).is_file()] == []
        else:
            assert program in ("pip", "python3", "python3.11"), program


def test_make_study_starts_a_job_per_core(parse) -> None:
    recipe = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", "study"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    command = recipe[recipe.index("tools/study.py") :]
    words = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {command}"], capture_output=True, text=True, check=True
    ).stdout.split()
    parse(words[0], words[1:])
    assert int(words[words.index("--jobs") + 1]) >= 1


def _launched(arguments: list[str], folder: Path) -> list[str]:
    """What a launcher script starts."""
    for name in ("python", "srun"):
        (folder / name).write_text('#!/bin/sh\nfor word; do printf "%s\\0" "$word"; done\n')
        (folder / name).chmod(0o755)
    result = subprocess.run(
        ["/bin/bash", *arguments],
        cwd=ROOT,
        env={"PATH": f"{folder}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout.split("\0")[:-1]


def test_loops_and_continued_lines_are_followed(tmp_path: Path) -> None:
    script = (
        "for a in 1 '2 3'; do X=1 python tools/train.py \\\n  $a \"$a\"  # rest\ndone\nmake test\n"
    )
    train = ["python", "tools/train.py"]
    assert calls(script, tmp_path) == [
        [*train, "1", "1"],
        [*train, "2", "3", "2 3"],
        ["make", "test"],
    ]


def test_a_wrong_flag_is_noticed(parse, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        parse("tools/train.py", ["CONFIG", "--no-such-flag"])
    assert "--no-such-flag" in capsys.readouterr().err


def _expanded(pattern: str) -> list[str]:
    """``a_{b,c}.py`` as in a shell."""
    parts = re.split(r"\{([^}]*)\}", pattern)
    choices = [part.split(",") if i % 2 else [part] for i, part in enumerate(parts)]
    return ["".join(choice) for choice in product(*choices)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    named = re.findall(
        r"(?<![\w/.:-])((?:configs|tools|tests|benchmarks|docs|\.ci)/[\w{},./*-]+\w)", text
    )
    named += [
        f"configs/{name}" for name in re.findall(r"(?<![\w/])(deeplabv3plus_[\w{},]+\.py)", text)
    ]
    missing = [path for name in named for path in _expanded(name) if not list(ROOT.glob(path))]
    assert missing == []


def _is_registered(name: str) -> bool:
    registries = [value for value in vars(mmseg.registry).values() if isinstance(value, Registry)]
    return any(registry.get(name) for registry in registries)


@pytest.mark.parametrize("code", examples("python"))
def test_code_names_what_exists(code: str) -> None:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pconv_seg":
            assert hasattr(importlib.import_module("pconv_seg"), node.attr)
        elif isinstance(node, ast.keyword) and node.arg == "type":
            assert _is_registered(node.value.value), node.value.value
