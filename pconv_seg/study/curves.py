"""What the trainings logged: loss and validation score by iteration."""

import json
from collections.abc import Iterator
from pathlib import Path


def read_scalars(folder: Path) -> Iterator[dict]:
    """The records that mmengine's LoggerHook wrote, in the order of writing over all attempts.

    An attempt that was interrupted may have logged iterations that the next one repeats.
    """
    for path in sorted(folder.glob("*/vis_data/scalars.json")):
        for line in path.read_text().splitlines():
            # The last line of a process that was killed may be cut.
            if line.endswith("}"):
                yield json.loads(line)


def reached_iteration(folder: Path) -> int:
    """The last logged iteration of a run, 0 if nothing is logged."""
    return max((record["step"] for record in read_scalars(folder) if "step" in record), default=0)


def training_curves(folder: Path) -> tuple[dict[int, float], dict[int, float]]:
    """Loss and validation mIoU (percent) by iteration."""
    losses, scores = {}, {}
    for record in read_scalars(folder):
        if "mIoU" in record:
            scores[record["step"]] = record["mIoU"]
        elif "loss" in record:
            losses[record["step"]] = record["loss"]
    return dict(sorted(losses.items())), dict(sorted(scores.items()))
