"""Show how often training sees each class, with and without class-uniform sampling."""

import argparse
import sys

from pconv_seg.arguments import positive, seed, whole_number
from pconv_seg.datasets.sampling import (
    ClassFrequency,
    SampleError,
    compare_sampling,
    frequency_table,
)
from pconv_seg.engine import PreflightError, add_config_options, read_config, scope_of
from pconv_seg.visualization import figure_path, plot_class_frequency, save_figure

from mmengine.registry import init_default_scope


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file; its training data are read")
    parser.add_argument(
        "--samples",
        type=positive,
        default=1000,
        help="samples drawn each way (default: %(default)s)",
    )
    parser.add_argument("--seed", type=seed, default=0, help="seed of the draws (default: 0)")
    parser.add_argument(
        "--num-workers",
        type=whole_number,
        default=0,
        help="processes that load samples (default: none but this one)",
    )
    parser.add_argument(
        "--plot",
        type=figure_path,
        metavar="FILE",
        help="also draw both; the suffix decides the format (.png, .svg, .pdf)",
    )
    add_config_options(parser, "train_dataloader.dataset.coarse=None")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, ClassFrequency]:
    args = parse_args(argv)
    try:
        cfg = read_config(args.config, args.cfg_options, ["train_dataloader"])
        init_default_scope(scope_of(cfg))
        classes, found = compare_sampling(cfg, args.samples, args.seed, args.num_workers)
    except PreflightError as error:
        sys.exit(f"class_frequency.py: {error}")
    except (OSError, SampleError, ValueError) as error:
        sys.exit(f"class_frequency.py: {args.config}: {error}")
    print(frequency_table(classes, found))
    if args.plot:
        save_figure(plot_class_frequency(classes, found), args.plot)
    return found


if __name__ == "__main__":
    main()
