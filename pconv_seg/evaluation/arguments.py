"""Command line arguments of an evaluation plan, for the tools that evaluate."""

import argparse
from collections.abc import Sequence

from pconv_seg.arguments import TileAction, overlap, positive

from .evaluator import LEAVE_OUTS, MODES, EvaluationPlan


def add_plan_arguments(
    parser: argparse.ArgumentParser,
    modes: Sequence[str] | None = None,
    leave_outs: Sequence[str] | None = None,
) -> None:
    """Add one argument for each option of :class:`EvaluationPlan` except ``ignore_index``.

    Args:
        parser: Gets the arguments.
        modes: Default in place of the plan's.
        leave_outs: The same.
    """
    plan = parser.add_argument_group("what to evaluate")
    plan.add_argument(
        "--modes",
        nargs="+",
        choices=MODES,
        default=modes,
        help="whole images, tiles side by side, overlapping tiles (default: "
        f"{' '.join(modes or MODES)})",
    )
    plan.add_argument(
        "--tile",
        action=TileAction,
        nargs="+",
        type=int,
        metavar="PIXELS",
        help="side, or height and width, of the tiles (default: the shorter side of the first "
        "image, as in the paper)",
    )
    plan.add_argument(
        "--overlap",
        type=overlap,
        metavar="P",
        help="what neighbouring tiles share in tile_overlap: a proportion such as 1/3 or 0.25, or "
        f"a number of pixels (default: {EvaluationPlan.overlap})",
    )
    plan.add_argument(
        "--leave-out",
        nargs="+",
        dest="leave_outs",
        default=leave_outs,
        metavar="P",
        help="proportions of the centre that is ignored, decimals or fractions; 0 is always "
        f"included (default: {' '.join(leave_outs or LEAVE_OUTS)})",
    )
    plan.add_argument(
        "--proportion",
        choices=["side", "area"],
        help=f"what --leave-out is a proportion of (default: {EvaluationPlan.proportion})",
    )
    plan.add_argument(
        "--region",
        choices=["image", "tile"],
        help=f"what has a centre: the image or each tile (default: {EvaluationPlan.region})",
    )
    plan.add_argument(
        "--bands",
        nargs="+",
        type=int,
        metavar="PIXELS",
        help="also mIoU by distance to the image border and to the nearest tile seam, in bands "
        "that these ascending distances separate",
    )
    plan.add_argument(
        "--batch-size",
        type=positive,
        metavar="N",
        help=f"tiles per forward pass (default: {EvaluationPlan.batch_size})",
    )


def plan_options(args: argparse.Namespace) -> dict:
    """The options that were given, by the names of :class:`EvaluationPlan`."""
    return {
        name: getattr(args, name)
        for name in EvaluationPlan.__dataclass_fields__
        if getattr(args, name, None) is not None
    }
