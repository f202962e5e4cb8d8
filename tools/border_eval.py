"""Evaluate checkpoints on whole images, in tiles and near borders, all in one pass.

Prints mIoU by mode (as in the paper's Table 6) and by leave-out proportion (Table 7); for two
checkpoints also their difference with a 95 % interval. With --shift-test, compares the same pixels
near a tile's border and in its interior, and recommends an overlap. See docs/border_evaluation.md.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from pconv_seg.arguments import positive, seed
from pconv_seg.engine import PreflightError, add_config_options, build_test_config, check_testing
from pconv_seg.evaluation import EvaluationPlan
from pconv_seg.evaluation.arguments import add_plan_arguments, plan_options
from pconv_seg.evaluation.compare import evaluate_checkpoints
from pconv_seg.evaluation.record import Record
from pconv_seg.evaluation.report import Report, versions, write_csv
from pconv_seg.evaluation.runs import latest_run
from pconv_seg.evaluation.shift import shift_checkpoints
from pconv_seg.evaluation.shift_record import TOLERANCES
from pconv_seg.evaluation.shift_tables import shift_tables
from pconv_seg.files import write_json
from pconv_seg.outputs import output_file, output_folder
from pconv_seg.padding import SCHEMES
from pconv_seg.visualization import figure_path, plot_leave_out, plot_shift, save_figure

from mmengine.config import Config

# What counts regions, or belongs to their tables.
_NOT_SHIFTED = ("per_class", "show_dir", "save_confusion", "from_confusion")
_WRITERS = {".json": write_json, ".csv": write_csv}


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    description, epilog = __doc__.split("\n\n", 1)
    parser = argparse.ArgumentParser(description=description, epilog=epilog)
    parser.add_argument(
        "config",
        nargs="?",
        help="config file whose test data are used (default: that of the newest finished run "
        "below --work-dirs)",
    )
    parser.add_argument(
        "checkpoints",
        nargs="*",
        metavar="checkpoint",
        help="checkpoint files; each is loaded into the network that it was trained with",
    )
    parser.add_argument(
        "--work-dirs",
        default="work_dirs",
        metavar="DIR",
        help="where to look for a run if no config is given (default: %(default)s)",
    )
    add_config_options(parser, "test_dataloader.dataset.data_root=DIR")

    parser.add_argument(
        "--padding",
        choices=SCHEMES,
        help="test all checkpoints under this padding (default: what each was trained with)",
    )

    add_plan_arguments(parser)
    shift = parser.add_argument_group("the shift test")
    shift.add_argument(
        "--shift-test",
        action="store_true",
        help="predict every image on two grids of tiles, half a tile apart, and compare pixels "
        "that are near a seam in one with themselves in the other; takes --tile and --batch-size",
    )
    shift.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="take the images of this folder, at their own size, in place of the config's test "
        "data; without labels only the agreement of the two predictions is measured",
    )
    shift.add_argument(
        "--bin-width",
        type=positive,
        metavar="PIXELS",
        help="width of the bins of distance to the seam (default: 1/64 of the tile)",
    )
    shift.add_argument(
        "--tolerance",
        nargs="+",
        type=float,
        metavar="P",
        help="shares of pixels that seams may still change; the smallest overlap of tiles that "
        f"stays within each is recommended (default: {' '.join(map(str, TOLERANCES))})",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--per-class", action="store_true", help="print IoU by class too")
    output.add_argument(
        "--out",
        nargs="+",
        default=[],
        type=output_file,
        metavar="FILE",
        help="write .json or .csv files",
    )
    output.add_argument(
        "--plot",
        type=figure_path,
        metavar="FILE",
        help="plot mIoU against leave-out, or the shift test against distance, as .png, .svg, ...",
    )
    output.add_argument(
        "--show-dir",
        type=output_folder,
        metavar="DIR",
        help="write a figure per image and mode: input, ground truth, predictions, differences",
    )
    output.add_argument(
        "--save-confusion",
        type=output_file,
        metavar="FILE.npz",
        help="keep the counts of every image, from which --from-confusion makes the same results",
    )
    output.add_argument(
        "--from-confusion",
        type=Path,
        metavar="FILE.npz",
        help="take the counts from this file; needs neither networks nor data",
    )
    output.add_argument(
        "--seed", type=seed, default=0, help="seed of the bootstrap (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    _check(args, parser.error)
    return args


def _option(name: str) -> str:
    """How an argument is given."""
    unlike = {"config": "config", "leave_outs": "--leave-out"}
    return unlike.get(name, f"--{name.replace('_', '-')}")


def _check(args: argparse.Namespace, error: Callable[[str], None]) -> None:
    for path in args.out:
        if path.suffix not in _WRITERS:
            error(f"--out {path}: the suffix must be .json or .csv")
    _check_shift(args, error)
    if args.save_confusion and args.save_confusion.suffix != ".npz":
        error(f"--save-confusion {args.save_confusion}: the suffix must be .npz")
    if args.config and not args.checkpoints and not args.from_confusion:
        error(f"{args.config}: also name its checkpoints")
    if args.from_confusion:
        fixed = ("config", "cfg_options", "padding", "show_dir", "save_confusion")
        for name in (*fixed, *plan_options(args)):
            if getattr(args, name) is not None:
                error(f"--from-confusion: the file has settled {_option(name)} already")


def _check_shift(args: argparse.Namespace, error: Callable[[str], None]) -> None:
    if not args.shift_test:
        for name in ("images", "bin_width", "tolerance"):
            if getattr(args, name) is not None:
                error(f"{_option(name)} belongs to --shift-test")
        return
    foreign = {*plan_options(args), *(name for name in _NOT_SHIFTED if getattr(args, name))}
    for name in sorted(foreign - {"tile", "batch_size"}):
        error(f"--shift-test does not go with {_option(name)}")
    if any(path.suffix != ".json" for path in args.out):
        error("--shift-test: --out writes .json only")
    if args.images and not args.images.is_dir():
        error(f"--images {args.images}: no such folder")
    for tolerance in args.tolerance or ():
        if not 0 <= tolerance < 1:
            error(f"--tolerance must lie in [0, 1), got {tolerance}")


def _networks(args: argparse.Namespace) -> tuple[Config, list[str]]:
    config, checkpoints = args.config, args.checkpoints
    if config is None:
        run = latest_run(args.work_dirs)
        config, checkpoints = str(run.config), [str(run.checkpoint)]
        print(f"newest finished run: {run.config}, {run.checkpoint}")
    cfg = build_test_config(config, checkpoints[0], cfg_options=args.cfg_options)
    check_testing(cfg, checkpoints, data=args.images is None)
    return cfg, checkpoints


def _shift_test(args: argparse.Namespace) -> dict:
    cfg, checkpoints = _networks(args)
    records = shift_checkpoints(
        cfg,
        checkpoints,
        args.tile,
        bin_width=args.bin_width,
        images=args.images,
        paddings=[args.padding],
        batch_size=args.batch_size or EvaluationPlan.batch_size,
    )
    results = [record.as_dict(args.tolerance or TOLERANCES, args.seed) for record in records]
    print(shift_tables(results))
    return {"config": str(cfg.filename), "versions": versions(), "shift_test": results}


def _evaluate(args: argparse.Namespace) -> Record:
    plan = EvaluationPlan(**plan_options(args))
    cfg, checkpoints = _networks(args)
    return evaluate_checkpoints(
        cfg,
        checkpoints,
        plan,
        args.show_dir,
        paddings=[args.padding],
        matrices=args.save_confusion is not None,
    )


def _border_eval(args: argparse.Namespace) -> dict:
    record = Record.load(args.from_confusion) if args.from_confusion else _evaluate(args)
    if args.save_confusion:
        record.save(args.save_confusion)
    report = Report(record, args.seed)
    print(report.tables(args.per_class))
    return report.as_dict()


def main(argv: list[str] | None = None) -> dict:
    args = parse_args(argv)
    try:
        result = _shift_test(args) if args.shift_test else _border_eval(args)
        for path in args.out:
            _WRITERS[path.suffix](result, path)
        if args.plot:
            shift = result.get("shift_test")
            save_figure(
                plot_shift(shift) if shift else plot_leave_out(result["results"]), args.plot
            )
    except (PreflightError, ValueError, OSError) as error:
        sys.exit(f"border_eval.py: {error}")
    for path in (*args.out, args.plot, args.save_confusion, args.show_dir):
        if path:
            print(f"wrote {path}")
    return result


if __name__ == "__main__":
    main()
