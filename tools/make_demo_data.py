"""Draw a data set of street scenes in the layout of Cityscapes.

Images and labels depend on the seed and size only. Called again with the same settings, it draws
what is missing and keeps the rest.
"""

import argparse
import re
from pathlib import Path

from pconv_seg.datasets import write_street_scenes


def size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None or min(map(int, match.groups())) < 16:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not HEIGHTxWIDTH in pixels, at least 16x16, such as 256x512"
        )
    return int(match[1]), int(match[2])


def whole_number(text: str, least: int = 0) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return int(text)


def positive(text: str) -> int:
    return whole_number(text, least=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument(
        "--size",
        type=size,
        default="256x512",
        metavar="HEIGHTxWIDTH",
        help="of the images (%(default)s)",
    )
    parser.add_argument(
        "--train", type=positive, default=400, help="number of training images (%(default)s)"
    )
    parser.add_argument(
        "--val", type=positive, default=100, help="number of validation images (%(default)s)"
    )
    parser.add_argument(
        "--seed", type=whole_number, default=0, help="of the whole data set (%(default)s)"
    )
    parser.add_argument(
        "--num-workers", type=positive, help="processes that draw; one per processor by default"
    )
    args = parser.parse_args()
    try:
        write_street_scenes(
            args.out, args.size, args.train, args.val, args.seed, num_workers=args.num_workers
        )
    except FileExistsError as error:
        parser.error(str(error))
    print(f"{args.train} training and {args.val} validation scenes are in {args.out}")


if __name__ == "__main__":
    main()
