"""A segmentor whose answer is known in every mode.

Classes are colours: class c is 255 in channel c. The segmentor returns its input as logits, except
for zeros within ``width`` pixels of its input's border. So it is right everywhere but there, where
it says class 0; in tiles these places are the borders of the tiles.
"""

import numpy as np
from mmengine.registry import MODELS
from mmseg.models.decode_heads import FCNHead
from torch import nn
from torch.nn import functional as F

CLASSES = ("sky", "tree", "road")
SIZE = (24, 40)


@MODELS.register_module(force=True)
class BorderBlind(nn.Module):
    def __init__(self, width=1):
        super().__init__()
        self.width = width

    def forward(self, x):
        w = self.width
        return [F.pad(x[..., w:-w, w:-w], (w, w, w, w))]


@MODELS.register_module(force=True)
class ColourHead(FCNHead):
    def __init__(self, num_classes, **kwargs):
        super().__init__(
            in_channels=num_classes,
            channels=num_classes,
            num_classes=num_classes,
            num_convs=0,
            concat_input=False,
            dropout_ratio=0,
            norm_cfg=None,
            **kwargs,
        )
        self.init_weights()

    def init_weights(self):
        nn.init.dirac_(self.conv_seg.weight)
        nn.init.zeros_(self.conv_seg.bias)


def border_blind(label, windows=None, width=1):
    """What the segmentor predicts where ``label`` is the truth, for one or several windows."""
    logits = np.zeros((3, *label.shape))
    for y0, y1, x0, x1 in windows or [(0, label.shape[0], 0, label.shape[1])]:
        inside = np.s_[y0 + width : y1 - width, x0 + width : x1 - width]
        logits[(slice(None), *inside)] += np.arange(3)[:, None, None] == label[inside]
    return logits.argmax(0)
