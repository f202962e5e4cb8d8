"""Check a Cityscapes download, and write the label maps of the 19 training classes.

Names every file that is missing, truncated or otherwise unreadable, compares the number of images
per city with the published one, and writes *_labelTrainIds.png from the polygons. Called again it
reads only what has changed. The exit code is 1 if something is missing or broken.
"""

import argparse
import sys
from pathlib import Path

from prettytable import PrettyTable

from pconv_seg.arguments import positive
from pconv_seg.datasets import prepare_cityscapes
from pconv_seg.datasets.cityscapes.cities import BLACK_FRAME
from pconv_seg.datasets.cityscapes.preparation import DOWNLOADS


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "root", type=Path, metavar="ROOT", help="folder that holds leftImg8bit and gtFine"
    )
    parser.add_argument(
        "--num-workers", type=positive, metavar="N", help="processes; one per processor by default"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    try:
        result = prepare_cityscapes(args.root, args.num_workers)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"prepare_cityscapes.py: {error}")
    table = PrettyTable(["part", "images", "published"], align="r")
    table.align["part"] = "l"
    for name, (found, published) in result.frames.items():
        table.add_row([name, found, published])
    print(table)
    if "train_extra" in result.frames:
        print(f"left out, because it is published as a black image: {BLACK_FRAME}")
    for part in result.absent:
        archives = " and ".join(part.archives if part.labels else part.archives[:1])
        print(f"not there, and not needed for fine annotations: {part.name} ({archives})")
    print(f"{result.checked} images checked, {result.written} label maps written")
    if result.problems:
        for problem in result.problems:
            print(f"{problem.path}: {problem.reason}")
        archives = dict.fromkeys(problem.archive for problem in result.problems)
        sys.exit(
            f"prepare_cityscapes.py: {len(result.problems)} problems. Download again, after "
            f"registration, from {DOWNLOADS} (or with csDownload of cityscapesscripts), and unpack "
            f"into {args.root}: {', '.join(archives)}"
        )


if __name__ == "__main__":
    main()
