"""Write docs/architectures.md: ``python tests/architectures/families_table.py``."""

from pathlib import Path

from families import FAMILIES, NOT_BUILT, build, followed_sizes, with_conv_cfg, zero_padded
from tqdm import tqdm

import pconv_seg

PATH = Path(__file__).parents[2] / "docs" / "architectures.md"

INTRODUCTION = """\
# Which convolutions a switch of padding reaches

One small network per architecture family of mmsegmentation, built from the configs in
`tests/architectures/families.py`, without auxiliary heads. Widths and depths are
cut down, so the counts are smaller than in the published networks; which layers take `conv_cfg` is
the same. The heads are mmsegmentation's own; `conv_cfg` reaches all of this package's
`DeepLabV3PlusHead`. This page is written by `python tests/architectures/families_table.py`.

- **padded**: convolutions that see zeros beyond the border.
- **conv_cfg**: how many of them `conv_cfg=dict(type='PConv')` switches when set in every dict of
  the model config whose class takes it.
- **set_padding**: how many of them `pconv_seg.set_padding(model, 'partial')` switches.
- **listed**: other padded layers (pooling, transposed convolutions, explicit padding) that
  `set_padding` leaves alone and lists in its report with the reason.
- **padded batches**: which images may be [padded to one batch
  size](padding.md#images-padded-to-one-batch-size) after `set_padding`: of any size, only of
  multiples of 32, or none: these networks are refused, with the name of the operation.

A convolution counts as padded with zeros if it does not turn a constant image into a constant
output when all its weights are 1: what it does counts, not what it is called. Padding that
a `forward` adds by itself (`F.pad`) is in no column.
"""

NOTES = """\
`upernet-convnext` has ConvNeXt's padded and strided convolutions in plain PyTorch, because
mmsegmentation takes the real backbone from mmpretrain. `mobilenetv3` has a depthwise-separable FCN
head in place of LR-ASPP, which pads nothing. Dilations and kernel sizes are smaller than usual
where a small image could not be reflected otherwise.

Not built here, because they need compiled mmcv operations or mmsegmentation's optional packages:
"""


def document() -> str:
    rows, total = [], [0, 0, 0, 0]
    for family, config in tqdm(FAMILIES.items(), unit="network"):
        model = build(config)
        padded = len(zero_padded(model))
        by_conv_cfg = padded - len(zero_padded(build(with_conv_cfg(config, dict(type="PConv")))))
        report = pconv_seg.set_padding(model, "partial")
        counts = [padded, by_conv_cfg, padded - len(zero_padded(model)), len(report.kept)]
        rows.append([family, *counts, followed_sizes(model)])
        total = [before + count for before, count in zip(total, counts, strict=True)]
    rows.append(["**all**", *total, ""])
    names = ["family", "padded", "conv_cfg", "set_padding", "listed", "padded batches"]
    header = [names, ["---", *["---:"] * 4, "---"]]
    lines = ["| " + " | ".join(str(cell) for cell in row) + " |" for row in header + rows]
    not_built = [f"- {family}: {reason}." for family, reason in NOT_BUILT.items()]
    return "\n".join([INTRODUCTION, *lines, "", NOTES, *not_built]) + "\n"


if __name__ == "__main__":
    PATH.write_text(document())
