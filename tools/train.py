"""Train a segmentor."""

import argparse
import errno
import sys

from pconv_seg.arguments import seed
from pconv_seg.checkpoints import CheckpointError
from pconv_seg.datasets.sampling import SampleError
from pconv_seg.engine import (
    PreflightError,
    add_run_arguments,
    build_runner,
    build_training_config,
    check_training,
    check_work_dir,
    join_processes,
    naming_types,
)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_run_arguments(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue from the newest intact checkpoint in the work dir, or from the config's "
        "load_from if that lies there or no intact one does; else start anew",
    )
    parser.add_argument("--amp", action="store_true", help="automatic mixed precision; needs a GPU")
    parser.add_argument("--seed", type=seed, help="random seed (default: the config's)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    try:
        cfg = build_training_config(**vars(parse_args(argv)))
        check_training(cfg)
        check_work_dir(cfg)
        join_processes(cfg)
        with naming_types(cfg):
            build_runner(cfg).train()
    except (PreflightError, CheckpointError, SampleError) as error:
        sys.exit(f"train.py: {error}")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        sys.exit(f"train.py: {error} (work dir {cfg.work_dir}, where --resume goes on)")


if __name__ == "__main__":
    main()
