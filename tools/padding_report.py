"""Show where a network pads, and how much of every map sees padding."""

import argparse
import sys

from pconv_seg.arguments import image_size
from pconv_seg.checkpoints import build_network
from pconv_seg.engine import PreflightError, add_config_options, read_config, scope_of
from pconv_seg.files import write_json
from pconv_seg.outputs import output_file
from pconv_seg.padding import SCHEMES, PaddingTrace, padding_report, set_padding
from pconv_seg.visualization import figure_path, plot_padding, save_figure

from mmengine.registry import init_default_scope


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file; weights are not loaded")
    parser.add_argument(
        "--padding", choices=SCHEMES, help="switch to this padding first (default: as built)"
    )
    parser.add_argument(
        "--size",
        type=image_size,
        default=(512, 1024),
        metavar="HEIGHTxWIDTH",
        help="size of the input image in pixels (default: 512x1024)",
    )
    parser.add_argument(
        "--json", type=output_file, metavar="FILE", help="also write the table there"
    )
    parser.add_argument(
        "--plot",
        type=figure_path,
        metavar="FILE",
        help="also draw the share by depth; the suffix decides the format (.png, .svg, .pdf)",
    )
    add_config_options(parser, "model.backbone.depth=101")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> PaddingTrace:
    args = parse_args(argv)
    try:
        cfg = read_config(args.config, args.cfg_options, ["model"])
        init_default_scope(scope_of(cfg))
        model = build_network(cfg.model, f"config {args.config}")
        if args.padding:
            set_padding(model, args.padding)
        trace = padding_report(model, args.size)
    except (PreflightError, ValueError) as error:
        sys.exit(f"padding_report.py: {error}")
    except AssertionError as error:  # as mmseg's U-Net checks its input
        height, width = args.size
        sys.exit(f"padding_report.py: --size {height}x{width}: the network refuses it: {error}")
    print(trace)
    if args.json:
        write_json({"config": args.config, **trace.as_dict()}, args.json)
    if args.plot:
        save_figure(plot_padding(trace), args.plot)
    return trace


if __name__ == "__main__":
    main()
