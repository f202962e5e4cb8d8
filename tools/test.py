"""Test a segmentor: print its scores, or write its predictions."""

import argparse
import sys

from pconv_seg.checkpoints import CheckpointError
from pconv_seg.engine import (
    PreflightError,
    add_run_arguments,
    build_runner,
    build_test_config,
    check_testing,
    check_work_dir,
    join_processes,
    naming_types,
)
from pconv_seg.outputs import output_folder


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_run_arguments(parser)
    parser.add_argument("checkpoint", help="checkpoint file or URL")
    parser.add_argument(
        "--out",
        type=output_folder,
        metavar="DIR",
        help="write predicted label maps there, one PNG per image",
    )
    parser.add_argument(
        "--format-only",
        action="store_true",
        help="write files for the Cityscapes server into --out (label ids instead of training "
        "ids) and compute no score; labels are not read, so the test split works: --cfg-options "
        "test_dataloader.dataset.part=test",
    )
    parser.add_argument("--show", action="store_true", help="show predictions in a window")
    parser.add_argument(
        "--show-dir",
        type=output_folder,
        metavar="DIR",
        help="save pictures of predictions below this folder",
    )
    parser.add_argument(
        "--wait-time",
        type=float,
        default=2.0,
        metavar="SECONDS",
        help="how long --show keeps a window (default: %(default)s)",
    )
    parser.add_argument(
        "--tta",
        action="store_true",
        help="test-time augmentation, as the config's tta_model and tta_pipeline say",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, float]:
    try:
        cfg = build_test_config(**vars(parse_args(argv)))
        check_testing(cfg)
        check_work_dir(cfg)
        join_processes(cfg)
        with naming_types(cfg):
            return build_runner(cfg, test=True).test()
    except (PreflightError, CheckpointError) as error:
        sys.exit(f"test.py: {error}")


if __name__ == "__main__":
    main()
