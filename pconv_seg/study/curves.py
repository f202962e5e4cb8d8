"""What the trainings logged: loss and validation score by iteration."""

from collections.abc import Iterator
from pathlib import Path

from pconv_seg.files import parse_json


def read_scalars(folder: Path) -> Iterator[dict]:
    """The records that mmengine's LoggerHook wrote, in the order of writing over all attempts.

    An attempt that was interrupted may have logged iterations that the next one repeats.

    Raises:
        ValueError: Naming the file and the line, if one is damaged.
    """
    for path in sorted(folder.glob("*/vis_data/scalars.json")):
        # A killed process may have cut off its last line, and one at work may be writing it.
        *lines, _ = path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, 1):
            yield parse_json(line, f"{path}, line {number},", ["step"], "delete that line")


def reached_iteration(folder: Path) -> int:
    """The last logged iteration of a run, 0 if nothing is logged."""
    return max((record["step"] for record in read_scalars(folder)), default=0)


def training_curves(folder: Path) -> tuple[dict[int, float], dict[int, float]]:
    """Loss and validation mIoU (percent) by iteration."""
    losses, scores = {}, {}
    for record in read_scalars(folder):
        if "mIoU" in record:
            scores[record["step"]] = record["mIoU"]
        elif "loss" in record:
            losses[record["step"]] = record["loss"]
    return dict(sorted(losses.items())), dict(sorted(scores.items()))
