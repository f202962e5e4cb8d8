"""The command lines of the scripts that start several processes."""

import os
import subprocess
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


def output(script: str, *arguments: str, **environment: str) -> list[str]:
    """Words of the command that a script ends in."""
    result = subprocess.run(
        ["bash", TOOLS / script, *arguments],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout.splitlines()


@pytest.fixture
def echo(tmp_path: Path) -> str:
    """A program that prints its arguments, one a line; found as srun, too."""
    for name in ("srun", "interpreter"):
        (tmp_path / name).write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
        (tmp_path / name).chmod(0o755)
    return str(tmp_path / "interpreter")


def test_one_machine(echo: str) -> None:
    assert output("dist_train.sh", "a b.py", "4", "--seed", "1", PYTHON=echo) == [
        "-m",
        "torch.distributed.run",
        "--nnodes=1",
        "--node_rank=0",
        "--nproc_per_node=4",
        "--master_addr=127.0.0.1",
        "--master_port=29500",
        str(TOOLS / "train.py"),
        *("a b.py", "--seed", "1", "--launcher", "pytorch"),
    ]


def test_several_machines(echo: str) -> None:
    where = {"NNODES": "3", "NODE_RANK": "2", "MASTER_ADDR": "node0", "PORT": "1234"}
    words = output("dist_test.sh", "a.py", "b.pth", "8", "--out", "c d", PYTHON=echo, **where)
    assert words[2:7] == [
        "--nnodes=3",
        "--node_rank=2",
        "--nproc_per_node=8",
        "--master_addr=node0",
        "--master_port=1234",
    ]
    assert words[7:] == [
        str(TOOLS / "test.py"),
        *("a.py", "b.pth", "--out", "c d", "--launcher", "pytorch"),
    ]


@pytest.mark.parametrize(("gpus", "per_node"), [("16", "8"), ("2", "2")])
def test_slurm(echo: str, gpus: str, per_node: str) -> None:
    path = f"{Path(echo).parent}:{os.environ['PATH']}"
    words = output(
        "slurm_train.sh",
        *("part", "name", "a.py", "--resume"),
        PYTHON=echo,
        PATH=path,
        GPUS=gpus,
        SRUN_ARGS="--time=8:00:00 --exclusive",
    )
    assert words == [
        "--partition=part",
        "--job-name=name",
        f"--gres=gpu:{per_node}",
        f"--ntasks={gpus}",
        f"--ntasks-per-node={per_node}",
        "--cpus-per-task=5",
        "--kill-on-bad-exit=1",
        "--signal=USR1@120",
        "--time=8:00:00",
        "--exclusive",
        echo,
        "-u",
        str(TOOLS / "train.py"),
        *("a.py", "--launcher", "slurm", "--resume"),
    ]


@pytest.mark.parametrize("script", ["dist_train.sh", "dist_test.sh", "slurm_train.sh"])
def test_without_arguments_they_explain_themselves(script: str) -> None:
    result = subprocess.run(["bash", TOOLS / script], capture_output=True, text=True)
    assert result.returncode == 2
    assert f"tools/{script} " in result.stderr
    assert "Environment:" in result.stderr
