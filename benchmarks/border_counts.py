"""Time of counting every leave-out in one pass beside one call of mmseg's IoUMetric.

Both get the same label map and prediction of one image and take turns in one process; the counts of
leave-out 0 are compared first.

    python benchmarks/border_counts.py --size 1024x2048
"""

import argparse
import statistics
import time

import numpy as np
import torch
from mmseg.evaluation import IoUMetric
from prettytable import PrettyTable

from pconv_seg.evaluation.confusion import class_areas, confusion_matrices
from pconv_seg.evaluation.evaluator import LEAVE_OUTS
from pconv_seg.geometry import BorderRegions

CLASSES = 19


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="1024x2048", help="HEIGHTxWIDTH (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=20, help="runs of each (default: 20)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    size = tuple(map(int, args.size.split("x")))

    rng = np.random.default_rng(0)
    label = np.kron(
        rng.integers(CLASSES, size=(-(-size[0] // 32), -(-size[1] // 32))), np.ones((32, 32))
    )
    label = label[: size[0], : size[1]].astype(np.uint8)
    label[rng.random(size) < 0.1] = 255
    prediction = np.where(rng.random(size) < 0.8, label % CLASSES, rng.integers(CLASSES, size=size))
    tensors = (
        torch.from_numpy(prediction.astype(np.int64)),
        torch.from_numpy(label.astype(np.int64)),
    )
    regions = BorderRegions(LEAVE_OUTS).map(size)

    def ours():
        return confusion_matrices(tensors[1].numpy(), tensors[0].numpy(), CLASSES, regions)

    def mmseg():
        return IoUMetric.intersect_and_union(*tensors, CLASSES, 255)

    intersection, union, *_ = (areas.numpy() for areas in mmseg())
    matrix = ours()[0]
    if not (
        np.array_equal(np.diag(matrix), intersection)
        and np.array_equal(matrix.sum(0) + matrix.sum(1) - np.diag(matrix), union)
    ):
        raise SystemExit(f"the counts differ: {class_areas(matrix)} and {intersection}, {union}")

    times = {"pconv_seg, all leave-outs": [], "mmseg, intersect_and_union": []}
    for _ in range(args.rounds):
        for name, run in zip(times, (ours, mmseg), strict=True):
            began = time.perf_counter()
            run()
            times[name].append(1000 * (time.perf_counter() - began))
    base = times["mmseg, intersect_and_union"]
    table = PrettyTable(
        ["", "min ms", "median ms", "max ms", "ratio to mmseg (min-max)"], align="r"
    )
    for name, runs in times.items():
        ratios = [run / other for run, other in zip(runs, base, strict=True)]
        table.add_row(
            [
                name,
                *(f"{f(runs):.1f}" for f in (min, statistics.median, max)),
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
            ]
        )
    print(f"{args.size} pixels, {CLASSES} classes, leave-outs {' '.join(LEAVE_OUTS)}")
    print(table)


if __name__ == "__main__":
    main()
