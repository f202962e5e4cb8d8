"""Time and memory of tiled inference beside mmseg's and MONAI's, on a network of one convolution.

So little work per tile shows what cutting and averaging cost. Every contender lives in a process of
its own and they take turns, so that a busy machine disturbs all alike. Memory is the peak of
the resident set over what the process held before (images included). MONAI is skipped if it is
not installed (pip install 'pconv-seg[benchmarks]').

    python benchmarks/tiled_inference.py --size 4096 --rounds 3
"""

import argparse
import multiprocessing
import resource
import statistics
import sys
import time
from types import SimpleNamespace

from prettytable import PrettyTable

OURS = "pconv_seg, logits"


# Each of these takes the arguments and returns a function from (predict, images) to logits or
# labels. They import what they need: the parent process stays small, since Linux counts the
# parent's size towards the peak of its children.
def ours(args, reduce):
    from pconv_seg import tiled_inference

    return lambda predict, images: tiled_inference(
        predict, images, args.tile, args.tile - args.stride, reduce=reduce
    )


def in_place(args):
    from pconv_seg.geometry import TileGrid

    def run(predict, images):
        sums = images.new_zeros(len(images), args.classes, *images.shape[2:])
        counts = images.new_zeros(1, 1, *images.shape[2:])
        for y0, y1, x0, x1 in TileGrid(images.shape[2:], args.tile, args.tile - args.stride):
            sums[:, :, y0:y1, x0:x1] += predict(images[:, :, y0:y1, x0:x1])
            counts[:, :, y0:y1, x0:x1] += 1
        return sums.div_(counts)

    return run


def mmseg(args):
    from mmseg.models.segmentors import EncoderDecoder

    def run(predict, images):
        model = SimpleNamespace(
            test_cfg=SimpleNamespace(stride=(args.stride,) * 2, crop_size=(args.tile,) * 2),
            out_channels=args.classes,
            encode_decode=lambda tiles, metas: predict(tiles),
        )
        return EncoderDecoder.slide_inference(model, images, [{}])

    return run


def monai(args):
    from monai.inferers import sliding_window_inference

    return lambda predict, images: sliding_window_inference(
        images, (args.tile,) * 2, 1, predict, overlap=1 - args.stride / args.tile
    )


CONTENDERS = {
    OURS: lambda args: ours(args, "logits"),
    "pconv_seg, argmax": lambda args: ours(args, "argmax"),
    "sums in place, then divided": in_place,
    "mmseg, slide inference": mmseg,
    "MONAI, sliding window": monai,
}


def work(name, args, connection):
    """One contender: answers each message with (seconds, peak bytes, a sample of the result)."""
    import torch

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    try:
        run = CONTENDERS[name](args)
    except ImportError as error:
        connection.send(f"{type(error).__name__}: {error}")
        return
    images = torch.randn(1, 3, args.size, args.size)
    predict = torch.nn.Conv2d(3, args.classes, 3, padding=1)
    with torch.no_grad():
        small = min(args.size, args.tile + args.stride)
        run(predict, images[:, :, :small, :small].clone())
        start = peak_bytes()
        connection.send(None)
        while connection.recv():
            began = time.perf_counter()
            result = run(predict, images)
            seconds = time.perf_counter() - began
            sample = result[..., ::61, ::67].clone().numpy()
            del result
            connection.send((seconds, peak_bytes() - start, sample))


def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=2048, help="image side (default: 2048)")
    parser.add_argument("--tile", type=int, default=512, help="tile side (default: 512)")
    parser.add_argument("--stride", type=int, default=342, help="tile distance (default: 342)")
    parser.add_argument("--classes", type=int, default=19, help="channels (default: 19)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each (default: 5)")
    args = parser.parse_args()

    spawn = multiprocessing.get_context("spawn")
    running = {}
    for name in CONTENDERS:
        connection, far_end = spawn.Pipe()
        spawn.Process(target=work, args=(name, args, far_end), daemon=True).start()
        far_end.close()  # so that a process that dies is noticed
        problem = connection.recv()
        if problem:
            print(f"{name}: skipped ({problem})")
        else:
            running[name] = connection

    results = {name: [] for name in running}
    for number in range(args.rounds):
        for name, connection in running.items():
            connection.send(True)
            try:
                results[name].append(connection.recv())
            except EOFError:
                sys.exit(f"{name}: its process died (out of memory?); try a smaller --size")
            print(f"round {number + 1}: {name}: {results[name][-1][0]:.2f} s", flush=True)
    for connection in running.values():
        connection.send(False)
    report(args, results)


def report(args, results):
    table = PrettyTable(
        ["", "min s", "median s", "max s", "time against ours", "peak GiB", "largest difference"]
    )
    table.align = "r"
    table.align[""] = "l"
    own = [seconds for seconds, _, _ in results[OURS]]
    reference = results[OURS][0][2]
    for name, runs in results.items():
        times, peaks, samples = zip(*runs, strict=True)
        ratios = [seconds / base for seconds, base in zip(times, own, strict=True)]
        if samples[0].ndim == 4:
            difference = f"{abs(samples[0] - reference).max():.1e}"
        else:
            difference = f"{(samples[0] != reference.argmax(1)).sum()} labels"
        table.add_row(
            [
                name,
                f"{min(times):.2f}",
                f"{statistics.median(times):.2f}",
                f"{max(times):.2f}",
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
                f"{max(peaks) / 2**30:.2f}",
                difference,
            ]
        )
    print(
        f"{args.size} x {args.size} pixels, {args.classes} classes, tile {args.tile}, stride "
        f"{args.stride}, {args.threads} threads, {args.rounds} rounds"
    )
    print(table)


if __name__ == "__main__":
    main()
