"""On what machine, and with which versions?"""

import platform
from pathlib import Path

import torch

from pconv_seg.evaluation.report import versions
from pconv_seg.parallel import cores


def describe_machine() -> dict:
    """Processor, memory, GPUs and versions, ready for JSON."""
    return {
        "cpu": _cpu_model(),
        "cores": cores(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "system": platform.platform(terse=True),
        "versions": versions(),
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")  # Linux; elsewhere `platform` knows
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
