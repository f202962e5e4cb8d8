"""Show how strongly networks respond near the border: response maps and profiles by layer.

FIG holds the response of each network's last stage to the first image, as in the paper's Figure 5.
See docs/activations.md.
"""

import argparse
import sys
from pathlib import Path

import torch

from pconv_seg.arguments import seed
from pconv_seg.engine import PreflightError, add_config_options, build_test_config, check_testing
from pconv_seg.evaluation.activations import Activations, activations_of_checkpoints
from pconv_seg.files import write_json
from pconv_seg.inference import read_input
from pconv_seg.outputs import output_file
from pconv_seg.padding import SCHEMES
from pconv_seg.visualization import figure_path, save_figure
from pconv_seg.visualization.activations import draw_responses, plot_profiles


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file for networks whose checkpoint holds none")
    parser.add_argument("checkpoints", nargs="+", metavar="checkpoint", help="checkpoint files")
    parser.add_argument(
        "--image",
        nargs="+",
        required=True,
        type=Path,
        metavar="IMG",
        help="image files, at their own size; profiles are over all, maps are of the first",
    )
    parser.add_argument(
        "--out",
        required=True,
        type=figure_path,
        metavar="FIG",
        help="response maps (.png, .svg, .pdf)",
    )
    parser.add_argument(
        "--profiles", type=figure_path, metavar="FIG", help="also plot profiles by layer"
    )
    parser.add_argument(
        "--json", type=output_file, metavar="FILE", help="also write the numbers there"
    )
    parser.add_argument(
        "--layers",
        nargs="+",
        default=["*"],
        metavar="NAME",
        help="padded convolutions to profile, with * and ? as in file names (default: all)",
    )
    parser.add_argument(
        "--untrained",
        action="store_true",
        help="also show each network with initial weights, the same for all",
    )
    parser.add_argument(
        "--padding",
        choices=SCHEMES,
        help="run all checkpoints under this padding (default: what each was trained with)",
    )
    parser.add_argument(
        "--seed", type=seed, default=0, help="seed of the initial weights (default: %(default)s)"
    )
    add_config_options(parser, "model.test_cfg.mode=whole")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> list[Activations]:
    args = parse_args(argv)
    try:
        cfg = build_test_config(args.config, args.checkpoints[0], cfg_options=args.cfg_options)
        check_testing(cfg, args.checkpoints, data=False)
        images = {str(path): read_input(path) for path in args.image}
        networks = activations_of_checkpoints(
            cfg,
            args.checkpoints,
            {name: torch.from_numpy(image).permute(2, 0, 1) for name, image in images.items()},
            layers=args.layers,
            padding=args.padding,
            with_untrained=args.untrained,
            seed=args.seed,
        )
    except (PreflightError, ValueError, OSError) as error:
        sys.exit(f"visualize_activations.py: {error}")
    shown = [
        (f"{n.name}\n{n.marked_share:.0%} of the border marked", n.response, n.marked)
        for n in networks
    ]
    save_figure(draw_responses(images[str(args.image[0])][..., ::-1], shown), args.out)
    if args.profiles:
        profiles = [(n.name, {p.layer: p.relative for p in n.profiles}) for n in networks]
        save_figure(plot_profiles(profiles), args.profiles)
    if args.json:
        write_json([network.as_dict() for network in networks], args.json)
    for path in (args.out, args.profiles, args.json):
        if path:
            print(f"wrote {path}")
    return networks


if __name__ == "__main__":
    main()
