"""Give published weights the names of our networks, and account for every key.

Reads ImageNet WideResNet38, Cityscapes DeepWV3Plus, ResNets of torchvision, NVIDIA/partialconv and
mmpretrain, and networks of mmseg, as torch or safetensors files. No code from the file runs.
"""

import argparse
import sys
from pathlib import Path

from pconv_seg.checkpoints import (
    FORMATS,
    ImportReport,
    import_weights,
    load_file,
    network_of,
    save_weights,
)
from pconv_seg.engine import PreflightError, read_config, scope_of
from pconv_seg.outputs import output_file

from mmengine.registry import init_default_scope


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="formats:\n" + "\n".join(f"  {known.name:15} {known.title}" for known in FORMATS),
    )
    parser.add_argument("source", type=Path, metavar="SRC", help="checkpoint file")
    parser.add_argument(
        "target", type=output_file, metavar="DST", help="file to write, .pth or .safetensors"
    )
    parser.add_argument(
        "--format",
        choices=["auto", *(known.name for known in FORMATS)],
        default="auto",
        help="what SRC must be (default: %(default)s, told from its keys)",
    )
    parser.add_argument(
        "--config",
        help="config file of the network that the weights must fit (default: told from SRC)",
    )
    args = parser.parse_args(argv)
    if args.target.suffix not in (".pth", ".safetensors"):
        parser.error(f"{args.target}: the suffix must be .pth or .safetensors")
    if args.source.exists() and args.target.exists() and args.target.samefile(args.source):
        parser.error(f"{args.target}: DST is SRC, which would lose what is not imported")
    return args


def main(argv: list[str] | None = None) -> ImportReport:
    args = parse_args(argv)
    source = str(args.source)
    try:
        config = read_config(args.config, parts=["model"]) if args.config else None
        init_default_scope(scope_of(config or {}))
        content = load_file(args.source)
        network = network_of(content, config, args.format, source)
        state, report = import_weights(content, network, args.format, source)
        meta = content.get("meta") or {}
        kept = {key: meta[key] for key in ("dataset_meta", "padding") if key in meta}
        save_weights(state, args.target, args.source, kept)
    except (ValueError, OSError, PreflightError) as error:
        sys.exit(f"import_checkpoint.py: {error}")
    print(report)
    print(f"wrote {args.target}, for {type(network).__name__}")
    return report


if __name__ == "__main__":
    main()
