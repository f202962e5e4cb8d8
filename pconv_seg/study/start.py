"""Do two runs start from the same weights and see the same batches?"""

import hashlib
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from pconv_seg.files import parse_json, write_json
from pconv_seg.wrappers import unwrapped

_FILE = "start.json"
_BATCHES = 10


@HOOKS.register_module()
class StartDigestHook(Hook):
    """Write digests of the initial weights and of the first batches into the work dir.

    The file ``start.json`` holds SHA-256 sums: ``weights`` of the initialised network, ``batches``
    of images and labels of the first iterations, before normalisation. Runs with equal sums
    started alike. A resumed run leaves the file as it is.
    """

    def __init__(self) -> None:
        self._weights = ""
        self._seen = hashlib.sha256()

    def before_train(self, runner: Runner) -> None:
        """Digest the weights."""
        if runner.iter == 0:
            digest = hashlib.sha256()
            for name, value in sorted(unwrapped(runner.model).state_dict().items()):
                digest.update(name.encode())
                _add(digest, value)
            self._weights = digest.hexdigest()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Digest a batch, and write after the last one that counts."""
        if not self._weights or runner.iter >= _BATCHES:
            return
        for image, sample in zip(data_batch["inputs"], data_batch["data_samples"], strict=True):
            _add(self._seen, image)
            _add(self._seen, sample.gt_sem_seg.data)
        if runner.iter == min(_BATCHES, runner.max_iters) - 1 and is_main_process():
            content = {
                "weights": self._weights,
                "batches": self._seen.hexdigest(),
                "number_of_batches": runner.iter + 1,
            }
            write_json(content, Path(runner.work_dir) / _FILE)


def _add(digest: Any, value: torch.Tensor) -> None:
    digest.update(value.detach().cpu().contiguous().numpy().tobytes())


def read_start(work_dir: Path) -> dict:
    """What the hook wrote; empty if it wrote nothing.

    Raises:
        ValueError: Naming the file, if it is damaged.
    """
    path = work_dir / _FILE
    if not path.is_file():
        return {}
    remedy = "delete it, and the start of this run counts as not known"
    return parse_json(path.read_bytes(), path, ["weights"], remedy)
