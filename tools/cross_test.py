"""Test checkpoints under other paddings than they were trained with, as in the paper's Table 4.

Each image is read once for all checkpoints and paddings.
"""

import argparse
import sys

from pconv_seg.engine import PreflightError, add_config_options, build_test_config, check_testing
from pconv_seg.evaluation import EvaluationPlan
from pconv_seg.evaluation.arguments import add_plan_arguments, plan_options
from pconv_seg.evaluation.compare import evaluate_checkpoints
from pconv_seg.evaluation.cross import cross_matrices, cross_tables
from pconv_seg.evaluation.report import Report
from pconv_seg.files import write_json
from pconv_seg.outputs import output_file
from pconv_seg.padding import SCHEMES
from pconv_seg.visualization import figure_path, save_figure
from pconv_seg.visualization.heat_map import plot_matrices

_PADDINGS = ["zeros", "partial", "reflect", "replicate"]


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file whose test data are used")
    parser.add_argument(
        "checkpoints", nargs="+", metavar="checkpoint", help="checkpoint files, one row each"
    )
    parser.add_argument(
        "--paddings",
        nargs="+",
        choices=SCHEMES,
        default=_PADDINGS,
        help=f"paddings to test under, one column each (default: {' '.join(_PADDINGS)})",
    )
    add_config_options(parser, "test_dataloader.dataset.data_root=DIR")
    # Whole images and nothing left out is Table 4; the other modes are there on demand.
    add_plan_arguments(parser, modes=["regular"], leave_outs=["0"])
    parser.add_argument("--out", type=output_file, metavar="FILE.json", help="write all results")
    parser.add_argument(
        "--plot", type=figure_path, metavar="FILE", help="draw heat maps (.png, .svg)"
    )
    args = parser.parse_args(argv)
    if args.out and args.out.suffix != ".json":
        parser.error(f"--out {args.out}: the suffix must be .json")
    of_tiles = {*args.modes} - {"regular"} or args.region == "tile" or args.bands
    if not of_tiles and (args.tile or args.overlap is not None):
        parser.error("--tile and --overlap: nothing is cut into tiles; add --modes tile_overlap")
    if args.bands and not args.out:
        parser.error("--bands: mIoU by band is in no table; add --out FILE.json")
    return args


def main(argv: list[str] | None = None) -> dict:
    args = parse_args(argv)
    try:
        plan = EvaluationPlan(**plan_options(args))
        cfg = build_test_config(args.config, args.checkpoints[0], cfg_options=args.cfg_options)
        check_testing(cfg, args.checkpoints)
        record = evaluate_checkpoints(cfg, args.checkpoints, plan, paddings=args.paddings)
    except (PreflightError, ValueError, OSError) as error:
        # What layers say of maps that are too small for a padding.
        way_out = ", or leave it out of --paddings" if "set_padding" in str(error) else ""
        sys.exit(f"cross_test.py: {error}{way_out}")
    report = Report(record)
    matrices = cross_matrices(report)
    result = {**report.as_dict(), "matrices": matrices}
    print(cross_tables(matrices))
    if args.out:
        write_json(result, args.out)
    if args.plot:
        save_figure(plot_matrices(matrices), args.plot)
    for path in (args.out, args.plot):
        if path:
            print(f"wrote {path}")
    return result


if __name__ == "__main__":
    main()
