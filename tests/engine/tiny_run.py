"""Runs of the tools that take a second, each in processes of its own.

The processes are forked from a server that has imported everything once.
"""

import errno
import itertools
import os
import runpy
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import matplotlib.pyplot  # noqa: F401  What runs import late is imported before the server forks.
import mmengine
import numpy as np
import torch
import torch._dynamo
from mmengine.runner import runner
from mmseg.models import EncoderDecoder
from PIL import Image
from yapf.yapflib import yapf_api

import pconv_seg
from pconv_seg.engine import STOPPED, checkpoint_hook

TOOLS = Path(__file__).parents[2] / "tools"

# Dropout, momentum, batch statistics and two schedulers: all of it has to survive.
CONFIG = """
default_scope = 'mmseg'
custom_imports = dict(imports=['pconv_seg'])
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', size=(16, 24), mean=[127.0] * 3,
                           std=[70.0] * 3),
    backbone=dict(type='ResNet', depth=18, base_channels=2, num_stages=1, strides=(1,),
                  dilations=(1,), out_indices=(0,), norm_cfg=norm_cfg,
                  conv_cfg=dict(type='PConv')),
    decode_head=dict(type='FCNHead', in_channels=2, in_index=0, channels=4, num_classes=3,
                     num_convs=1, dropout_ratio=0.5, norm_cfg=norm_cfg,
                     conv_cfg=dict(type='PConv'), loss_decode=dict(type='CrossEntropyLoss')),
    test_cfg=dict(mode='whole'))
def data(split, *transforms):
    return dict(
        type='BaseSegDataset', data_root='@ROOT@/' + split, img_suffix='.png',
        seg_map_suffix='.png', data_prefix=dict(img_path='images', seg_map_path='labels'),
        metainfo=dict(classes=('a', 'b', 'c'), palette=[[0] * 3] * 3),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
                  *transforms, dict(type='PackSegInputs')])
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='ResumableSampler'),
    dataset=dict(type='DrawnDataset', dataset=data(
        'train', dict(type='RandomCrop', crop_size=(16, 24)), dict(type='RandomFlip', prob=0.5),
        dict(type='PhotoMetricDistortion'))))
val_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=data('val'))
del data
test_dataloader = val_dataloader
val_evaluator = [
    dict(type='IoUMetric'), dict(type='BorderIoUMetric', leave_outs=['1/2'], prefix='border')]
test_evaluator = val_evaluator
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.05, momentum=0.9))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, begin=0, end=4, by_epoch=False),
    dict(type='PolyLR', power=0.9, begin=4, end=12, by_epoch=False)]
train_cfg = dict(type='ResumableTrainLoop', max_iters=12, val_interval=4)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=1),
    checkpoint=dict(type='ResumableCheckpointHook', by_epoch=False, interval=2,
                    save_best='border/mIoU', max_keep_ckpts=1),
    finite_loss=dict(type='FiniteLossHook'),
    stop=dict(type='StopOnSignalHook'))
env_cfg = dict(mp_cfg=dict(mp_start_method='fork'))
log_processor = dict(by_epoch=False)
randomness = dict(seed=3)
"""


