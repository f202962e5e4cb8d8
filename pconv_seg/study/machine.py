"""On what machine, and with which versions?"""

import platform
import subprocess
from pathlib import Path

import torch

from pconv_seg.evaluation.report import versions
from pconv_seg.parallel import cores


def describe_machine() -> dict:
    """Processor, GPUs, versions and the package's commit (None if it has none), ready for JSON."""
    return {
        "cpu": _cpu_model(),
        "cores": cores(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "system": platform.platform(terse=True),
        "versions": versions(),
        "commit": _commit(Path(__file__)),
    }


def _commit(file: Path) -> str | None:
    """Of the checkout that has this file, marked if that was changed; None outside of one."""

    def git(*arguments: str | Path) -> str:
        command = ["git", "-C", file.parent, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", file.name)  # fails if it only surrounds the package
        return git("describe", "--always", "--exclude=*", "--dirty= (changed)")
    except (OSError, subprocess.CalledProcessError):  # no git; no checkout
        return None


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")  # Linux; elsewhere `platform` knows
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
