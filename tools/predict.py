"""Predict images in tiles, each at its own size: write label maps and colour overlays.

OUT/NAME_labels.png holds class indices, OUT/NAME_overlay.png shows them over the image. For a TIFF
image both are tiled TIFFs, and reading, predicting and writing stream row by row, so that memory
does not grow with the image's height.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

import torch

from pconv_seg.arguments import TileAction, overlap, positive
from pconv_seg.checkpoints import build_network, load_checkpoint, load_weights, stored_classes
from pconv_seg.engine import PreflightError, add_config_options, read_config, scope_of
from pconv_seg.geometry import WINDOWS, TileGrid
from pconv_seg.inference import output_paths, predict_file
from pconv_seg.outputs import output_folder
from pconv_seg.padding import SCHEMES, add_padding, apply_padding, trained_padding

from mmengine.registry import init_default_scope


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="image file")
    parser.add_argument("--config", required=True, help="config file of the model")
    parser.add_argument("--checkpoint", required=True, help="checkpoint file with its weights")
    parser.add_argument(
        "--out",
        type=output_folder,
        default="predictions",
        metavar="DIR",
        help="folder for the results (default: %(default)s)",
    )
    parser.add_argument(
        "--tile",
        action=TileAction,
        type=int,
        nargs="+",
        default=1024,
        metavar="PIXELS",
        help="side length of a tile, or its height and width (default: %(default)s)",
    )
    parser.add_argument(
        "--overlap",
        type=overlap,
        default="1/3",
        metavar="P",
        help="what a tile shares with its neighbour: a proportion of it such as 1/3 or 0.25, or a "
        "number of pixels (default: %(default)s)",
    )
    parser.add_argument(
        "--window",
        choices=WINDOWS,
        default="constant",
        help="weights of the average where tiles overlap (default: %(default)s)",
    )
    parser.add_argument(
        "--batch-size",
        type=positive,
        default=1,
        metavar="N",
        help="tiles per forward pass (default: %(default)s)",
    )
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="where the model runs (default here: %(default)s)",
    )
    parser.add_argument(
        "--padding",
        choices=SCHEMES,
        help="padding of all convolutions (default: what the checkpoint says, else the config)",
    )
    add_config_options(parser, "model.test_cfg.mode=whole")
    return parser.parse_args(argv)


def check(args: argparse.Namespace) -> None:
    """Raise what is wrong with the arguments before the model is built."""
    files = {"config": [args.config], "checkpoint": [args.checkpoint], "image": args.images}
    for kind, paths in files.items():
        for path in paths:
            if Path(path).is_dir():
                raise ValueError(f"{kind} {path} is a folder: name files, such as {path}/*")
            if not Path(path).is_file():
                raise FileNotFoundError(f"no such {kind}: {path}")
    results = [output_paths(image, args.out) for image in args.images]
    twice = [str(path) for path, count in Counter(path for path, _ in results).items() if count > 1]
    if twice:
        raise ValueError(f"several images would be written to {', '.join(twice)}")
    sources = {image.resolve() for image in args.images}
    for image, targets in zip(args.images, results, strict=True):
        for target in targets:
            if target.is_dir():
                raise ValueError(f"the result of {image} goes to {target}, which is a folder")
            if target.resolve() in sources:
                raise ValueError(
                    f"the result of {image} would replace {target}, which is to be predicted, too: "
                    "give another --out"
                )
    try:
        torch.empty(0, device=args.device)
    except (AssertionError, RuntimeError) as error:
        raise ValueError(f"--device {args.device}: {str(error).splitlines()[0]}") from error
    TileGrid((1, 1), args.tile, args.overlap)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    try:
        check(args)
        content = load_checkpoint(args.checkpoint)
        cfg = read_config(args.config, args.cfg_options, ["model"])
        init_default_scope(scope_of(cfg))
        add_padding(cfg, args.padding or trained_padding(content))
        model = build_network(cfg.model, f"config {args.config}").to(args.device).eval()
        load_weights(model, content, args.checkpoint)
        model.dataset_meta = stored_classes(content.get("meta") or {})
        apply_padding(model, cfg)
        for image in args.images:
            written = predict_file(
                model,
                image,
                args.out,
                args.tile,
                args.overlap,
                batch_size=args.batch_size,
                window=args.window,
                progress=True,
            )
            print(f"{image}: {', '.join(map(str, written))}")
    except (OSError, ModuleNotFoundError, PreflightError, ValueError) as error:
        sys.exit(f"predict.py: {error}")


if __name__ == "__main__":
    main()
