"""Several processes of one run, on machines with and without GPUs."""

import atexit
import os

import torch.distributed
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import is_distributed, is_main_process
from mmengine.logging import print_log
from mmengine.utils.dl_utils import set_multi_processing

from pconv_seg.config_tree import entries


def join_processes(cfg: Config) -> None:
    """Let the processes of a launcher work together without GPUs; call it before the runner.

    With GPUs, or without a launcher, this does nothing: mmengine's runner does all of it. Without
    GPUs the runner would fail asking for them. So the processes are joined by gloo here, and the
    config is changed: no device for the model's wrapper, and batch statistics of each process by
    itself, because ``SyncBN`` needs GPUs.

    Args:
        cfg: With a ``launcher``, pytorch or mpi.
    """
    launcher = cfg.get("launcher", "none")
    if launcher == "none" or get_device() != "cpu":
        return
    cfg.model_wrapper_cfg = {
        "type": "MMDistributedDataParallel",
        "broadcast_buffers": False,
        "find_unused_parameters": cfg.get("find_unused_parameters", False),
        **(cfg.get("model_wrapper_cfg") or {}),
        "device_ids": None,
    }
    parts = [part for _, _, part in entries(cfg.model) if isinstance(part, dict)]
    synchronized = [part for part in parts if part.get("type") == "SyncBN"]
    for part in synchronized:
        part["type"] = "BN"
    if not is_distributed():
        if launcher == "mpi":
            # What Open MPI tells its processes, by the names that torch looks for.
            os.environ["RANK"] = os.environ["OMPI_COMM_WORLD_RANK"]
            os.environ["WORLD_SIZE"] = os.environ["OMPI_COMM_WORLD_SIZE"]
            os.environ.setdefault("MASTER_PORT", "29500")
        # As the runner does: this sets how many threads each process has.
        set_multi_processing(**cfg.get("env_cfg", {}).get("mp_cfg", {}), distributed=True)
        torch.distributed.init_process_group("gloo")
        # The runner never does this; gloo's threads may abort a process that ends before them.
        atexit.register(torch.distributed.destroy_process_group)
    if synchronized and is_main_process():
        print_log(
            f"No GPU: {len(synchronized)} SyncBN of the config became BN, so each of the "
            f"{torch.distributed.get_world_size()} processes normalizes with its own batch",
            "current",
        )