def write_config(folder: Path) -> str:
    """A config whose data are noise: six images for training, three for validation."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 3)):
        for kind, high, channels in (("images", 256, (3,)), ("labels", 3, ())):
            (folder / split / kind).mkdir(parents=True)
            for i in range(count):
                values = rng.integers(high, size=(20, 32, *channels), dtype=np.uint8)
                Image.fromarray(values).save(folder / split / kind / f"{i}.png")
    config = folder / "tiny.py"
    config.write_text(CONFIG.replace("@ROOT@", str(folder)))
    return str(config)


@cache
def _server() -> ForkServerContext:
    context = get_context("forkserver")
    # The server reads no other path before its imports.
    paths = [str(Path(__file__).parent), str(TOOLS.parent), os.environ.get("PYTHONPATH")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    context.set_forkserver_preload([__name__])
    return context


# Number of processes, ranks.
_NAMES = {
    "pytorch": ["WORLD_SIZE", "RANK", "LOCAL_RANK"],
    "mpi": ["OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"],
}


def start(
    tool: str,
    arguments: list[str],
    log: Path,
    processes: int = 1,
    before: Callable[..., None] | None = None,
    *before_arguments: Any,
    launcher: str = "pytorch",
) -> list[BaseProcess]:
    """Start a tool, as torchrun or mpirun does if there are several processes.

    Args:
        tool: Its name.
        arguments: Its command line.
        log: File that output is added to.
        processes: How many to start.
        before: What the first process calls before the tool, with ``before_arguments``.
        launcher: Whose environment several processes find: pytorch or mpi.
    """
    environment = {"OMP_NUM_THREADS": "1"}
    names = _NAMES[launcher]
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment |= {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            names[0]: str(processes),
        }
        arguments = [*arguments, "--launcher", launcher]
    started = []
    for rank in range(processes):
        ranks = dict.fromkeys(names[1:], str(rank)) if processes > 1 else {}
        call = (before, before_arguments) if rank == 0 else (None, ())
        process = _server().Process(
            target=_main, args=(tool, arguments, str(log), environment | ranks, *call)
        )
        process.start()
        started.append(process)
    return started


def finish(processes: list[BaseProcess]) -> list[int]:
    """Wait for processes, and return their exit statuses (negative: the signal that ended it)."""
    deadline = time.monotonic() + 120
    for process in processes:
        process.join(max(0, deadline - time.monotonic()))
    for process in processes:
        if process.is_alive():
            process.kill()
    return [process.exitcode for process in processes]


def run(tool: str, arguments: list[str], log: Path, *options: Any, **more: Any) -> list[int]:
    """Start a tool and wait for its end; arguments as of :func:`start`."""
    return finish(start(tool, arguments, log, *options, **more))


def _main(
    tool: str,
    arguments: list[str],
    log: str,
    environment: dict[str, str],
    before: Callable[..., None] | None,
    before_arguments: tuple,
) -> None:
    os.environ.update(environment)
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    # Asking for compilers and laying out the dumped config take longer than the training.
    runner.collect_env = dict
    mmengine.config.config.FormatCode = yapf_api.FormatCode = lambda text, **_: (text, False)
    os.chdir(Path(log).parent)
    if before is not None:
        before(*before_arguments)
    sys.argv = [tool, *arguments]
    runpy.run_path(str(TOOLS / f"{tool}.py"), run_name="__main__")


class Train:
    """Training runs of one config in one work dir."""

    def __init__(self, config: str, folder: Path, *options: str, processes: int = 1) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.work_dir = folder / "work"
        self.log = folder / "log"
        self.processes = processes
        self.arguments = [config, "--work-dir", str(self.work_dir), "--resume"]
        if options:
            self.arguments += ["--cfg-options", *options]

    def start(self, *before: object) -> list:
        return start("train", self.arguments, self.log, self.processes, *before)

    def run(self, *before: object) -> list[int]:
        return finish(self.start(*before))

    def stop(self, method: str = "loss", call: int = 5, number: int = signal.SIGTERM) -> None:
        """Stop by a signal in a certain call of a method of the model."""
        assert self.run(signal_in, method, call, number) == [STOPPED] * self.processes

    def refused(self) -> str:
        """The last line of a run that fails."""
        assert self.run() == [1]
        return self.log.read_text().splitlines()[-1]

    def end(self) -> dict[str, Any]:
        """Go on to the end, and return the final state."""
        assert self.run() == [0] * self.processes, self.log.read_text()[-3000:]
        return training_state(self.work_dir / "iter_12.pth")


def die_at(event: int, cut: bool) -> None:
    """Make this process end by SIGKILL at an event: an iteration, or a step of writing a file.

    The steps are those before a file is flushed to disk (``cut`` leaves half of it there, as if it
    were in the middle of writing), before and after it is renamed, and before one is removed.
    """
    events = itertools.count(1)

    def happens(function: Callable, after: bool = False) -> Callable:
        def counted(*args: Any) -> Any:
            if next(events) == event:
                if cut and function is fsync and stat.S_ISREG(os.fstat(args[0]).st_mode):
                    os.truncate(f"/proc/self/fd/{args[0]}", os.fstat(args[0]).st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*args)
            if after and next(events) == event:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return counted

    fsync = os.fsync
    os.fsync, os.replace = happens(fsync), happens(os.replace, after=True)
    os.remove = happens(os.remove)
    pconv_seg.ResumableTrainLoop.run_iter = happens(pconv_seg.ResumableTrainLoop.run_iter)


def signal_in(method: str, call: int, number: int) -> None:
    """Send a signal to this process's group in a certain call of a method of the model."""
    os.setpgrp()
    calls = itertools.count(1)
    original = getattr(EncoderDecoder, method)

    def counted(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == call:
            # From another process, as in a cluster.
            subprocess.run(["kill", f"-{int(number)}", "--", f"-{os.getpid()}"])
        return original(*args, **kwargs)

    setattr(EncoderDecoder, method, counted)


def fill_disk_at(write: int) -> None:
    """Make the disk full in the middle of a certain checkpoint."""
    writes = itertools.count(1)
    original = checkpoint_hook.write_sealed

    def limited(path: Path, content: bytes) -> None:
        if path.suffix == ".pth" and next(writes) == write:
            path.write_bytes(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(path, content)

    checkpoint_hook.write_sealed = limited


def training_state(checkpoint: Path) -> dict[str, Any]:
    """What has to be equal after equal training, of a checkpoint."""
    content = torch.load(checkpoint, weights_only=False)
    info = content["message_hub"]["runtime_info"]
    scores = {name: value for name, value in info.items() if name.startswith("best_score")}
    return {
        **{name: content[name] for name in ("state_dict", "optimizer", "param_schedulers")},
        # What training goes on from where state_dict has averages.
        "ema_state_dict": content.get("ema_state_dict"),
        "iteration": content["meta"]["iter"],
        "random": info["random_states"],
        "scores": scores,
    }


def assert_same(actual: Any, expected: Any) -> None:
    """Compare nested containers; numbers and tensors bit for bit."""
    assert type(actual) is type(expected)
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for key in expected:
            assert_same(actual[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(actual, expected)
    else:
        assert actual == expected
