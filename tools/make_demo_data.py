"""Draw a data set of street scenes in the layout of Cityscapes.

Images and labels depend on the seed and size only. Called again with the same settings, it draws
what is missing and keeps the rest.
"""

import argparse
from functools import partial
from pathlib import Path

from pconv_seg.arguments import image_size, positive, seed
from pconv_seg.datasets import write_street_scenes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument(
        "--size",
        type=partial(image_size, least=16),
        default="256x512",
        metavar="HEIGHTxWIDTH",
        help="size of the images (%(default)s)",
    )
    parser.add_argument(
        "--train", type=positive, default=400, help="number of training images (%(default)s)"
    )
    parser.add_argument(
        "--val", type=positive, default=100, help="number of validation images (%(default)s)"
    )
    parser.add_argument(
        "--seed", type=seed, default=0, help="seed of the whole data set (%(default)s)"
    )
    parser.add_argument(
        "--num-workers", type=positive, help="processes that draw; one per processor by default"
    )
    args = parser.parse_args()
    try:
        write_street_scenes(
            args.out, args.size, args.train, args.val, args.seed, num_workers=args.num_workers
        )
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(f"{args.train} training and {args.val} validation scenes are in {args.out}")


if __name__ == "__main__":
    main()
