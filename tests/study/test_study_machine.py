"""What is said about the machine."""

import os
import subprocess
from pathlib import Path

from pconv_seg.study.machine import _commit


def test_the_commit_is_that_of_the_checkout_that_has_the_package(tmp_path, monkeypatch):
    # In a git hook these name the user's own repository, in which this would commit.
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    for scope in ("GLOBAL", "SYSTEM"):  # such as signing all commits
        monkeypatch.setenv(f"GIT_CONFIG_{scope}", os.devnull)

    def git(*arguments):
        identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        command = ["git", "-C", tmp_path, *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    module = tmp_path / "package" / "module.py"
    module.parent.mkdir()
    module.write_text("a = 1\n")
    assert _commit(module) is None
    git("init")
    git("commit", "--allow-empty", "-m", "first")
    # As a virtual environment below the checkout of another project.
    assert _commit(module) is None
    git("add", ".")
    git("commit", "-m", "second")
    git("tag", "v1")
    commit = git("rev-parse", "--short", "HEAD")
    assert _commit(module) == commit
    module.write_text("a = 2\n")
    assert _commit(module) == f"{commit} (changed)"


def test_without_git_there_is_no_commit(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert _commit(Path(__file__)) is None
